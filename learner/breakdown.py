"""Where the wall-clock of training went."""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass

from rollout_workers.lease import LeaseSummary

ROLLOUT, LEARNER, CHECKPOINT, VALIDATION, DRIVER = "rollout", "learner", "checkpoint", "validation", "driver"
"""The driver's own time states."""
WAITING = "waiting"


def wall_clock_breakdown(
    driver: dict[str, float], summaries: list[LeaseSummary], *, num_actors: int
) -> dict[str, float]:
    """Seconds of wall-clock by cause; they add up to the driver's.

    While leases are out (training and validation alike) the time is split by what the actors did, averaged over them; what is left
    of it they waited, for the slowest actor or for dispatch. During the other phases the driver's own state is the cause.
    """
    times = dict(driver)
    decoding = times.pop(ROLLOUT, 0.0) + times.pop(VALIDATION, 0.0)
    busy: dict[str, float] = {}
    for summary in summaries:
        for name, seconds in summary.seconds.items():
            if name != WAITING:
                busy[name] = busy.get(name, 0.0) + seconds / num_actors
    return times | busy | {WAITING: decoding - sum(busy.values())}


def overlapped_breakdown(
    driver: dict[str, float], summaries: list[LeaseSummary], *, num_actors: int
) -> dict[str, float]:
    """The same where rollouts go on beside everything: what the actors did, averaged over them, and the rest they waited."""
    return wall_clock_breakdown({ROLLOUT: sum(driver.values())}, summaries, num_actors=num_actors)


@dataclass(slots=True)
class Overlap:
    """How much of the learner's time passed while rollouts went on."""

    hidden_s: float = 0.0
    exposed_s: float = 0.0
    started: float = dataclasses.field(default_factory=time.perf_counter)

    def add(self, seconds: float, *, is_hidden: bool) -> None:
        """Takes a part of an update's time."""
        self.hidden_s += seconds * is_hidden
        self.exposed_s += seconds * (not is_hidden)

    def describe(self) -> str:
        """One line; the gain is an upper bound where learner and rollout actors share processors."""
        wall = time.perf_counter() - self.started
        return (
            f"overlap: updates took {self.hidden_s + self.exposed_s:.1f} s, {self.hidden_s:.1f} s of these while rollouts "
            f"went on; the run took {wall:.1f} s, one after another at most {wall + self.hidden_s:.1f} s "
            f"(gain up to {self.hidden_s / wall:.1%})"
        )
