"""Distributions over sets of positions: sample, exact log-probability, entropy.

Both use one `scaled` function for the policy temperature, so that sampling and re-scoring cannot disagree. Log-probabilities are
sums of log-sigmoids and are never clamped (a clamp would kill the gradient of confident positions).

Shapes: `N` rows or packed steps, `L` positions. Positions outside `eligible` have no part in anything.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from policy.unmasker import NEAR_TIE


class SetDistribution(Protocol):
    """A distribution over subsets of the eligible positions, given one logit per position."""

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NL: Tensor) -> tuple[Tensor, Tensor]:
        """(committed `[N, L]` bool, number of draws within rounding of their threshold `[N]` int64)."""
        ...

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, committed_NL: Tensor) -> Tensor:
        """Exact log-probability `[N]` of the committed sets; 0 for rows with nothing eligible."""
        ...

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        """`[N]` mean binary entropy, in nats, of the eligible positions' own draws."""
        ...


class Bernoulli:
    """Independent draws; committing nothing is legal (arXiv 2512.09106, the training mode of the reference release)."""

    def __init__(self, *, temperature: float = 1.0) -> None:
        self._temperature = temperature

    def scaled(self, logits_NL: Tensor) -> Tensor:
        """Logits divided by the policy temperature."""
        return logits_NL / self._temperature

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NL: Tensor) -> tuple[Tensor, Tensor]:
        probability_NL = torch.sigmoid(self.scaled(logits_NL))
        committed_NL = (uniforms_NL < probability_NL) & eligible_NL
        near_NL = ((uniforms_NL - probability_NL).abs() < NEAR_TIE) & eligible_NL
        return committed_NL, near_NL.sum(1)

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, committed_NL: Tensor) -> Tensor:
        scaled_NL = self.scaled(logits_NL)
        terms_NL = F.logsigmoid(torch.where(committed_NL, scaled_NL, -scaled_NL))
        return (terms_NL * eligible_NL).sum(1)

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        scaled_NL = self.scaled(logits_NL)
        probability_NL = torch.sigmoid(scaled_NL)
        entropy_NL = -(probability_NL * F.logsigmoid(scaled_NL) + (1 - probability_NL) * F.logsigmoid(-scaled_NL))
        return (entropy_NL * eligible_NL).sum(1) / eligible_NL.sum(1).clamp(min=1)


class BernoulliArgmax(Bernoulli):
    """Independent draws; a row that drew nothing commits its most likely position, so no forward pass is wasted.

    The likelihood is that of the resulting set y, with j* the argmax over the eligible set S:
    P(y) = prod_i Bern(y_i; p_i) + [y = {j*}] * prod_{i in S} (1 - p_i). The empty set has probability 0.
    """

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NL: Tensor) -> tuple[Tensor, Tensor]:
        committed_NL, num_near_N = super().sample(logits_NL, eligible_NL, uniforms_NL)
        forced_N = eligible_NL.any(1) & ~committed_NL.any(1)
        best_NL = self._argmax(logits_NL, eligible_NL)
        second_N = logits_NL.masked_fill(~eligible_NL | best_NL, -torch.inf).amax(1)
        best_N = logits_NL.masked_fill(~best_NL, -torch.inf).amax(1)
        num_near_N = num_near_N + (forced_N & (best_N - second_N < NEAR_TIE))
        return torch.where(forced_N.unsqueeze(1), best_NL, committed_NL), num_near_N

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, committed_NL: Tensor) -> Tensor:
        natural_N = super().log_prob(logits_NL, eligible_NL, committed_NL)
        nothing_N = super().log_prob(logits_NL, eligible_NL, torch.zeros_like(committed_NL))
        is_argmax_N = (committed_NL == self._argmax(logits_NL, eligible_NL)).all(1) & eligible_NL.any(1)
        # Masked before logaddexp so that rows outside the branch pass no gradient through it.
        forced_N = torch.where(is_argmax_N, nothing_N, torch.full_like(nothing_N, -torch.inf))
        # Nothing is never the outcome where something was eligible; the argmax took its probability.
        is_empty_N = eligible_NL.any(1) & ~(committed_NL & eligible_NL).any(1)
        log_prob_N = torch.where(is_argmax_N, torch.logaddexp(natural_N, forced_N), natural_N)
        return log_prob_N.masked_fill(is_empty_N, -torch.inf)

    @staticmethod
    def _argmax(logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        """One-hot bool of the first largest eligible logit; all False where nothing is eligible."""
        index_N1 = logits_NL.masked_fill(~eligible_NL, -torch.inf).argmax(1, keepdim=True)
        return torch.zeros_like(eligible_NL).scatter_(1, index_N1, True) & eligible_NL
