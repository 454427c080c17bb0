"""The transformer block of today's language models, bidirectional, as policies over hidden states use it.

Root-mean-square norms, rotary attention without biases and a gated feed-forward layer (LLaDA's and Llama's block). Of a model with
grouped keys, attention biases or another rotary base it is a plain relative: its weights start at random and are never the model's.

Shapes: `N` rows or packed steps, `L` positions, `M` used positions of all rows, `D` hidden size.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from policy.config import BackboneShape
from policy.networks.layers import attend
from policy.used_positions import UsedPositions

NORM_EPS = 1e-5


class BackboneBlock(nn.Module):
    """Pre-norm attention and feed-forward, each added to its input; every position attends to every position."""

    def __init__(self, shape: BackboneShape) -> None:
        super().__init__()
        D, inner = shape.hidden_size, shape.feed_forward_size
        self.num_heads = shape.num_heads
        self.attention_norm = nn.RMSNorm(D, eps=NORM_EPS)
        self.q_proj = nn.Linear(D, D, bias=False)
        self.k_proj = nn.Linear(D, D, bias=False)
        self.v_proj = nn.Linear(D, D, bias=False)
        self.out_proj = nn.Linear(D, D, bias=False)
        self.feed_forward_norm = nn.RMSNorm(D, eps=NORM_EPS)
        self.gate_proj = nn.Linear(D, inner, bias=False)
        self.up_proj = nn.Linear(D, inner, bias=False)
        self.down_proj = nn.Linear(inner, D, bias=False)

    def forward(self, x_NLD: Tensor, used: UsedPositions | None = None) -> Tensor:
        """`[N, L, D]`, or `[M, D]` of the used positions."""
        h_NLD = self.attention_norm(x_NLD)
        key_NLD, value_NLD = self.k_proj(h_NLD), self.v_proj(h_NLD)
        x, h = (x_NLD, h_NLD) if used is None else (used.of(x_NLD), used.of(h_NLD))
        x = x + self.out_proj(attend(self.q_proj(h), key_NLD, value_NLD, num_heads=self.num_heads, used=used))
        h = self.feed_forward_norm(x)
        out: Tensor = x + self.down_proj(F.silu(self.gate_proj(h)) * self.up_proj(h))
        return out
