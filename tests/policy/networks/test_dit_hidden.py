from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from policy.config import BackboneShape, PolicyConfig
from policy.factory import make_network
from policy.networks.dit_hidden import HiddenDiT
from policy.networks.registry import num_parameters
from tests.policy.networks.plain import LLADA_8B, backbone_block, randomised

SMALL = PolicyConfig(
    network="dit_hidden", time_embed_size=8, backbone=BackboneShape(hidden_size=16, num_heads=2, feed_forward_size=24)
)


def inputs(num_rows: int, length: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(num_rows, length, generator=generator) < 0.6
    eligible = masked & (torch.rand(num_rows, length, generator=generator) < 0.6)
    hidden = 5 * torch.randn(num_rows, length, 16, generator=generator)
    return masked, eligible, torch.ones(num_rows, length, 1), torch.rand(num_rows, generator=generator), hidden


def test_the_number_of_parameters_with_llada_s_shape() -> None:
    D, E = 4096, 128
    time = (E * D + D) + (D * D + D)
    conditioning = 2 * (D * 2 * D + 2 * D)
    block = 4 * D * D + 3 * D * 12_288 + 2 * D
    assert num_parameters(replace(SMALL, time_embed_size=E, backbone=LLADA_8B)) == 302_575_617
    assert time + 2 * D + conditioning + block + 2 * 2 * D + (D + 1) == 302_575_617


def test_initial_commit_probabilities_are_near_the_configured_one() -> None:
    means = []
    for seed in range(30):
        with torch.no_grad():
            means.append(float(torch.sigmoid(make_network(SMALL, seed=seed)(*inputs(4, 16, seed=seed))).mean()))
    assert sum(means) / len(means) == pytest.approx(1 / (1 + math.exp(2)), abs=0.05)


def test_mask_block_and_time_have_no_influence_at_the_start() -> None:
    network = make_network(replace(SMALL, see_block=True), seed=0)
    masked, eligible, confidences, time, hidden = inputs(3, 12)
    base = network(masked, eligible, confidences, time, hidden)
    assert torch.equal(network(~masked, ~eligible & ~masked, confidences, 1 - time, hidden), base)
    assert not torch.equal(network(masked, eligible, confidences, time, -hidden), base)


@pytest.mark.parametrize(
    "config", [SMALL, replace(SMALL, num_blocks=2, see_block=True, time_embedding="legacy")], ids=["one", "two blocks"]
)
def test_the_forward_pass_agrees_with_the_published_equations(config: PolicyConfig) -> None:
    network = randomised(config)
    masked, eligible, confidences, time, hidden = inputs(3, 11)
    hidden, time = hidden.double(), time.double()
    w = network.state_dict()
    half = config.time_embed_size // 2
    frequency = 10_000.0 ** (-torch.arange(half, dtype=torch.float64) / half) * 1000
    angles = time.unsqueeze(1) * (torch.ones_like(frequency) if config.time_embedding == "legacy" else frequency)
    clock = torch.cat([angles.cos(), angles.sin()], 1)
    if config.time_embedding == "legacy":
        clock = clock.bfloat16().double()
    clock = clock @ w["time_mlp.0.weight"].T + w["time_mlp.0.bias"]
    clock = (clock * torch.sigmoid(clock)) @ w["time_mlp.2.weight"].T + w["time_mlp.2.bias"]
    state = masked.long() + (eligible.long() if config.see_block else 0)
    condition = w["mask_embedding.weight"][state] + clock.unsqueeze(1)
    x = hidden
    for i in range(config.num_blocks + 1):
        ada = condition @ w[f"ada_conditioning.{i}.weight"].T + w[f"ada_conditioning.{i}.bias"]
        centred = x - x.mean(-1, keepdim=True)
        x = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        x = x * w[f"norms.{i}.weight"] + w[f"norms.{i}.bias"]
        x = x * (1 + ada[..., :16]) + ada[..., 16:]
        if i < config.num_blocks:
            x = backbone_block(w, f"transformer_blocks.{i}", x, num_heads=2)
    expected = (x @ w["output_proj.weight"].T + w["output_proj.bias"]).squeeze(-1)
    got = network(masked, eligible, confidences, time, hidden)
    assert float(got.std()) > 0.05
    # Angles of the rotary and the time embedding are computed in float32.
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3 if config.time_embedding == "sinusoidal" else 1e-4)


def test_rows_do_not_influence_each_other_and_half_precision_inputs_are_taken() -> None:
    network = randomised(SMALL).float()
    masked, eligible, confidences, time, hidden = inputs(5, 9)
    together = network(masked, eligible, confidences, time, hidden.half())
    assert together.dtype == torch.float32
    for n in range(5):
        row = slice(n, n + 1)
        alone = network(masked[row], eligible[row], confidences[row], time[row], hidden[row].half().float())
        torch.testing.assert_close(alone[0], together[n], rtol=1e-4, atol=1e-4)


def test_positions_that_were_not_asked_for_make_no_nan() -> None:
    network = make_network(SMALL, seed=0)
    masked, eligible, confidences, time, hidden = inputs(2, 6)
    logits = network(masked, eligible, confidences, time, torch.zeros_like(hidden))
    logits.sum().backward()
    assert bool(torch.isfinite(logits).all())
    assert all(bool(torch.isfinite(p.grad).all()) for p in network.parameters() if p.grad is not None)


def test_it_needs_hidden_states_and_the_model_s_shape() -> None:
    with pytest.raises(AssertionError, match="hidden states"):
        make_network(SMALL, seed=0)(*inputs(2, 6)[:4])
    with pytest.raises(AssertionError, match="shape"):
        HiddenDiT(replace(SMALL, backbone=None))
