"""A network and a distribution as an unmasker, and the re-scoring of recorded decisions under other weights.

Deciding and re-scoring go through the same network call, the same candidates and the same distribution, temperature included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from policy.candidates import most_confident
from policy.config import PolicyConfig
from policy.distinct_positions import is_uncertain
from policy.distributions import (
    ARGMAX,
    Bernoulli,
    BernoulliArgmax,
    Categorical,
    Dpls,
    ExpectedCount,
    Greedy,
    SetDistribution,
    Threshold,
    TopK,
)
from policy.inference import InferenceConfig
from policy.networks.base import PolicyNetwork
from policy.noise import Stream, uniforms
from policy.observation import Needs, Observation
from policy.recording import hidden_of
from policy.trajectory import PackedSteps
from policy.transfer import to_device
from policy.unmasker import Decision
from policy.used_positions import UsedPositions


def make_distribution(config: PolicyConfig, inference: InferenceConfig | None = None) -> SetDistribution:
    """The configured distribution at the configured temperature, or what evaluation makes of it (ValueError if it cannot)."""
    inference = inference or InferenceConfig()
    inference.check(config)
    temperature, scale, k = config.policy_temperature, inference.prob_scale, config.top_k or 1
    if inference.selection == "threshold":
        return Threshold(temperature=temperature, prob_scale=scale)
    if inference.selection == "expected_count":
        return ExpectedCount(temperature=temperature, prob_scale=scale)
    if inference.selection == "greedy":
        return Greedy(k=k)
    match config.distribution:
        case "bernoulli":
            return Bernoulli(temperature=temperature, prob_scale=scale)
        case "bernoulli_argmax":
            return BernoulliArgmax(temperature=temperature, prob_scale=scale)
        case "dpls":
            return Dpls(stop_logit=config.dpls_stop_logit, likelihood=config.dpls_likelihood, temperature=temperature)
        case "top_k":
            return TopK(k=k, temperature=temperature)
        case "categorical":
            return Categorical(temperature=temperature)


class LearnedUnmasker:
    """Decides by drawing from the network's distribution."""

    def __init__(self, network: PolicyNetwork, distribution: SetDistribution, *, is_training: bool = True) -> None:
        self.network = network.eval()
        self.distribution = distribution
        self.is_training = is_training
        """Whether its decisions may be recorded and learned from: the trainer's distribution re-scores them."""
        config = network.config
        self.needs = Needs(scope=config.scope, num_confidences=config.num_confidences, hidden=config.reads_hidden)

    def logits(self, observation: Observation) -> tuple[Tensor, Tensor]:
        """(raw logits `[B, L]` of the eligible positions, the positions `[B, L]` that the distribution chooses from)."""
        masked_BL, eligible_BL = observation.masked_BL, observation.eligible_BL
        confidences_BLK, on_host_BL = observation.confidences_BLK, observation.eligible_on_host_BL
        used = UsedPositions.where(eligible_BL if on_host_BL is None else on_host_BL, eligible_BL.device)
        uncertain = self._uncertain(observation)
        logits_BL = self.network(
            masked_BL, eligible_BL, confidences_BLK, observation.time_B, hidden_of(observation), used, uncertain
        )
        return logits_BL, open_positions(self.network.config, eligible_BL, confidences_BLK)

    @staticmethod
    def _uncertain(observation: Observation) -> UsedPositions | None:
        """See `PolicyNetwork.forward`; fewer positions where confidences can be looked at without waiting for a device."""
        confidences_BLK = observation.confidences_BLK
        if confidences_BLK.device.type != "cpu":
            return observation.wanted
        return UsedPositions.where(is_uncertain(confidences_BLK.numpy()))

    def decide(self, observation: Observation) -> Decision:
        logits_BL, open_BL = self.logits(observation)
        num_uniforms = logits_BL.shape[1] + self.distribution.num_extra_uniforms
        noise_BM = uniforms(observation.keys_B, observation.nfe_B, num_uniforms, Stream.POLICY)
        return self.distribution.draw(logits_BL, open_BL, noise_BM)


def sole_argmax(
    distribution: SetDistribution, logits_NL: Tensor, open_NL: Tensor, committed_NL: Tensor
) -> Tensor | None:
    """`[N, L]` bool as `Decision.argmax_BL`; None of distributions whose likelihood does not ask for it."""
    if not isinstance(distribution, BernoulliArgmax):
        return None
    return distribution.marked(logits_NL, open_NL, committed_NL) == ARGMAX


def open_positions(config: PolicyConfig, eligible_NL: Tensor, confidences_NLK: Tensor) -> Tensor:
    """`[N, L]` bool: the eligible positions that the distribution chooses from."""
    if not config.candidates_only:
        return eligible_NL
    return most_confident(confidences_NLK, eligible_NL, config.num_candidates)


def step_logits(network: PolicyNetwork, steps: PackedSteps, *, everywhere: bool = False) -> tuple[Tensor, Tensor]:
    """What `LearnedUnmasker.logits` gives for recorded steps, under the network's present weights.

    With `everywhere` logits that nothing depends on are computed too, which public code does.
    """
    eligible_NL, confidences_NLK = _on(network, steps.eligible_NL), _on(network, steps.confidences_NLK)
    hidden_NLD = None if steps.hidden_NLD is None else _on(network, steps.hidden_NLD)
    used = uncertain = None
    if not everywhere:
        used = UsedPositions.where(steps.eligible_NL, eligible_NL.device)
        uncertain = UsedPositions.where(is_uncertain(steps.confidences_NLK), eligible_NL.device)
    logits_NL = network(
        _on(network, steps.masked_NL),
        eligible_NL,
        confidences_NLK,
        _on(network, steps.time_N),
        hidden_NLD,
        used,
        uncertain,
    )
    return logits_NL, open_positions(network.config, eligible_NL, confidences_NLK)


def recorded_outcome(network: PolicyNetwork, distribution: SetDistribution, steps: PackedSteps) -> Tensor:
    """`[N, L]` what was decided, as the distribution gives it: ranks of an ordered one, marks or a bool mask of others."""
    if isinstance(distribution, BernoulliArgmax):
        return _on(network, np.where(steps.argmax_NL, np.uint8(ARGMAX), steps.committed_NL.astype(np.uint8)))
    if not distribution.is_ordered:
        return _on(network, steps.committed_NL)
    assert steps.rank_NL is not None, "decisions of an ordered distribution are recorded with their order"
    return _on(network, steps.rank_NL)


@dataclass(frozen=True, slots=True)
class ScoredSteps:
    """Recorded decisions under the network's present weights."""

    steps: PackedSteps
    logits_NL: Tensor
    """Raw; of the eligible positions."""
    open_NL: Tensor
    """bool, the positions that the distribution chooses from."""
    outcome_NL: Tensor
    """What was decided."""
    log_prob_N: Tensor
    entropy_N: Tensor


def score_steps(
    network: PolicyNetwork, distribution: SetDistribution, steps: PackedSteps, *, everywhere: bool = False
) -> ScoredSteps:
    """Scores recorded decisions as the distribution that drew them does; `everywhere` as for `step_logits`."""
    logits_NL, open_NL = step_logits(network, steps, everywhere=everywhere)
    outcome_NL = recorded_outcome(network, distribution, steps)
    log_prob_N = distribution.log_prob(logits_NL, open_NL, outcome_NL)
    return ScoredSteps(steps, logits_NL, open_NL, outcome_NL, log_prob_N, distribution.entropy(logits_NL, open_NL))


def _on(network: PolicyNetwork, array: NDArray[Any]) -> Tensor:
    """The array as a tensor where the network is."""
    return to_device(array, next(network.parameters()).device)
