"""The grader actor: grades what rollout actors decoded, on CPUs of its own. All logic lies in `grader`.

A grader needs neither model nor weights; what runs answers in a sandbox still does, with its own deadline.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle

from cluster.metrics import TimeStates
from cluster.runtime import actor_name
from rollout_workers.config import RewardConfig, RolloutConfig, TaskConfig
from rollout_workers.grader import LeaseGrader
from rollout_workers.lease import LeaseSummary
from rollout_workers.rewards import RewardFunction
from rollout_workers.tasks import make_tasks

WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class GraderSpec:
    """Everything a grader needs to build itself."""

    reward: RewardConfig
    tasks: Mapping[str, TaskConfig]
    canvas_length: int


class GraderActor:
    """Grades leases one after another."""

    def __init__(self, spec: GraderSpec) -> None:
        self._name = actor_name("grader")
        self._clock = TimeStates(WAITING)
        self._grader = LeaseGrader(
            RewardFunction(spec.reward.terms, alpha=spec.reward.alpha),
            canvas_length=spec.canvas_length,
            tasks=make_tasks(spec.tasks),
            clock=self._clock,
        )

    def ready(self) -> bool:
        self._clock.take()
        return True

    def grade(self, summary: LeaseSummary) -> tuple[LeaseSummary, str, dict[str, float]]:
        """The graded summary, who graded, and its exclusive time states since the one before."""
        return self._grader.grade(summary), self._name, self._clock.take()


def start_grader(spec: GraderSpec, config: RolloutConfig) -> ActorHandle:
    """A new grader; its calls are not retried by Ray."""
    actor_class: Any = ray.remote(GraderActor)
    actor: ActorHandle = actor_class.options(
        num_cpus=config.cpus_per_grader,
        label_selector=config.grader_labels,
        max_restarts=0,
        scheduling_strategy="SPREAD",
    ).remote(spec)
    return actor
