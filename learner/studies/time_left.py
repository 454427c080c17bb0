"""How long the rest of a study takes, from what its runs have taken so far.

A run is expected to take as long as the mean of the finished runs of its arm; where its arm has none, of its kind (trained, or
evaluated alone); and where that has none either, of any kind. Before the first run is finished, what the updates of the one at hand
took is all there is. Nothing is said before there is something to go by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learner.studies.arms import StudyRun

_ENOUGH_UPDATES = 3


@dataclass(frozen=True, slots=True)
class TimeLeft:
    """The estimate for one study."""

    runs: Sequence[StudyRun]
    num_updates: Mapping[Path, int]
    """Of each run's directory, all that it will make."""

    def seconds(self, current: StudyRun | None, *, elapsed: float = 0.0, updates_done: int = 0) -> float | None:
        """Until the last run is finished; None where nothing is known yet.

        Args:
            current: the run at hand.
            elapsed: what it has taken so far.
            updates_done: what it has made of its updates.
        """
        waiting = [run for run in self.runs if not run.is_finished]
        taken = [(run, run.seconds) for run in self.runs if run.is_finished and run.seconds > 0]
        if not taken and current is not None and updates_done >= _ENOUGH_UPDATES:
            taken = [(current, elapsed * self.num_updates[current.path] / updates_done)]
        if not waiting:
            return 0.0
        if not taken:
            return None
        left = sum(self._expected(run, taken) for run in waiting)
        return left if current is None else left - min(elapsed, self._expected(current, taken))

    def _expected(self, run: StudyRun, taken: Sequence[tuple[StudyRun, float]]) -> float:
        same_arm = [seconds for other, seconds in taken if other.arm == run.arm]
        same_kind = [seconds for other, seconds in taken if self._is_trained(other) == self._is_trained(run)]
        return float(np.mean(same_arm or same_kind or [seconds for _, seconds in taken]))

    def _is_trained(self, run: StudyRun) -> bool:
        return self.num_updates[run.path] > 0


def in_words(seconds: float | None) -> str:
    """``about 1 h 20 min left``"""
    if seconds is None:
        return "time left not known yet"
    minutes = max(1, round(seconds / 60))
    hours = f"{minutes // 60} h " if minutes >= 60 else ""
    return f"about {hours}{minutes % 60} min left"
