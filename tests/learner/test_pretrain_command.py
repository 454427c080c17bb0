"""`python -m learner.pretrain` is the run without its GRPO updates."""

from __future__ import annotations

import pytest

from learner.pretrain import main


def test_a_dry_run_shows_a_run_of_supervised_updates_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["upo_sudoku_softmax_confidence", "--dry-run", "learner.imitation.num_steps=7"]) == 0
    out = capsys.readouterr().out
    assert "optimiser steps: 7 updates" in out


def test_without_supervised_updates_there_is_nothing_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny"]) == 2
    assert capsys.readouterr().err == (
        "error: config key 'learner.imitation.num_steps' is 0; allowed: an integer >= 1 to pretrain\n"
    )
    assert main(["tiny", "learner.imitation.num_step=3"]) == 2
    assert "did you mean 'learner.imitation.num_steps'" in capsys.readouterr().err
