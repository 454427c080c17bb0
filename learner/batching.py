"""From lease results to what an update needs: packed steps of the rows worth learning from, with one advantage and weight per step.

Shapes: `R` rows of the update, `N` packed steps of the kept rows.
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
    advantage_N: NDArray[np.float32]
    weight_N: NDArray[np.float32]
    advantages: Advantages
    num_rows: int

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
) -> UpdateBatch:
    """Joins lease results and drops groups without a signal before anything is batched."""
    batch = TrajectoryBatch.concatenate(parts)
    group_R = np.asarray([row.group for row in batch.rows], np.int64)
    advantages = group_advantages(reward_R, group_R, valid_R, kind=advantage)
    kept = np.flatnonzero(advantages.kept_R)
    selected = batch.select(kept.tolist())
    nfe_R = np.diff(selected.offsets)
    advantage_N = np.repeat(advantages.advantage_R[kept], nfe_R).astype(np.float32)
    weight_N = step_weights(nfe_R, len(batch.rows), normaliser=normaliser)
    return UpdateBatch(selected.steps, advantage_N, weight_N, advantages, len(batch.rows))
