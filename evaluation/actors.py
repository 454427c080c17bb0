"""The actors of an evaluation: rollout workers that each load their dLLM once, graders, and the store that policies come from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

import ray

from cluster.runtime import check_total
from cluster.weight_store import WeightPublisher, WeightRecord, start_weight_store
from evaluation.config import PipelineConfig
from evaluation.sources import Policy
from rollout_workers.grader_actor import GraderSpec, start_grader
from rollout_workers.pool import RolloutPool
from rollout_workers.rollout import DecodeSettings
from rollout_workers.worker import WorkerSpec, start_worker

STORE_DEADLINE_S = 60.0
_FINGERPRINT = "evaluation"
"""One for policies of any architecture: each has been loaded and checked before it is published."""


def local_cpus(config: PipelineConfig) -> int:
    """Logical CPUs of a local Ray: what the actors ask for, whatever the machine has."""
    rollout = config.rollout
    return math.ceil(rollout.cpus_per_worker * rollout.num_workers + rollout.cpus_per_grader * rollout.num_graders) + 1


class EvaluationActors:
    """Started together and ended together."""

    def __init__(self, config: PipelineConfig, policies: Sequence[Policy], *, canvas_length: int) -> None:
        """`canvas_length` is that of leases that do not say theirs."""
        rollout = config.rollout
        needed = {"CPU": rollout.cpus_per_worker, "GPU": rollout.gpus_per_worker}
        check_total("a rollout actor", needed)
        with ExitStack() as stack:
            keep = max(1, len(policies))
            self._store = start_weight_store(keep=keep)
            self._publisher = WeightPublisher(self._store, keep=keep, timeout_s=STORE_DEADLINE_S)
            stack.callback(ray.kill, self._store.actor)
            # The store wants versions to increase.
            for policy in sorted(policies, key=lambda policy: policy.version):
                self._publisher.publish(WeightRecord.make(policy.version, policy.data, _FINGERPRINT))
            self.pool = self._start_pool(config, canvas_length)
            stack.callback(self.pool.close)
            self.pool.start()
            self._stack = stack.pop_all()

    def _start_pool(self, config: PipelineConfig, canvas_length: int) -> RolloutPool:
        rollout = config.rollout
        spec = WorkerSpec(
            models=config.model_configs,
            settings=DecodeSettings.of(config.decode, canvas_length),
            reward=config.reward,
            tasks=config.task_configs,
            torch_threads=rollout.torch_threads,
            fingerprint=_FINGERPRINT,
            weights_deadline_s=rollout.weights_deadline_s,
            grades=rollout.num_graders == 0,
        )
        grading = GraderSpec(config.reward, config.task_configs, canvas_length)
        return RolloutPool(
            rollout,
            start_worker=lambda models: start_worker(spec.hosting(models), self._store, rollout),
            models=list(config.model_configs),
            start_grader=(lambda: start_grader(grading, rollout)) if rollout.num_graders else None,
            on_idle=self._publisher.heal,
            gives_up_errors=True,
        )

    def close(self) -> None:
        """Ends every actor."""
        self._stack.close()
