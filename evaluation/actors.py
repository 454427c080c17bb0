"""The actors of an evaluation: rollout workers that each load the dLLM once, and the store that they pull policies from."""

from __future__ import annotations

import math
from collections.abc import Sequence

import ray
from ray.actor import ActorHandle

from cluster.runtime import start_actors
from cluster.weight_store import WeightRecord, start_weight_store
from evaluation.config import PipelineConfig
from evaluation.sources import Policy
from rollout_workers.pool import RolloutPool
from rollout_workers.rollout import DecodeSettings
from rollout_workers.worker import WorkerSpec, start_worker

STORE_DEADLINE_S = 60.0
_FINGERPRINT = "evaluation"
"""One for policies of any architecture: each has been loaded and checked before it is published."""


def local_cpus(config: PipelineConfig) -> int:
    """Logical CPUs of a local Ray: what the actors ask for, whatever the machine has."""
    return math.ceil(config.rollout.cpus_per_worker * config.rollout.num_workers) + 1


class EvaluationActors:
    """Started together and ended together."""

    def __init__(self, config: PipelineConfig, policies: Sequence[Policy], *, canvas_length: int) -> None:
        rollout, decode = config.rollout, config.decode
        spec = WorkerSpec(
            model=config.model,
            settings=DecodeSettings(
                canvas_length=canvas_length,
                num_slots=decode.num_slots,
                token_temperature=decode.token_temperature,
                eos=decode.eos,
            ),
            reward=config.reward,
            tasks=config.task_configs,
            torch_threads=rollout.torch_threads,
            fingerprint=_FINGERPRINT,
            weights_deadline_s=STORE_DEADLINE_S,
        )
        self._store = start_weight_store(keep=max(1, len(policies)))
        # The store wants versions to increase.
        for policy in sorted(policies, key=lambda policy: policy.version):
            record = WeightRecord.make(policy.version, policy.data, _FINGERPRINT)
            self._store.publish(record, timeout_s=STORE_DEADLINE_S)

        def new_worker() -> ActorHandle:
            return start_worker(spec, self._store, rollout)

        actors = start_actors(
            [new_worker] * rollout.num_workers,
            deadline_s=rollout.start_deadline_s,
            what="rollout actors",
            request={
                "CPU": rollout.cpus_per_worker * rollout.num_workers,
                "GPU": rollout.gpus_per_worker * rollout.num_workers,
            },
        )
        self.pool = RolloutPool(
            actors,
            replace=new_worker,
            max_replacements=rollout.max_replacements,
            lease_deadline_s=rollout.lease_deadline_s,
        )

    def close(self) -> None:
        """Ends every actor."""
        self.pool.close()
        ray.kill(self._store.actor)
