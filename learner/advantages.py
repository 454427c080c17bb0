"""Group-relative advantages.

Shapes: `R` rows; rows with the same entry of `group_R` are samples of one prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

AdvantageKind = Literal["mean", "mean_std", "leave_one_out"]

ZERO = 1e-6
"""Advantages no larger than this in a whole group carry no signal."""
STD_FLOOR = 1e-4
"""The published epsilon beside the standard deviation."""


@dataclass(frozen=True, slots=True)
class Advantages:
    """Advantages of all rows, and which rows are worth learning from."""

    advantage_R: NDArray[np.float64]
    kept_R: NDArray[np.bool_]
    """Rows of groups with a signal; invalid rows are never kept."""
    num_groups: int
    num_zero_groups: int
    """Groups whose rewards are all alike."""
    num_small_groups: int
    """Groups dropped because fewer than two rows were validly graded."""
    sum_std: float
    """Sum over the other groups of the standard deviation of their rewards."""


def group_advantages(
    reward_R: NDArray[np.float64],
    group_R: NDArray[np.int64],
    valid_R: NDArray[np.bool_],
    *,
    kind: AdvantageKind = "mean",
    std_floor: float = STD_FLOOR,
) -> Advantages:
    """Rewards relative to their group.

    `mean`: r - mean, without division by the standard deviation (arXiv 2512.09106); `mean_std`: divided by it
    plus `std_floor`, which moves between the two: where all are right, rewards differ by their speed alone;
    `leave_one_out`: r minus the mean of the others. Rows that are not valid (grader errors) enter no mean.
    """
    advantage_R = np.zeros(len(reward_R))
    kept_R = np.zeros(len(reward_R), bool)
    groups = np.unique(group_R)
    num_zero = num_small = 0
    sum_std = 0.0
    for group in groups:
        members = np.flatnonzero((group_R == group) & valid_R)
        if len(members) < 2:
            num_small += 1
            continue
        rewards = reward_R[members]
        centred = rewards - rewards.mean()
        sum_std += float(rewards.std())
        if np.abs(centred).max() <= ZERO:
            num_zero += 1
            continue
        if kind == "mean_std":
            centred = centred / (rewards.std() + std_floor)
        elif kind == "leave_one_out":
            centred = centred * len(members) / (len(members) - 1)
        advantage_R[members] = centred
        kept_R[members] = True
    return Advantages(advantage_R, kept_R, len(groups), num_zero, num_small, sum_std)
