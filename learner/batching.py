"""One rank's part of an update: packed steps with one advantage and one weight each, in micro-batches.

Shapes: `R` rows of the part, `N` their packed steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from learner.advantages import Advantages
from learner.update_plan import Share, UpdatePlan, UpdateRows
from policy.trajectory import PackedSteps, TrajectoryBatch


@dataclass(frozen=True, slots=True)
class UpdateBatch:
    """The steps of one policy update that one rank learns from."""

    steps: PackedSteps | None
    """None for a rank without any row."""
    offsets: NDArray[np.int64]
    """`[R + 1]`: row r's steps are `offsets[r]:offsets[r + 1]`."""
    advantage_R: NDArray[np.float32]
    weight_N: NDArray[np.float32]
    expert_R: NDArray[np.bool_]
    advantages: Advantages
    """Of the whole update."""
    num_rows: int
    """All rows of the update, also those that are not kept and those of other ranks."""
    num_update_steps: int
    """Steps of all ranks."""

    @property
    def num_steps(self) -> int:
        return int(self.offsets[-1])

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
        for start in range(0, self.num_steps, size):
            yield slice(start, min(start + size, self.num_steps))


def take_share(
    plan: UpdatePlan, share: Share, rows: UpdateRows, fetch: Callable[[list[int]], Sequence[TrajectoryBatch]]
) -> UpdateBatch:
    """The batch of one rank; `fetch` is asked once for the lease results that hold rows of it."""
    kept = plan.kept_K[share.start : share.stop]
    numbers = np.unique(rows.part_R[kept]).tolist()
    parts = fetch(numbers) if numbers else ()
    selected = [
        part.select((kept[rows.part_R[kept] == number] - np.searchsorted(rows.part_R, number)).tolist())
        for number, part in zip(numbers, parts, strict=True)
    ]
    steps = PackedSteps.concatenate([part.steps for part in selected]) if selected else None
    offsets = plan.offsets_K[share.start : share.stop + 1] - share.first_step
    assert (0 if steps is None else len(steps)) == offsets[-1], "a row has as many recorded steps as forward passes"
    return UpdateBatch(
        steps,
        offsets,
        plan.advantage_K[share.start : share.stop],
        plan.weight_N[share.first_step : share.last_step],
        plan.expert_K[share.start : share.stop],
        plan.advantages,
        plan.num_rows,
        plan.num_steps,
    )
