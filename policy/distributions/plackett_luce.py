"""Draws without replacement by softmax (Plackett-Luce), and the fixed-size distribution made of them.

With Gumbel noise on the logits, positions sorted by their noisy logits are such a draw; the likelihood is that of the order.

Shapes: as in `policy.distributions.base`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policy.distributions.base import Tempered, gumbel_keys, softmax_entropy, where_eligible
from policy.unmasker import NEAR_TIE


class TopK(Tempered):
    """`k` positions per pass in the order of their draw, all where fewer are eligible (LLaDOU)."""

    is_ordered = True
    num_extra_uniforms = 0

    def __init__(self, *, k: int, temperature: float = 1.0) -> None:
        super().__init__(temperature=temperature)
        self._k = k

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> tuple[Tensor, Tensor]:
        keys_NL = gumbel_keys(self.scaled(logits_NL), eligible_NL, uniforms_NM)
        sorted_NL, order_NL = keys_NL.sort(dim=1, descending=True, stable=True)
        rank_NL = ranks_of_order(order_NL).masked_fill(~eligible_NL, 0)
        rank_NL = rank_NL.masked_fill(rank_NL > self._k, 0)
        if self._k >= logits_NL.shape[1]:
            return rank_NL, torch.zeros(len(rank_NL), dtype=torch.int64, device=rank_NL.device)
        return rank_NL, (sorted_NL[:, self._k - 1] - sorted_NL[:, self._k] < NEAR_TIE).long()

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        scaled_NL = self.scaled(logits_NL)
        chosen_NL = (outcome_NL > 0) & eligible_NL
        rest_N = where_eligible(scaled_NL, eligible_NL & ~chosen_NL).logsumexp(1)
        terms_NL, _ = choice_terms(scaled_NL, chosen_NL, outcome_NL, rest_N)
        expected_N = eligible_NL.sum(1).clamp(max=self._k)
        return terms_NL.sum(1).masked_fill(chosen_NL.sum(1) != expected_N, -torch.inf)

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        return softmax_entropy(self.scaled(logits_NL), eligible_NL)


def ranks_of_order(order_NL: Tensor) -> Tensor:
    """`[N, L]` int16: the place of each position in an order of all positions, from 1."""
    place_NL = torch.arange(1, order_NL.shape[1] + 1, dtype=torch.int16, device=order_NL.device).expand_as(order_NL)
    return torch.zeros_like(order_NL, dtype=torch.int16).scatter_(1, order_NL, place_NL)


def choice_terms(logits_NL: Tensor, chosen_NL: Tensor, rank_NL: Tensor, rest_N: Tensor) -> tuple[Tensor, Tensor]:
    """What each choice adds to the log-likelihood of an order.

    Args:
        logits_NL: tempered logits.
        chosen_NL: the positions of the order.
        rank_NL: their ranks, from 1.
        rest_N: log-sum-exp of everything that is never chosen.

    Returns:
        (`[N, L]` logit of the j-th choice minus the log-sum-exp of all that was left before it, 0 from the last choice on;
        `[N]` log-sum-exp of all at the first choice).
    """
    order_NL = rank_NL.int().masked_fill(~chosen_NL, torch.iinfo(torch.int32).max).argsort(dim=1)
    sorted_NL = where_eligible(logits_NL, chosen_NL).gather(1, order_NL)
    tail_NL = sorted_NL.flip(1).logcumsumexp(1).flip(1)
    left_NL = torch.logaddexp(tail_NL, rest_N.unsqueeze(1))
    is_choice_NL = chosen_NL.gather(1, order_NL)
    return torch.where(is_choice_NL, sorted_NL - left_NL, 0.0), left_NL[:, 0]
