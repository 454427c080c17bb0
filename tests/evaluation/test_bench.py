"""The rollouts benchmark: both decoders give the same answers, and only the lock-step one computes rows that are done."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from cluster.errors import ExitCode
from evaluation.bench import main
from evaluation.lockstep import decode_lock_step
from policy.factory import make_heuristic
from rollout_workers.engine import Engine
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
    ours = rows(10, block_length)
    Engine(model, decider, num_slots=4).decode(ours)
    tokens, stats = decode_lock_step(model, decider, rows(10, block_length), batch_size=4)
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


def test_bad_unmasker_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rollouts", "--unmasker", "treshold:0.9"]) == ExitCode.USER_ERROR
    assert "treshold" in capsys.readouterr().out
