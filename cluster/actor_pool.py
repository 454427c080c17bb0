"""Elastic pools of Ray actors: every item handed in comes back exactly once, as a result or with the reason why not.

Actors come and go: a pool works from `min_actors` on, starts up to `max_actors`, and replaces those that die or hang, with backoff
and a budget per place. Items must depend on nothing but themselves, because they are dispatched again when their actor is lost, and
given to a second actor when they take far longer than others; the first result counts and later ones are dropped. Who ends each
wait: a result, an actor's death, `item_deadline_s` for an item that runs, `start_deadline_s` for a pool below `min_actors`.
"""

from __future__ import annotations

import statistics
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.actor import ActorHandle
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError

from cluster.errors import RunFailure
from cluster.logs import get_logger
from cluster.runtime import asked_against_available, why
from cluster.waiting import Wait

IN_FLIGHT = 2
"""Items per actor: one that runs and one that waits there, so that no actor waits for the driver."""
MAX_ATTEMPTS = 5
"""Actors that an item may outlive or outlast before it is given up."""
_MIN_STRAGGLER_S = 1.0
_HISTORY = 64
_MAX_BACKOFF_S = 30.0

logger = get_logger(__name__)


class PoolExhausted(RunFailure):
    """Too few actors are left, and none may be replaced."""


class WorkerFault(Exception):
    """What an actor raises when it cannot work, whatever the item; it is replaced and its items go to others."""


@dataclass(frozen=True, slots=True)
class PoolSettings:
    """How a pool grows, waits and gives up."""

    name: str
    """Of one actor, in messages."""
    min_actors: int
    max_actors: int
    start_deadline_s: float
    item_deadline_s: float
    """While an item runs."""
    max_replacements: int
    """Of one place in a row, without a finished item in between."""
    straggler_factor: float
    """An item that runs this many times the median is also given to an idle actor; 0 never."""
    request: Mapping[str, float]
    """What one actor asks of the cluster."""
    backoff_s: float = 1.0
    """Before the second replacement in a row; it doubles with each."""
    gives_up_errors: bool = False
    """Whether an item whose call raises an error is given up; otherwise the error is raised to who collects."""


@dataclass(frozen=True, slots=True)
class Done:
    """An item that came back."""

    ticket: int
    item: Any
    value: Any
    """The first of the call's results; None where the item was given up."""
    references: Sequence[Any]
    """References to the call's other results."""
    failure: str = ""
    """Why the item was given up."""


@dataclass(slots=True)
class _Ticket:
    number: int
    item: Any
    at_dispatch: Callable[[Any], Any]
    attempts: int = 0
    num_flights: int = 0
    is_dispatched: bool = False


@dataclass(slots=True)
class _Flight:
    ticket: _Ticket
    references: Sequence[Any]
    started: float
    """When it began to run, as far as the driver can tell."""


@dataclass(slots=True)
class _Place:
    """Room for one actor, and whoever fills it."""

    number: int
    actor: ActorHandle | None = None
    ready: Any = None
    """Reference to the answer of an actor that starts."""
    wait: Wait | None = None
    flights: deque[_Flight] = field(default_factory=deque)
    failures: int = 0
    start_at: float = 0.0
    is_retired: bool = False

    @property
    def is_live(self) -> bool:
        return self.actor is not None and self.ready is None


class ActorPool:
    """Actors that all answer `ready()` and one call per item."""

    def __init__(
        self,
        settings: PoolSettings,
        *,
        start: Callable[[int], ActorHandle],
        call: Callable[[ActorHandle, Any], Sequence[Any]],
        describe: Callable[[Any], str],
        fits: Callable[[int, Any], bool] = lambda place, item: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """A pool whose actors have numbered places.

        Args:
            settings: how it grows, waits and gives up.
            start: makes the actor of a place.
            call: hands an actor an item and returns the references of its results.
            describe: names an item.
            fits: whether the actor of a place may be given an item.
            clock: seconds.
        """
        self._settings = settings
        self._start = start
        self._call = call
        self._describe = describe
        self._fits = fits
        self._clock = clock
        self._places = [_Place(number) for number in range(settings.max_actors)]
        self._waiting: deque[_Ticket] = deque()
        self._open: dict[int, _Ticket] = {}
        self._given_up: list[Done] = []
        self._durations: deque[float] = deque(maxlen=_HISTORY)
        self._next_ticket = 0
        self._short: Wait | None = None
        self.num_replaced = 0
        self.num_reissued = 0
        self.num_duplicates = 0

    @property
    def num_live(self) -> int:
        """Actors that are ready."""
        return sum(place.is_live for place in self._places)

    @property
    def actors(self) -> list[ActorHandle]:
        """Those that are ready."""
        return [place.actor for place in self._places if place.actor is not None and place.is_live]

    @property
    def is_short(self) -> bool:
        """Whether fewer actors are ready than the pool needs."""
        return self.num_live < self._settings.min_actors

    def submit(
        self, items: Iterable[Any], *, first: bool = False, at_dispatch: Callable[[Any], Any] = lambda item: item
    ) -> list[int]:
        """Takes items; returns their tickets.

        `first` puts them before all that wait. `at_dispatch` gives the item its last touch when it first leaves.
        """
        tickets = []
        for item in items:
            tickets.append(_Ticket(self._next_ticket, item, at_dispatch))
            self._open[self._next_ticket] = tickets[-1]
            self._next_ticket += 1
        if first:
            self._waiting.extendleft(reversed(tickets))
        else:
            self._waiting.extend(tickets)
        return [ticket.number for ticket in tickets]

    def forget(self, tickets: Iterable[int]) -> None:
        """Nobody waits for these any more; those that run are left to end unseen."""
        for number in tickets:
            self._open.pop(number, None)
        self._waiting = deque(ticket for ticket in self._waiting if ticket.number in self._open)

    def dispatch(self) -> None:
        """Starts actors that are missing and hands out what waits; a pool too small is PoolExhausted or DeadlineExceeded."""
        now = self._clock()
        for place in self._places:
            if place.actor is None and not place.is_retired and now >= place.start_at:
                place.actor = self._start(place.number)
                place.ready = place.actor.ready.remote()
                place.wait = Wait(
                    f"{self._settings.name} {place.number} to be ready",
                    deadline_s=self._settings.start_deadline_s,
                    clock=self._clock,
                )
        self._check_size()
        live = [place for place in self._places if place.is_live]
        postponed = []
        while self._waiting and (free := [place for place in live if len(place.flights) < IN_FLIGHT]):
            ticket = self._waiting.popleft()
            fitting = [place for place in free if self._fits(place.number, ticket.item)]
            if fitting:
                self._hand(min(fitting, key=lambda place: len(place.flights)), ticket)
            else:
                postponed.append(ticket)
        self._waiting.extendleft(reversed(postponed))
        if not self._waiting:
            self._reissue(live)

    def references(self) -> list[Any]:
        """What a change of is worth a `collect`."""
        starting = [place.ready for place in self._places if place.ready is not None]
        return starting + [flight.references[0] for place in self._places for flight in place.flights]

    def collect(self) -> list[Done]:
        """What has come back, each ticket once; also takes in actors that are ready, and lets go of those that died or hang."""
        done, self._given_up = self._given_up, []
        references = self.references()
        if references:
            ready, _ = ray.wait(references, num_returns=len(references), timeout=0)
            arrived = set(ready)
            for place in self._places:
                if place.ready is not None and place.ready in arrived:
                    self._welcome(place)
                done.extend(self._take(place, arrived))
        for place in self._places:
            self._check_place(place)
        done.extend(self._given_up)
        self._given_up = []
        return done

    def missing(self) -> str:
        """What is out, for messages."""
        running = [
            f"{self._describe(place.flights[0].ticket.item)} on {self._settings.name} {place.number}"
            for place in self._places
            if place.flights and place.flights[0].ticket.number in self._open
        ]
        starting = sum(place.ready is not None for place in self._places)
        parts = running[:3] + [f"{len(running) - 3} more"] * (len(running) > 3)
        return "; ".join([*parts, f"{len(self._waiting)} not dispatched", f"{starting} actors starting"])

    def close(self) -> None:
        """Ends all actors."""
        for place in self._places:
            if place.actor is not None:
                ray.kill(place.actor)
            place.actor, place.ready, place.is_retired = None, None, True

    def _hand(self, place: _Place, ticket: _Ticket) -> None:
        assert place.actor is not None
        if not ticket.is_dispatched:
            ticket.item, ticket.is_dispatched = ticket.at_dispatch(ticket.item), True
        ticket.num_flights += 1
        place.flights.append(_Flight(ticket, self._call(place.actor, ticket.item), self._clock()))

    def _reissue(self, live: Sequence[_Place]) -> None:
        """Gives items that take far longer than the others, and those queued behind them, to actors that have nothing to do."""
        factor = self._settings.straggler_factor
        idle = [place for place in live if not place.flights]
        if not factor or not idle or not self._durations:
            return
        bound = max(_MIN_STRAGGLER_S, factor * statistics.median(self._durations))
        now = self._clock()
        late = [
            flight
            for place in live
            if place.flights and now - place.flights[0].started > bound
            for flight in place.flights
            if flight.ticket.num_flights == 1 and flight.ticket.number in self._open
        ]
        for flight in sorted(late, key=lambda each: each.started):
            place = next((place for place in idle if self._fits(place.number, flight.ticket.item)), None)
            if place is not None:
                self.num_reissued += 1
                self._hand(place, flight.ticket)
                idle.remove(place)

    def _take(self, place: _Place, arrived: set[Any]) -> list[Done]:
        """The results of one actor, in the order in which it was given the items."""
        done = []
        while place.flights and place.flights[0].references[0] in arrived:
            flight = place.flights[0]
            value, failure = None, ""
            try:
                value = ray.get(flight.references[0])
            except (RayActorError, ObjectLostError) as error:
                self._lose(place, f"died: {why(error)}")
                break
            except RayTaskError as error:
                if isinstance(error.cause, WorkerFault):
                    if flight.ticket.number in self._open:
                        self._lose(place, str(error.cause))
                        break
                elif self._settings.gives_up_errors:
                    failure = f"{type(error.cause).__name__}: {error.cause}"
                else:
                    raise
            place.flights.popleft()
            place.failures = 0
            now = self._clock()
            flight.ticket.num_flights -= 1
            if place.flights:
                place.flights[0].started = now
            if self._open.pop(flight.ticket.number, None) is None:
                self.num_duplicates += 1
                continue
            self._durations.append(now - flight.started)
            done.append(Done(flight.ticket.number, flight.ticket.item, value, flight.references[1:], failure))
        return done

    def _welcome(self, place: _Place) -> None:
        try:
            ray.get(place.ready)
        except (RayActorError, ObjectLostError) as error:
            self._lose(place, f"did not start: {why(error)}")
        except RayTaskError as error:
            if not isinstance(error.cause, WorkerFault):
                raise error.cause from None
            self._lose(place, str(error.cause))
        else:
            place.ready = place.wait = None

    def _check_place(self, place: _Place) -> None:
        """Lets go of an actor that takes too long to start or to run an item."""
        settings = self._settings
        if place.wait is not None:
            place.wait.say(missing="its answer, or room for it in the cluster")
            if place.wait.remaining_s == 0 and _has_room(settings.request):
                self._lose(place, f"was not ready within {settings.start_deadline_s:g} s")
        elif place.is_live and place.flights:
            flight = place.flights[0]
            if self._clock() - flight.started > settings.item_deadline_s:
                item = self._describe(flight.ticket.item)
                self._lose(place, f"did not finish {item} within {settings.item_deadline_s:g} s")

    def _lose(self, place: _Place, reason: str) -> None:
        """Ends the actor of a place and puts its items back; the one that ran is given up after some attempts."""
        settings = self._settings
        assert place.actor is not None
        ray.kill(place.actor)
        if place.flights:
            place.flights[0].ticket.attempts += 1
        back = []
        for flight in place.flights:
            ticket = flight.ticket
            ticket.num_flights -= 1
            if ticket.number not in self._open or ticket.num_flights > 0:
                continue
            if ticket.attempts >= MAX_ATTEMPTS:
                del self._open[ticket.number]
                failure = f"{self._describe(ticket.item)}: {ticket.attempts} times, last {settings.name} {place.number} {reason}"
                self._given_up.append(Done(ticket.number, ticket.item, None, (), failure))
            else:
                back.append(ticket)
        self._waiting.extendleft(sorted(back, key=lambda ticket: -ticket.number))
        place.flights.clear()
        place.actor = place.ready = place.wait = None
        place.failures += 1
        place.is_retired = place.failures > settings.max_replacements
        backoff = 0.0 if place.failures == 1 else settings.backoff_s * 2.0 ** (place.failures - 2)
        place.start_at = self._clock() + min(_MAX_BACKOFF_S, backoff)
        self.num_replaced += not place.is_retired
        end = "is not replaced any more" if place.is_retired else f"is replaced in {min(_MAX_BACKOFF_S, backoff):g} s"
        logger.warning("%s %d %s; it %s", settings.name, place.number, reason, end)

    def _check_size(self) -> None:
        settings = self._settings
        left = sum(not place.is_retired for place in self._places)
        if left < settings.min_actors:
            raise PoolExhausted(
                f"only {left} of {settings.max_actors} places for a {settings.name} are left, {settings.min_actors} are "
                f"needed: the others failed more than {settings.max_replacements} times in a row; see the actors' logs"
            )
        for ticket in self._waiting if left < settings.max_actors else ():
            if not any(self._fits(place.number, ticket.item) for place in self._places if not place.is_retired):
                raise PoolExhausted(
                    f"no {settings.name} that may take {self._describe(ticket.item)} is left: they failed more than "
                    f"{settings.max_replacements} times in a row; see the actors' logs"
                )
        if not self.is_short:
            self._short = None
            return
        what = f"{settings.min_actors} {settings.name}s to be ready"
        self._short = self._short or Wait(what, deadline_s=settings.start_deadline_s, clock=self._clock)
        missing = f"{settings.min_actors - self.num_live} of {settings.min_actors}"
        if self._short.remaining_s == 0:
            request = {name: amount * settings.min_actors for name, amount in settings.request.items()}
            missing = f"{missing}; {asked_against_available(request)}"
        self._short.check(missing=missing)


def _has_room(request: Mapping[str, float]) -> bool:
    """Whether the cluster has this much free: then an actor that does not start is not one that waits for a place."""
    free = ray.available_resources()
    return all(free.get(name, 0.0) >= amount for name, amount in request.items())
