"""A bounded wait that is never silent: it says what it waits for and since when, and ends in an error that names it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from cluster.errors import DeadlineExceeded
from cluster.logs import get_logger

SAY_AFTER_S = 30.0
"""A wait that takes longer is logged; again when it has taken twice as long, and so on."""

logger = get_logger(__name__)


class Wait:
    """One wait for `what`, from now on."""

    def __init__(
        self,
        what: str,
        *,
        deadline_s: float,
        say_after_s: float = SAY_AFTER_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._what = what
        self._deadline_s = deadline_s
        self._clock = clock
        self._started = clock()
        self._say_at_s = say_after_s

    @property
    def seconds(self) -> float:
        """How long it has taken."""
        return self._clock() - self._started

    @property
    def remaining_s(self) -> float:
        """Seconds until the deadline, at least 0."""
        return max(0.0, self._deadline_s - self.seconds)

    def check(self, *, missing: str) -> None:
        """Logs a long wait; raises DeadlineExceeded past the deadline."""
        if self.remaining_s == 0:
            raise self.exceeded(missing=missing)
        self.say(missing=missing)

    def say(self, *, missing: str) -> None:
        """Logs a long wait."""
        if self.seconds >= self._say_at_s:
            since = datetime.now().astimezone() - timedelta(seconds=self.seconds)
            logger.warning(
                "waiting for %s since %s (%.0f s, deadline %g s); missing: %s",
                self._what,
                since.strftime("%H:%M:%S"),
                self.seconds,
                self._deadline_s,
                missing,
            )
            while self._say_at_s <= self.seconds:
                self._say_at_s *= 2

    def exceeded(self, *, missing: str) -> DeadlineExceeded:
        """The error of this wait."""
        return DeadlineExceeded.waiting_for(self._what, seconds=self._deadline_s, missing=missing)
