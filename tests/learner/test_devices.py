"""Learning on a second device (`tests.fakes.second_device`): nothing is mixed with the host, and the figures are the CPU's."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cluster.metrics import values
from learner.config import ImitationConfig, RegulariserConfig, SteeringConfig
from learner.trainer import Trainer
from policy.trajectory import TrajectoryBatch
from tests.fakes.second_device import DEVICE, second_device
from tests.learner.records import GROUPS, NFES, POLICY, REWARDS, decoded, learner_config

CATEGORICAL = {"distribution": "categorical"}
REFERENCE = RegulariserConfig(kind="kl", reference="threshold", parameter=0.6, coefficient=0.5)
OVER_POSITIONS = RegulariserConfig(kind="cross_entropy", reference="max_confidence", coefficient=0.5)

VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "plain": ({}, {}),
    "bernoulli, entropy": ({"distribution": "bernoulli"}, {"entropy_bonus": 0.1, "normaliser": "per_step"}),
    "dpls, leave one out": ({"distribution": "dpls"}, {"advantage": "leave_one_out", "normaliser": "sum"}),
    "dpls as a set": ({"distribution": "dpls", "dpls_likelihood": "set"}, {"advantage": "mean_std"}),
    "top-k": ({"distribution": "top_k", "top_k": 2}, {"clip_low": 0.1, "clip_high": 0.3}),
    "blocks seen": ({"see_block": True, "num_blocks": 2}, {"normaliser": "constant"}),
    "trajectories": ({}, {"ratio": "trajectory"}),
    "stale": ({}, {"max_weight_lag": 1, "stale_correction": "decoupled"}),
    "stale, clipped": ({}, {"max_weight_lag": 1, "stale_correction": "clip", "ratio": "trajectory"}),
    "mixture": ({}, {"steering": SteeringConfig(parameters=(0.9,), mode="mixture")}),
    "per decision": ({}, {"steering": SteeringConfig(parameters=(0.9,), mode="per_decision")}),
    "policy ratio": ({}, {"steering": SteeringConfig(parameters=(0.9,), mode="policy_ratio")}),
    "kl": ({}, {"regulariser": REFERENCE}),
    "cross entropy": (CATEGORICAL, {"regulariser": OVER_POSITIONS}),
    "output kl": (
        CATEGORICAL,
        {"regulariser": replace(REFERENCE, kind="output_kl", reference="softmax_confidence", parameter=0.05)},
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_an_update_is_the_cpu_s(name: str) -> None:
    policy, settings = VARIANTS[name]
    assert_alike(updated("cpu", policy, settings), on_second_device(policy, settings))


@pytest.mark.parametrize("objective", ["decisions", "reference"])
def test_imitation_is_the_cpu_s(objective: str) -> None:
    settings = {
        "imitation": ImitationConfig(num_steps=1, objective=objective),
        "regulariser": RegulariserConfig(reference="softmax_confidence", parameter=0.2),
    }
    assert_alike(updated("cpu", CATEGORICAL, settings), on_second_device(CATEGORICAL, settings))


def on_second_device(policy: dict[str, Any], settings: dict[str, Any]) -> dict[str, float]:
    with second_device():
        return updated(str(DEVICE), policy, settings)


def updated(device: str, policy: dict[str, Any], settings: dict[str, Any]) -> dict[str, float]:
    """What an update says of rollouts by the policy that the trainer starts with."""
    config = learner_config(num_iterations=1, device=device, **settings)
    trainer = Trainer(replace(POLICY, **policy), config, seed=0, vocabulary_size=50)
    behind = Trainer(replace(POLICY, **policy), learner_config(), seed=0)
    batch = decoded(behind.network, GROUPS, NFES)
    if "imitation" in settings:
        return values(trainer.imitate([batch]))
    batch = _steered(batch) if "steering" in settings else batch
    return values(trainer.update([batch], REWARDS, np.ones(len(REWARDS), bool)))


def _steered(batch: TrajectoryBatch) -> TrajectoryBatch:
    """The same rollouts, the last of each group an expert's."""
    return replace(batch, rows=tuple(replace(row, is_expert=n % 3 == 2) for n, row in enumerate(batch.rows)))


def assert_alike(expected: dict[str, float], found: dict[str, float]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
