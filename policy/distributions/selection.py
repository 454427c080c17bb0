"""Outcomes without noise, for evaluating a policy that was trained with a distribution.

They are distributions with a single outcome, of probability 1 and entropy 0; nothing can be learned from them.

Shapes: as in `policy.distributions.base`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policy.distributions.base import SetDistribution
from policy.distributions.bernoulli import Bernoulli, BernoulliArgmax
from policy.unmasker import NEAR_TIE, Decision


class Threshold(BernoulliArgmax):
    """Every position that is committed with probability above 1/2, or the most likely one."""

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> tuple[Tensor, Tensor]:
        return super().sample(logits_NL, eligible_NL, torch.full_like(uniforms_NM, 0.5))

    def draw(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> Decision:
        return SetDistribution.draw(self, logits_NL, eligible_NL, uniforms_NM)

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        return _certain(self, logits_NL, eligible_NL, outcome_NL)

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        return logits_NL.new_zeros(len(logits_NL))


class ExpectedCount(Bernoulli):
    """The floor(sum p) most likely positions, at least one (dUltra's inference)."""

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> tuple[Tensor, Tensor]:
        expected_N = (torch.sigmoid(self.scaled(logits_NL)).double() * eligible_NL).sum(1)
        chosen_NL, near_N = most_likely(logits_NL, eligible_NL, expected_N.floor().long().clamp(min=1))
        return chosen_NL, near_N + ((expected_N - expected_N.round()).abs() < NEAR_TIE) * eligible_NL.any(1)

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        return _certain(self, logits_NL, eligible_NL, outcome_NL)

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        return logits_NL.new_zeros(len(logits_NL))


class Greedy(SetDistribution):
    """The `k` most likely positions, all where fewer are eligible."""

    is_ordered = False
    num_extra_uniforms = 0

    def __init__(self, *, k: int = 1) -> None:
        self._k = k

    def scaled(self, logits_NL: Tensor) -> Tensor:
        """The logits themselves: their order is the same at every temperature."""
        return logits_NL

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> tuple[Tensor, Tensor]:
        return most_likely(logits_NL, eligible_NL, torch.full_like(eligible_NL[:, 0], self._k, dtype=torch.int64))

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        return _certain(self, logits_NL, eligible_NL, outcome_NL)

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        return logits_NL.new_zeros(len(logits_NL))


def most_likely(logits_NL: Tensor, eligible_NL: Tensor, count_N: Tensor) -> tuple[Tensor, Tensor]:
    """(the `count_N` >= 1 eligible positions with the largest logits, ties to the left; `[N]` 1 where the last is contested)."""
    sorted_NL, order_NL = logits_NL.masked_fill(~eligible_NL, -torch.inf).sort(dim=1, descending=True, stable=True)
    taken_NL = torch.arange(logits_NL.shape[1], device=count_N.device) < count_N.unsqueeze(1)
    chosen_NL = torch.zeros_like(eligible_NL).scatter_(1, order_NL, taken_NL) & eligible_NL
    last_N = sorted_NL.masked_fill(~taken_NL, torch.inf).amin(1)
    next_N = sorted_NL.masked_fill(taken_NL, -torch.inf).amax(1)
    return chosen_NL, (last_N - next_N < NEAR_TIE).long()


def _certain(distribution: SetDistribution, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
    """`[N]` 0 for the only outcome, -inf for any other."""
    only_NL, _ = distribution.sample(logits_NL, eligible_NL, logits_NL)
    return logits_NL.new_zeros(len(logits_NL)).masked_fill((only_NL != outcome_NL).any(1), -torch.inf)
