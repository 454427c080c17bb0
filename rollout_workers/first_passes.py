"""Rows that begin alike are predicted once: the samples of a group share prompt and canvas until their first commits differ.

Shapes: `B` live rows, `L` canvas positions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from rollout_workers.models.base import Prediction
from rollout_workers.models.reduction import concatenate
from rollout_workers.sequence import Sequence

Start = tuple[tuple[int, ...], tuple[int, ...], int]
"""Prompt, canvas and block length, on which alone a row's first prediction depends."""


class FirstPasses:
    """First predictions of one decode, kept as long as a row that begins alike is still to come."""

    def __init__(self, sequences: Iterable[Sequence]) -> None:
        starts = {id(sequence): _start(sequence) for sequence in sequences}
        self._num_left = Counter(starts.values())
        self._start_of = {row: start for row, start in starts.items() if self._num_left[start] > 1}
        """Of the rows that have not begun."""
        self._kept: dict[Start, Prediction] = {}

    def predict(
        self, sequences: list[Sequence], wanted_BL: NDArray[np.bool_], compute: Callable[[list[int] | None], Prediction]
    ) -> tuple[Prediction, int]:
        """The prediction for all rows, and how many of them were not computed.

        Args:
            sequences: the live rows.
            wanted_BL: the positions to predict.
            compute: predicts the rows with these numbers; None is all of them.
        """
        starts = [self._start_of.pop(id(sequence), None) for sequence in sequences]
        if not any(starts):
            return compute(None), 0
        computed: list[int] = []
        leaders: dict[Start, int] = {}
        for row, start in enumerate(starts):
            if start is None or (start not in self._kept and start not in leaders):
                if start is not None:
                    leaders[start] = len(computed)
                computed.append(row)
        num_shared = len(sequences) - len(computed)
        parts: list[Prediction] = []
        if computed:
            prediction = compute(computed if num_shared else None)
            parts = prediction.split(wanted_BL[computed].sum(1).tolist())
        self._kept |= {start: parts[place] for start, place in leaders.items()}
        own = iter(parts)
        rows = []
        for start in starts:
            if start is None or leaders.pop(start, None) is not None:
                rows.append(next(own))
            else:
                rows.append(self._kept[start])
            if start is not None:
                self._count_down(start)
        return (concatenate(rows) if num_shared else prediction), num_shared

    def _count_down(self, start: Start) -> None:
        self._num_left[start] -= 1
        if not self._num_left[start]:
            del self._kept[start]


def _start(sequence: Sequence) -> Start:
    return tuple(sequence.prompt_ids), tuple(sequence.canvas_ids), sequence.block_length
