"""What all distributions over sets of positions share.

An outcome says which positions are committed: a bool mask, or, of distributions whose likelihood knows the order of choice
(`is_ordered`), int16 ranks, 1 for the position chosen first and 0 for those that are not committed. What was recorded of
`BernoulliArgmax` has marks (uint8). All are truthy exactly where the position is committed.

Shapes: `N` rows or packed steps, `L` positions, `M` uniforms per row. Positions outside `eligible` have no part in anything.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from policy.unmasker import Decision

FLOOR = -1e30
"""Stands for the logit of what cannot be chosen: exp gives 0, and unlike -inf it makes no NaN in differences and gradients."""


class SetDistribution(Protocol):
    """A distribution over subsets of the eligible positions, given one logit per position."""

    is_ordered: bool
    """Whether outcomes are ranks."""
    num_extra_uniforms: int
    """M - L: draws beside those of the positions, which come last."""

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> tuple[Tensor, Tensor]:
        """(outcome `[N, L]`, number of comparisons within rounding of going the other way `[N]` int64)."""
        ...

    def draw(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> Decision:
        """What `sample` decides, with its `log_prob`."""
        outcome_NL, num_near_N = self.sample(logits_NL, eligible_NL, uniforms_NM)
        return Decision(
            commit_BL=outcome_NL.bool(),
            log_prob_B=self.log_prob(logits_NL, eligible_NL, outcome_NL),
            num_near_ties_B=num_near_N,
            rank_BL=outcome_NL if self.is_ordered else None,
        )

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        """Exact log-probability `[N]` of the outcomes; 0 for rows with nothing eligible, -inf for impossible outcomes."""
        ...

    def scaled(self, logits_NL: Tensor) -> Tensor:
        """Logits as they are drawn from: over the policy temperature."""
        ...

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        """`[N]` in nats: the mean binary entropy of the eligible positions where they are drawn independently, else the entropy of
        the first choice. The latter is all of `categorical`; beyond the first, ordered choices have no closed form."""
        ...


class Tempered(SetDistribution):
    """The one place where logits are divided by the policy temperature."""

    def __init__(self, *, temperature: float = 1.0) -> None:
        self._temperature = temperature

    def scaled(self, logits_NL: Tensor) -> Tensor:
        """Logits divided by the policy temperature."""
        return logits_NL / self._temperature


def where_eligible(logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
    """The logits with `FLOOR` at the positions that cannot be chosen, through which no gradient passes."""
    return logits_NL.masked_fill(~eligible_NL, FLOOR)


def gumbel_keys(logits_NL: Tensor, eligible_NL: Tensor, uniforms_NL: Tensor) -> Tensor:
    """`[N, L]` float64 logits with Gumbel noise: sorted, they are a draw without replacement by softmax. -inf elsewhere.

    In float64, so that the only rounding in a comparison is that of the logits.
    """
    keys_NL = logits_NL.double() + gumbel(uniforms_NL)
    return keys_NL.masked_fill(~eligible_NL, -torch.inf)


def gumbel(uniforms: Tensor) -> Tensor:
    """Standard Gumbel noise, float64, of the same shape."""
    return -(-uniforms.double().log()).log()


def softmax_entropy(logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
    """`[N]` entropy in nats of one draw by softmax over the eligible positions; 0 where there are none."""
    log_p_NL = where_eligible(logits_NL, eligible_NL).log_softmax(1)
    entropy_N = -(log_p_NL.exp() * log_p_NL).sum(1)
    return torch.where(eligible_NL.any(1), entropy_N, 0.0)
