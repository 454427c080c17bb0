"""The rollout actor: holds a frozen model, pulls weights by version, runs leases. All logic lies in `rollout`.

An actor that cannot get a version of the weights in time says so with a `WorkerFault`: its pool replaces it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch
from ray.actor import ActorHandle

from cluster.actor_pool import WorkerFault
from cluster.allocator import keep_freed_memory
from cluster.errors import DeadlineExceeded
from cluster.metrics import TimeStates
from cluster.runtime import actor_name
from cluster.weight_store import UnknownVersion, WeightStore
from policy.factory import make_learned, make_swept_heuristic
from policy.learned import LearnedUnmasker
from policy.networks.base import PolicyNetwork
from policy.steering import ExpertUnmasker
from policy.trajectory import TrajectoryBatch
from policy.unmasker import Unmasker
from policy.weights import from_bytes
from rollout_workers.config import ModelConfig, RewardConfig, RolloutConfig, TaskConfig
from rollout_workers.exported import LeaseExport
from rollout_workers.hardware import device_name
from rollout_workers.lease import ExpertSpec, Lease, LeaseSummary, UnmaskerSpec
from rollout_workers.models.load import load_model, load_tokenizer
from rollout_workers.resources import ModelResources
from rollout_workers.rewards import RewardFunction
from rollout_workers.rollout import DecodeSettings, Rollout
from rollout_workers.tasks import make_tasks

WAITING = "waiting"
WEIGHTS = "weights"


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything an actor needs to build itself; plain data, so that a replacement is exactly alike."""

    models: Mapping[str, ModelConfig]
    """Those that it hosts, by name (`rollout_workers.hosting`)."""
    settings: DecodeSettings
    reward: RewardConfig
    tasks: Mapping[str, TaskConfig]
    torch_threads: int
    fingerprint: str
    """Architecture of the policy that the run trains."""
    weights_deadline_s: float
    grades: bool = True
    """Whether it grades what it decodes; else graders of their own do."""

    def hosting(self, models: Sequence[str]) -> WorkerSpec:
        """The same with some of the models."""
        return replace(self, models={name: self.models[name] for name in models})


@dataclass(frozen=True, slots=True)
class _Policy:
    """What was pulled last."""

    version: int
    network: PolicyNetwork
    checksum: str


class RolloutWorker:
    """Runs leases one after another; between them it holds nothing but its models and the last policy it pulled."""

    def __init__(self, spec: WorkerSpec, store: WeightStore | None) -> None:
        keep_freed_memory()
        self._name = actor_name("rollout")
        torch.set_num_threads(spec.torch_threads)
        self._clock = TimeStates(WAITING)
        self._spec = spec
        self._store = store
        self._policy: _Policy | None = None
        self._rollouts: dict[str, Rollout] = {}
        self._resources: dict[str, ModelResources] = {}
        (self._device,) = {config.device for config in spec.models.values()}
        self._export = LeaseExport()

    def _load(self) -> None:
        """Loads the models. Not where the actor is made: what is raised there ends it, and the reason never reaches who waits."""
        spec = self._spec
        tasks, reward = make_tasks(spec.tasks), RewardFunction(spec.reward.terms, alpha=spec.reward.alpha)
        for name, config in spec.models.items():
            model = load_model(config.name, dtype=config.dtype, device=config.device, options=config.options)
            tokenizer = load_tokenizer(config.name, config.options)
            self._resources[name] = ModelResources(
                model.spec,
                tokenizer,
                name=config.name,
                options=config.options,
                dtype=config.dtype,
                device=model.device,
            )
            self._rollouts[name] = Rollout(model, tokenizer, spec.settings, reward, tasks=tasks, clock=self._clock)

    def ready(self) -> bool:
        """Answers once the models are loaded, have passed their self-checks, and the newest weights are here if there are any.

        Raises:
            ModelError: a model that cannot be used; no other actor could use it either.
        """
        if not self._rollouts:
            self._load()
        if self._store is not None:
            with _as_fault(self._name):
                newest = self._store.latest_version(self._spec.weights_deadline_s)
            if newest is not None:
                self._policy = self._pull(newest)
        self._clock.take()
        return True

    def run(self, lease: Lease) -> tuple[LeaseSummary, TrajectoryBatch | None]:
        """Decodes one lease, and grades it unless graders of their own do."""
        rollout = self._rollouts[lease.model]
        run = rollout.run if self._spec.grades else rollout.decode
        summary, trajectories = run(lease, self._unmasker(lease.unmasker, self._resources[lease.model]))
        self._export.lease(summary, waiting=WAITING)
        weights = self._policy.checksum if self._policy is not None and lease.unmasker.heuristic is None else ""
        return replace(summary, actor=self._name, device=device_name(self._device), weights=weights), trajectories

    def _unmasker(self, spec: UnmaskerSpec, resources: ModelResources) -> Unmasker:
        if spec.heuristic is not None:
            assert spec.parameter is not None, "a heuristic needs its parameter"
            return make_swept_heuristic(spec.heuristic, spec.parameter, resources=resources)
        if self._policy is None or self._policy.version != spec.weight_version:
            with self._clock.state(WEIGHTS):
                self._policy = self._pull(spec.weight_version)
        assert not isinstance(spec.parameter, Mapping), "a learned policy's parameter is its temperature"
        learned = make_learned(self._policy.network, temperature=spec.parameter, inference=spec.inference)
        return learned if spec.expert is None else _expert(learned, spec.expert)

    def _pull(self, version: int) -> _Policy:
        assert self._store is not None, "a learned policy needs a weight store"
        spec = self._spec
        with _as_fault(self._name):
            record = self._store.fetch(version, fingerprint=spec.fingerprint, timeout_s=spec.weights_deadline_s)
        # Between leases nobody uses the weights before.
        before = None if self._policy is None else self._policy.network
        network = from_bytes(record.data, where=f"weight version {version}", reuse=before).to(self._device)
        return _Policy(version, network, record.checksum)


@contextmanager
def _as_fault(name: str) -> Iterator[None]:
    """What keeps an actor from its weights is no fault of the lease."""
    try:
        yield
    except (DeadlineExceeded, UnknownVersion) as error:
        raise WorkerFault(f"{name} has no weights: {error}") from error


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
