"""Comparing runs: the best heuristic of all runs is the bar, and margins are paired by problem."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ExitCode, UserError
from evaluation.arms import LEARNED
from evaluation.compare import compare_runs, main
from evaluation.records import ExampleRecord, to_lines
from tests.fakes.records import arm_of, rewarded


def records(
    sampler: str, parameter: float | None, rewards: list[float], *, task: str = "arithmetic"
) -> list[ExampleRecord]:
    return rewarded(arm_of(sampler, parameter, 48), rewards, task=task)


def test_the_bar_is_the_best_heuristic_of_all_runs() -> None:
    runs = {
        "a": records(LEARNED, None, [0.9, 0.8, 0.9]) + records("threshold", 0.5, [0.5, 0.5, 0.5]),
        "b": records(LEARNED, None, [0.6, 0.6, 0.6]) + records("threshold", 0.9, [0.8, 0.7, 0.8]),
    }
    best, comparisons = compare_runs(runs)
    assert best.arm.label == "threshold 0.9"
    assert {line.run: round(line.margin.mean, 6) for line in comparisons} == {"a": 0.1, "b": round(-0.5 / 3, 6)}
    assert comparisons[0].margin.low == pytest.approx(0.1)


def test_runs_on_different_problems_are_refused() -> None:
    runs = {
        "a": records(LEARNED, None, [0.9, 0.8], task="sudoku"),
        "b": records("threshold", 0.9, [0.8, 0.7]) + records(LEARNED, None, [0.8, 0.8]),
    }
    with pytest.raises(UserError, match="'a' shares no problem"):
        compare_runs(runs)


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = records(LEARNED, None, [0.9, 0.8]) + records("threshold", 0.9, [0.8, 0.7])
    path = tmp_path / "run" / "evaluation" / "records.jsonl"
    path.parent.mkdir(parents=True)
    path.write_bytes(to_lines(both))
    assert main([str(tmp_path / "run")]) == ExitCode.FINISHED
    assert "threshold 0.9" in capsys.readouterr().out
    assert main([str(tmp_path / "nope")]) == ExitCode.USER_ERROR
    assert "nope" in capsys.readouterr().err
