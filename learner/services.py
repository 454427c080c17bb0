"""The run's actors: rollout workers, the learner and the weight store, started together and ended together."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import ray
from ray.actor import ActorHandle

from cluster.runtime import start_actors
from cluster.weight_store import WeightRecord, WeightStore, start_weight_store
from learner.actor import LEARNER_CPUS, start_learner
from learner.config import RunConfig
from learner.loop import STORE_DEADLINE_S
from policy.weights import fingerprint
from rollout_workers.hosting import spread
from rollout_workers.pool import HostingActor, RolloutPool
from rollout_workers.rollout import DecodeSettings
from rollout_workers.worker import WorkerSpec, start_worker


def local_cpus(config: RunConfig) -> int:
    """Logical CPUs of a local Ray: what the actors ask for, whatever the machine has, so that a laptop never waits for a slot."""
    return math.ceil(config.rollout.cpus_per_worker * config.rollout.num_workers + LEARNER_CPUS) + 1


class Services:
    """The run's actors: rollout workers, the learner and the weight store."""

    def __init__(
        self, config: RunConfig, canvas_length: int, *, vocabulary_size: int, initial: bytes | None = None
    ) -> None:
        """`initial` is the policy file that the learner starts from."""
        self._fingerprint = fingerprint(config.policy)
        rollout = config.rollout
        spec = WorkerSpec(
            models=config.model_configs,
            settings=DecodeSettings(
                canvas_length=canvas_length,
                num_slots=config.decode.num_slots,
                token_temperature=config.decode.token_temperature,
                eos=config.decode.eos,
            ),
            reward=config.reward,
            tasks=config.task_configs,
            torch_threads=rollout.torch_threads,
            fingerprint=self._fingerprint,
            weights_deadline_s=STORE_DEADLINE_S,
        )
        self.store: WeightStore = start_weight_store()

        def new_learner() -> ActorHandle:
            return start_learner(
                config.policy, config.learner, seed=config.seed, vocabulary_size=vocabulary_size, initial=initial
            )

        self.learner = start_actors(
            [new_learner],
            deadline_s=rollout.start_deadline_s,
            what="learner",
            request={"CPU": LEARNER_CPUS},
        )[0]

        def new_worker(models: tuple[str, ...]) -> ActorHandle:
            own = replace(spec, models={name: config.model_configs[name] for name in models})
            return start_worker(own, self.store, rollout)

        hosted = spread(list(config.model_configs), rollout.num_workers)
        actors = start_actors(
            [partial(new_worker, models) for models in hosted],
            deadline_s=rollout.start_deadline_s,
            what="rollout actors",
            request={
                "CPU": rollout.cpus_per_worker * rollout.num_workers,
                "GPU": rollout.gpus_per_worker * rollout.num_workers,
            },
        )
        self.pool = RolloutPool(
            [HostingActor(actor, models) for actor, models in zip(actors, hosted, strict=True)],
            replace=new_worker,
            max_replacements=rollout.max_replacements,
            lease_deadline_s=rollout.lease_deadline_s,
        )

    def close(self) -> None:
        """Ends every actor of the run."""
        self.pool.close()
        ray.kill(self.learner)
        ray.kill(self.store.actor)

    def publish(self, version: int, weights: bytes) -> None:
        self.store.publish(WeightRecord.make(version, weights, self._fingerprint), timeout_s=STORE_DEADLINE_S)
