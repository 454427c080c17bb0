"""The rollouts benchmark: both decoders give the same answers, and only the lock-step one computes rows that are done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cluster.errors import ExitCode
from evaluation import bench
from evaluation.bench import main
from evaluation.bench_rollouts import RolloutFigures, bench_rollouts, decisions_apart
from evaluation.lockstep import decode_lock_step
from evaluation.public_reduction import PublicReduction
from evaluation.random_models import SHAPES, Shape
from policy.factory import make_heuristic
from policy.learned import LearnedUnmasker
from rollout_workers.engine import Engine
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import ModelError
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.rollout import pose_each
from rollout_workers.sequence import Sequence
from rollout_workers.tasks import Split, make_task
from tests.fakes.models import MASK_ID, random_llama
from tests.fakes.policies import lively_policy
from tests.fakes.second_device import DEVICE, second_device


def rows(num: int, block_length: int) -> list[Sequence]:
    task, tokenizer = make_task("arithmetic"), load_tokenizer("tiny")
    examples = [task.example(Split.TEST, index) for index in range(num)]
    return pose_each(examples, tokenizer, canvas_length=task.canvas_length, block_length=block_length)


@pytest.mark.parametrize("block_length", [16, 48])
@pytest.mark.parametrize("unmasker", [("threshold", 0.9), ("random", 4)])
def test_lock_step_decodes_what_the_engine_decodes(block_length: int, unmasker: tuple[str, float]) -> None:
    model = load_model("tiny", dtype="float64")
    decider = make_heuristic(*unmasker)
    ours = rows(6, block_length)
    Engine(model, decider, num_slots=4).decode(ours)
    tokens, stats = decode_lock_step(model, decider, rows(6, block_length), batch_size=4)
    assert tokens == [row.tokens_L.tolist() for row in ours]
    assert stats.num_live_rows == sum(row.nfe for row in ours)
    assert stats.num_computed_rows >= stats.num_live_rows


def test_command_prints_a_table_and_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    threads = str(torch.get_num_threads())
    arguments = [
        "rollouts",
        "--rows",
        "6",
        "--repeats",
        "1",
        "--block-lengths",
        "16",
        "--batch-sizes",
        "3",
        "--threads",
        threads,
        "--json",
        str(path),
    ]
    assert main(arguments) == ExitCode.FINISHED
    assert "lock-step" in capsys.readouterr().out
    document = json.loads(path.read_text())
    for line in document["figures"]:
        assert line["engine_s"] > 0
        assert line["engine_live_share"] > line["lock_step_live_share"]
        assert line["speedup"] == pytest.approx(line["lock_step_s"] / line["engine_s"])
        assert line["overhead"] == pytest.approx(line["engine_s"] / line["bare_forward_s"] - 1)
    assert document["environment"]["device"]


def test_overhead_is_split_by_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    arguments = ["overhead", "--rows", "6", "--repeats", "1", "--block-lengths", "16", "48", "--batch-sizes", "3",
                 "--threads", str(torch.get_num_threads()), "--json", str(path)]  # fmt: skip
    assert main(arguments) == ExitCode.FINISHED
    assert "scheduling" in capsys.readouterr().out
    figures = json.loads(path.read_text())["figures"]
    assert [(line["block_length"], line["num_rows"]) for line in figures] == [(16, 6), (48, 6)]
    for line in figures:
        assert sum(line["state_s"].values()) == pytest.approx(line["engine_s"], rel=0.2)
        assert line["overhead"] == pytest.approx(line["engine_s"] / line["bare_forward_s"] - 1)
        assert 1 < line["mean_live_rows"] <= 3


@pytest.mark.slow
def test_random_weights_of_a_size_at_a_wanted_number_of_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SHAPES, "small", Shape(211, 32, 48, 1, 2, 2))
    path = tmp_path / "bench.json"
    arguments = ["rollouts", "--shape", "small", "--dtype", "float32", "--prompts", "3", "9", "--canvas", "32",
                 "--block-lengths", "16", "--rows", "12", "--batch-sizes", "4", "--repeats", "1",
                 "--target-nfe", "6", "12", "--threads", str(torch.get_num_threads()), "--json", str(path)]  # fmt: skip
    assert main(arguments) == ExitCode.FINISHED
    few, many = json.loads(path.read_text())["figures"]
    assert few["mean_nfe"] == pytest.approx(6, abs=2)
    assert few["mean_nfe"] + 2 < many["mean_nfe"]
    assert few["engine_padding_share"] < 0.05
    assert 0 < few["useful_flops"] < many["useful_flops"]
    assert "of matmul peak" in capsys.readouterr().out


@pytest.mark.parametrize("unmasker", ["threshold:0.4", "policy"])
def test_both_decoders_run_on_a_second_device(unmasker: str) -> None:
    def make_rows(block_length: int) -> list[Sequence]:
        prompts = [[5 + number, 6, 7][: 1 + number % 3] for number in range(5)]
        return [Sequence(f"x/{i}", prompt, [MASK_ID] * 8, block_length, key=i) for i, prompt in enumerate(prompts)]

    def figures(device: torch.device) -> RolloutFigures:
        model = random_llama(seed=2)
        model = BackboneDLLM(model.model.to(device), model.spec)
        decider = lively_policy() if unmasker == "policy" else make_heuristic("threshold", 0.4)
        if isinstance(decider, LearnedUnmasker):
            decider.network.to(device)
        return bench_rollouts(
            model,
            decider,
            make_rows,
            block_length=4,
            batch_size=2,
            repeats=1,
            baseline_model=PublicReduction(model),
            peak_flops=1.0,
        )

    here = figures(torch.device("cpu"))
    with second_device():
        there = figures(DEVICE)
    assert (there.num_different, there.num_decisions_apart) == (0, 0)
    assert (there.mean_nfe, there.lock_step_live_share) == (here.mean_nfe, here.lock_step_live_share)


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_the_public_reduction_says_what_the_adapter_says(dtype: str) -> None:
    model = load_model("tiny", dtype=dtype)
    spec = model.spec
    prompt_BP = torch.tensor([[spec.pad_id, 5, 6], [7, 8, 9]])
    canvas_BL = torch.full((2, 8), spec.mask_id)
    canvas_BL[0, 2] = 11
    inputs = (prompt_BP, torch.tensor([2, 3]), canvas_BL, canvas_BL == spec.mask_id)
    ours = model.predict(*inputs, num_confidences=2, with_margin=True)
    public = PublicReduction(model).predict(*inputs, num_confidences=2, with_margin=True)
    rounding = 1e-6 if dtype == "float64" else 2e-2
    torch.testing.assert_close(public.confidences_NK.double(), ours.confidences_NK.double(), atol=rounding, rtol=0)
    assert public.token_ids_N.tolist() == ours.token_ids_N.tolist() or dtype == "bfloat16"
    assert public.margin_N is not None
    with pytest.raises(ModelError, match="with_entropy"):
        PublicReduction(model).predict(*inputs, with_entropy=True)


SMALL_BENCH = ("--repeats", "1", "--rows", "6", "--block-lengths", "16", "--threads", str(torch.get_num_threads()))


@pytest.mark.parametrize("bench", ["rollouts", "overhead"])
def test_a_batch_that_does_not_fit_is_left_out_and_the_others_are_kept(
    bench: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = BackboneDLLM.predict

    def predict(self: BackboneDLLM, prompt_BP: torch.Tensor, *inputs: Any, **options: Any) -> Any:
        if len(prompt_BP) > 3:
            raise torch.OutOfMemoryError("no more\nof it")
        return whole(self, prompt_BP, *inputs, **options)

    monkeypatch.setattr(BackboneDLLM, "predict", predict)
    path = tmp_path / "bench.json"
    arguments = [bench, *SMALL_BENCH, "--json", str(path), "--batch-sizes"]
    assert main([*arguments, "3", "5", "2"]) == ExitCode.FINISHED
    assert "block 16, 5 rows, threshold:0.9: left out, it does not fit into memory (no more)" in capsys.readouterr().out
    assert [line["batch_size"] for line in json.loads(path.read_text())["figures"]] == [3, 2]
    assert main([*arguments, "5"]) == ExitCode.USER_ERROR
    assert "--batch-sizes is [5], and none fits; allowed: smaller ones" in capsys.readouterr().out


def test_what_was_measured_is_written_before_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured = bench.bench_overhead

    def measure(*inputs: Any, batch_size: int, **options: Any) -> Any:
        if batch_size == 2:
            raise KeyboardInterrupt
        return measured(*inputs, batch_size=batch_size, **options)

    monkeypatch.setattr(bench, "bench_overhead", measure)
    path = tmp_path / "bench.json"
    with pytest.raises(KeyboardInterrupt):
        main(["overhead", *SMALL_BENCH, "--batch-sizes", "3", "2", "--json", str(path)])
    assert [line["batch_size"] for line in json.loads(path.read_text())["figures"]] == [3]


def test_blocks_that_nobody_asked_for_divide_the_canvas(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(SHAPES, "small", Shape(211, 32, 48, 1, 2, 2))
    path = tmp_path / "bench.json"
    for canvas, blocks in (("20", [20]), ("33", [11, 33])):
        arguments = ["overhead", "--shape", "small", "--dtype", "float32", "--canvas", canvas, "--prompts", "3", "5", "--rows", "2",
                     "--batch-sizes", "2", "--repeats", "1", "--unmasker", "low_confidence:4",
                     "--threads", str(torch.get_num_threads()), "--json", str(path)]  # fmt: skip
        assert main(arguments) == ExitCode.FINISHED, capsys.readouterr().out
        assert [line["block_length"] for line in json.loads(path.read_text())["figures"]] == blocks


def decoded(order: list[int], tokens: list[int], nfe: int) -> Sequence:
    row = Sequence("r", [1], [0] * len(order), len(order), 0)
    row.order_L, row.tokens_L, row.nfe = np.array(order, np.int16), np.array(tokens, np.int32), nfe
    return row


@pytest.mark.parametrize(
    ("order", "tokens", "nfe", "found"),
    [
        ([1, 2, 2, 4], [5, 6, 7, 8], 4, (4, False)),
        ([1, 2, 2, 4], [5, 6, 9, 8], 4, (2, True)),
        ([1, 2, 3, 4], [5, 6, 7, 8], 4, (2, True)),
        ([1, 2, 2, 3], [5, 6, 7, 8], 3, (3, True)),
        ([1, 2, 2, -1], [5, 6, 7, 0], 4, (4, True)),
    ],
)
def test_decisions_are_compared_up_to_the_first_that_differs(
    order: list[int], tokens: list[int], nfe: int, found: tuple[int, bool]
) -> None:
    assert decisions_apart(decoded(order, tokens, nfe), decoded([1, 2, 2, 4], [5, 6, 7, 8], 4)) == found


def test_in_double_precision_no_decision_differs_from_that_for_the_row_alone() -> None:
    model = load_model("tiny", dtype="float64")
    figures = bench_rollouts(
        model,
        make_heuristic("threshold", 0.9),
        lambda block_length: rows(6, block_length),
        block_length=16,
        batch_size=4,
        repeats=1,
        baseline_model=model,
        peak_flops=1e9,
    )
    assert (figures.num_decisions_apart, figures.num_different) == (0, 0)
    assert figures.num_decisions == round(6 * figures.mean_nfe)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["rollouts", "--block-lengths", "7"], "'--block-lengths' is 7; allowed: a divisor of the canvas length 48"),
        (["overhead", "--shape", "small", "--canvas", "20", "--block-lengths", "8"], "is 8; allowed: a divisor"),
        (["rollouts", "--unmasker", "wino:0.5"], "--unmasker is 'wino:0.5'; allowed: a policy.safetensors, random"),
        (["overhead", "--unmasker", "klass:0.9"], "--unmasker is 'klass:0.9'; allowed"),
        (["rollouts", "--shape", "small", "--samples", "8"], "--samples is 8; allowed: 1 with --shape"),
        (["rollouts", "--target-nfe", "80"], "--target-nfe is [80.0]; allowed: up to the canvas length 48"),
        (["rollouts", "--samples", "7"], "--samples is 7; allowed: a divisor of --rows, 256"),
        (["rollouts", "--json", "/nowhere/at/all.json"], "--json is '/nowhere/at/all.json'"),
        (["cache", "--unmasker", "wino:0.6"], "--unmasker 'wino:0.6': cache is 'prefix'; allowed: 'none'"),
    ],
)
def test_bad_input_is_one_line_before_a_model_is_loaded(
    arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(bench, "load_model")
    monkeypatch.delattr(bench, "random_model")
    assert main(arguments) == ExitCode.USER_ERROR
    assert says in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["rollouts", "--rows", "0"], ["rollouts", "--repeats", "0"],
    ["overhead", "--batch-sizes", "0"], ["cache", "--refresh", "-1"], ["rollouts", "--prompts", "0", "4"],
    ["memory", "--threads", "0"]])  # fmt: skip
def test_numbers_out_of_range_are_refused_by_name(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == ExitCode.USER_ERROR
    assert f"argument {arguments[1]}: '{arguments[2]}' is given; allowed: whole numbers from" in capsys.readouterr().err


def test_bad_unmasker_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "--unmasker", "treshold:0.9"]) == ExitCode.USER_ERROR
    assert "treshold" in capsys.readouterr().out
