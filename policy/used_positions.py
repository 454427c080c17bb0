"""Positions whose output is used: a transformer's last block needs the keys and values of all, and the rest of these only.

They are looked up on the host, where their number is known without waiting for the device.

Shapes: `B` rows, `L` positions of each, `N` used ones, `Q` most of them in one row, `C` channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policy.transfer import to_device


@dataclass(frozen=True, slots=True)
class UsedPositions:
    """Some positions of each row, rows in order."""

    flat_N: Tensor
    """row * L + position."""
    position_N: Tensor
    place_N: Tensor
    """Where each lies when they are laid out row by row: row * Q + its number in the row."""
    length: int
    """L."""
    shape: tuple[int, int]
    """(B, Q)."""

    @staticmethod
    def at(
        row_N: NDArray[np.int64], position_N: NDArray[np.int64], shape: tuple[int, ...], device: torch.device
    ) -> UsedPositions:
        """The positions at these indices of a `[B, L]` tensor."""
        num_B = np.bincount(row_N, minlength=shape[0])
        most = int(num_B.max(initial=0))
        columns = np.empty((3, len(row_N)), np.int64)
        columns[0] = row_N * shape[1] + position_N
        columns[1] = position_N
        # row * Q + number in the row, which is its number among all less those of the rows before.
        before_B = num_B.cumsum() - num_B
        columns[2] = np.arange(len(row_N)) + (np.arange(shape[0]) * most - before_B)[row_N]
        flat, position, place = to_device(columns, device).unbind()
        return UsedPositions(flat, position, place, shape[1], (shape[0], most))

    @staticmethod
    def where(is_used_BL: Tensor | NDArray[np.bool_], device: torch.device | None = None) -> UsedPositions:
        """The positions on the device, or where `is_used_BL` is; a wait for it if it is not on the host."""
        if isinstance(is_used_BL, Tensor):
            device, is_used_BL = device or is_used_BL.device, is_used_BL.cpu().numpy()
        row_N, position_N = is_used_BL.nonzero()
        return UsedPositions.at(row_N, position_N, is_used_BL.shape, device or torch.device("cpu"))

    def __len__(self) -> int:
        return len(self.flat_N)

    def of(self, x_BLC: Tensor) -> Tensor:
        """`[N, C]` out of `[B, L, C]`, or `[N]` out of `[B, L]`."""
        return x_BLC.flatten(0, 1).index_select(0, self.flat_N)

    def laid_out(self, x_NC: Tensor) -> Tensor:
        """`[B, Q, C]`, 0 where a row has fewer."""
        B, Q = self.shape
        return x_NC.new_zeros(B * Q, x_NC.shape[1]).index_copy(0, self.place_N, x_NC).view(B, Q, x_NC.shape[1])

    def flat(self, x_BQC: Tensor) -> Tensor:
        """`[N, C]`, the inverse of `laid_out`."""
        return x_BQC.flatten(0, 1).index_select(0, self.place_N)

    def scattered(self, x_NC: Tensor, elsewhere: float = 0.0) -> Tensor:
        """`[B, L, C]`, or `[B, L]` of `[N]`; `elsewhere` where a position is not used."""
        rows, channels = (self.shape[0], self.length), x_NC.shape[1:]
        flat = x_NC.new_full((rows[0] * rows[1], *channels), elsewhere)
        return flat.index_copy(0, self.flat_N, x_NC).view(*rows, *channels)

    def positions(self) -> Tensor:
        """`[B, Q]` int64; a row that has fewer repeats its last used one, or stands at its end if it has none."""
        B, Q = self.shape
        position_BQ = self.position_N.new_full((B * Q,), -1).index_copy(0, self.place_N, self.position_N).view(B, Q)
        if not Q:
            return position_BQ
        return torch.where(position_BQ < 0, position_BQ.amax(1, keepdim=True), position_BQ) % self.length
