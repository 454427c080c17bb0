"""Trajectories of a policy on made-up observations, for tests of the learner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from learner.config import LearnerConfig
from policy.config import PolicyConfig
from policy.factory import make_learned
from policy.networks.dit_confidence import ConfidenceDiT
from policy.trajectory import PackedSteps, TrajectoryBatch, TrajectoryRow
from policy.weights import from_bytes, to_bytes
from tests.policy.observations import random_observation, record

GROUPS = [0, 0, 0, 1, 1, 1, 2, 2, 2]
NFES = [3, 1, 4, 2, 2, 5, 1, 3, 2]
REWARDS = np.array([1.0, 0.0, 0.4, 0.5, 0.5, 0.5, 0.0, 0.0, 0.7])
"""Of nine rollouts in three groups, the second of which teaches nothing."""

POLICY = PolicyConfig(hidden_size=16, feed_forward_size=16, time_embed_size=8, initial_logit=-0.5)


def learner_config(**settings: Any) -> LearnerConfig:
    """A learner that takes visible steps and clips no gradient."""
    return replace(LearnerConfig(learning_rate=1e-2, schedule="constant", max_grad_norm=1e6), **settings)


def make_row(group: int, nfe: int, *, sample: int = 0, length: int = 8) -> TrajectoryRow:
    """A row of which the learner reads only group and NFE."""
    return TrajectoryRow(
        example_id=f"e{group}", group=group, sample=sample, weight_version=0, tokens_L=np.zeros(length, np.int32),
        order_L=np.ones(length, np.int16), status="clean", nfe=nfe, num_near_ties=0,
    )  # fmt: skip


def weights_of(network: ConfidenceDiT) -> dict[str, bytes]:
    """Every tensor's bytes, for comparisons bit for bit."""
    return {name: value.numpy().tobytes() for name, value in network.state_dict().items()}


def decoded(
    network: ConfidenceDiT, groups: Sequence[int], nfes: Sequence[int], *, seed: int = 0, length: int = 8
) -> TrajectoryBatch:
    """Rows of `groups` with `nfes` decisions each, drawn from the network's policy as a rollout actor draws them."""
    unmasker = make_learned(from_bytes(to_bytes(network), where="test"))
    observation = random_observation(sum(nfes), length, seed=seed)
    with torch.no_grad():
        steps = record(observation, unmasker.decide(observation))
    rows = tuple(make_row(group, nfe, length=length) for group, nfe in zip(groups, nfes, strict=True))
    return TrajectoryBatch(rows, steps, np.concatenate([[0], np.cumsum(nfes)]).astype(np.int64))


def random_steps(num_steps: int, *, length: int = 4, seed: int = 0) -> PackedSteps:
    """Steps that no policy made."""
    random = np.random.default_rng(seed)
    return PackedSteps(
        random.random((num_steps, length, 1), np.float32),
        random.integers(0, 8, (num_steps, length), np.uint8),
        random.random(num_steps, np.float32),
        -random.random(num_steps, np.float32),
    )
