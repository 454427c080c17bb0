"""Hands leases to rollout actors that host their model, what they decoded to graders, and gets every lease back once.

    submit -> rollout actor: decode [, grade] -> grader, where these are apart -> results of the batch

A lease's result depends on nothing but the lease, so it may be run again anywhere: `cluster.actor_pool` says when, and who ends
each wait. Whatever runs in a pool goes on only inside `turn`, which the driver calls while it waits for anything.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from cluster.actor_pool import ActorPool, Done, PoolSettings
from cluster.errors import RunFailure
from cluster.logs import get_logger
from cluster.runtime import why
from cluster.waiting import Wait
from rollout_workers.config import RolloutConfig
from rollout_workers.hosting import MAIN, section_of, spread
from rollout_workers.lease import Lease, LeaseSummary

_SLICE_S = 0.5
_IDLE_S = 5.0

logger = get_logger(__name__)

Result = tuple[LeaseSummary, Any]
"""A lease's summary, and a reference to its trajectories."""


class LeaseFailed(RunFailure):
    """A lease that no actor could finish."""


@dataclass(slots=True)
class Batch:
    """Leases that belong together."""

    results: deque[Result] = field(default_factory=deque)
    """Those that came back and nobody took yet."""
    failures: list[tuple[Lease, str]] = field(default_factory=list)
    """Those that were given up, and why."""
    num_open: int = 0


class RolloutPool:
    """Rollout actors, and graders if these are apart."""

    def __init__(
        self,
        config: RolloutConfig,
        *,
        start_worker: Callable[[tuple[str, ...]], ActorHandle],
        models: Sequence[str] = (MAIN,),
        start_grader: Callable[[], ActorHandle] | None = None,
        tick: Callable[[], None] = lambda: None,
        on_idle: Callable[[], None] = lambda: None,
        gives_up_errors: bool = False,
    ) -> None:
        """The models are spread over the actors, and `start_worker` is given those that its actor is to host.

        With more than one model no actor can do without the others, so all of them are needed, whatever `min_workers` says.
        `tick` is called in every turn, and what it raises ends the wait; `on_idle` while nothing comes back. With
        `gives_up_errors` a lease whose decoding raises an error is given up, which otherwise is raised here.
        """
        hosted = spread(list(models), config.num_workers)
        settings = replace(worker_settings(config), gives_up_errors=gives_up_errors)
        self._workers = ActorPool(
            settings if len(models) == 1 else replace(settings, min_actors=config.num_workers),
            start=lambda place: start_worker(hosted[place]),
            call=_run,
            describe=_describe,
            fits=lambda place, lease: lease.model in hosted[place],
        )
        self._graders: ActorPool | None = None
        if start_grader is not None:
            self._graders = ActorPool(
                grader_settings(config),
                start=lambda place: start_grader(),
                call=_grade,
                describe=lambda done: f"grades of {done[0].lease.id}",
            )
        self._tick = tick
        self._on_idle = on_idle
        self._batch_of: dict[int, Batch] = {}
        self._grading: dict[int, tuple[int, Any]] = {}
        """Ticket of a grader -> (ticket of the lease, reference to its trajectories)."""
        self._wait = Wait("the first result", deadline_s=float("inf"))
        self._idle_at = time.monotonic() + _IDLE_S
        self.seconds: dict[str, dict[str, float]] = {}
        """Actor -> its exclusive time states, from its start to its last result."""

    @property
    def num_actors(self) -> int:
        """Rollout actors that are ready."""
        return self._workers.num_live

    @property
    def counts(self) -> dict[str, int]:
        """How often actors were replaced and leases given out twice."""
        pools = {"rollout actors": self._workers} | ({"graders": self._graders} if self._graders else {})
        return {
            f"{name} {what}": getattr(pool, f"num_{what}")
            for name, pool in pools.items()
            for what in ("replaced", "reissued", "duplicates")
        }

    def start(self) -> None:
        """Waits until as many actors are ready as the run needs at least; the others join when they are."""
        while self._workers.is_short or (self._graders is not None and self._graders.is_short):
            self.turn(_SLICE_S)

    def close(self) -> None:
        """Ends all actors."""
        for pool in self._pools:
            pool.close()

    def submit(
        self,
        leases: Sequence[Lease],
        *,
        first: bool = False,
        at_dispatch: Callable[[Lease], Lease] = lambda lease: lease,
    ) -> Batch:
        """Takes leases; `first` puts them before those that wait, `at_dispatch` gives a lease its last touch when it leaves."""
        batch = Batch(num_open=len(leases))
        for ticket in self._workers.submit(leases, first=first, at_dispatch=at_dispatch):
            self._batch_of[ticket] = batch
        return batch

    def forget(self, batch: Batch) -> None:
        """Nobody waits for this batch any more."""
        tickets = [ticket for ticket, owner in self._batch_of.items() if owner is batch]
        self._workers.forget(tickets)
        if self._graders is not None:
            self._graders.forget([grading for grading, (ticket, _) in self._grading.items() if ticket in tickets])
        self._grading = {grading: each for grading, each in self._grading.items() if each[0] not in tickets}
        for ticket in tickets:
            del self._batch_of[ticket]
        batch.num_open = 0

    def turn(self, timeout_s: float, also: Sequence[Any] = ()) -> None:
        """Hands out and takes in what there is; waits until something comes back or one of `also` is done."""
        self._tick()
        for pool in self._pools:
            pool.dispatch()
        references = [*also, *(reference for pool in self._pools for reference in pool.references())]
        if references:
            ray.wait(references, num_returns=1, timeout=timeout_s)
        else:
            time.sleep(min(timeout_s, 0.05))
        num_results = 0
        for done in self._workers.collect():
            num_results += 1
            self._decoded(done)
        for done in self._graders.collect() if self._graders is not None else ():
            num_results += 1
            self._graded(done)
        self._say(num_results)

    def ask_each(self, function: Callable[[], Any], *, deadline_s: float, what: str) -> list[Any]:
        """What `function()` returns inside each rollout actor that is ready; those that die or do not answer are left out."""
        references: list[Any] = [actor.__ray_call__.remote(_ignoring_actor, function) for actor in self._workers.actors]
        if not references:
            return []
        answered, silent = ray.wait(references, num_returns=len(references), timeout=deadline_s)
        answers = []
        for reference in answered:
            try:
                answers.append(ray.get(reference))
            except RayActorError as error:
                logger.warning("%s: a rollout actor died: %s", what, why(error))
        if silent:
            logger.warning("%s: %d rollout actors did not answer within %g s", what, len(silent), deadline_s)
        return answers

    def run(
        self, leases: Sequence[Lease], *, on_failure: Callable[[Lease, str], None] | None = None
    ) -> Iterator[Result]:
        """Yields each lease's result exactly once, in order of completion, before leases that wait.

        A lease that was given up is told to `on_failure`; without it LeaseFailed is raised.
        """
        batch = self.submit(leases, first=True)
        try:
            while batch.num_open or batch.results:
                while batch.results:
                    yield batch.results.popleft()
                _tell_failures(batch, on_failure)
                if batch.num_open:
                    self.turn(_SLICE_S)
            _tell_failures(batch, on_failure)
        finally:
            self.forget(batch)

    @property
    def _pools(self) -> list[ActorPool]:
        return [self._workers] + ([self._graders] if self._graders is not None else [])

    def _decoded(self, done: Done) -> None:
        if done.failure:
            self._end(done.ticket, done.failure, done.item)
            return
        summary: LeaseSummary = done.value
        self._spent(summary.actor, summary.seconds)
        if self._graders is None:
            self._end(done.ticket, (summary, done.references[0]), done.item)
            return
        (grading,) = self._graders.submit([(summary,)])
        self._grading[grading] = (done.ticket, done.references[0])

    def _graded(self, done: Done) -> None:
        ticket, trajectories = self._grading.pop(done.ticket)
        summary: LeaseSummary = done.item[0]
        if done.failure:
            self._end(ticket, done.failure, summary.lease)
            return
        graded, actor, seconds = done.value
        self._spent(actor, seconds)
        self._end(ticket, (graded, trajectories), summary.lease)

    def _end(self, ticket: int, outcome: Result | str, lease: Lease) -> None:
        batch = self._batch_of.pop(ticket)
        batch.num_open -= 1
        if isinstance(outcome, str):
            batch.failures.append((lease, outcome))
        else:
            batch.results.append(outcome)

    def _spent(self, actor: str, seconds: Mapping[str, float]) -> None:
        total = self.seconds.setdefault(actor, {})
        for name, value in seconds.items():
            total[name] = total.get(name, 0.0) + value

    def _say(self, num_results: int) -> None:
        """Names what is waited for when nothing comes back for long."""
        now = time.monotonic()
        if num_results or not self._batch_of:
            self._wait, self._idle_at = Wait("leases", deadline_s=float("inf")), now + _IDLE_S
            return
        if now >= self._idle_at:
            self._on_idle()
            self._idle_at = now + _IDLE_S
        self._wait.check(missing="; ".join(pool.missing() for pool in self._pools))


def _tell_failures(batch: Batch, on_failure: Callable[[Lease, str], None] | None) -> None:
    if on_failure is None:
        check_failures(batch)
        return
    for lease, reason in batch.failures:
        on_failure(lease, reason)
    batch.failures.clear()


def _ignoring_actor(actor: object, function: Callable[[], Any]) -> Any:
    return function()


def check_failures(batch: Batch) -> None:
    """Raises LeaseFailed for a batch that lacks a lease."""
    if batch.failures:
        lease, reason = batch.failures[0]
        raise LeaseFailed(
            f"lease {lease.id} ({len(lease.groups)} groups, weight version {lease.weight_version}) was given up: {reason} "
            f"(rollout.lease_deadline_s, rollout.grade_deadline_s); {len(batch.failures)} leases failed"
        )


def worker_settings(config: RolloutConfig) -> PoolSettings:
    """Of the rollout actors."""
    return PoolSettings(
        name="rollout actor",
        min_actors=config.min_workers,
        max_actors=config.num_workers,
        start_deadline_s=config.start_deadline_s,
        item_deadline_s=config.lease_deadline_s,
        max_replacements=config.max_replacements,
        straggler_factor=config.straggler_factor,
        request={"CPU": config.cpus_per_worker, "GPU": config.gpus_per_worker},
    )


def grader_settings(config: RolloutConfig) -> PoolSettings:
    """Of the graders that are apart."""
    return PoolSettings(
        name="grader",
        min_actors=1,
        max_actors=config.num_graders,
        start_deadline_s=config.start_deadline_s,
        item_deadline_s=config.grade_deadline_s,
        max_replacements=config.max_replacements,
        straggler_factor=config.straggler_factor,
        request={"CPU": config.cpus_per_grader},
    )


def _describe(lease: Lease) -> str:
    return f"lease {lease.id}" if lease.model == MAIN else f"lease {lease.id} of {section_of(lease.model)}"


def _run(actor: ActorHandle, lease: Lease) -> Sequence[Any]:
    references: list[Any] = actor.run.options(num_returns=2).remote(lease)
    return references


def _grade(actor: ActorHandle, item: tuple[LeaseSummary]) -> Sequence[Any]:
    return [actor.grade.remote(item[0])]
