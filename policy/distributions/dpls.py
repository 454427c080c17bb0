"""DPLS, "dynamic Plackett-Luce sampling" (arXiv 2512.09106): an ordered draw without replacement that ends at a STOP.

The first choice is forced, so no pass is wasted: i1 ~ softmax over the eligible set S. Then S without i1 and STOP, whose logit is
fixed, are drawn without replacement until STOP comes.

Shapes: as in `policy.distributions.base`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from policy.distributions.base import Tempered, gumbel, gumbel_keys, softmax_entropy, where_eligible
from policy.distributions.dpls_set import set_log_prob
from policy.distributions.plackett_luce import choice_terms, ranks_of_order
from policy.unmasker import NEAR_TIE


class Dpls(Tempered):
    """At least one position; every further one precedes STOP with probability sigmoid(u - stop_logit).

    `likelihood`: of the `order` of choice, as in the reference release, or of the `set`, which is all that decoding sees.
    The temperature divides the positions' logits alone. A row's last uniform is STOP's.
    """

    num_extra_uniforms = 1

    def __init__(
        self, *, stop_logit: float = 0.0, likelihood: Literal["order", "set"] = "order", temperature: float = 1.0
    ) -> None:
        super().__init__(temperature=temperature)
        self._stop_logit = stop_logit
        self.is_ordered = likelihood == "order"

    def sample(self, logits_NL: Tensor, eligible_NL: Tensor, uniforms_NM: Tensor) -> tuple[Tensor, Tensor]:
        keys_NL = gumbel_keys(self.scaled(logits_NL), eligible_NL, uniforms_NM[:, :-1])
        # exp(-key) are exponential clocks. STOP's starts when the first of the others rings, who are memoryless: from there on
        # they race as if drawn anew, which is the second stage of the definition.
        first_N1 = keys_NL.amax(1, keepdim=True)
        limit_N1 = -torch.logaddexp(-first_N1, -(self._stop_logit + gumbel(uniforms_NM[:, -1:])))
        chosen_NL = (keys_NL >= limit_N1) & eligible_NL
        near_NL = ((keys_NL - limit_N1).abs() < NEAR_TIE) & eligible_NL & (keys_NL < first_N1)
        if not self.is_ordered:
            return chosen_NL, near_NL.sum(1)
        rank_NL = ranks_of_order(keys_NL.argsort(dim=1, descending=True, stable=True))
        return rank_NL.masked_fill(~chosen_NL, 0), near_NL.sum(1)

    def log_prob(self, logits_NL: Tensor, eligible_NL: Tensor, outcome_NL: Tensor) -> Tensor:
        scaled_NL = self.scaled(logits_NL)
        chosen_NL = outcome_NL.bool() & eligible_NL
        if self.is_ordered:
            log_prob_N = self._order_log_prob(scaled_NL, eligible_NL, chosen_NL, outcome_NL)
        else:
            log_prob_N = set_log_prob(scaled_NL, eligible_NL, chosen_NL, stop_logit=self._stop_logit)
        is_possible_N = eligible_NL.any(1)
        log_prob_N = torch.where(is_possible_N, log_prob_N, 0.0)
        return log_prob_N.masked_fill(is_possible_N & ~chosen_NL.any(1), -torch.inf)

    def _order_log_prob(self, scaled_NL: Tensor, eligible_NL: Tensor, chosen_NL: Tensor, rank_NL: Tensor) -> Tensor:
        stop = scaled_NL.new_full((), self._stop_logit)
        rest_N = torch.logaddexp(where_eligible(scaled_NL, eligible_NL & ~chosen_NL).logsumexp(1), stop)
        terms_NL, left_N = choice_terms(scaled_NL, chosen_NL, rank_NL, rest_N)
        # STOP cannot come first: its share is taken out of the first choice's normaliser.
        forced_N = left_N - where_eligible(scaled_NL, eligible_NL).logsumexp(1)
        return terms_NL.sum(1) + forced_N + stop - rest_N

    def entropy(self, logits_NL: Tensor, eligible_NL: Tensor) -> Tensor:
        return softmax_entropy(self.scaled(logits_NL), eligible_NL)
