"""Who is decoded when: waiting rows enter free slots between steps, those with the longest prompts first.

Rows that are live together then have prompts of about one length, so that little of what is computed is padding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from rollout_workers.sequence import Sequence


class Scheduler:
    """A queue in front of a fixed number of slots."""

    def __init__(self, sequences: Iterable[Sequence], *, num_slots: int) -> None:
        if num_slots < 1:
            raise ValueError(f"num_slots must be >= 1, got {num_slots}")
        self._waiting = deque(sorted(sequences, key=lambda sequence: -len(sequence.prompt_ids)))
        self._num_slots = num_slots

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def admit(self, num_live: int) -> list[Sequence]:
        """The rows that enter now, given how many are live."""
        num_free = min(self._num_slots - num_live, len(self._waiting))
        return [self._waiting.popleft() for _ in range(num_free)]
