"""The command that shows what a run decoded while it trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cluster.errors import ExitCode
from learner.samples import chosen, main
from rollout_workers.models.load import load_tokenizer
from tests.fakes.runs import make_run

TEXT = "so 4 plus 3 = 7 . <answer> 7 </answer>"


def sample(step: int, pick: str, number: int = 0) -> dict[str, object]:
    ids = load_tokenizer("tiny").encode_prompt(TEXT)
    return {
        "step": step, "pick": pick, "example_id": f"arithmetic/train/{number}", "prompt": "Ann has 4 pens .", "prompt_hash": "",
        "weight_version": step - 1, "reward": 0.5, "reward_terms": {"multiplicative": 0.5}, "grade": "correct", "answer": "7",
        "nfe": 3, "status": "clean", "text": TEXT, "tokens": ids, "order": [1 + place % 3 for place in range(len(ids))],
    }  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    path = make_run(tmp_path / "run", task="arithmetic").path
    lines = [sample(step, pick, number) for step in (10, 20) for number in (0, 1) for pick in ("best", "worst")]
    (path / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_the_newest_update_is_shown_unless_one_is_asked_for(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run)]) == ExitCode.FINISHED
    printed = capsys.readouterr().out
    assert (
        "update 20, best of the group arithmetic/train/0: reward 0.5000 (multiplicative 0.5), correct, 3 passes"
        in printed
    )
    assert "update 20, worst of the group arithmetic/train/0" in printed
    assert "Ann has 4 pens ." in printed
    assert "<answer> 7 </answer>" in printed
    assert main([str(run), "--update", "10", "--pick", "worst", "--number", "5", "--text"]) == ExitCode.FINISHED
    printed = capsys.readouterr().out
    assert printed.count("update 10, worst of the group") == 2
    assert TEXT in printed


def test_what_is_not_there_is_one_line(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        ([str(tmp_path / "nowhere")], "has no samples.jsonl; allowed: the directory of a run"),
        ([str(run), "--update", "15"], "--update is 15; allowed: 10, 20"),
    ):
        assert main(words) == ExitCode.USER_ERROR
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1
    (run / "samples.jsonl").write_text('{"step": 1')
    assert main([str(run)]) == ExitCode.USER_ERROR
    assert "line 1 is damaged" in capsys.readouterr().err


def test_chosen() -> None:
    samples = [sample(10, "best"), sample(10, "worst"), sample(20, "best")]
    assert chosen(samples, 10, None, 9) == samples[:2]
    assert chosen(samples, None, None, 9) == samples[2:]
