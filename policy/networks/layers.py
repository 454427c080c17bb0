"""Building blocks of the policies of arXiv 2512.09106: time embedding, rotary attention and the adaptive block.

A position's condition depends on its state alone (`position_states`), so layers over conditions run once per state.

Shapes: `N` rows or packed steps, `L` positions, `M` used ones of all rows, `H` hidden size, `E` time embedding size, `S` states of
a position.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policy.distinct_positions import DistinctPositions, row_states
from policy.used_positions import UsedPositions

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
        angles_NE = time_N.unsqueeze(1) * TIME_SCALE * _frequencies(half, time_N.device)
    embedding_NE = torch.cat([angles_NE.cos(), angles_NE.sin()], 1)
    if legacy:
        embedding_NE = embedding_NE.to(torch.bfloat16).to(time_N.dtype)
    return embedding_NE.unsqueeze(1)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def _frequencies(num: int, device: torch.device) -> Tensor:
    """`[num]`, from 1 down. Kept, so not made in inference mode: there gradients could not flow past it later."""
    return torch.exp(-math.log(ROPE_BASE) * torch.arange(num, device=device) / num)


def rotate(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary embedding of `[..., D]` by unit complex numbers `[..., D / 2]`, in place of each (even, odd) pair.

    The reference release moves the results into two halves, queries and keys alike, which changes no score.
    """
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * turn).flatten(-2)


@functools.lru_cache(maxsize=16)
@torch.inference_mode(False)
def rotations(length: int, size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Unit complex numbers `[L, D / 2]`, kept as `_frequencies` are."""
    inverse_frequency = ROPE_BASE ** (-torch.arange(0, size, 2, device=device, dtype=torch.float32) / size)
    angles_LD = torch.outer(torch.arange(length, device=device, dtype=torch.float32), inverse_frequency)
    return torch.complex(angles_LD.cos().to(dtype), angles_LD.sin().to(dtype))


def attend(
    query: Tensor, key_NLH: Tensor, value_NLH: Tensor, *, num_heads: int, used: UsedPositions | None = None
) -> Tensor:
    """Bidirectional rotary attention of projected inputs: `[N, L, H]`, or `[M, H]` of queries at the used positions."""
    _, L, H = key_NLH.shape
    split = (num_heads, H // num_heads)
    turn_L1D = rotations(L, split[1], key_NLH.dtype, key_NLH.device).unsqueeze(1)
    query = rotate(query.unflatten(-1, split), turn_L1D if used is None else turn_L1D[used.position_N])
    query_NQhD = query if used is None else used.laid_out(query.flatten(1)).unflatten(-1, split)
    key_NLhD, value_NLhD = rotate(key_NLH.unflatten(-1, split), turn_L1D), value_NLH.unflatten(-1, split)
    query, key, value = (each.transpose(1, 2) for each in (query_NQhD, key_NLhD, value_NLhD))
    out_NQH = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return out_NQH if used is None else used.flat(out_NQH)


def position_states(masked_NL: Tensor, eligible_NL: Tensor, *, see_block: bool) -> Tensor:
    """`[N, L]` int64: 0 committed, 1 masked; with `see_block` 2 for those that are eligible too."""
    state_NL = masked_NL.long()
    return state_NL + eligible_NL.long() if see_block else state_NL


def per_position(of_state_NSC: Tensor, state_NL: Tensor, used: UsedPositions | None = None) -> Tensor:
    """Each position's vector, `[N, L, C]`, or `[M, C]` of the used ones, out of one per state of its row."""
    rows_NL = row_states(state_NL, of_state_NSC.shape[1])
    return F.embedding(rows_NL if used is None else used.of(rows_NL), of_state_NSC.flatten(0, 1))


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

    def forward(
        self,
        x: Tensor,
        condition_NSH: Tensor,
        state_NL: Tensor,
        used: UsedPositions | None = None,
        distinct: DistinctPositions | None = None,
    ) -> Tensor:
        """`[N, L, H]`, or `[M, H]` of the used positions.

        `condition_NSH` has one condition per state; `state_NL` names the state of each position. `x` is `[N, L, H]`, or `[P, H]`
        with `distinct` positions, and then `used` says which.
        """
        # Once per state, not once per position.
        scale1, shift1, gate1, scale2, shift2, gate2 = self.ada_conditioning(condition_NSH).chunk(6, -1)
        ahead_NSC = torch.cat([1 + scale1, shift1], -1)
        behind_NSC = torch.cat([1 + gate1, 1 + scale2, shift2, 1 + gate2], -1)
        if distinct is None:
            scale1, shift1 = per_position(ahead_NSC, state_NL).chunk(2, -1)
        else:
            scale1, shift1 = F.embedding(distinct.state_P, ahead_NSC.flatten(0, 1)).chunk(2, -1)
        gate1, scale2, shift2, gate2 = per_position(behind_NSC, state_NL, used).chunk(4, -1)
        h = torch.addcmul(shift1, self.norm1(x), scale1)
        key, value = self.k_proj(h), self.v_proj(h)
        if distinct is not None:
            assert used is not None
            key, value = distinct.everywhere(key), distinct.everywhere(value)
            x, h = distinct.at(used, x, h)
        elif used is not None:
            x, h = used.of(x), used.of(h)
        attended = attend(self.q_proj(h), key, value, num_heads=self.num_heads, used=used)
        x = torch.addcmul(x, gate1, self.out_proj(attended))
        fed = self.linear2(F.gelu(self.linear1(torch.addcmul(shift2, self.norm2(x), scale2))))
        return torch.addcmul(x, gate2, fed)
