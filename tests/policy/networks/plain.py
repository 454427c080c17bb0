"""Independent forward passes in float64 on plain tensors, and networks on which no term can hide."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from policy.config import BackboneShape, PolicyConfig
from policy.factory import make_network
from policy.networks.base import PolicyNetwork

LLADA_8B = BackboneShape(hidden_size=4096, num_heads=32, feed_forward_size=12_288)


def randomised(config: PolicyConfig, *, spread: float = 0.4, seed: int = 0) -> PolicyNetwork:
    """Every parameter random, so that no term of the forward pass can hide behind a zero or a one."""
    network = make_network(config, seed=seed).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(spread * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return network.requires_grad_(False)


def attention(q: Tensor, k: Tensor, v: Tensor, *, num_heads: int) -> Tensor:
    """Bidirectional attention of `[N, L, H]` with rotary pairs (even, odd), head by head."""
    N, L, H = q.shape
    size = H // num_heads
    angle = torch.arange(L, dtype=torch.float64).unsqueeze(1) * 10_000.0 ** (-torch.arange(0, size, 2).double() / size)

    def rope(x: Tensor) -> Tensor:
        pair = torch.view_as_complex(x.reshape(N, L, size // 2, 2).contiguous())
        turned = pair * torch.polar(torch.ones_like(angle), angle)
        return torch.cat([turned.real, turned.imag], -1)

    out = []
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        scores = rope(q[..., part]) @ rope(k[..., part]).mT / size**0.5
        out.append(scores.softmax(-1) @ v[..., part])
    return torch.cat(out, -1)


def backbone_block(w: Mapping[str, Tensor], name: str, x: Tensor, *, num_heads: int) -> Tensor:
    """Llama's block."""

    def norm(kind: str, x: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.{kind}_norm.weight"]

    def linear(kind: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.{kind}_proj.weight"].T

    h = norm("attention", x)
    x = x + linear("out", attention(linear("q", h), linear("k", h), linear("v", h), num_heads=num_heads))
    h = norm("feed_forward", x)
    gate = linear("gate", h)
    return x + linear("down", gate * torch.sigmoid(gate) * linear("up", h))
