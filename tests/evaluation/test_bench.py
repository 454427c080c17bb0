"""The rollouts benchmark: both decoders give the same answers, and only the lock-step one computes rows that are done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cluster.errors import ExitCode
from evaluation.bench import main
from evaluation.lockstep import decode_lock_step
from evaluation.public_reduction import PublicReduction
from evaluation.random_models import SHAPES, Shape
from policy.factory import make_heuristic
from rollout_workers.engine import Engine
from rollout_workers.models.base import ModelError
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.rollout import pose_each
from rollout_workers.sequence import Sequence
from rollout_workers.tasks import Split, make_task


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
    assert document["environment"]["device"]


def test_overhead_is_split_by_cause(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    arguments = ["overhead", "--rows", "6", "--repeats", "2", "--block-lengths", "16", "48", "--batch-sizes", "3",
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


def test_bad_unmasker_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "--unmasker", "treshold:0.9"]) == ExitCode.USER_ERROR
    assert "treshold" in capsys.readouterr().out
