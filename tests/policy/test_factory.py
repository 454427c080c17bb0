from __future__ import annotations

import pytest
import torch

from policy.config import PolicyConfig
from policy.distributions import Bernoulli, BernoulliArgmax
from policy.factory import (
    HEURISTICS,
    canonical_name,
    heuristic_parameters,
    make_heuristic,
    make_learned,
    make_network,
    whole_numbers,
)
from policy.scope import Scope

SMALL = PolicyConfig(hidden_size=16, feed_forward_size=16, time_embed_size=8)


def test_each_heuristic_is_made_by_its_name() -> None:
    made = {
        name: type(make_heuristic(name, 1)).__name__ for name in ("random", "low_confidence", "threshold", "factor")
    }
    assert made == {
        "random": "RandomOrder",
        "low_confidence": "LowConfidence",
        "threshold": "Threshold",
        "factor": "Factor",
    }
    assert {name for name, kind in HEURISTICS.items() if kind.is_random} == {"random", "info_gain", "smc"}


def test_what_a_policy_may_learn_from_is_decided_by_the_pass_alone() -> None:
    for name, kind in HEURISTICS.items():
        assert kind.description
        assert kind.source
        if kind.is_expert:
            needs = make_heuristic(name, {}).needs
            assert needs.is_plain
            assert needs.scope is Scope.BLOCK


@pytest.mark.parametrize(
    ("name", "entry", "parameters", "canonical"),
    [
        ("threshold", 0.5, {"tau": 0.5}, "threshold"),
        ("threshold", {}, {"tau": 0.9}, "threshold"),
        ("threshold=0.7", {}, {"tau": 0.7}, "threshold"),
        ("klass", {"tau": 0.8, "kl": 0.01, "history": 2}, {"tau": 0.8}, "klass"),
        ("klass", {"kl": 0.005, "eos": "last"}, {"tau": 0.9, "kl": 0.005, "eos": "last"}, "klass(kl=0.005,eos=last)"),
        ("klass(kl=0.005, eos=last)", 0.9, {"tau": 0.9, "kl": 0.005, "eos": "last"}, "klass(kl=0.005,eos=last)"),
        ("eb_margin:0.5", {}, {"gamma": 0.5}, "eb_margin"),
    ],
)
def test_equal_settings_have_one_canonical_form(
    name: str, entry: object, parameters: dict[str, object], canonical: str
) -> None:
    assert heuristic_parameters(name, entry) == parameters
    assert canonical_name(name, entry) == canonical
    assert heuristic_parameters(canonical, next(iter(parameters.values()))) == parameters


@pytest.mark.parametrize(
    ("name", "entry", "message"),
    [
        ("klas", 0.9, "unknown heuristic 'klas'; did you mean 'klass'? allowed: random, "),
        ("klass", {"taw": 1}, "unknown parameter 'taw' of heuristic 'klass'; did you mean 'tau'? allowed: tau, kl, "),
        ("klass", {"history": 1.5}, "parameter 'history' of heuristic 'klass' is 1.5; allowed: an integer >= 1"),
        ("eb_entropy", -1, "parameter 'gamma' of heuristic 'eb_entropy' is -1; allowed: a number >= 0"),
        ("dus", 1, "parameter 'base' of heuristic 'dus' is 1; allowed: an integer >= 2"),
        ("credit", {"eos": "last"}, "parameter 'eos' of heuristic 'credit' is 'last'; allowed: allow, never"),
        ("klass(tau)", {}, "heuristic 'klass(tau)' is malformed; allowed: NAME, NAME=VALUE or NAME(PARAMETER=VALUE, ...)"),
        ("adablock", {"delimiter": 3}, "parameter 'delimiter' of heuristic 'adablock' is 3; allowed: text"),
        ("adablock", {}, "heuristic 'adablock' needs the ids of a model; allowed: where a model is loaded"),
        ("threshold", {"eos": "never"}, "heuristic 'threshold' needs the ids of a model; allowed: where a model is loaded"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_line(name: str, entry: object, message: str) -> None:
    with pytest.raises(ValueError, match="allowed") as caught:
        make_heuristic(name, entry)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_whole_floats_of_a_sweep_are_counts() -> None:
    assert heuristic_parameters("klass", whole_numbers({"history": 3.0, "tau": 1.0})) == {"tau": 1.0, "history": 3}


def test_an_unknown_heuristic_is_quoted_beside_the_known_ones() -> None:
    with pytest.raises(
        ValueError,
        match=r"^unknown heuristic 'fastdllm'; allowed: random, low_confidence, threshold, margin, entropy, factor, ",
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
