"""Small learned policies whose logits vary, because a fresh network says nearly the same everywhere."""

from __future__ import annotations

from typing import Any

import torch

from policy.config import PolicyConfig
from policy.factory import make_learned, make_network
from policy.learned import LearnedUnmasker

SMALL: dict[str, Any] = dict(hidden_size=16, feed_forward_size=16, num_heads=2, time_embed_size=8)


def lively_policy(*, seed: int = 0, spread: float = 0.4, **settings: Any) -> LearnedUnmasker:
    """A policy of `settings` (on top of a small size) with noise on every weight."""
    network = make_network(PolicyConfig(**(SMALL | settings)), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
        network.output_proj.bias.fill_(network.config.initial_logit)
    return make_learned(network)
