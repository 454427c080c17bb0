"""What the watch sees reaches the user: warnings are listed at the end, and a policy beyond repair ends the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.loop import Diverged
from tests.integration.test_training_run import train

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def test_alarms_are_listed_when_a_run_ends_and_a_lost_policy_ends_it(
    ray_local: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Diverged, match=r"update 2: .*learner\.initial_policy"):
        train(
            tmp_path / "run", "rollout.num_workers=1", "learner.watch.window=1", "learner.watch.min_entropy=100",
            "learner.learning_rate=1e18", "learner.warmup_steps=0", "learner.num_iterations=1", "learner.entropy_bonus=0.01",
        )  # fmt: skip
    output = capsys.readouterr().out
    assert "Alarms while training" in output
    assert "update 1: entropy_collapse: entropy of " in output
    assert (tmp_path / "run" / "checkpoints" / "step-000000").exists()
