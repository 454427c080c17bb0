"""Hands leases to rollout actors and gets every one of them back.

Each actor has up to `IN_FLIGHT` leases, so it never waits for the driver. A dead actor is replaced (up to a budget) and its leases
are dispatched again: a lease's result depends on nothing but the lease. A lease that is not back by its deadline is an error that
names it. Who ends each wait: a result, an actor's death, or the lease deadline.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from cluster.errors import DeadlineExceeded, RunFailure
from cluster.logs import get_logger
from cluster.runtime import wait_for
from rollout_workers.rollout import Lease, LeaseSummary

IN_FLIGHT = 2
_POLL_S = 5.0

logger = get_logger(__name__)


class PoolExhausted(RunFailure):
    """More actors died than the replacement budget allows."""


@dataclass(frozen=True, slots=True)
class _Flight:
    """One dispatched lease."""

    lease: Lease
    actor: ActorHandle
    trajectories: Any
    dispatched_at: float


class RolloutPool:
    """The live actors and the leases they hold."""

    def __init__(
        self,
        actors: Sequence[ActorHandle],
        *,
        replace: Callable[[], ActorHandle],
        max_replacements: int,
        lease_deadline_s: float,
    ) -> None:
        self._actors = list(actors)
        self._replace = replace
        self._num_replacements_left = max_replacements
        self._lease_deadline_s = lease_deadline_s
        self.num_replaced = 0

    @property
    def num_actors(self) -> int:
        return len(self._actors)

    def close(self) -> None:
        """Ends all actors."""
        for actor in self._actors:
            ray.kill(actor)
        self._actors.clear()

    def call_each(self, function: Callable[[], Any], *, deadline_s: float, what: str) -> list[Any]:
        """What `function()` returns inside each actor."""
        references = [actor.__ray_call__.remote(_ignoring_actor, function) for actor in self._actors]
        return wait_for(references, deadline_s=deadline_s, what=what)

    def run(
        self, leases: Sequence[Lease], *, on_failure: Callable[[Lease, str], None] | None = None
    ) -> Iterator[tuple[LeaseSummary, Any]]:
        """Yields (summary, reference to the trajectories) of each lease exactly once, in order of completion.

        A lease that raised an error is told to `on_failure`, and the others go on; without it the error is raised.
        """
        waiting = deque(leases)
        flights: dict[Any, _Flight] = {}
        while waiting or flights:
            self._dispatch(waiting, flights)
            done, _ = ray.wait(list(flights), num_returns=1, timeout=_POLL_S)
            self._check_deadlines(flights)
            for reference in done:
                flight = flights.pop(reference)
                try:
                    summary = ray.get(reference)
                except RayActorError as error:
                    logger.warning("rollout actor died with lease %d: %s", flight.lease.id, _first_line(error))
                    self._recover(flight, waiting, flights)
                    break
                except RayTaskError as error:
                    if on_failure is None:
                        raise
                    on_failure(flight.lease, str(error).strip().rpartition("\n")[2])
                    continue
                yield summary, flight.trajectories

    def _dispatch(self, waiting: deque[Lease], flights: dict[Any, _Flight]) -> None:
        held = {id(actor): 0 for actor in self._actors}
        for flight in flights.values():
            held[id(flight.actor)] += 1
        while waiting:
            actor = min(self._actors, key=lambda candidate: held[id(candidate)])
            if held[id(actor)] >= IN_FLIGHT:
                return
            lease = waiting.popleft()
            references: Any = actor.run.options(num_returns=2).remote(lease)
            flights[references[0]] = _Flight(lease, actor, references[1], time.monotonic())
            held[id(actor)] += 1

    def _recover(self, lost: _Flight, waiting: deque[Lease], flights: dict[Any, _Flight]) -> None:
        """Replaces a dead actor and puts its unfinished leases back at the head of the queue."""
        references = [reference for reference, flight in flights.items() if flight.actor is lost.actor]
        leases = [lost.lease, *(flights.pop(reference).lease for reference in references)]
        waiting.extendleft(sorted(leases, key=lambda lease: -lease.id))
        self._actors = [actor for actor in self._actors if actor is not lost.actor]
        if self._num_replacements_left > 0:
            self._num_replacements_left -= 1
            self.num_replaced += 1
            self._actors.append(self._replace())
        if not self._actors:
            raise PoolExhausted(
                "every rollout actor died and rollout.max_replacements is used up; see the actors' logs"
            )

    def _check_deadlines(self, flights: dict[Any, _Flight]) -> None:
        now = time.monotonic()
        late = [flight for flight in flights.values() if now - flight.dispatched_at > self._lease_deadline_s]
        if late:
            lease = late[0].lease
            raise DeadlineExceeded(
                f"lease {lease.id} ({len(lease.groups)} groups, weight version {lease.weight_version}) did not come back "
                f"within rollout.lease_deadline_s = {self._lease_deadline_s:g} s; {len(late)} leases are late"
            )


def _ignoring_actor(actor: object, function: Callable[[], Any]) -> Any:
    return function()


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0]
