from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from cluster.config import build
from cluster.errors import UserError
from policy.config import PolicyConfig
from policy.factory import make_learned, make_network
from policy.inference import InferenceConfig
from tests.policy.observations import random_observation

SMALL = PolicyConfig(hidden_size=16, feed_forward_size=16, time_embed_size=8)


def of(distribution: Any) -> PolicyConfig:
    return replace(SMALL, distribution=distribution, top_k=2 if distribution == "top_k" else None)


@pytest.mark.parametrize(
    ("distribution", "inference", "message"),
    [
        ("dpls", InferenceConfig(selection="threshold"), "selection' is 'threshold'; allowed: 'draw' with"),
        (
            "categorical",
            InferenceConfig(selection="expected_count"),
            "'expected_count'; allowed: 'draw', 'greedy' with",
        ),
        ("bernoulli", InferenceConfig(selection="greedy"), "allowed: 'draw', 'threshold', 'expected_count' with"),
        ("dpls", InferenceConfig(forced_argmax=True), "forced_argmax' is True; allowed: False with"),
        ("top_k", InferenceConfig(prob_scale=2.0), "prob_scale' is 2; allowed: 1 with distribution 'top_k'"),
    ],
)
def test_what_a_distribution_does_not_allow_is_refused(
    distribution: str, inference: InferenceConfig, message: str
) -> None:
    with pytest.raises(ValueError, match="allowed") as caught:
        inference.check(of(distribution), where="evaluation.policy")
    assert str(caught.value).startswith("config key 'evaluation.policy.")
    assert message in str(caught.value)
    with pytest.raises(ValueError, match="allowed"):
        make_learned(make_network(of(distribution), seed=0), inference=inference)


@pytest.mark.parametrize(
    ("distribution", "inference"),
    [
        ("bernoulli", InferenceConfig(selection="threshold", prob_scale=2.0)),
        ("bernoulli_argmax", InferenceConfig(selection="expected_count")),
        ("bernoulli_argmax", InferenceConfig(prob_scale=3.0)),
        ("bernoulli", InferenceConfig(forced_argmax=True)),
        ("categorical", InferenceConfig(selection="greedy")),
        ("top_k", InferenceConfig(selection="greedy")),
    ],
)
def test_what_it_allows_decides_and_is_not_for_training(distribution: str, inference: InferenceConfig) -> None:
    network = make_network(of(distribution), seed=0)
    unmasker = make_learned(network, inference=inference)
    with torch.no_grad():
        decision = unmasker.decide(random_observation(6, 12, seed=1))
    if inference.selection != "draw":
        assert decision.log_prob_B.tolist() == [0] * 6
        assert decision.commit_BL.any(1).all()
    assert decision.rank_BL is None
    assert not unmasker.is_training


def test_only_the_policy_s_own_draws_are_for_training() -> None:
    network = make_network(SMALL, seed=0)
    assert make_learned(network).is_training
    assert make_learned(network, temperature=1.0, inference=InferenceConfig()).is_training
    assert not make_learned(network, temperature=0.5).is_training


def test_a_forced_argmax_is_added_to_draws_of_independent_positions() -> None:
    network, observation = make_network(of("bernoulli"), seed=0), random_observation(60, 6, seed=4)
    with torch.no_grad():
        plain = make_learned(network).decide(observation).commit_BL
        forced = make_learned(network, inference=InferenceConfig(forced_argmax=True)).decide(observation).commit_BL
    is_empty = ~plain.any(1)
    assert is_empty.any()
    assert (forced[is_empty].sum(1) == 1).all()
    assert torch.equal(forced[~is_empty], plain[~is_empty])


def test_a_larger_scale_commits_more() -> None:
    network, observation = make_network(SMALL, seed=0), random_observation(40, 24, seed=3)
    with torch.no_grad():
        counts = [
            int(make_learned(network, inference=InferenceConfig(prob_scale=beta)).decide(observation).commit_BL.sum())
            for beta in (0.5, 1.0, 2.0, 5.0, 1e6)
        ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1] == int(observation.eligible_BL.sum())


@pytest.mark.parametrize("values", [{"prob_scale": 0}, {"prob_scale": -1}, {"selection": "argmax"}, {"beta": 1}])
def test_bad_values_are_the_user_s_mistakes(values: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="allowed"):
        build(InferenceConfig, values, where="inference")
