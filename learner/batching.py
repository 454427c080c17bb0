"""From lease results to what an update needs: packed steps of the rows worth learning from, with one advantage and weight per step.

Shapes: `R` kept rows of the update, `N` their packed steps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learner.advantages import AdvantageKind, Advantages, group_advantages
from learner.losses.grpo import Normaliser, step_weights
from policy.trajectory import PackedSteps, TrajectoryBatch


@dataclass(frozen=True, slots=True)
class UpdateBatch:
    """The steps of one policy update."""

    steps: PackedSteps
    offsets: NDArray[np.int64]
    """`[R + 1]`: row r's steps are `offsets[r]:offsets[r + 1]`."""
    advantage_R: NDArray[np.float32]
    weight_N: NDArray[np.float32]
    expert_R: NDArray[np.bool_]
    advantages: Advantages
    num_rows: int
    """All rows of the update, also those that are not kept."""

    @property
    def advantage_N(self) -> NDArray[np.float32]:
        """The advantage of each step's row."""
        return self.advantage_R[self.row_N]

    @property
    def row_N(self) -> NDArray[np.int64]:
        """The row of each step."""
        return np.repeat(np.arange(len(self.advantage_R)), np.diff(self.offsets))

    def micro_batches(self, size: int) -> Iterator[slice]:
        """Consecutive spans of at most `size` steps."""
        for start in range(0, len(self.steps), size):
            yield slice(start, min(start + size, len(self.steps)))


def make_update_batch(
    parts: Sequence[TrajectoryBatch],
    reward_R: NDArray[np.float64],
    valid_R: NDArray[np.bool_],
    *,
    advantage: AdvantageKind,
    normaliser: Normaliser,
    keep_all: bool = False,
) -> UpdateBatch:
    """Joins lease results and drops groups without a signal before anything is batched.

    Args:
        parts: lease results in order.
        reward_R: of every row of `parts`.
        valid_R: False where the grader failed.
        advantage: how rewards become advantages.
        normaliser: weight of a step.
        keep_all: keeps rows without an advantage, for objectives that do not need one.
    """
    batch = TrajectoryBatch.concatenate(parts)
    group_R = np.asarray([row.group for row in batch.rows], np.int64)
    advantages = group_advantages(reward_R, group_R, valid_R, kind=advantage)
    kept = np.arange(len(batch.rows)) if keep_all else np.flatnonzero(advantages.kept_R)
    selected = batch.select(kept.tolist())
    canvas_length = batch.steps.flags_NL.shape[1]
    return UpdateBatch(
        steps=selected.steps,
        offsets=selected.offsets,
        advantage_R=advantages.advantage_R[kept].astype(np.float32),
        weight_N=step_weights(
            np.diff(selected.offsets), len(batch.rows), normaliser=normaliser, canvas_length=canvas_length
        ),
        expert_R=np.asarray([row.is_expert for row in selected.rows], bool),
        advantages=advantages,
        num_rows=len(batch.rows),
    )
