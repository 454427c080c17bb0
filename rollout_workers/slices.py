"""Forward passes with little padding: live rows are cut by the length of their prompts, each slice padded to its own longest.

Cutting is exact, for a row's prediction does not depend on the rows beside it. A slice is a pass of its own, so rows of like
prompts stay together.

Shapes: `B` live rows, `n` rows of a slice, `N` positions asked for, rows in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from policy.transfer import to_device
from rollout_workers.models.base import Prediction
from rollout_workers.models.reduction import concatenate

MAX_PADDING = 0.05
"""Share of a slice's tokens, canvas included, that may be padding."""


def slices_by_length(prompt_lengths: Sequence[int], canvas_length: int) -> list[list[int]]:
    """Numbers of the rows of each slice, ascending; no slice is padded beyond `MAX_PADDING`.

    Longest first, each slice takes rows as long as it may.
    """
    slices: list[list[int]] = []
    width = num_tokens = 0
    for row in sorted(range(len(prompt_lengths)), key=lambda row: (-prompt_lengths[row], row)):
        length = prompt_lengths[row] + canvas_length
        if slices:
            computed = width * (len(slices[-1]) + 1)
            if computed - num_tokens - length <= MAX_PADDING * computed:
                slices[-1].append(row)
                num_tokens += length
                continue
        slices.append([row])
        width = num_tokens = length
    return [sorted(rows) for rows in slices]


def predict_in_slices(
    slices: Sequence[Sequence[int]], wanted_BL: NDArray[np.bool_], compute: Callable[[Sequence[int]], Prediction]
) -> Prediction:
    """The prediction for all rows, of which `compute` gives those with these numbers; `wanted_BL` is on the host."""
    order_B = np.array([row for rows in slices for row in rows])
    prediction = concatenate([compute(rows) for rows in slices])
    row_N = order_B[wanted_BL[order_B].nonzero()[0]]
    return prediction.at(to_device(row_N.argsort(kind="stable"), prediction.token_ids_N.device))
