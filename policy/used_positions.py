"""Positions whose output is used: a transformer's last block needs the keys and values of all, and the rest of these only.

Shapes: `B` rows, `L` positions of each, `N` used ones, `Q` most of them in one row, `C` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class UsedPositions:
    """Some positions of each row, rows in order."""

    row_N: Tensor
    position_N: Tensor
    length: int
    """L."""
    place_N: Tensor
    """Where each lies when they are laid out row by row: row * Q + its number in the row."""
    shape: tuple[int, int]
    """(B, Q)."""

    @staticmethod
    def at(row_N: Tensor, position_N: Tensor, shape: tuple[int, ...] | torch.Size) -> UsedPositions:
        """The positions at these indices of a `[B, L]` tensor."""
        num_B = torch.bincount(row_N, minlength=shape[0])
        most = int(num_B.max()) if len(num_B) else 0
        first_B = num_B.cumsum(0) - num_B
        number_N = torch.arange(len(row_N), device=row_N.device) - first_B[row_N]
        return UsedPositions(row_N, position_N, shape[1], row_N * most + number_N, (shape[0], most))

    @staticmethod
    def where(is_used_BL: Tensor) -> UsedPositions:
        row_N, position_N = is_used_BL.nonzero(as_tuple=True)
        return UsedPositions.at(row_N, position_N, is_used_BL.shape)

    def of(self, x_BLC: Tensor) -> Tensor:
        """`[N, C]` out of `[B, L, C]`, or `[N]` out of `[B, L]`."""
        return x_BLC.flatten(0, 1).index_select(0, self.row_N * self.length + self.position_N)

    def laid_out(self, x_NC: Tensor) -> Tensor:
        """`[B, Q, C]`, 0 where a row has fewer."""
        B, Q = self.shape
        return x_NC.new_zeros(B * Q, x_NC.shape[1]).index_copy(0, self.place_N, x_NC).view(B, Q, x_NC.shape[1])

    def flat(self, x_BQC: Tensor) -> Tensor:
        """`[N, C]`, the inverse of `laid_out`."""
        return x_BQC.flatten(0, 1).index_select(0, self.place_N)

    def scattered(self, x_N: Tensor) -> Tensor:
        """`[B, L]`, 0 elsewhere."""
        flat = x_N.new_zeros(self.shape[0] * self.length)
        return flat.index_copy(0, self.row_N * self.length + self.position_N, x_N).view(self.shape[0], self.length)

    def positions(self) -> Tensor:
        """`[B, Q]` int64; a row that has fewer repeats its last used one, or stands at its end if it has none."""
        B, Q = self.shape
        position_BQ = self.position_N.new_full((B * Q,), -1).index_copy(0, self.place_N, self.position_N).view(B, Q)
        if not Q:
            return position_BQ
        return torch.where(position_BQ < 0, position_BQ.amax(1, keepdim=True), position_BQ) % self.length
