"""Shadow tokens: a block a second time, as masks, so that one pass both predicts and verifies (WINO, arXiv 2507.18578).

A shadow stands at the position of its token, sees every shadow and every real token but that one, and is seen by shadows alone.

Shapes: `B` rows, `L` canvas, `S` = P + L tokens, `W` shadows of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policy.transfer import to_device
from policy.used_positions import UsedPositions
from rollout_workers.models.reduction import Inputs


@dataclass(frozen=True, slots=True)
class Shadows:
    """Which tokens have one; rows with fewer than W are filled up at the end."""

    slot_BW: Tensor
    """int64, the token that each shadow stands for."""
    is_real_BW: Tensor
    real: UsedPositions
    """The same, as positions of `[B, W]`."""

    @staticmethod
    def join(inputs: Inputs, shadow_BL: Tensor) -> Shadows:
        host_BL, device = shadow_BL.cpu(), inputs.tokens_BS.device
        num_B = host_BL.sum(1)
        rank_W = torch.arange(int(num_B.max()) if len(num_B) else 0)
        # One run of positions per row, so the w-th lies w behind its first.
        first_B1 = host_BL.int().argmax(1, keepdim=True)
        is_real_BW = rank_W < num_B.unsqueeze(1)
        num_slots = inputs.tokens_BS.shape[1]
        slot_BW = (num_slots - host_BL.shape[1] + first_B1 + rank_W).clamp(max=num_slots - 1)
        real = UsedPositions.where(is_real_BW, device)
        return Shadows(to_device(slot_BW, device), to_device(is_real_BW, device), real)

    def attention(self, inputs: Inputs) -> Tensor:
        """`[B, 1, S + W, S + W]` bool: who sees whom."""
        B, S = inputs.tokens_BS.shape
        W = self.slot_BW.shape[1]
        device = inputs.tokens_BS.device
        sees_BXX = torch.zeros(B, S + W, S + W, dtype=torch.bool, device=device)
        sees_BXX[:, :, :S] = inputs.mask_BS.bool().unsqueeze(1)
        own_BWS = torch.arange(S, device=device) == self.slot_BW.unsqueeze(2)
        sees_BXX[:, S:, :S] &= ~own_BWS
        sees_BXX[:, S:, S:] = self.is_real_BW.unsqueeze(1)
        return sees_BXX.unsqueeze(1)
