"""The learner as a Ray actor: it fetches trajectories by reference, updates, and hands out weights. All logic is in `trainer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
import torch
from ray.actor import ActorHandle

from cluster.allocator import keep_freed_memory
from cluster.metrics import Metric
from learner.checkpoint import restore_trainer, trainer_files
from learner.config import LearnerConfig
from learner.trainer import Trainer
from policy.config import PolicyConfig
from policy.weights import to_bytes

LEARNER_CPUS = 0.1
"""Logical CPUs the learner asks for: in the synchronous mode it computes while the rollout actors wait."""


class LearnerActor:
    """One learner rank."""

    def __init__(
        self, policy: PolicyConfig, config: LearnerConfig, seed: int, vocabulary_size: int, initial: bytes | None
    ) -> None:
        keep_freed_memory()
        torch.set_num_threads(config.torch_threads)
        self._trainer = Trainer(policy, config, seed=seed, vocabulary_size=vocabulary_size)
        if initial is not None:
            self._trainer.start_from(initial)
        self._deadline_s = config.update_deadline_s

    def ready(self) -> bool:
        return True

    def restore(self, files: dict[str, bytes], where: str) -> None:
        """Goes back to a checkpoint."""
        restore_trainer(self._trainer, files, where=where)

    def update(
        self, references: Sequence[Any], rewards: Sequence[float], valid: Sequence[bool]
    ) -> tuple[dict[str, Metric], bytes]:
        """One policy update on the referenced trajectories; returns its metrics and the new weights."""
        parts = ray.get(list(references), timeout=self._deadline_s)
        metrics = self._trainer.update(parts, np.asarray(rewards, np.float64), np.asarray(valid, bool))
        return metrics, to_bytes(self._trainer.network)

    def imitate(
        self, references: Sequence[Any], rewards: Sequence[float], valid: Sequence[bool]
    ) -> tuple[dict[str, Metric], bytes]:
        """One supervised update on the referenced rollouts of a heuristic, whatever they earned."""
        metrics = self._trainer.imitate(ray.get(list(references), timeout=self._deadline_s))
        return metrics, to_bytes(self._trainer.network)

    def weights(self) -> bytes:
        """The present weights as a policy file."""
        return to_bytes(self._trainer.network)

    def files(self) -> dict[str, bytes]:
        """The trainer's part of a checkpoint."""
        return trainer_files(self._trainer)


def start_learner(
    policy: PolicyConfig, config: LearnerConfig, *, seed: int, vocabulary_size: int, initial: bytes | None
) -> ActorHandle:
    """A learner actor; Ray never restarts it, because its state would be lost unseen.

    Args:
        policy: the policy's settings.
        config: the learner's.
        seed: of the policy's first weights.
        vocabulary_size: of the dLLM.
        initial: a policy file to start from, of the same architecture.
    """
    actor_class: Any = ray.remote(LearnerActor)
    actor: ActorHandle = actor_class.options(
        num_cpus=LEARNER_CPUS, label_selector=config.rank_labels, max_restarts=0
    ).remote(policy, config, seed, vocabulary_size, initial)
    return actor
