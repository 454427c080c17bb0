"""A network and a distribution as an unmasker, and the re-scoring of recorded decisions under other weights.

Deciding and re-scoring go through the same network call and the same distribution, temperature included.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policy.config import PolicyConfig
from policy.distributions import Bernoulli, BernoulliArgmax, SetDistribution
from policy.networks.dit_confidence import ConfidenceDiT
from policy.noise import Stream, uniforms
from policy.observation import Needs, Observation
from policy.trajectory import PackedSteps
from policy.unmasker import Decision


def make_distribution(config: PolicyConfig) -> SetDistribution:
    """The configured distribution at the configured temperature."""
    kinds = {"bernoulli": Bernoulli, "bernoulli_argmax": BernoulliArgmax}
    return kinds[config.distribution](temperature=config.policy_temperature)


class LearnedUnmasker:
    """Decides by drawing from the network's distribution."""

    def __init__(self, network: ConfidenceDiT, distribution: SetDistribution) -> None:
        self.network = network.eval()
        self.distribution = distribution
        self.needs = Needs(scope=network.config.scope, num_confidences=network.config.num_confidences)

    def decide(self, observation: Observation) -> Decision:
        logits_BL = self.network(
            observation.masked_BL, observation.eligible_BL, observation.confidences_BLK, observation.time_B
        )
        noise_BL = uniforms(observation.keys_B, observation.nfe_B, logits_BL.shape[1], Stream.POLICY)
        commit_BL, near_B = self.distribution.sample(logits_BL, observation.eligible_BL, noise_BL)
        log_prob_B = self.distribution.log_prob(logits_BL, observation.eligible_BL, commit_BL)
        return Decision(commit_BL=commit_BL, log_prob_B=log_prob_B, num_near_ties_B=near_B)


def score_steps(network: ConfidenceDiT, distribution: SetDistribution, steps: PackedSteps) -> tuple[Tensor, Tensor]:
    """(log-probabilities `[N]`, mean commit entropies `[N]`) of recorded decisions under the network's present weights."""
    device = next(network.parameters()).device

    def tensor(array: object) -> Tensor:
        return torch.as_tensor(array, device=device)

    eligible_NL = tensor(steps.eligible_NL)
    confidences_NLK = tensor(steps.confidences_NLK)
    logits_NL = network(tensor(steps.masked_NL), eligible_NL, confidences_NLK, tensor(steps.time_N))
    log_prob_N = distribution.log_prob(logits_NL, eligible_NL, tensor(steps.committed_NL))
    return log_prob_N, distribution.entropy(logits_NL, eligible_NL)
