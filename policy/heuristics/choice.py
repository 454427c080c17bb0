"""Choosing positions by score: what the samplers share. Ties go to the leftmost position.

Shapes: `B` rows, `L` canvas positions, `V` vocabulary, `n` positions of one row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policy.unmasker import NEAR_TIE


def top_k(score_BL: Tensor, eligible_BL: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k eligible positions with the largest scores (all of them where fewer are left).

    Returns:
        (`[B, L]` bool, `[B]` int64 that is 1 where the k-th and the next score are a near tie).
    """
    k = min(k, score_BL.shape[1])
    scores_BL = score_BL.masked_fill(~eligible_BL, -torch.inf)
    ordered_BL, order_BL = scores_BL.sort(dim=1, descending=True, stable=True)
    chosen_BL = torch.zeros_like(eligible_BL).scatter_(1, order_BL[:, :k], True) & eligible_BL
    if k == score_BL.shape[1]:
        return chosen_BL, torch.zeros(len(score_BL), dtype=torch.int64, device=score_BL.device)
    gap_B = ordered_BL[:, k - 1] - ordered_BL[:, k]
    return chosen_BL, (gap_B < NEAR_TIE).long()


def or_best(chosen_BL: Tensor, score_BL: Tensor, eligible_BL: Tensor, near_B: Tensor) -> tuple[Tensor, Tensor]:
    """`chosen_BL`, or in rows where nothing was chosen the eligible position with the largest score; and the near ties."""
    best_BL, best_near_B = top_k(score_BL, eligible_BL, 1)
    is_empty_B = ~chosen_BL.any(1)
    return torch.where(is_empty_B.unsqueeze(1), best_BL, chosen_BL), near_B + is_empty_B * best_near_B


def num_near(value_BL: Tensor, bound: float, eligible_BL: Tensor) -> Tensor:
    """`[B]` int64: eligible positions whose value may fall on the other side of `bound` in another batch."""
    return (((value_BL - bound).abs() < NEAR_TIE) & eligible_BL).sum(1)


def by_row(values_NX: Tensor, wanted_BL: Tensor) -> tuple[Tensor, ...]:
    """Values of the wanted positions, in row-major order, as one tensor per row."""
    return values_NX.split(wanted_BL.sum(1).tolist())
