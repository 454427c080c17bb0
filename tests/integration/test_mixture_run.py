"""One run whose rollout actors host different dLLMs and tasks: each row by its own model, whoever hosts it."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.errors import ExitCode
from rollout_workers.models.tiny.pretrain import Pretraining, Recipe
from tests.integration.test_training_run import outcome, train

pytestmark = [pytest.mark.ray, pytest.mark.slow]

UNTRAINED = Recipe(hidden_size=16, num_heads=2, num_layers=1, feed_forward_size=16)
MIXTURE = "task={arithmetic: 1, sudoku@second: 1, arithmetic@second: 2}"
SETTINGS = (
    MIXTURE, "learner.num_steps=2", "learner.group_size=2", "evaluation.num_examples=8", "evaluation.heuristics={}",
    "evaluation.policy_temperatures=[]",
)  # fmt: skip


def mixture(folder: Path, num_workers: int) -> Path:
    """A finished run."""
    second = f"models.second.name={Pretraining(UNTRAINED, folder).export()}"
    path = folder / f"run{num_workers}"
    assert train(path, *SETTINGS, second, f"rollout.num_workers={num_workers}") == ExitCode.FINISHED
    return path


def test_any_number_of_actors_gives_the_same_result(ray_local: None, tmp_path: Path) -> None:
    assert outcome(mixture(tmp_path, 1)) == outcome(mixture(tmp_path, 2))


def test_each_row_is_decoded_by_its_own_model(ray_local: None, tmp_path: Path) -> None:
    metrics, _, records = outcome(mixture(tmp_path, 2))
    update = metrics[1][1]
    # An untrained model solves nothing, so the rows are where they belong.
    assert update["accuracy_arithmetic"] > 0.2
    assert update["accuracy_arithmetic_on_second"] == update["accuracy_sudoku_on_second"] == 0
    assert update["first_ratio_gap"] < 1e-4
    tasks = [record.task for record in records]
    assert {task: tasks.count(task) for task in tasks} == {
        "arithmetic": 8, "sudoku@second": 8, "arithmetic@second": 8,
    }  # fmt: skip
