"""What an unmasker sees of a batch of rows at one step.

Shapes: `B` rows, `L` canvas positions, `K` top-p confidences per position, `D` hidden size.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policy.scope import Scope


@dataclass(frozen=True, slots=True)
class Needs:
    """Which predictions an unmasker asks the model for."""

    scope: Scope = Scope.BLOCK
    num_confidences: int = 1
    """K: how many of the largest token probabilities per position."""
    entropy: bool = False
    margin: bool = False
    hidden: bool = False


@dataclass(frozen=True, slots=True)
class Observation:
    """One step of B live rows."""

    masked_BL: Tensor
    """bool: the position still holds the mask token."""
    eligible_BL: Tensor
    """bool: masked and inside the row's current block; a decision commits only such positions."""
    confidences_BLK: Tensor
    """float32 top-K token probabilities, largest first; 1 (then 0) where nothing was asked for."""
    log_odds_BL: Tensor
    """float32 log(p / (1 - p)) of the largest probability, exact where p itself rounds to 1."""
    nfe_B: Tensor
    """int64 forward passes charged before this one."""
    time_B: Tensor
    """float32 NFE / L, the policy's clock."""
    keys_B: Tensor
    """int64 keys of the rows' noise (`policy.noise`)."""
    entropy_BL: Tensor | None = None
    """float32 entropy of the token distribution in nats; 0 where nothing was asked for, None unless `needs.entropy`."""
    margin_BL: Tensor | None = None
    """float32 difference of the two largest probabilities; 1 where nothing was asked for, None unless `needs.margin`."""
    hidden_BLD: Tensor | None = None
    """float32 last hidden states that positions are predicted from; 0 where nothing was asked for, None unless `needs.hidden`."""


def leading_block(masked_BL: Tensor, block_length: int | Tensor) -> Tensor:
    """`[B, L]` bool: the block that holds each row's leftmost mask; `block_length` is one for all rows, or `[B]`."""
    start_B = masked_BL.int().argmax(1) // block_length * block_length
    position_L = torch.arange(masked_BL.shape[1], device=masked_BL.device)
    after_start_BL = position_L >= start_B.unsqueeze(1)
    return after_start_BL & (position_L < (start_B + block_length).unsqueeze(1))
