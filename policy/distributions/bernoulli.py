"""Independent draws per position (arXiv 2512.09106), with or without a forced argmax.

Log-probabilities are sums of log-sigmoids and are never clamped (a clamp would kill the gradient of confident positions).

Shapes: as in `policy.distributions.base`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from policy.distributions.base import Tempered
from policy.unmasker import NEAR_TIE, Decision

ARGMAX = 2
"""Marks the position that is committed alone and was the most likely one when that was decided."""

ARGMAX_TIE = 1e-5
"""Logits closer than this, relative to them where they are above 1, may come in another order in another batch."""

CERTAIN = 1e4
"""A logit whose probability is 1 in every float type, and whose complement still has a finite logarithm."""


class Bernoulli(Tempered):
    """Independent draws; committing nothing is legal (the training mode of the reference release).

    `prob_scale` is evaluation's beta: p' = min(1, beta p).
    """

    is_ordered = False
    num_extra_uniforms = 0

    def __init__(self, *, temperature: float = 1.0, prob_scale: float = 1.0) -> None:
        super().__init__(temperature=temperature)
        self._prob_scale = prob_scale

    def scaled(self, logits_NL: Tensor) -> Tensor:
        """Logits divided by the policy temperature, then moved to where their probabilities are scaled."""
        tempered_NL = super().scaled(logits_NL)
        return tempered_NL if self._prob_scale == 1.0 else scale_probabilities(tempered_NL, self._prob_scale)

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> tuple[Tensor, Tensor]:
        probability_NL = torch.sigmoid(self.scaled(logits_NL))
        committed_NL = (uniforms_NM < probability_NL) & eligible_NL
        near_NL = ((uniforms_NM - probability_NL).abs() < NEAR_TIE) & eligible_NL
        return committed_NL, near_NL.sum(1)

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        return self.position_log_probs(logits_NL, eligible_NL, outcome_NL).sum(1)

    def position_log_probs(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        """`[N, L]` log-probability of each position's own draw; 0 where nothing is eligible."""
        scaled_NL = self.scaled(logits_NL)
        return F.logsigmoid(torch.where(outcome_NL.bool(), scaled_NL, -scaled_NL)) * eligible_NL

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        scaled_NL = self.scaled(logits_NL)
        probability_NL = torch.sigmoid(scaled_NL)
        entropy_NL = -(probability_NL * F.logsigmoid(scaled_NL) + (1 - probability_NL) * F.logsigmoid(-scaled_NL))
        return (entropy_NL * eligible_NL).sum(1) / eligible_NL.sum(1).clamp(min=1)


class BernoulliArgmax(Bernoulli):
    """Independent draws; a row that drew nothing commits its most likely position, so no forward pass is wasted.

    The likelihood is that of the resulting set y, with j* the argmax over the eligible set S:
    P(y) = prod_i Bern(y_i; p_i) + [y = {j*}] * prod_{i in S} (1 - p_i). The empty set has probability 0.

    Logits of positions that look alike differ by rounding alone, which another batch rounds otherwise, and with j* a decision's
    probability would jump. So outcomes are recorded with j* (`marked`), and of positions in a tie the recorded one stays j*.
    """

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> tuple[Tensor, Tensor]:
        return self._sample(logits_NL, eligible_NL, uniforms_NM, self._argmax(logits_NL, eligible_NL))

    def draw(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> Decision:
        """What `sample`, `log_prob` and `marked` give, with j* found once."""
        best_NL = self._argmax(logits_NL, eligible_NL)
        committed_NL, num_near_N = self._sample(logits_NL, eligible_NL, uniforms_NM, best_NL)
        is_argmax_N = (committed_NL == best_NL).all(1) & eligible_NL.any(1)
        log_prob_N = self._log_prob(logits_NL, eligible_NL, committed_NL, is_argmax_N)
        return Decision(committed_NL, log_prob_N, num_near_N, argmax_BL=committed_NL & is_argmax_N.unsqueeze(1))

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        is_argmax_N = self._is_argmax(logits_NL, eligible_NL, outcome_NL)
        return self._log_prob(logits_NL, eligible_NL, outcome_NL, is_argmax_N)

    def _sample(
        self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor, best_NL: Tensor
    ) -> tuple[Tensor, Tensor]:
        committed_NL, num_near_N = super().sample(logits_NL, eligible_NL, uniforms_NM)
        forced_N = eligible_NL.any(1) & ~committed_NL.any(1)
        second_N = logits_NL.masked_fill(~eligible_NL | best_NL, -torch.inf).amax(1)
        best_N = logits_NL.masked_fill(~best_NL, -torch.inf).amax(1)
        num_near_N = num_near_N + (forced_N & (best_N - second_N < NEAR_TIE))
        return torch.where(forced_N.unsqueeze(1), best_NL, committed_NL), num_near_N

    def _log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor, is_argmax_N: Tensor) -> Tensor:
        natural_N = super().log_prob(logits_NL, eligible_NL, outcome_NL)
        nothing_N = super().log_prob(logits_NL, eligible_NL, torch.zeros_like(outcome_NL))
        # Masked before logaddexp so that rows outside the branch pass no gradient through it.
        forced_N = torch.where(is_argmax_N, nothing_N, torch.full_like(nothing_N, -torch.inf))
        # Nothing is never the outcome where something was eligible; the argmax took its probability.
        is_empty_N = eligible_NL.any(1) & ~(outcome_NL.bool() & eligible_NL).any(1)
        log_prob_N = torch.where(is_argmax_N, torch.logaddexp(natural_N, forced_N), natural_N)
        return log_prob_N.masked_fill(is_empty_N, -torch.inf)

    def marked(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        """The bool outcome as uint8 `[N, L]`: 1 where committed, but `ARGMAX` where that is j* and nothing else is committed."""
        is_argmax_N = self._is_argmax(logits_NL, eligible_NL, outcome_NL)
        return torch.where(is_argmax_N.unsqueeze(1) & outcome_NL, ARGMAX, outcome_NL.to(torch.uint8))

    def _is_argmax(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        """`[N]` bool: j* and nothing else is committed. A tie goes the way of the mark if the outcome has marks."""
        chosen_NL = outcome_NL.bool()
        is_argmax_N = (chosen_NL == self._argmax(logits_NL, eligible_NL)).all(1) & eligible_NL.any(1)
        if outcome_NL.dtype == torch.bool:
            return is_argmax_N
        own_N = logits_NL.masked_fill(~chosen_NL, -torch.inf).amax(1)
        next_N = logits_NL.masked_fill(~eligible_NL | chosen_NL, -torch.inf).amax(1)
        is_tie_N = (chosen_NL.sum(1) == 1) & ((own_N - next_N).abs() < ARGMAX_TIE * own_N.abs().clamp(min=1))
        return torch.where(is_tie_N, (outcome_NL == ARGMAX).any(1), is_argmax_N)

    @staticmethod
    def _argmax(logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        """One-hot bool of the first largest eligible logit; all False where nothing is eligible."""
        index_N1 = logits_NL.masked_fill(~eligible_NL, -torch.inf).argmax(1, keepdim=True)
        return torch.zeros_like(eligible_NL).scatter_(1, index_N1, True) & eligible_NL


def scale_probabilities(logits_NL: Tensor, factor: float) -> Tensor:
    """The logits of min(1, factor * p) where p are the probabilities of `logits_NL`; `CERTAIN` where that is 1."""
    log_p_NL = F.logsigmoid(logits_NL) + math.log(factor)
    below_NL = log_p_NL < 0
    safe_NL = torch.where(below_NL, log_p_NL, -1.0)
    return torch.where(below_NL, safe_NL - (-torch.expm1(safe_NL)).log(), CERTAIN)
