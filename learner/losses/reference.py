"""How far a policy is from a reference policy, in closed form per decision.

KL(pi || g) and the cross-entropy are those of UPO (arXiv 2510.05725); the parallel forms are their analogues for
independent draws per position. Logits u are tempered, and values have their float type. Positions that are not eligible
have no part in a value or a gradient, and rows with nothing eligible give 0. References carry no gradient.

log g of a one-token reference is taken to be at least `FLOOR_NATS`: `top_k` and `max_confidence` give some eligible
positions nothing, and a policy that can choose those would be infinitely far away. So it pays 30 nats times the
probability that it puts there, and nothing where `candidates_only` keeps it to the support.

Shapes: `N` packed steps, `L` canvas positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from policy.distributions.base import where_eligible
from policy.reference_policies import Family

FLOOR_NATS = -30.0
"""Least log-probability of an eligible position under a one-token reference."""


def bernoulli_kl(scaled_logits_NL: Tensor, eligible_NL: Tensor, reference_NL: Tensor) -> Tensor:
    """`[N]` KL(prod Bern(q) || prod Bern(p)), q = sigmoid u.

        sum_i q_i log(q_i / p_i) + (1 - q_i) log((1 - q_i) / (1 - p_i))

    p is in (0, 1) at eligible positions. Of `bernoulli_argmax` it compares the draws, before any position is forced.
    """
    logit_NL, log_p_NL, log_not_p_NL = _parallel(scaled_logits_NL, eligible_NL, reference_NL)
    q_NL = torch.sigmoid(logit_NL)
    committed_NL = q_NL * (F.logsigmoid(logit_NL) - log_p_NL)
    left_NL = torch.sigmoid(-logit_NL) * (F.logsigmoid(-logit_NL) - log_not_p_NL)
    return torch.where(eligible_NL, committed_NL + left_NL, 0.0).sum(1)


def categorical_kl(scaled_logits_NL: Tensor, eligible_NL: Tensor, reference_NL: Tensor) -> Tensor:
    """`[N]` KL(pi || g) = sum_a pi(a) (log pi(a) - log g(a)), pi = softmax u over eligible positions; log g has a floor."""
    log_pi_NL = where_eligible(scaled_logits_NL, eligible_NL).log_softmax(1)
    log_g_NL = _log_one_token(reference_NL.to(log_pi_NL.dtype))
    return torch.where(eligible_NL, log_pi_NL.exp() * (log_pi_NL - log_g_NL), 0.0).sum(1)


def cross_entropy(
    scaled_logits_NL: Tensor, eligible_NL: Tensor, reference_NL: Tensor, *, family: Family = "one_token"
) -> Tensor:
    """`[N]` -sum over outcomes of reference times log policy: KL(reference || policy) but for a constant.

    `one_token`: -sum_a g(a) log pi(a) (L_CE of arXiv 2510.05725); `parallel`: -sum_i p_i log q_i + (1 - p_i) log(1 - q_i).
    """
    if family == "one_token":
        log_pi_NL = where_eligible(scaled_logits_NL, eligible_NL).log_softmax(1)
        return -torch.where(eligible_NL, reference_NL.to(log_pi_NL.dtype) * log_pi_NL, 0.0).sum(1)
    logit_NL, p_NL = torch.where(eligible_NL, scaled_logits_NL, 0.0), reference_NL.to(scaled_logits_NL.dtype)
    terms_NL = p_NL * F.logsigmoid(logit_NL) + (1 - p_NL) * F.logsigmoid(-logit_NL)
    return -torch.where(eligible_NL, terms_NL, 0.0).sum(1)


def reference_log_prob(outcome_NL: Tensor, eligible_NL: Tensor, reference_NL: Tensor, *, family: Family) -> Tensor:
    """`[N]` log-probability of what was decided under the reference; -inf under a one-token one for sets of another size.

    Args:
        outcome_NL: committed positions.
        eligible_NL: what could be committed.
        reference_NL: `Reference.probabilities`, in (0, 1) at eligible positions of a parallel one; values have its float type.
        family: of the reference.
    """
    chosen_NL = outcome_NL.bool() & eligible_NL
    if family == "one_token":
        log_prob_N = torch.where(chosen_NL, _log_one_token(reference_NL), 0.0).sum(1)
        return log_prob_N.masked_fill(eligible_NL.any(1) & (chosen_NL.sum(1) != 1), -torch.inf)
    _, log_p_NL, log_not_p_NL = _parallel(reference_NL, eligible_NL, reference_NL)
    return torch.where(eligible_NL, torch.where(chosen_NL, log_p_NL, log_not_p_NL), 0.0).sum(1)


def _parallel(logits_NL: Tensor, eligible_NL: Tensor, reference_NL: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(logits, log p, log(1 - p)), finite where nothing is eligible: an infinity there would be NaN in the gradient."""
    p_NL = torch.where(eligible_NL, reference_NL.to(logits_NL.dtype), 0.5)
    return torch.where(eligible_NL, logits_NL, 0.0), p_NL.log(), torch.log1p(-p_NL)


def _log_one_token(reference_NL: Tensor) -> Tensor:
    return reference_NL.clamp(min=math.exp(FLOOR_NATS)).log()
