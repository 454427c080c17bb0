"""The rollout actor: holds a frozen model, pulls weights by version, runs leases. All logic lies in `rollout`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from cluster.allocator import keep_freed_memory
from cluster.metrics import TimeStates
from cluster.weight_store import WeightStore
from policy.factory import make_learned, make_swept_heuristic
from policy.learned import LearnedUnmasker
from policy.networks.base import PolicyNetwork
from policy.steering import ExpertUnmasker
from policy.trajectory import TrajectoryBatch
from policy.unmasker import Unmasker
from policy.weights import from_bytes
from rollout_workers.config import ModelConfig, RewardConfig, RolloutConfig, TaskConfig
from rollout_workers.exported import LeaseExport
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.rewards import RewardFunction
from rollout_workers.rollout import DecodeSettings, ExpertSpec, Lease, LeaseSummary, Rollout, UnmaskerSpec
from rollout_workers.tasks import make_tasks

WAITING = "waiting"
WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything an actor needs to build itself; plain data, so that a replacement is exactly alike."""

    model: ModelConfig
    settings: DecodeSettings
    reward: RewardConfig
    tasks: Mapping[str, TaskConfig]
    torch_threads: int
    fingerprint: str
    """Architecture of the policy that the run trains."""
    weights_deadline_s: float


class RolloutWorker:
    """Runs leases one after another; between them it holds nothing but the model and the last policy it pulled."""

    def __init__(self, spec: WorkerSpec, store: WeightStore | None) -> None:
        keep_freed_memory()
        torch.set_num_threads(spec.torch_threads)
        self._clock = TimeStates(WAITING)
        self._spec = spec
        self._store = store
        self._policy: tuple[int, PolicyNetwork] | None = None
        self._export = LeaseExport(num_slots=spec.settings.num_slots)
        self._rollout = Rollout(
            load_model(spec.model.name, dtype=spec.model.dtype, device=spec.model.device, options=spec.model.options),
            load_tokenizer(spec.model.name, spec.model.options),
            spec.settings,
            RewardFunction(spec.reward.terms, alpha=spec.reward.alpha),
            tasks=make_tasks(spec.tasks),
            clock=self._clock,
        )

    def ready(self) -> bool:
        """Answers once the model is loaded and has passed its self-check."""
        self._clock.take()
        return True

    def run(self, lease: Lease) -> tuple[LeaseSummary, TrajectoryBatch | None]:
        """Decodes and grades one lease."""
        summary, trajectories = self._rollout.run(lease, self._unmasker(lease.unmasker))
        self._export.lease(summary, waiting=WAITING)
        return summary, trajectories

    def _unmasker(self, spec: UnmaskerSpec) -> Unmasker:
        if spec.heuristic is not None:
            assert spec.parameter is not None, "a heuristic needs its parameter"
            return make_swept_heuristic(spec.heuristic, spec.parameter)
        if self._policy is None or self._policy[0] != spec.weight_version:
            with self._clock.state(WEIGHTS):
                self._policy = (spec.weight_version, self._pull(spec.weight_version))
        learned = make_learned(self._policy[1], temperature=spec.parameter, inference=spec.inference)
        return learned if spec.expert is None else _expert(learned, spec.expert)

    def _pull(self, version: int) -> PolicyNetwork:
        assert self._store is not None, "a learned policy needs a weight store"
        record = self._store.fetch(version, fingerprint=self._spec.fingerprint, timeout_s=self._spec.weights_deadline_s)
        return from_bytes(record.data, where=f"weight version {version}").to(self._spec.model.device)


def _expert(learned: LearnedUnmasker, spec: ExpertSpec) -> ExpertUnmasker:
    heuristic = make_swept_heuristic(spec.heuristic, spec.parameter)
    return ExpertUnmasker(learned, heuristic, block_length=spec.block_length, behaviour=spec.behaviour)


def start_worker(spec: WorkerSpec, store: WeightStore | None, config: RolloutConfig) -> ActorHandle:
    """A new rollout actor with the configured resources; its calls are not retried by Ray (the pool re-leases)."""
    actor_class: Any = ray.remote(RolloutWorker)
    actor: ActorHandle = actor_class.options(
        num_cpus=config.cpus_per_worker,
        num_gpus=config.gpus_per_worker,
        label_selector=config.worker_labels,
        max_restarts=0,
        scheduling_strategy="SPREAD",
    ).remote(spec, store)
    return actor
