"""What an update learns from, decided before any trajectory is fetched: kept rows, their advantages and weights, each rank's share.

Every rank computes the same plan from the same numbers, so normalisers are those of the whole update whatever a rank holds.

Shapes: `R` rows of the update, `K` kept rows, `N` packed steps of the kept rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learner.advantages import STD_FLOOR, AdvantageKind, Advantages, group_advantages
from learner.losses.grpo import Normaliser, step_weights
from policy.trajectory import TrajectoryRow


@dataclass(frozen=True, slots=True)
class UpdateRows:
    """What is known of every row without its steps, leases in order."""

    group_R: NDArray[np.int64]
    num_steps_R: NDArray[np.int64]
    expert_R: NDArray[np.bool_]
    part_R: NDArray[np.int64]
    """Which lease result holds the row."""
    reward_R: NDArray[np.float64]
    valid_R: NDArray[np.bool_]
    """False where the grader failed."""
    canvas_length: int

    @classmethod
    def of(
        cls, parts: Sequence[Sequence[TrajectoryRow]], reward_R: Sequence[float], valid_R: Sequence[bool]
    ) -> UpdateRows:
        """Of the rows of each lease result."""
        rows = [row for part in parts for row in part]
        assert len(rows) == len(reward_R) == len(valid_R), "one reward and one verdict per row"
        return cls(
            np.asarray([row.group for row in rows], np.int64),
            np.asarray([row.nfe for row in rows], np.int64),
            np.asarray([row.is_expert for row in rows], bool),
            np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
            np.asarray(reward_R, np.float64),
            np.asarray(valid_R, bool),
            len(rows[0].tokens_L),
        )


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's part of an update: kept rows `start:stop`, which are steps `first_step:last_step`."""

    start: int
    stop: int
    first_step: int
    last_step: int


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """One policy update, without its steps."""

    kept_K: NDArray[np.int64]
    """Numbers of the kept rows."""
    offsets_K: NDArray[np.int64]
    """`[K + 1]`: kept row k's steps are `offsets_K[k]:offsets_K[k + 1]`."""
    advantage_K: NDArray[np.float32]
    expert_K: NDArray[np.bool_]
    weight_N: NDArray[np.float32]
    advantages: Advantages
    num_rows: int
    """All rows of the update, also those that are not kept."""

    @property
    def num_steps(self) -> int:
        return int(self.offsets_K[-1])

    def share(self, rank: int, num_ranks: int) -> Share:
        """Whole rows after one another, about as many steps for each rank; together the shares are all kept rows."""
        middle_K = (self.offsets_K[:-1] + self.offsets_K[1:]) / 2
        bounds = np.searchsorted(middle_K, [self.num_steps * n / num_ranks for n in (rank, rank + 1)])
        start, stop = int(bounds[0]), int(bounds[1]) if rank + 1 < num_ranks else len(self.kept_K)
        return Share(start, stop, int(self.offsets_K[start]), int(self.offsets_K[stop]))


def make_update_plan(
    rows: UpdateRows,
    *,
    advantage: AdvantageKind,
    normaliser: Normaliser,
    keep_all: bool = False,
    std_floor: float = STD_FLOOR,
) -> UpdatePlan:
    """Drops groups without a signal before anything is fetched or batched.

    Args:
        rows: all rows of the update.
        advantage: how rewards become advantages.
        normaliser: weight of a step.
        keep_all: keeps rows without an advantage, for objectives that do not need one.
        std_floor: beside the standard deviation in `mean_std`.
    """
    num_rows = len(rows.group_R)
    advantages = group_advantages(rows.reward_R, rows.group_R, rows.valid_R, kind=advantage, std_floor=std_floor)
    kept = np.arange(num_rows) if keep_all else np.flatnonzero(advantages.kept_R)
    num_steps_K = rows.num_steps_R[kept]
    return UpdatePlan(
        kept,
        np.concatenate([[0], np.cumsum(num_steps_K)]).astype(np.int64),
        advantages.advantage_R[kept].astype(np.float32),
        rows.expert_R[kept],
        step_weights(
            num_steps_K,
            num_rows,
            normaliser=normaliser,
            num_all_steps=int(rows.num_steps_R.sum()),
            canvas_length=rows.canvas_length,
        ),
        advantages,
        num_rows,
    )
