"""Wire records of decoded rows: what rollouts produce and the learner re-scores.

Steps are packed: only steps in which a row was live, the rows of a batch one after another, `offsets[r]:offsets[r + 1]` being
row r's. Arrays are numpy, so that Ray shares them without copies.

Shapes: `R` rows, `N` packed steps (the sum of the rows' NFE), `L` canvas positions, `K` confidences per position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SCHEMA = 1

_MASKED, _ELIGIBLE, _COMMITTED = 1, 2, 4


@dataclass(frozen=True, slots=True)
class PackedSteps:
    """Decisions and all that is needed to score them again."""

    confidences_NLK: NDArray[np.float32]
    flags_NL: NDArray[np.uint8]
    """Bits: masked, eligible, committed."""
    time_N: NDArray[np.float32]
    log_prob_N: NDArray[np.float32]
    """Behaviour log-probability of each decision."""

    @staticmethod
    def pack_flags(
        masked: NDArray[np.bool_], eligible: NDArray[np.bool_], committed: NDArray[np.bool_]
    ) -> NDArray[np.uint8]:
        """The three masks of each position as one byte."""
        return (masked * _MASKED + eligible * _ELIGIBLE + committed * _COMMITTED).astype(np.uint8)

    @property
    def masked_NL(self) -> NDArray[np.bool_]:
        return (self.flags_NL & _MASKED) != 0

    @property
    def eligible_NL(self) -> NDArray[np.bool_]:
        return (self.flags_NL & _ELIGIBLE) != 0

    @property
    def committed_NL(self) -> NDArray[np.bool_]:
        return (self.flags_NL & _COMMITTED) != 0

    def __len__(self) -> int:
        return len(self.time_N)

    def select(self, index: NDArray[np.int64] | slice) -> PackedSteps:
        """The steps at `index`, in its order."""
        return PackedSteps(
            self.confidences_NLK[index], self.flags_NL[index], self.time_N[index], self.log_prob_N[index]
        )

    @staticmethod
    def concatenate(parts: Sequence[PackedSteps]) -> PackedSteps:
        """All steps of `parts`, in order."""
        return PackedSteps(
            np.concatenate([part.confidences_NLK for part in parts]),
            np.concatenate([part.flags_NL for part in parts]),
            np.concatenate([part.time_N for part in parts]),
            np.concatenate([part.log_prob_N for part in parts]),
        )


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
