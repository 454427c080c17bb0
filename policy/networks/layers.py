"""Building blocks of the policies of arXiv 2512.09106: time embedding, rotary attention and the adaptive block.

A position's condition depends on its state alone (`position_states`), so layers over conditions run once per state.

Shapes: `N` rows or packed steps, `L` positions, `H` hidden size, `E` time embedding size, `S` states of a position.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ROPE_BASE = 10_000.0
TIME_SCALE = 1_000.0


def time_embedding(time_N: Tensor, size: int, *, legacy: bool) -> Tensor:
    """`[N, 1, E]` cosines then sines of the time.

    The reference release uses period 1, where every frequency is 1, and rounds to bfloat16: `legacy` reproduces both.
    """
    half = size // 2
    if legacy:
        angles_NE = time_N.unsqueeze(1).expand(-1, half)
    else:
        frequency_E = torch.exp(-math.log(ROPE_BASE) * torch.arange(half, device=time_N.device) / half)
        angles_NE = time_N.unsqueeze(1) * TIME_SCALE * frequency_E
    embedding_NE = torch.cat([angles_NE.cos(), angles_NE.sin()], 1)
    if legacy:
        embedding_NE = embedding_NE.to(torch.bfloat16).to(time_N.dtype)
    return embedding_NE.unsqueeze(1)


def rotate(x: Tensor) -> Tensor:
    """Rotary embedding of `[N, heads, L, D]`: pairs are (even, odd), results are the two halves, as in the reference release."""
    cos, sin = _rotations(x.shape[-2], x.shape[-1], x.dtype, x.device)
    even, odd = x[..., ::2], x[..., 1::2]
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], -1)


@functools.lru_cache(maxsize=16)
def _rotations(length: int, size: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines `[L, D / 2]`."""
    inverse_frequency = ROPE_BASE ** (-torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    angles_LD = torch.outer(torch.arange(length, device=device, dtype=torch.float32), inverse_frequency)
    return angles_LD.cos().to(dtype), angles_LD.sin().to(dtype)


def attend(query_NLH: Tensor, key_NLH: Tensor, value_NLH: Tensor, *, num_heads: int) -> Tensor:
    """`[N, L, H]` bidirectional rotary attention of projected inputs."""
    N, L, H = query_NLH.shape

    def heads(projected: Tensor) -> Tensor:
        return projected.view(N, L, num_heads, H // num_heads).transpose(1, 2)

    query, key = rotate(heads(query_NLH)), rotate(heads(key_NLH))
    out = F.scaled_dot_product_attention(query, key, heads(value_NLH))
    return out.transpose(1, 2).reshape(N, L, H)


def position_states(masked_NL: Tensor, eligible_NL: Tensor, *, see_block: bool) -> Tensor:
    """`[N, L]` int64: 0 committed, 1 masked; with `see_block` 2 for those that are eligible too."""
    state_NL = masked_NL.long()
    return state_NL + eligible_NL.long() if see_block else state_NL


def per_position(of_state_NSC: Tensor, state_NL: Tensor) -> Tensor:
    """`[N, L, C]` each position's vector, out of one per state of its row."""
    rows_NL = state_NL + torch.arange(len(state_NL), device=state_NL.device).unsqueeze(1) * of_state_NSC.shape[1]
    return F.embedding(rows_NL, of_state_NSC.flatten(0, 1))


class AdaptiveBlock(nn.Module):
    """A pre-norm transformer block whose norms and gates are shifted by a per-position condition.

    Gates are 1 + alpha, so with a zeroed `ada_conditioning` it is a standard bidirectional block.
    """

    def __init__(self, hidden_size: int, feed_forward_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.out_proj = nn.Linear(hidden_size, hidden_size)
        self.linear1 = nn.Linear(hidden_size, feed_forward_size)
        self.linear2 = nn.Linear(feed_forward_size, hidden_size)
        self.ada_conditioning = nn.Linear(hidden_size, 6 * hidden_size)
        self.norm1 = nn.LayerNorm(hidden_size)
        self.norm2 = nn.LayerNorm(hidden_size)

    def forward(self, x_NLH: Tensor, condition_NSH: Tensor, state_NL: Tensor) -> Tensor:
        """`condition_NSH` has one condition per state; `state_NL` names the state of each position."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.ada_conditioning(condition_NSH).chunk(6, -1)
        # Once per state, not once per position.
        ada_NSC = torch.cat([1 + scale1, shift1, 1 + gate1, 1 + scale2, shift2, 1 + gate2], -1)
        scale1, shift1, gate1, scale2, shift2, gate2 = per_position(ada_NSC, state_NL).chunk(6, -1)
        attended = self._attention(torch.addcmul(shift1, self.norm1(x_NLH), scale1))
        x_NLH = torch.addcmul(x_NLH, gate1, attended)
        fed = self.linear2(F.gelu(self.linear1(torch.addcmul(shift2, self.norm2(x_NLH), scale2))))
        return torch.addcmul(x_NLH, gate2, fed)

    def _attention(self, h_NLH: Tensor) -> Tensor:
        attended_NLH = attend(self.q_proj(h_NLH), self.k_proj(h_NLH), self.v_proj(h_NLH), num_heads=self.num_heads)
        projected_NLH: Tensor = self.out_proj(attended_NLH)
        return projected_NLH
