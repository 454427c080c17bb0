"""The run's actors: rollout workers, graders, learner ranks and the weight store, started together and ended together."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack

import ray

from cluster.errors import StopRequested
from cluster.logs import get_logger
from cluster.runtime import asked_against_available, check_total
from cluster.weight_store import WeightPublisher, WeightRecord, start_weight_store
from learner.actor import RankSpec
from learner.config import RunConfig
from learner.group import LearnerGroup
from policy.weights import fingerprint
from rollout_workers.pool import grader_settings, worker_settings
from rollout_workers.start import make_pool

STORE_DEADLINE_S = 60.0
_KEPT_VERSIONS = 4
"""Weights that the store holds beyond those that leases may ask for."""

logger = get_logger(__name__)


def local_cpus(config: RunConfig) -> int:
    """Logical CPUs of a local Ray: what the actors ask for, whatever the machine has, so that a laptop never waits for a slot."""
    rollout, learner = config.rollout, config.learner
    workers = rollout.cpus_per_worker * rollout.num_workers
    graders = rollout.cpus_per_grader * rollout.num_graders
    return math.ceil(workers + graders + learner.cpus_per_rank * learner.num_ranks) + 1


class Services:
    """The run's actors: rollout workers, graders, learner ranks and the weight store."""

    def __init__(
        self,
        config: RunConfig,
        canvas_length: int,
        *,
        vocabulary_size: int,
        initial: bytes | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Starts all actors; a failure or a stop request leaves none.

        Args:
            config: the run's.
            canvas_length: L.
            vocabulary_size: of the dLLM.
            initial: the policy file that the learner starts from.
            should_stop: asked during every wait, here and later; True ends the wait with StopRequested.
        """
        self._fingerprint = fingerprint(config.policy)
        self._should_stop = should_stop
        _check_size(config)
        with ExitStack() as stack:
            keep = config.learner.max_weight_lag + _KEPT_VERSIONS
            self.store = start_weight_store(keep=keep)
            self._publisher = WeightPublisher(self.store, keep=keep, timeout_s=STORE_DEADLINE_S)
            stack.callback(ray.kill, self.store.actor)
            self.pool = make_pool(
                models=config.model_configs,
                tasks=config.task_configs,
                decode=config.decode,
                reward=config.reward,
                rollout=config.rollout,
                canvas_length=canvas_length,
                fingerprint=self._fingerprint,
                store=self.store,
                publisher=self._publisher,
                tick=self._tick,
            )
            stack.callback(self.pool.close)
            # The rollout actors load while the learner does.
            self.pool.turn(0.0)
            self.learner = LearnerGroup(
                RankSpec(config.policy, config.learner, config.seed, vocabulary_size, initial),
                start_deadline_s=config.rollout.start_deadline_s,
                tick=self._tick,
            )
            stack.callback(self.learner.close)
            self.pool.start()
            self._stack = stack.pop_all()

    def close(self) -> None:
        """Ends every actor of the run."""
        self._stack.close()

    def publish(self, version: int, weights: bytes) -> None:
        """Makes a policy file available to the rollout actors as `version`."""
        self._publisher.publish(WeightRecord.make(version, weights, self._fingerprint))

    def _tick(self) -> None:
        if self._should_stop():
            raise StopRequested("stopped")


def _check_size(config: RunConfig) -> None:
    """Refuses a run that the cluster is too small for; says when some actors must wait for it to grow."""
    for settings in (worker_settings(config.rollout), grader_settings(config.rollout)):
        needed, wanted = (
            {name: amount * count for name, amount in settings.request.items()}
            for count in (min(settings.min_actors, settings.max_actors), settings.max_actors)
        )
        check_total(f"{settings.min_actors} {settings.name}s", needed)
        total = ray.cluster_resources()
        if any(amount > total.get(name, 0.0) + 1e-9 for name, amount in wanted.items()):
            logger.warning(
                "not all of %d %ss have a place yet (%s); those that have one begin",
                settings.max_actors,
                settings.name,
                asked_against_available(wanted),
            )
