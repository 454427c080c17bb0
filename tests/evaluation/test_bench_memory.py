"""The memory benchmark: shapes are the releases', slopes are slopes, and the adapter's does not hold logits of whole rows."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from rich.console import Console

from cluster.errors import ExitCode
from evaluation import bench_memory
from evaluation.bench import main
from evaluation.bench_memory import (
    ADAPTER,
    METHODS,
    Case,
    DecodeFigures,
    MethodFigures,
    measure_decode,
    measure_method,
    measure_reduction,
    reduction_table,
)
from evaluation.random_models import SHAPES, Shape, random_model
from policy.factory import make_heuristic
from policy.unmasker import Unmasker
from rollout_workers.models.backbone import BackboneDLLM, bidirectional
from tests.fakes.checkpoints import DREAM_7B, LLADA_8B

TINY = Shape(200, 16, 24, 1, 2, 2)
CASE = Case("tiny", TINY, "float32", "cpu", prompt_length=6, canvas_length=16)


@pytest.mark.parametrize(("name", "num_parameters"), [("llada-8b", 8_015_581_184), ("dream-7b", 7_615_616_512)])
def test_shapes_have_the_sizes_of_the_releases(name: str, num_parameters: int) -> None:
    with torch.device("meta"):
        model = bidirectional(SHAPES[name].config())
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert SHAPES["llada-8b"].vocabulary_size == LLADA_8B["embedding_size"]
    assert SHAPES["dream-7b"].vocabulary_size == DREAM_7B["vocab_size"]


@pytest.mark.parametrize("is_dream", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_random_models_are_drawn_again_the_same(is_dream: bool, dtype: torch.dtype) -> None:
    shape = Shape(200, 16, 24, 1, 2, 1, is_dream=is_dream)
    one, two = (random_model("tiny", shape, dtype=dtype, device="cpu") for _ in range(2))
    assert one.is_shifted == is_dream
    for (name, first), second in zip(one.model.named_parameters(), two.model.parameters(), strict=True):
        assert torch.equal(first, second), name
        assert first.dtype == dtype
        assert first.isfinite().all()


def test_the_slope_is_that_of_least_squares_over_the_larger_half() -> None:
    assert MethodFigures("exact", (1, 2, 4), (13, 16, 22)).bytes_per_row == pytest.approx(3)
    assert MethodFigures("flat", (4, 8, 12), (50, 50, 50)).bytes_per_row == 0
    assert MethodFigures("noisy", (1, 2, 3, 4, 5, 6), (9, 9, 9, 0, 3, 3)).bytes_per_row == pytest.approx(1.5)
    assert MethodFigures("in pieces", (1, 2, 16, 32), (680, 681, 700, 1420)).bytes_per_row == pytest.approx(45)


def test_what_does_not_fit_is_left_out_of_the_slope() -> None:
    assert MethodFigures("large", (1, 2, 4), (10, 20, None)).bytes_per_row == pytest.approx(10)
    assert MethodFigures("larger", (1, 2, 4), (10, None, None)).bytes_per_row is None


def test_running_out_of_memory_loses_no_other_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(model: BackboneDLLM, prompt_BP: torch.Tensor, canvas_BL: torch.Tensor) -> None:
        if len(prompt_BP) > 2:
            torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setitem(METHODS, "large", predict)
    figures = measure_method(CASE.build()[0], CASE, "large", [1, 2, 3, 4])
    assert [peak is None for peak in figures.peak_bytes] == [False, False, True, True]
    ours = MethodFigures(ADAPTER, figures.batch_sizes, (1, 1, 1, 1))
    output = Console(width=200, record=True, file=io.StringIO())
    output.print(reduction_table(CASE, [ours, figures]))
    assert output.export_text().count("out of memory") == 2


def decode(case: Case, unmasker: Unmasker, *, num_rows: int, block_length: int) -> DecodeFigures:
    model, build_s = case.build()
    return measure_decode(model, case, unmasker, build_s=build_s, num_rows=num_rows, block_length=block_length)


def test_decoding_counts_its_passes() -> None:
    figures = decode(CASE, make_heuristic("low_confidence", 4), num_rows=3, block_length=8)
    assert (figures.num_rows, figures.num_passes, figures.mean_nfe) == (3, 4, 4.0)
    assert figures.weight_bytes == 4 * figures.num_parameters
    assert figures.decode_s > 0


def test_a_threshold_commits_one_position_per_pass() -> None:
    figures = decode(CASE, make_heuristic("threshold", 0.9), num_rows=2, block_length=16)
    assert (figures.num_passes, figures.mean_nfe) == (16, 16.0)


def test_command_prints_tables_and_writes_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[str] = []

    def measure(case: Case, method: str, batch_sizes: list[int]) -> MethodFigures:
        measured.append(method)
        bench_memory.measure_method(case.build()[0], case, method, [1])
        return MethodFigures(method, tuple(batch_sizes), tuple(len(method) * 10**6 * size for size in batch_sizes))

    monkeypatch.setattr(bench_memory, "_in_child", measure)
    path = tmp_path / "memory.json"
    arguments = ["memory", "--vocabulary", "300", "--canvas", "16", "--batch-sizes", "2", "1", "--rows", "4",
                 "--threads", str(torch.get_num_threads()), "--json", str(path)]  # fmt: skip
    assert main(arguments) == ExitCode.FINISHED
    output = capsys.readouterr().out
    assert "V = 300, P = 16, L = 16" in output
    assert "4 rows x 16 positions" in output
    document = json.loads(path.read_text())
    assert measured == [line["method"] for line in document["reduction"]] == list(METHODS)
    assert document["reduction"][0]["bytes_per_row"] == len(ADAPTER) * 10**6
    assert document["decode"]["num_rows"] == 4
    assert document["case"]["shape"]["vocabulary_size"] == 300


@pytest.mark.parametrize(
    ("arguments", "quoted"),
    [
        (["--batch-sizes", "4", "4"], "[4, 4]"),
        (["--block-length", "7"], "--block-length is 7"),
        (["--device", "gpu"], "'gpu'"),
        (["--unmasker", "treshold:0.9"], "treshold"),
        (["--device", "meta"], "--device is 'meta'; allowed: cpu, cuda"),
        (
            ["--json", "/nowhere/at/all.json"],
            "--json is '/nowhere/at/all.json'; allowed: a file in a folder that exists",
        ),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], quoted: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["memory", *arguments]) == ExitCode.USER_ERROR
    output = capsys.readouterr().out.strip()
    assert quoted in output
    assert output.startswith("error: ")


def check_reduction(device: str, dtype: str, batch_sizes: list[int]) -> None:
    case = Case("small", SHAPES["small"], dtype, device, prompt_length=16, canvas_length=256)
    model = None if device == "cpu" else case.build()[0]
    slopes = {line.method: line.bytes_per_row or 0.0 for line in measure_reduction(case, model, batch_sizes)}
    row = 256 * 126464 * 2
    for method in METHODS:
        if method != ADAPTER:
            assert slopes[method] > 1.9 * row
    assert slopes[ADAPTER] < 0.1 * row


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_memory_does_not_grow_with_the_rows_on_a_cpu() -> None:
    check_reduction("cpu", "bfloat16", [4, 6])


@pytest.mark.gpu
def test_memory_does_not_grow_with_the_rows_on_a_gpu() -> None:
    check_reduction("cuda", "bfloat16", [4, 8, 16])


@pytest.mark.gpu
@pytest.mark.timeout(900)
def test_the_size_of_llada_loads_and_decodes_on_a_gpu() -> None:
    case = Case("llada-8b", SHAPES["llada-8b"], "bfloat16", "cuda", prompt_length=64, canvas_length=256)
    figures = decode(case, make_heuristic("threshold", 0.9), num_rows=64, block_length=256)
    assert figures.weight_bytes == 2 * 8_015_581_184
    assert figures.mean_nfe == 256
