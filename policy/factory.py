"""Unmaskers by name: a heuristic baseline is a configuration entry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from policy.config import PolicyConfig
from policy.heuristics import Entropy, Factor, LowConfidence, Margin, RandomOrder, Threshold
from policy.inference import InferenceConfig
from policy.learned import LearnedUnmasker, make_distribution
from policy.networks.base import PolicyNetwork
from policy.networks.registry import build
from policy.unmasker import Unmasker


@dataclass(frozen=True, slots=True)
class HeuristicKind:
    """How one heuristic is made and what its only parameter may be."""

    parameter: str
    parse: Callable[[object], float | int]
    make: Callable[[float | int], Unmasker]
    is_random: bool = False


def _positive_integer(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"is {value!r}; allowed: an integer >= 1")
    return value


def _probability(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"is {value!r}; allowed: a number in [0, 1]")
    return float(value)


def _positive(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise ValueError(f"is {value!r}; allowed: a number > 0")
    return float(value)


HEURISTICS: Mapping[str, HeuristicKind] = {
    "random": HeuristicKind("k", _positive_integer, lambda k: RandomOrder(k=int(k)), is_random=True),
    "low_confidence": HeuristicKind("k", _positive_integer, lambda k: LowConfidence(k=int(k))),
    "threshold": HeuristicKind("tau", _probability, lambda tau: Threshold(tau=tau)),
    "margin": HeuristicKind("k", _positive_integer, lambda k: Margin(k=int(k))),
    "entropy": HeuristicKind("k", _positive_integer, lambda k: Entropy(k=int(k))),
    "factor": HeuristicKind("factor", _positive, lambda factor: Factor(factor=factor)),
}


def make_heuristic(name: str, value: object) -> Unmasker:
    """The heuristic `name` with its parameter at `value`; `ValueError` quotes what is wrong and says what is allowed."""
    if name not in HEURISTICS:
        raise ValueError(f"unknown heuristic {name!r}; allowed: {', '.join(HEURISTICS)}")
    kind = HEURISTICS[name]
    try:
        parameter = kind.parse(value)
    except ValueError as error:
        raise ValueError(f"parameter {kind.parameter!r} of heuristic {name!r} {error}") from error
    return kind.make(parameter)


def make_swept_heuristic(name: str, value: float) -> Unmasker:
    """`make_heuristic` for a value from a sweep, where counts are floats too: whole numbers are passed on as integers."""
    return make_heuristic(name, int(value) if float(value).is_integer() else value)


def make_network(config: PolicyConfig, *, seed: int) -> PolicyNetwork:
    """A freshly initialised network; the same seed gives the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def make_learned(
    network: PolicyNetwork, *, temperature: float | None = None, inference: InferenceConfig | None = None
) -> LearnedUnmasker:
    """The network's unmasker with the distribution of its own settings.

    Args:
        network: a trained network.
        temperature: another policy temperature than its own.
        inference: what evaluation changes; ValueError where its distribution does not allow that.
    """
    config = network.config
    if temperature is not None:
        config = dataclasses.replace(config, policy_temperature=temperature)
    is_training = config == network.config and (inference is None or inference.is_training)
    return LearnedUnmasker(network, make_distribution(config, inference), is_training=is_training)
