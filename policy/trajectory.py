"""Wire records of decoded rows: what rollouts produce and the learner re-scores.

Steps are packed: only steps in which a row was live, the rows of a batch one after another, `offsets[r]:offsets[r + 1]` being
row r's. Arrays are numpy, so that Ray shares them without copies.

Shapes: `R` rows, `N` packed steps (the sum of the rows' NFE), `L` canvas positions, `K` confidences per position, `D` hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

SCHEMA = 2

MASKED_BIT, ELIGIBLE_BIT, COMMITTED_BIT, ARGMAX_BIT = 1, 2, 4, 8
"""Of `PackedSteps.flags_NL`; the last: committed alone, as the most likely position."""


@dataclass(frozen=True, slots=True)
class PackedSteps:
    """Decisions and all that is needed to score them again."""

    confidences_NLK: NDArray[np.float32]
    flags_NL: NDArray[np.uint8]
    time_N: NDArray[np.float32]
    log_prob_N: NDArray[np.float32]
    """Behaviour log-probability of each decision."""
    rank_NL: NDArray[np.int16] | None = None
    """Order of choice within the step, from 1 and 0 where nothing was committed; None where the likelihood does not know it."""
    hidden_NLD: NDArray[np.float16] | None = None
    """Hidden states as they were decided from; None of policies that read none."""

    @property
    def masked_NL(self) -> NDArray[np.bool_]:
        return (self.flags_NL & MASKED_BIT) != 0

    @property
    def eligible_NL(self) -> NDArray[np.bool_]:
        return (self.flags_NL & ELIGIBLE_BIT) != 0

    @property
    def committed_NL(self) -> NDArray[np.bool_]:
        return (self.flags_NL & COMMITTED_BIT) != 0

    @property
    def argmax_NL(self) -> NDArray[np.bool_]:
        return (self.flags_NL & ARGMAX_BIT) != 0

    def __len__(self) -> int:
        return len(self.time_N)

    def select(self, index: NDArray[np.int64] | slice) -> PackedSteps:
        """The steps at `index`, in its order."""
        columns: list[Any] = [None if column is None else column[index] for column in self._columns()]
        return PackedSteps(*columns)

    @staticmethod
    def concatenate(parts: Sequence[PackedSteps]) -> PackedSteps:
        """All steps of `parts`, in order; either all parts have an optional column or none has."""
        return PackedSteps(*map(_joined, zip(*(part._columns() for part in parts), strict=True)))

    def _columns(self) -> tuple[Any, ...]:
        return tuple(getattr(self, field.name) for field in fields(self))


def _joined(columns: tuple[NDArray[Any] | None, ...]) -> Any:
    """The columns after one another; None for a column that no part has."""
    present = [column for column in columns if column is not None]
    assert len(present) in (0, len(columns)), "steps of one batch record the same columns"
    return np.concatenate(present) if present else None


@dataclass(frozen=True, slots=True)
class TrajectoryRow:
    """One decoded row."""

    example_id: str
    group: int
    sample: int
    weight_version: int
    tokens_L: NDArray[np.int32]
    order_L: NDArray[np.int16]
    """The pass at which each position was committed, from 1; 0 for given tokens, -1 for positions that stayed masked."""
    status: str
    nfe: int
    num_near_ties: int
    is_expert: bool = False
    """Whether a heuristic decided (`policy.steering`)."""


@dataclass(frozen=True, slots=True)
class TrajectoryBatch:
    """Decoded rows with their packed steps."""

    rows: tuple[TrajectoryRow, ...]
    steps: PackedSteps
    offsets: NDArray[np.int64]
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise ValueError(f"trajectory schema {self.schema!r} is not supported; this version reads {SCHEMA}")
        assert len(self.offsets) == len(self.rows) + 1, "one offset per row and one more"
        assert self.offsets[-1] == len(self.steps), "the last offset is the number of steps"

    def select(self, rows: Sequence[int]) -> TrajectoryBatch:
        """The batch of `rows` only, in that order."""
        spans = [np.arange(self.offsets[row], self.offsets[row + 1]) for row in rows]
        index = np.concatenate(spans) if spans else np.zeros(0, np.int64)
        offsets = np.concatenate([[0], np.cumsum([len(span) for span in spans])]).astype(np.int64)
        return TrajectoryBatch(tuple(self.rows[row] for row in rows), self.steps.select(index), offsets)

    @staticmethod
    def concatenate(batches: Sequence[TrajectoryBatch]) -> TrajectoryBatch:
        """All rows of `batches`, in order."""
        starts = np.concatenate([[0], np.cumsum([len(batch.steps) for batch in batches])])
        offsets = [batch.offsets[:-1] + start for batch, start in zip(batches, starts[:-1], strict=True)]
        return TrajectoryBatch(
            tuple(row for batch in batches for row in batch.rows),
            PackedSteps.concatenate([batch.steps for batch in batches]),
            np.concatenate([*offsets, [starts[-1]]]).astype(np.int64),
        )
