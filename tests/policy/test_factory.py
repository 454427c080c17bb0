from __future__ import annotations

import pytest
import torch

from policy.config import PolicyConfig
from policy.distributions import Bernoulli, BernoulliArgmax
from policy.factory import HEURISTICS, make_heuristic, make_learned, make_network
from policy.scope import Scope

SMALL = PolicyConfig(hidden_size=16, feed_forward_size=16, time_embed_size=8)


def test_each_heuristic_is_made_by_its_name() -> None:
    made = {name: type(make_heuristic(name, 1)).__name__ for name in HEURISTICS}
    assert made == {
        "random": "RandomOrder",
        "low_confidence": "LowConfidence",
        "threshold": "Threshold",
        "margin": "Margin",
        "entropy": "Entropy",
        "factor": "Factor",
    }
    assert {name for name, kind in HEURISTICS.items() if kind.is_random} == {"random"}
    assert all(make_heuristic(name, 1).needs.scope is Scope.BLOCK for name in HEURISTICS)


def test_an_unknown_heuristic_is_quoted_beside_the_known_ones() -> None:
    with pytest.raises(
        ValueError,
        match=r"^unknown heuristic 'fastdllm'; allowed: random, low_confidence, threshold, margin, entropy, factor$",
    ):
        make_heuristic("fastdllm", 0.9)


@pytest.mark.parametrize("name", ["random", "low_confidence", "margin", "entropy"])
@pytest.mark.parametrize("value", [0, -1, 1.5, 2.0, True, "2", None])
def test_k_must_be_a_positive_integer(name: str, value: object) -> None:
    with pytest.raises(ValueError, match="allowed") as caught:
        make_heuristic(name, value)
    assert str(caught.value) == f"parameter 'k' of heuristic {name!r} is {value!r}; allowed: an integer >= 1"


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), True, "1", None])
def test_the_factor_must_be_positive(value: object) -> None:
    with pytest.raises(ValueError, match="allowed") as caught:
        make_heuristic("factor", value)
    assert str(caught.value) == f"parameter 'factor' of heuristic 'factor' is {value!r}; allowed: a number > 0"


@pytest.mark.parametrize("value", [-0.1, 1.01, float("nan"), float("inf"), True, "0.9", None])
def test_tau_must_be_a_probability(value: object) -> None:
    with pytest.raises(ValueError, match="allowed") as caught:
        make_heuristic("threshold", value)
    assert str(caught.value) == f"parameter 'tau' of heuristic 'threshold' is {value!r}; allowed: a number in [0, 1]"


def test_the_seed_alone_decides_the_initial_weights() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = make_network(SMALL, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = make_network(SMALL, seed=3), make_network(SMALL, seed=4)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.output_proj.weight, other.output_proj.weight)


def test_a_learned_unmasker_asks_for_and_draws_what_its_settings_say() -> None:
    config = PolicyConfig(
        hidden_size=16, feed_forward_size=16, time_embed_size=8, num_confidences=3, scope=Scope.CANVAS,
        distribution="bernoulli",
    )  # fmt: skip
    unmasker = make_learned(make_network(config, seed=0))
    assert (unmasker.needs.scope, unmasker.needs.num_confidences) == (Scope.CANVAS, 3)
    assert type(unmasker.distribution) is Bernoulli
    assert type(make_learned(make_network(SMALL, seed=0)).distribution) is BernoulliArgmax
    assert not unmasker.network.training


def test_another_temperature_sharpens_the_decisions_and_leaves_the_network_as_it_was() -> None:
    network = make_network(SMALL, seed=0)
    logits_NL, eligible_NL = torch.randn(4, 6), torch.ones(4, 6, dtype=torch.bool)
    entropies = [
        float(make_learned(network, temperature=T).distribution.entropy(logits_NL, eligible_NL).mean())
        for T in (2.0, 1.0, 0.5, 0.1)
    ]
    assert entropies == sorted(entropies, reverse=True)
    own = make_learned(network).distribution.entropy(logits_NL, eligible_NL)
    assert float(own.mean()) == entropies[1]
    assert network.config == SMALL
