"""Networks by their name in the settings."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from policy.config import PolicyConfig
from policy.networks.base import PolicyNetwork
from policy.networks.dit_confidence import ConfidenceDiT
from policy.networks.dit_hidden import HiddenDiT
from policy.networks.upo import UpoNetwork

NETWORKS: Mapping[str, type[PolicyNetwork]] = {
    "dit_confidence": ConfidenceDiT,
    "dit_hidden": HiddenDiT,
    "upo": UpoNetwork,
}


def build(config: PolicyConfig) -> PolicyNetwork:
    """A network of `config`, initialised from torch's global generator."""
    return NETWORKS[config.network](config)


def build_empty(config: PolicyConfig) -> PolicyNetwork:
    """A network of `config` in CPU memory whose weights are still to be written; it takes no random draws."""
    with torch.device("meta"):
        network = build(config)
    return network.to_empty(device="cpu")


def num_parameters(config: PolicyConfig) -> int:
    """Number of trainable parameters of a network of `config`."""
    with torch.device("meta"):
        network = build(config)
    return sum(parameter.numel() for parameter in network.parameters())
