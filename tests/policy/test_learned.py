from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from policy.config import PolicyConfig
from policy.factory import make_learned, make_network
from policy.learned import LearnedUnmasker, score_steps
from policy.noise import Stream, uniforms
from policy.trajectory import PackedSteps
from tests.policy.observations import random_observation, record, rows_of

SMALL = PolicyConfig(hidden_size=16, feed_forward_size=24, time_embed_size=8, see_block=True)
MODES = [(kind, temperature) for kind in ("bernoulli", "bernoulli_argmax") for temperature in (1.0, 0.5, 2.0)]


def trained(config: PolicyConfig, *, seed: int = 0) -> LearnedUnmasker:
    """A policy whose decisions depend on everything it sees."""
    network = make_network(config, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return make_learned(network)


@pytest.mark.parametrize(("kind", "temperature"), MODES)
@pytest.mark.parametrize("num_confidences", [1, 3])
def test_rescoring_a_recorded_decision_gives_its_log_probability_again(
    kind: Any, temperature: float, num_confidences: int
) -> None:
    config = replace(SMALL, distribution=kind, policy_temperature=temperature, num_confidences=num_confidences)
    unmasker = trained(config)
    parts = []
    with torch.no_grad():
        for seed in range(6):
            observation = random_observation(seed + 1, 16, num_confidences=num_confidences, seed=seed)
            decision = unmasker.decide(observation)
            assert not bool((decision.commit_BL & ~observation.eligible_BL).any())
            if kind == "bernoulli_argmax":
                assert bool(decision.commit_BL.any(1).all())
            parts.append(record(observation, decision))
        steps = PackedSteps.concatenate(parts)
        together, entropy = score_steps(unmasker.network, unmasker.distribution, steps)
        reverse = np.arange(len(steps))[::-1].copy()
        backwards, _ = score_steps(unmasker.network, unmasker.distribution, steps.select(reverse))
        alone = [
            score_steps(unmasker.network, unmasker.distribution, steps.select(slice(n, n + 1)))[0] for n in range(21)
        ]
    assert len(steps) == 21
    assert np.abs(together.numpy() - steps.log_prob_N).max() < 1e-5
    assert np.abs(backwards.numpy()[::-1] - steps.log_prob_N).max() < 1e-5
    assert np.abs(torch.cat(alone).numpy() - steps.log_prob_N).max() < 1e-5
    assert (steps.log_prob_N < 0).sum() > 10
    assert bool((entropy > 0).all())


@pytest.mark.parametrize(("kind", "temperature"), MODES)
def test_a_row_decides_alone_as_it_does_in_a_batch(kind: Any, temperature: float) -> None:
    unmasker = trained(replace(SMALL, distribution=kind, policy_temperature=temperature))
    observation = random_observation(12, 20, seed=9)
    with torch.no_grad():
        together = unmasker.decide(observation)
        order = torch.randperm(12, generator=torch.Generator().manual_seed(0))
        shuffled = unmasker.decide(rows_of(observation, order))
        assert torch.equal(shuffled.commit_BL, together.commit_BL[order])
        for row in range(12):
            alone = unmasker.decide(rows_of(observation, torch.tensor([row])))
            assert torch.equal(alone.commit_BL[0], together.commit_BL[row])
            assert float(alone.log_prob_B[0]) == pytest.approx(float(together.log_prob_B[row]), abs=1e-5)


def test_a_decision_compares_the_row_s_own_noise_with_its_probabilities() -> None:
    unmasker = trained(replace(SMALL, distribution="bernoulli", policy_temperature=0.5))
    observation = random_observation(6, 16, seed=2)
    with torch.no_grad():
        logits = unmasker.network(
            observation.masked_BL, observation.eligible_BL, observation.confidences_BLK, observation.time_B
        )
        noise = uniforms(observation.keys_B, observation.nfe_B, 16, Stream.POLICY)
        decision = unmasker.decide(observation)
    expected = (noise < torch.sigmoid(2 * logits)) & observation.eligible_BL
    assert torch.equal(decision.commit_BL, expected)
    assert decision.log_prob_B.dtype == torch.float32


def test_other_weights_give_other_log_probabilities_with_a_gradient() -> None:
    observation = random_observation(8, 16, seed=1)
    with torch.no_grad():
        steps = record(observation, trained(SMALL).decide(observation))
    other = trained(SMALL, seed=1)
    log_prob, _ = score_steps(other.network, other.distribution, steps)
    assert np.abs(log_prob.detach().numpy() - steps.log_prob_N).max() > 1e-2
    log_prob.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in other.network.parameters())
