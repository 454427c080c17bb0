from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from policy.config import BackboneShape, PolicyConfig
from policy.factory import make_learned, make_network
from policy.learned import LearnedUnmasker, score_steps
from policy.networks import layers
from policy.noise import Stream, uniforms
from policy.observation import Observation
from policy.recording import hidden_of
from policy.trajectory import PackedSteps
from tests.policy.observations import random_observation, record, rows_of, with_hidden

SMALL = PolicyConfig(hidden_size=16, feed_forward_size=24, time_embed_size=8, see_block=True)
MODES = [(kind, temperature) for kind in ("bernoulli", "bernoulli_argmax") for temperature in (1.0, 0.5, 2.0)]
SHAPE = BackboneShape(hidden_size=16, num_heads=2, feed_forward_size=24)
HIDDEN = replace(SMALL, network="dit_hidden", backbone=SHAPE)
UPO = replace(SMALL, network="upo", backbone=SHAPE, num_confidences=3, distribution="categorical")
OTHERS = {
    "dpls": replace(SMALL, distribution="dpls", policy_temperature=0.7, dpls_stop_logit=0.5),
    "dpls as a set": replace(SMALL, distribution="dpls", dpls_likelihood="set"),
    "top_k": replace(SMALL, distribution="top_k", top_k=3),
    "categorical": replace(SMALL, distribution="categorical", policy_temperature=0.8),
    "candidates": replace(SMALL, distribution="categorical", candidates_only=True, num_candidates=2),
    "dit_hidden": HIDDEN,
    "dit_hidden with dpls": replace(HIDDEN, distribution="dpls", num_blocks=2, time_embedding="legacy"),
    "upo": UPO,
    "upo among candidates": replace(UPO, candidates_only=True),
}
EACH_OTHER = pytest.mark.parametrize("config", OTHERS.values(), ids=OTHERS)


def observed(config: PolicyConfig, num_rows: int, length: int, *, seed: int) -> Observation:
    """Rows with all that the policy reads; of a hidden size in float32, finer than what is recorded."""
    observation = random_observation(num_rows, length, num_confidences=config.num_confidences, seed=seed)
    return with_hidden(observation, SHAPE.hidden_size, seed=seed) if config.reads_hidden else observation


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
        scored = score_steps(unmasker.network, unmasker.distribution, steps)
        together, entropy = scored.log_prob_N, scored.entropy_N
        reverse = np.arange(len(steps))[::-1].copy()
        backwards = score_steps(unmasker.network, unmasker.distribution, steps.select(reverse)).log_prob_N
        alone = [
            score_steps(unmasker.network, unmasker.distribution, steps.select(slice(n, n + 1))).log_prob_N
            for n in range(21)
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


@EACH_OTHER
def test_every_other_policy_rescores_its_decisions_and_decides_alone_as_in_a_batch(config: PolicyConfig) -> None:
    unmasker, observation = trained(config), observed(config, 14, 20, seed=4)
    with torch.no_grad():
        together = unmasker.decide(observation)
        steps = record(observation, together)
        scored = score_steps(unmasker.network, unmasker.distribution, steps)
        again, entropy = scored.log_prob_N, scored.entropy_N
        assert np.abs(np.expm1(again.numpy() - steps.log_prob_N)).max() < 1e-5
        for row in range(14):
            alone = unmasker.decide(rows_of(observation, torch.tensor([row])))
            assert torch.equal(alone.commit_BL[0], together.commit_BL[row])
            assert float(alone.log_prob_B[0]) == pytest.approx(float(together.log_prob_B[row]), abs=1e-5)
    assert not bool((together.commit_BL & ~observation.eligible_BL).any())
    assert bool(together.commit_BL.any(1).all())
    assert (steps.log_prob_N < 0).sum() > 10
    assert bool((entropy[1:] > 0).all())
    is_ordered = config.distribution == "top_k" or (config.distribution, config.dpls_likelihood) == ("dpls", "order")
    assert (together.rank_BL is not None) == (steps.rank_NL is not None) == is_ordered
    assert (steps.hidden_NLD is not None) == config.reads_hidden


@EACH_OTHER
def test_every_other_policy_learns_by_all_of_its_weights(config: PolicyConfig) -> None:
    observation = observed(config, 14, 20, seed=4)
    with torch.no_grad():
        steps = record(observation, trained(config).decide(observation))
    other = trained(config, seed=1)
    scored = score_steps(other.network, other.distribution, steps)
    log_prob, entropy = scored.log_prob_N, scored.entropy_N
    assert np.abs(log_prob.detach().numpy() - steps.log_prob_N).max() > 1e-2
    (log_prob + entropy).sum().backward()
    for name, parameter in other.network.named_parameters():
        assert parameter.grad is not None, name
        assert bool(torch.isfinite(parameter.grad).all()), name
        # Softmax over positions does not see what is added to all of them.
        is_common = config.distribution in ("top_k", "categorical") and name == "output_proj.bias"
        assert is_common or float(parameter.grad.abs().max()) > 0, name


def test_candidates_are_all_that_is_chosen_from() -> None:
    unmasker, observation = trained(OTHERS["candidates"]), random_observation(40, 20, seed=4)
    with torch.no_grad():
        chosen_BL = unmasker.decide(observation).commit_BL
    confidence_BL = observation.confidences_BLK[:, :, 0].masked_fill(~observation.eligible_BL, -1)
    second_B = confidence_BL.sort(1, descending=True).values[:, 1]
    assert bool((confidence_BL[chosen_BL] >= second_B).all())
    assert bool((confidence_BL[chosen_BL] < confidence_BL.amax(1)).any())


def test_hidden_states_are_decided_from_as_they_are_recorded() -> None:
    unmasker, observation = trained(HIDDEN), observed(HIDDEN, 6, 16, seed=2)
    hidden_BLD = hidden_of(observation)
    assert hidden_BLD is not None
    with torch.no_grad():
        decision = unmasker.decide(observation)
        steps = record(observation, decision)
        rounded = unmasker.decide(replace(observation, hidden_BLD=hidden_BLD))
    assert steps.hidden_NLD is not None
    assert np.array_equal(steps.hidden_NLD, hidden_BLD.numpy())
    assert torch.equal(rounded.log_prob_B, decision.log_prob_B)


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
    log_prob = score_steps(other.network, other.distribution, steps).log_prob_N
    assert np.abs(log_prob.detach().numpy() - steps.log_prob_N).max() > 1e-2
    log_prob.sum().backward()
    assert all(p.grad is not None and bool(torch.isfinite(p.grad).all()) for p in other.network.parameters())


def test_a_policy_learns_in_a_process_that_decided_first() -> None:
    """What is made once and kept (rotations, frequencies) is made in inference mode there, and gradients flow through it here."""
    for made_once in (layers.rotations, layers._frequencies):
        made_once.cache_clear()
    unmasker, observation = trained(SMALL), random_observation(4, 13)
    with torch.inference_mode():
        steps = record(observation, unmasker.decide(observation))
    score_steps(unmasker.network, unmasker.distribution, steps).log_prob_N.sum().backward()
    assert all(parameter.grad is not None for parameter in unmasker.network.parameters())
