"""One position per pass, drawn by softmax over the eligible ones (UPO, arXiv 2510.05725).

Shapes: as in `policy.distributions.base`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policy.distributions.base import Tempered, gumbel_keys, softmax_entropy, where_eligible
from policy.unmasker import NEAR_TIE


class Categorical(Tempered):
    """A single position; rows with nothing eligible commit nothing."""

    is_ordered = False
    num_extra_uniforms = 0

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> tuple[Tensor, Tensor]:
        keys_NL = gumbel_keys(self.scaled(logits_NL), eligible_NL, uniforms_NM)
        best_N1 = keys_NL.argmax(1, keepdim=True)
        chosen_NL = torch.zeros_like(eligible_NL).scatter_(1, best_N1, True) & eligible_NL
        gap_N = keys_NL.amax(1) - keys_NL.masked_fill(chosen_NL, -torch.inf).amax(1)
        return chosen_NL, (gap_N < NEAR_TIE).long()

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        log_p_NL = self.log_probs(logits_NL, eligible_NL)
        chosen_NL = outcome_NL & eligible_NL
        log_prob_N = torch.where(chosen_NL, log_p_NL, 0.0).sum(1)
        return log_prob_N.masked_fill(eligible_NL.any(1) & (chosen_NL.sum(1) != 1), -torch.inf)

    def log_probs(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        """`[N, L]` log-probability of choosing each position, about `FLOOR` where it is not eligible."""
        return where_eligible(self.scaled(logits_NL), eligible_NL).log_softmax(1)

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        return softmax_entropy(self.scaled(logits_NL), eligible_NL)
