"""A pool of rollout actors, and of graders where these are apart, out of the sections of a configuration."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cluster.weight_store import WeightPublisher, WeightStore
from rollout_workers.config import DecodeConfig, ModelConfig, RewardConfig, RolloutConfig, TaskConfig
from rollout_workers.grader_actor import GraderSpec, start_grader
from rollout_workers.pool import RolloutPool
from rollout_workers.rollout import DecodeSettings
from rollout_workers.worker import WorkerSpec, start_worker


def make_pool(
    *,
    models: Mapping[str, ModelConfig],
    tasks: Mapping[str, TaskConfig],
    decode: DecodeConfig,
    reward: RewardConfig,
    rollout: RolloutConfig,
    canvas_length: int,
    fingerprint: str,
    store: WeightStore,
    publisher: WeightPublisher,
    tick: Callable[[], None] = lambda: None,
    gives_up_errors: bool = False,
) -> RolloutPool:
    """The pool, whose actors start in its first turn.

    `fingerprint` names the architecture of the policies in `store`, which `publisher` makes whole again while nothing comes back;
    `tick` and `gives_up_errors` as of `RolloutPool`.
    """
    spec = WorkerSpec(
        models=models,
        settings=DecodeSettings.of(decode, canvas_length),
        reward=reward,
        tasks=tasks,
        torch_threads=rollout.torch_threads,
        fingerprint=fingerprint,
        weights_deadline_s=rollout.weights_deadline_s,
        grades=rollout.num_graders == 0,
    )
    grading = GraderSpec(reward, tasks, canvas_length)
    return RolloutPool(
        rollout,
        start_worker=lambda names: start_worker(spec.hosting(names), store, rollout),
        models=list(models),
        start_grader=(lambda: start_grader(grading, rollout)) if rollout.num_graders else None,
        tick=tick,
        on_idle=publisher.heal,
        gives_up_errors=gives_up_errors,
    )
