from __future__ import annotations

import json
import pickle
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load

from learner.checkpoint import (
    OPTIMIZER_FILE,
    POLICY_FILE,
    Progress,
    checkpoint_name,
    progress_file,
    read_progress,
    restore_trainer,
    trainer_files,
)
from learner.trainer import Trainer
from policy.trajectory import TrajectoryBatch
from policy.weights import WeightsError, from_bytes
from tests.learner.records import POLICY, decoded, learner_config, weights_of

SETTINGS: dict[str, Any] = {"schedule": "cosine", "num_steps": 6, "warmup_steps": 3, "max_grad_norm": 0.05}
GROUPS = [0, 0, 1, 1]
REWARDS = np.array([1.0, 0.0, 0.2, 0.9])


def make_trainer(seed: int = 0) -> Trainer:
    return Trainer(POLICY, learner_config(**SETTINGS), seed=seed)


def update(trainer: Trainer, batch: TrajectoryBatch) -> dict[str, Any]:
    return trainer.update([batch], REWARDS, np.ones(4, bool))


def state_of(trainer: Trainer) -> dict[str, bytes]:
    """All that a checkpoint must bring back, tensor by tensor."""
    tensors = load(trainer_files(trainer)[OPTIMIZER_FILE])
    return weights_of(trainer.network) | {name: value.numpy().tobytes() for name, value in tensors.items()}


def batches() -> list[TrajectoryBatch]:
    network = make_trainer().network
    return [decoded(network, GROUPS, [2, 3, 1, 4], seed=seed) for seed in range(5)]


@pytest.mark.parametrize("interrupted_after", [0, 1, 3])
def test_a_restored_trainer_goes_on_bit_for_bit_as_the_uninterrupted_one(interrupted_after: int) -> None:
    whole = make_trainer()
    metrics = [update(whole, batch) for batch in batches()]
    first = make_trainer()
    for batch in batches()[:interrupted_after]:
        update(first, batch)
    files = trainer_files(first)
    second = make_trainer(seed=99)
    restore_trainer(second, files, where="checkpoints/step-000001")
    assert second.num_optimizer_steps == first.num_optimizer_steps
    assert state_of(second) == state_of(first)
    resumed = [update(second, batch) for batch in batches()[interrupted_after:]]
    assert weights_of(second.network) == weights_of(whole.network)
    assert state_of(second) == state_of(whole)
    assert resumed == metrics[interrupted_after:]


@pytest.mark.parametrize("saved_after", [0, 2])
def test_going_back_to_a_checkpoint_forgets_what_came_after_it(saved_after: int) -> None:
    trainer = make_trainer()
    for batch in batches()[:saved_after]:
        update(trainer, batch)
    files = trainer_files(trainer)
    update(trainer, batches()[4])
    expected = make_trainer(seed=5)
    restore_trainer(expected, files, where="here")
    restore_trainer(trainer, files, where="here")
    update(trainer, batches()[3])
    update(expected, batches()[3])
    assert weights_of(trainer.network) == weights_of(expected.network)


def test_files_are_safetensors_and_the_policy_file_stands_alone() -> None:
    trainer = make_trainer()
    update(trainer, batches()[0])
    files = trainer_files(trainer)
    assert set(files) == {POLICY_FILE, OPTIMIZER_FILE}
    assert from_bytes(files[POLICY_FILE], where="here").config == POLICY
    tensors = load(files[OPTIMIZER_FILE])
    num_parameters = len(list(trainer.network.parameters()))
    assert int(tensors["num_optimizer_steps"]) == 2
    assert sum(name.endswith(".exp_avg_sq") for name in tensors) == num_parameters
    for data in files.values():
        with pytest.raises((pickle.UnpicklingError, ValueError)):
            pickle.loads(data)  # noqa: S301 - shows that it is not one


def test_a_checkpoint_of_another_architecture_or_a_torn_one_is_refused_by_name() -> None:
    files = trainer_files(make_trainer())
    other = Trainer(replace(POLICY, hidden_size=32), learner_config(), seed=0)
    with pytest.raises(WeightsError, match=r"^runs/step/policy\.safetensors: tensor '.*' has shape"):
        restore_trainer(other, files, where="runs/step")
    torn = files | {POLICY_FILE: files[POLICY_FILE][:-10]}
    with pytest.raises(WeightsError, match=r"^runs/step/policy\.safetensors: not a readable"):
        restore_trainer(make_trainer(), torn, where="runs/step")


@given(st.integers(0, 10**6), st.integers(0, 10**9), st.integers(0, 10**6), st.floats(-1e6, 1e6))
def test_progress_survives_its_file(step: int, cursor: int, best: int, reward: float) -> None:
    progress = Progress(step, cursor, best, reward)
    assert read_progress(progress_file(progress)) == progress


def test_progress_before_the_first_validation_is_plain_json() -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    data = progress_file(Progress())
    assert json.loads(data, parse_constant=refuse)["best_reward"] is None
    assert read_progress(data) == Progress(best_reward=float("-inf"))


def test_progress_of_another_schema_is_refused() -> None:
    record = json.loads(progress_file(Progress())) | {"schema": 7}
    with pytest.raises(ValueError, match=r"^checkpoint schema 7 is not supported; this version reads 2$"):
        read_progress(json.dumps(record).encode())


def test_names_sort_by_step() -> None:
    names = [checkpoint_name(step) for step in (0, 9, 10, 999, 123456)]
    assert names == sorted(names)
    assert checkpoint_name(20) == "checkpoints/step-000020"
