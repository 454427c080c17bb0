"""Logits of some positions are those of all at these positions, gradients too."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from policy.config import BackboneShape, PolicyConfig
from policy.used_positions import UsedPositions
from tests.policy.networks.plain import randomised

SHAPE = BackboneShape(hidden_size=8, num_heads=2, feed_forward_size=12)
CONFIDENCE = PolicyConfig(hidden_size=8, feed_forward_size=12, num_heads=2, time_embed_size=8, num_confidences=2)
NETWORKS = {
    "dit_confidence": CONFIDENCE,
    "states and log-odds": replace(CONFIDENCE, see_block=True, confidence_features="raw_and_log_odds"),
    "two blocks": replace(CONFIDENCE, num_blocks=2, see_block=True),
    "dit_hidden": replace(CONFIDENCE, network="dit_hidden", backbone=SHAPE, num_blocks=2),
    "upo": PolicyConfig(
        network="upo", distribution="categorical", num_confidences=2, num_candidates=2, backbone=SHAPE
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("certain_share", [0.0, 0.6, 1.0])
def test_logits_and_gradients_of_used_positions(name: str, share: float, certain_share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    network = randomised(NETWORKS[name]).requires_grad_(True)
    masked = torch.rand(4, 9, generator=generator) < 0.7
    eligible = masked & (torch.rand(4, 9, generator=generator) < 0.7)
    confidences = torch.rand(4, 9, 2, generator=generator, dtype=torch.float64).sort(2, descending=True).values
    is_certain = torch.rand(4, 9, generator=generator) < certain_share
    confidences[is_certain] = torch.tensor([1.0, 0.0], dtype=torch.float64)
    hidden = torch.randn(4, 9, 8, generator=generator, dtype=torch.float64) if network.config.reads_hidden else None
    time = torch.rand(4, generator=generator, dtype=torch.float64)
    is_used = torch.rand(4, 9, generator=generator) < share
    weight = torch.randn(4, 9, generator=generator, dtype=torch.float64)

    def run(*positions: UsedPositions | None) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
        network.zero_grad()
        logits = network(masked, eligible, confidences, time, hidden, *positions) * is_used
        (logits * weight).sum().backward()
        return logits.detach(), [None if p.grad is None else p.grad.clone() for p in network.parameters()]

    every, every_gradient = run(None)
    for uncertain in (None, UsedPositions.where(~is_certain)):
        some, some_gradient = run(UsedPositions.where(is_used), uncertain)
        torch.testing.assert_close(some, every, atol=1e-12, rtol=1e-12)
        for ours, expected in zip(some_gradient, every_gradient, strict=True):
            assert expected is not None
            torch.testing.assert_close(
                torch.zeros_like(expected) if ours is None else ours, expected, atol=1e-12, rtol=1e-9
            )
