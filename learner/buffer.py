"""Holds rollout results between the pool and the learner, within a bound on their age.

Invariant: what `take` returns is ordered by lease, never by arrival, so a step's batch does not depend on which actor was faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rollout_workers.lease import LeaseSummary


@dataclass(frozen=True, slots=True)
class Entry:
    """One lease's outcome; `trajectories` is a reference into the object store (or the record itself, without Ray)."""

    summary: LeaseSummary
    trajectories: Any


class TrajectoryBuffer:
    """At most `capacity` lease results, none made under weights older than `max_weight_lag` versions."""

    def __init__(self, *, capacity: int, max_weight_lag: int) -> None:
        self._capacity = capacity
        self._max_weight_lag = max_weight_lag
        self._entries: dict[int, Entry] = {}
        self.num_stale_dropped = 0
        """Groups."""

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def num_free(self) -> int:
        """How many more leases may be in flight."""
        return self._capacity - len(self._entries)

    def add(self, entry: Entry, *, current_version: int) -> bool:
        """Keeps a result; False when it was too old (counted) or is a second result of a lease already held."""
        lease = entry.summary.lease
        if current_version - lease.weight_version > self._max_weight_lag:
            self.num_stale_dropped += len(lease.groups)
            return False
        if lease.id in self._entries:
            return False
        assert self.num_free > 0, "more leases were dispatched than the buffer has room for"
        self._entries[lease.id] = entry
        return True

    def take(self) -> list[Entry]:
        """All results held, by lease id; the buffer is empty afterwards."""
        entries = [self._entries[lease_id] for lease_id in sorted(self._entries)]
        self._entries.clear()
        return entries
