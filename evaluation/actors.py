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
from rollout_workers.start import make_pool

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
            store = start_weight_store(keep=keep)
            publisher = WeightPublisher(store, keep=keep, timeout_s=STORE_DEADLINE_S)
            stack.callback(ray.kill, store.actor)
            # The store wants versions to increase.
            for policy in sorted(policies, key=lambda policy: policy.version):
                publisher.publish(WeightRecord.make(policy.version, policy.data, _FINGERPRINT))
            self.pool = make_pool(
                models=config.model_configs,
                tasks=config.task_configs,
                decode=config.decode,
                reward=config.reward,
                rollout=rollout,
                canvas_length=canvas_length,
                fingerprint=_FINGERPRINT,
                store=store,
                publisher=publisher,
                gives_up_errors=True,
            )
            stack.callback(self.pool.close)
            self.pool.start()
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Ends every actor."""
        self._stack.close()
