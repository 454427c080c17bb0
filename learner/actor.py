"""A learner rank as a Ray actor: it fetches its share of the trajectories and learns from it. All logic is in `trainer`."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
import torch
import torch.distributed as dist
from ray.exceptions import GetTimeoutError, ObjectLostError

from cluster.allocator import keep_freed_memory
from cluster.metrics import Metric, TimeStates
from cluster.stacks import stacks_after
from learner.checkpoint import POLICY_FILE, restore_trainer, trainer_files
from learner.config import LearnerConfig
from learner.ranks import OneRank, Ranks, join_group, open_store
from learner.trainer import Trainer
from learner.update_plan import UpdateRows
from policy.config import PolicyConfig
from policy.trajectory import TrajectoryBatch
from policy.weights import to_bytes

WAITING, FETCHING, LEARNING = "waiting", "fetching", "learning"
"""A rank's exclusive time states."""


@dataclass(frozen=True, slots=True)
class RankSpec:
    """Everything a rank needs to build itself; plain data, so that a replacement is exactly alike."""

    policy: PolicyConfig
    config: LearnerConfig
    seed: int
    """Of the policy's first weights."""
    vocabulary_size: int
    """Of the dLLM."""
    initial: bytes | None
    """A policy file to start from, of the same architecture."""


@dataclass(frozen=True, slots=True)
class RankReply:
    """What one rank says after an update."""

    metrics: dict[str, Metric]
    digest: str
    """Of the new weights: all ranks must agree."""
    files: dict[str, bytes] | None
    """The trainer's part of a checkpoint, from rank 0."""
    seconds: dict[str, float]
    """Exclusive time states since the reply before."""


class LearnerRank:
    """One rank; it holds a trainer, and between two calls of one update the trajectories that it learns from."""

    def __init__(self, spec: RankSpec, rank: int) -> None:
        keep_freed_memory()
        torch.set_num_threads(spec.config.torch_threads)
        self._spec = spec
        self._rank = rank
        self._clock = TimeStates(WAITING)
        self._store: dist.TCPStore | None = None
        self._trainer: Trainer | None = None
        self._parts: dict[int, TrajectoryBatch] = {}

    def ready(self) -> bool:
        return True

    def open_store(self) -> tuple[str, int]:
        """Opens the group's meeting point on this rank's machine; returns its address."""
        host = ray.util.get_node_ip_address()
        self._store = open_store(host, timeout_s=self._spec.config.collective_deadline_s)
        return host, self._store.port

    def begin(
        self, address: tuple[str, int] | None, files: dict[str, bytes] | None, where: str
    ) -> dict[str, bytes] | None:
        """Joins the group at `address` (None: alone) and takes the state `files`, or the run's first; rank 0 returns it."""
        spec, config = self._spec, self._spec.config
        ranks: Ranks = OneRank()
        if address is not None:
            ranks = join_group(
                self._store or address,
                rank=self._rank,
                num_ranks=config.num_ranks,
                device=config.device,
                timeout_s=config.collective_deadline_s,
            )
        self._trainer = Trainer(spec.policy, config, seed=spec.seed, vocabulary_size=spec.vocabulary_size, ranks=ranks)
        if files is not None:
            restore_trainer(self._trainer, files, where=where)
        elif spec.initial is not None:
            self._trainer.start_from(spec.initial)
        self._clock.take()
        return self._files()

    def restore(self, files: dict[str, bytes], where: str) -> None:
        """Goes back to a checkpoint."""
        restore_trainer(self._own, files, where=where)

    def fetch(self, rows: UpdateRows, references: Sequence[Any], imitate: bool) -> list[int]:
        """Fetches the lease results that this rank needs; returns the numbers of those that are lost."""
        lost = []
        # Half of what the driver waits for this answer, which names what is missing.
        deadline = time.monotonic() + self._spec.config.update_deadline_s / 2
        with self._clock.state(FETCHING):
            numbers = self._own.needs(rows, imitate=imitate)
            for number in numbers:
                try:
                    left = max(0.0, deadline - time.monotonic())
                    self._parts[number] = ray.get(references[number], timeout=left)
                except (ObjectLostError, GetTimeoutError):
                    lost.append(number)
        return lost

    def update(self, rows: UpdateRows, imitate: bool) -> RankReply:
        """One update on what was fetched."""
        limit = self._spec.config.collective_deadline_s
        with self._clock.state(LEARNING), stacks_after(limit, f"an update of rank {self._rank}"):
            metrics = self._own.learn(rows, lambda numbers: [self._parts[n] for n in numbers], imitate=imitate)
            self._parts = {}
            files = self._files()
            policy = files[POLICY_FILE] if files is not None else to_bytes(self._own.network)
            digest = hashlib.sha256(policy).hexdigest()
        return RankReply(metrics, digest, files, self._clock.take())

    def _files(self) -> dict[str, bytes] | None:
        """The trainer's part of a checkpoint, which all ranks have alike and rank 0 hands out."""
        return trainer_files(self._own) if self._rank == 0 else None

    @property
    def _own(self) -> Trainer:
        assert self._trainer is not None, "begin comes first"
        return self._trainer
