"""Unmaskers by name: a heuristic baseline is a configuration entry."""

from __future__ import annotations

import dataclasses

import torch

from policy.config import PolicyConfig
from policy.heuristics.registry import EXPERTS, HEURISTICS, HeuristicKind
from policy.heuristics.resources import Resources
from policy.heuristics.settings import (
    canonical_name,
    heuristic_kind,
    heuristic_parameters,
    make_heuristic,
    whole_numbers,
)
from policy.inference import InferenceConfig
from policy.learned import LearnedUnmasker, make_distribution
from policy.networks.base import PolicyNetwork
from policy.networks.registry import build
from policy.unmasker import Unmasker

__all__ = [
    "EXPERTS",
    "HEURISTICS",
    "HeuristicKind",
    "canonical_name",
    "heuristic_kind",
    "heuristic_parameters",
    "make_heuristic",
    "make_learned",
    "make_network",
    "make_swept_heuristic",
    "whole_numbers",
]


def make_swept_heuristic(name: str, entry: object, *, resources: Resources | None = None) -> Unmasker:
    """`make_heuristic` for an entry of a sweep, where counts are floats too."""
    return make_heuristic(name, whole_numbers(entry), resources=resources)


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
    if inference is not None and inference.forced_argmax:
        inference.check(config)
        config = dataclasses.replace(config, distribution="bernoulli_argmax")
    is_training = config == network.config and (inference is None or inference.is_training)
    return LearnedUnmasker(network, make_distribution(config, inference), is_training=is_training)
