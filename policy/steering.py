"""Expert steering (arXiv 2512.09106): some rollouts of a group follow a heuristic, and the policy learns from these too.

The expert decides inside blocks of its own, but what is recorded and scored is what the policy sees: all positions of its own
block stay eligible, so the policy learns "these and not the later ones". The behaviour that the group was drawn from is a mixture:
with G rollouts of the policy and one of each of E experts, w = G / (G + E) and v = 1 / (G + E),

    mixture        log(w pi(a|s) + v)                            the release's, one factor per decoding step
    per_decision   sum_i log(w p_i(a_i) + v)                     one factor per position
    policy_ratio   log pi(a|s)                                   no mixture: the expert's rows count as the policy's own

The gradient of `mixture` is that of log pi times w pi / (w pi + v), which vanishes as long as the policy finds the whole
decision unlikely: a product over dozens of positions. Per position that factor is of order w p_i. `policy_ratio` keeps the
gradient and is biased, as it weighs the expert's decisions as if the policy had drawn them.

Shapes: `B` rows, `N` packed steps, `L` canvas positions.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import replace

import torch
from torch import Tensor

from policy.behaviour import Behaviour
from policy.distributions import Bernoulli, SetDistribution
from policy.learned import LearnedUnmasker, sole_argmax
from policy.observation import Observation, leading_block
from policy.unmasker import Decision, Unmasker


def expert_log_prob(
    distribution: SetDistribution, logits_NL: Tensor, open_NL: Tensor, outcome_NL: Tensor, behaviour: Behaviour
) -> Tensor:
    """`[N]` log-probabilities of expert decisions under the mixture with the policy whose logits these are."""
    if behaviour.mode == "per_decision":
        assert isinstance(distribution, Bernoulli), (
            "settings are checked: only independent draws have factors per position"
        )
        terms_NL = distribution.position_log_probs(logits_NL, open_NL, outcome_NL)
        return (_mixed(terms_NL, behaviour) * open_NL).sum(1)
    log_prob_N = distribution.log_prob(logits_NL, open_NL, outcome_NL)
    return log_prob_N if behaviour.mode == "policy_ratio" else _mixed(log_prob_N, behaviour)


def _mixed(log_prob: Tensor, behaviour: Behaviour) -> Tensor:
    """log(w exp(log_prob) + v)"""
    expert = log_prob.new_full((), math.log(behaviour.expert_share))
    return torch.logaddexp(log_prob + math.log(behaviour.policy_share), expert)


class ExpertUnmasker:
    """Decides as `expert` does in blocks of `block_length` and scores that as a decision of `learned`."""

    is_training = True

    def __init__(
        self, learned: LearnedUnmasker, expert: Unmasker, *, block_length: int | None, behaviour: Behaviour
    ) -> None:
        self._learned = learned
        self._expert = expert
        self._block_length = block_length
        self._behaviour = behaviour
        # The learned policy sees its whole block, of which the expert's is a part.
        self.needs = dataclasses.replace(
            learned.needs,
            entropy=learned.needs.entropy or expert.needs.entropy,
            margin=learned.needs.margin or expert.needs.margin,
        )

    def decide(self, observation: Observation) -> Decision:
        """The expert's decision; of an ordered distribution there is none, because the expert has no order."""
        eligible_BL = observation.eligible_BL
        if self._block_length is not None:
            eligible_BL = eligible_BL & leading_block(observation.masked_BL, self._block_length)
        decision = self._expert.decide(replace(observation, eligible_BL=eligible_BL))
        logits_BL, open_BL = self._learned.logits(observation)
        log_prob_B = expert_log_prob(
            self._learned.distribution, logits_BL, open_BL, decision.commit_BL, self._behaviour
        )
        argmax_BL = sole_argmax(self._learned.distribution, logits_BL, open_BL, decision.commit_BL)
        return replace(decision, log_prob_B=log_prob_B, argmax_BL=argmax_BL)
