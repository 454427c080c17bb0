from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from policy.config import BackboneShape, PolicyConfig
from policy.factory import make_network
from policy.networks.registry import num_parameters
from tests.policy.networks.plain import LLADA_8B, backbone_block, randomised

SMALL = PolicyConfig(
    network="upo", distribution="categorical", num_confidences=3, num_candidates=2,
    backbone=BackboneShape(hidden_size=16, num_heads=2, feed_forward_size=24),
)  # fmt: skip


def inputs(num_rows: int, length: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(num_rows, length, generator=generator) < 0.7
    eligible = masked & (torch.rand(num_rows, length, generator=generator) < 0.7)
    confidences = torch.rand(num_rows, length, 3, generator=generator).sort(2, descending=True).values
    hidden = 3 * torch.randn(num_rows, length, 16, generator=generator)
    return masked, eligible, confidences, torch.rand(num_rows, generator=generator), hidden


def test_the_number_of_parameters_with_llada_s_shape_and_the_published_features() -> None:
    D, width = 4096, 4096 + 2 + 8
    block = 4 * D * D + 3 * D * 12_288 + 2 * D
    perceptron = 3 * (width * width + width + 2 * width) + width + 1
    assert num_parameters(replace(SMALL, backbone=LLADA_8B, num_confidences=8)) == 268_734_865
    assert block + D + perceptron == 268_734_865
    # 134 million of the paper, at two 4-bit weights to the element.
    assert round(268_734_865 / 2 / 1e6) == 134


def test_the_forward_pass_agrees_with_the_published_equations() -> None:
    network = randomised(SMALL)
    masked, eligible, confidences, time, hidden = inputs(4, 9)
    confidences, hidden = confidences.double(), hidden.double()
    w = network.state_dict()
    h = backbone_block(w, "block", hidden, num_heads=2)
    h = h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w["final_norm.weight"]
    candidate = torch.zeros(4, 9)
    for row in range(4):
        members = sorted((i for i in range(9) if eligible[row, i]), key=lambda i: (-float(confidences[row, i, 0]), i))
        candidate[row, members[:2]] = 1
    x = torch.cat([h, candidate.unsqueeze(2).double(), masked.unsqueeze(2).double(), confidences], 2)
    for layer in (0, 3, 6):
        x = x @ w[f"mlp.{layer}.weight"].T + w[f"mlp.{layer}.bias"]
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        x = x * w[f"mlp.{layer + 1}.weight"] + w[f"mlp.{layer + 1}.bias"]
        x = x * torch.sigmoid(x)
    expected = (x @ w["output_proj.weight"].T + w["output_proj.bias"]).squeeze(-1)
    got = network(masked, eligible, confidences, time, hidden)
    assert float(got.std()) > 0.05
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-5)


def test_it_sees_flags_probabilities_and_hidden_states_but_no_time() -> None:
    network = randomised(SMALL)
    masked, eligible, confidences, time, hidden = inputs(3, 8)
    confidences, hidden = confidences.double(), hidden.double()
    base = network(masked, eligible, confidences, time, hidden)
    assert torch.equal(network(masked, eligible, confidences, 1 - time, hidden), base)
    for other in (
        (~masked, eligible, confidences, time, hidden),
        (masked, torch.zeros_like(eligible), confidences, time, hidden),
        (masked, eligible, confidences * torch.tensor([1.0, 1.0, 0.5]), time, hidden),
        (masked, eligible, confidences, time, hidden.flip(1)),
    ):
        assert float((network(*other) - base).abs().max()) > 1e-4


def test_it_needs_hidden_states() -> None:
    with pytest.raises(AssertionError, match="hidden states"):
        make_network(SMALL, seed=0)(*inputs(2, 6)[:4])
