from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from policy.config import PolicyConfig
from policy.factory import make_network
from policy.networks.dit_confidence import ConfidenceDiT
from policy.networks.registry import num_parameters

PUBLISHED = PolicyConfig(confidence_features="raw", time_embedding="legacy")
SMALL = PolicyConfig(hidden_size=16, feed_forward_size=24, num_heads=2, time_embed_size=8)
Array = NDArray[np.float64]


def inputs(num_rows: int, length: int, num_confidences: int = 1, *, seed: int = 0) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(num_rows, length, generator=generator) < 0.6
    eligible = masked & (torch.rand(num_rows, length, generator=generator) < 0.6)
    confidences = torch.rand(num_rows, length, num_confidences, generator=generator).sort(2, descending=True).values
    return masked, eligible, confidences, torch.rand(num_rows, generator=generator)


def randomised(config: PolicyConfig, *, seed: int = 0) -> ConfidenceDiT:
    """Every parameter random, so that no term of the forward pass can hide behind a zero or a one."""
    network = make_network(config, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network


def test_the_published_size_has_the_published_number_of_parameters() -> None:
    assert num_parameters(PUBLISHED) == 331_265
    assert sum(p.numel() for p in ConfidenceDiT(PUBLISHED).parameters()) == 331_265
    assert num_parameters(replace(PUBLISHED, num_confidences=50)) == 331_265 + 6_272


def test_options_cost_what_they_should() -> None:
    assert num_parameters(replace(PUBLISHED, confidence_features="raw_and_log_odds")) == 331_265 + 128
    assert num_parameters(replace(PUBLISHED, see_block=True)) == 331_265 + 128
    assert num_parameters(replace(PUBLISHED, time_embedding="sinusoidal")) == 331_265


def test_parts_of_the_published_network_have_the_published_sizes() -> None:
    network = ConfidenceDiT(PUBLISHED)
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    assert sizes == {
        "time_mlp": 33_024, "confidence_proj": 256, "mask_embedding": 256,
        "transformer_blocks": 66_048 + 131_712 + 99_072 + 512, "final_norm": 256, "output_proj": 129,
    }  # fmt: skip


def test_tensor_names_are_those_of_the_reference_checkpoints() -> None:
    # algorithms.md, appendix A (without the prefix `base_policy.` and the constant `inv_freq`).
    block = [
        f"transformer_blocks.0.{name}"
        for name in (
            "q_proj", "k_proj", "v_proj", "out_proj", "linear1", "linear2", "ada_conditioning", "norm1", "norm2"
        )
    ]  # fmt: skip
    layers = ["time_mlp.0", "time_mlp.2", "confidence_proj", *block, "final_norm", "output_proj"]
    expected = {f"{layer}.{kind}" for layer in layers for kind in ("weight", "bias")} | {"mask_embedding.weight"}
    assert set(ConfidenceDiT(PUBLISHED).state_dict()) == expected


@pytest.mark.parametrize("initial_logit", [-2.0, 0.0])
def test_initial_commit_probabilities_are_near_the_configured_one(initial_logit: float) -> None:
    config = replace(PUBLISHED, initial_logit=initial_logit)
    with torch.no_grad():
        means = [
            float(torch.sigmoid(make_network(config, seed=seed)(*inputs(8, 32, seed=seed))).mean())
            for seed in range(40)
        ]
    expected = 1 / (1 + math.exp(-initial_logit))
    assert sum(means) / len(means) == pytest.approx(expected, abs=0.05)


@pytest.mark.parametrize("config", [PUBLISHED, replace(SMALL, see_block=True)])
def test_mask_block_and_time_have_no_influence_at_the_start(config: PolicyConfig) -> None:
    network = make_network(config, seed=0)
    masked, eligible, confidences, time = inputs(3, 12)
    base = network(masked, eligible, confidences, time)
    assert torch.equal(network(masked, eligible, confidences, 1 - time), base)
    everything = torch.ones_like(masked)
    assert torch.equal(network(everything, everything, confidences, time), base)
    assert torch.equal(network(~everything, ~everything, confidences, time), base)
    assert not torch.equal(network(masked, eligible, 1 - confidences, time), base)


@pytest.mark.parametrize("see_block", [False, True])
def test_a_trained_network_sees_mask_and_time_and_the_block_only_where_told_to(see_block: bool) -> None:
    network = randomised(replace(SMALL, see_block=see_block))
    masked, eligible, confidences, time = inputs(3, 12)
    confidences, time = confidences.double(), time.double()
    base = network(masked, eligible, confidences, time)
    assert not torch.allclose(network(masked, eligible, confidences, time / 2), base, atol=1e-6)
    assert not torch.allclose(network(~masked, ~masked, confidences, time), base, atol=1e-6)
    without_block = network(masked, torch.zeros_like(masked), confidences, time)
    assert torch.equal(without_block, base) != see_block


def naive_bfloat16(x: Array) -> Array:
    bits = x.astype(np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
    return rounded.astype(np.uint32).view(np.float32).astype(np.float64)


def naive_forward(network: ConfidenceDiT, masked: Tensor, eligible: Tensor, confidences: Tensor, time: Tensor) -> Array:
    """algorithms.md 2.1 on numpy, one row, one position and one head at a time."""
    config = network.config
    weights = {name: value.numpy().astype(np.float64) for name, value in network.state_dict().items()}
    H, heads = config.hidden_size, config.num_heads
    size = H // heads

    def linear(name: str, x: Array) -> Array:
        return weights[f"{name}.weight"] @ x + weights[f"{name}.bias"]

    def norm(name: str, x: Array) -> Array:
        centred = x - x.mean()
        return centred / np.sqrt((centred**2).mean() + 1e-5) * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def gelu(x: Array) -> Array:
        return np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x])

    def rope(x: Array, position: int) -> Array:
        angle = position * 10_000.0 ** (-2 * np.arange(size // 2) / size)
        x1, x2 = x[::2], x[1::2]
        return np.concatenate([x1 * np.cos(angle) - x2 * np.sin(angle), x1 * np.sin(angle) + x2 * np.cos(angle)])

    def embed(t: float) -> Array:
        half = config.time_embed_size // 2
        if config.time_embedding == "legacy":
            args = t * np.exp(-math.log(1) * np.arange(half) / half)
            return naive_bfloat16(np.concatenate([np.cos(args), np.sin(args)]))
        args = 1000 * t * np.exp(-math.log(10_000) * np.arange(half) / half)
        return np.concatenate([np.cos(args), np.sin(args)])

    def features(c: Array) -> Array:
        if config.confidence_features == "raw":
            return c
        clamped = np.clip(c, 1e-6, 1 - 1e-6)
        return np.concatenate([c, 0.25 * np.log(clamped / (1 - clamped))])

    def row(m: list[bool], e: list[bool], c: Array, t: float) -> Array:
        inner = linear("time_mlp.0", embed(t))
        clock = linear("time_mlp.2", inner / (1 + np.exp(-inner)))
        length = len(m)
        index = [int(a) + (int(b) if config.see_block else 0) for a, b in zip(m, e, strict=True)]
        condition = [weights["mask_embedding.weight"][i] + clock for i in index]
        x = [linear("confidence_proj", features(c[p])) for p in range(length)]
        for b in range(config.num_blocks):
            name = f"transformer_blocks.{b}"
            ada = [np.split(linear(f"{name}.ada_conditioning", condition[p]), 6) for p in range(length)]
            g1, b1, a1, g2, b2, a2 = ([ada[p][i] for p in range(length)] for i in range(6))
            h = [norm(f"{name}.norm1", x[p]) * (1 + g1[p]) + b1[p] for p in range(length)]
            q, k, v = ([linear(f"{name}.{kind}_proj", h[p]) for p in range(length)] for kind in "qkv")
            for p in range(length):
                attended = []
                for head in range(heads):
                    part = slice(head * size, (head + 1) * size)
                    scores = np.array([rope(q[p][part], p) @ rope(k[j][part], j) for j in range(length)])
                    weight = np.exp(scores / math.sqrt(size) - (scores / math.sqrt(size)).max())
                    attended.append(sum(w * v[j][part] for j, w in enumerate(weight / weight.sum())))
                x[p] = x[p] + (1 + a1[p]) * linear(f"{name}.out_proj", np.concatenate(attended))
            for p in range(length):
                inner = norm(f"{name}.norm2", x[p]) * (1 + g2[p]) + b2[p]
                x[p] = x[p] + (1 + a2[p]) * linear(f"{name}.linear2", gelu(linear(f"{name}.linear1", inner)))
        return np.array([linear("output_proj", norm("final_norm", x[p]))[0] for p in range(length)])

    return np.stack(
        [
            row(masked[n].tolist(), eligible[n].tolist(), confidences[n].numpy(), float(time[n]))
            for n in range(len(masked))
        ]
    )


@pytest.mark.parametrize(
    "config",
    [
        replace(SMALL, confidence_features="raw", time_embedding="legacy"),
        replace(SMALL, num_blocks=2, num_confidences=3),
        replace(SMALL, see_block=True, num_heads=4),
    ],
    ids=["published", "two blocks, K=3", "see_block"],
)
def test_the_forward_pass_agrees_with_the_published_equations(config: PolicyConfig) -> None:
    network = randomised(config)
    masked, eligible, confidences, time = inputs(3, 11, config.num_confidences)
    confidences, time = confidences.double(), time.double()
    confidences[0, 0, 0], confidences[0, 1, 0] = 1.0, 0.0
    with torch.no_grad():
        got = network(masked, eligible, confidences, time).numpy()
    expected = naive_forward(network, masked, eligible, confidences, time)
    assert got.std() > 0.05
    # Angles of the rotary and the time embedding are computed in float32.
    np.testing.assert_allclose(got, expected, atol=2e-4 if config.time_embedding == "sinusoidal" else 1e-5)


def test_log_odds_keep_confidences_apart_that_are_almost_one() -> None:
    network = randomised(SMALL).float()
    masked = torch.ones(1, 4, dtype=torch.bool)
    time = torch.zeros(1)

    @torch.no_grad()
    def logits(confidence: float) -> Tensor:
        return network(masked, masked, torch.full((1, 4, 1), confidence), time)

    assert float((logits(0.999) - logits(0.9999)).abs().max()) > 1e-3
    assert bool(torch.isfinite(logits(1.0)).all())
    assert bool(torch.isfinite(logits(0.0)).all())


def test_rows_do_not_influence_each_other() -> None:
    network = randomised(SMALL)
    masked, eligible, confidences, time = inputs(5, 9)
    confidences, time = confidences.double(), time.double()
    together = network(masked, eligible, confidences, time)
    for n in range(5):
        alone = network(masked[n : n + 1], eligible[n : n + 1], confidences[n : n + 1], time[n : n + 1])
        assert torch.allclose(alone[0], together[n], atol=1e-12)
