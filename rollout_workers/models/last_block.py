"""The last transformer block of a backbone, computed for the tokens whose output is used.

Its keys and values need every token; its queries, its projections and its feed-forward layer only those that predict something. The
result is exact, and what is saved is most of one block: half of the work of a small model with two.

Shapes: `B` rows, `S` tokens, `D` hidden size, `N` tokens whose output is used, `Q` most of them in one row, `H` heads of size `d`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import eager_attention_forward, rotate_half

from policy.used_positions import UsedPositions


def make_last_block(layer: nn.Module) -> None:
    """Teaches a decoder layer of Llama or Qwen2 to take `used`; nothing else of it changes."""
    kind = type(layer)
    if not issubclass(kind, _LastBlock):
        layer.__class__ = type(f"Last{kind.__name__}", (_LastBlock, kind), {})


class _LastBlock(nn.Module):
    """In front of a decoder layer's class: with `used` it returns `[1, N, D]` instead of `[B, S, D]`."""

    self_attn: Any
    mlp: nn.Module
    input_layernorm: nn.Module
    post_attention_layernorm: nn.Module

    def forward(
        self,
        hidden_states: Tensor,
        *,
        used: UsedPositions | None = None,
        attention_mask: Tensor | None = None,
        position_embeddings: tuple[Tensor, Tensor],
        past_key_values: Any = None,
        **options: Any,
    ) -> Tensor:
        if used is None:
            out: Tensor = super().forward(
                hidden_states,
                attention_mask=attention_mask,
                position_embeddings=position_embeddings,
                past_key_values=past_key_values,
                **options,
            )
            return out
        attention = self.self_attn
        B, S, _ = hidden_states.shape
        cos_BSd, sin_BSd = (each.expand(B, -1, -1) for each in position_embeddings)
        normed_BSD = self.input_layernorm(hidden_states)

        def heads(projected: Tensor) -> Tensor:
            return projected.unflatten(-1, (projected.shape[-1] // attention.head_dim, attention.head_dim))

        keys_BSHd = _rotated(heads(attention.k_proj(normed_BSD)), cos_BSd, sin_BSd)
        keys, values = keys_BSHd.transpose(1, 2), heads(attention.v_proj(normed_BSD)).transpose(1, 2)
        if past_key_values is not None:
            keys, values = past_key_values.update(keys, values, attention.layer_idx)
        if not len(used):
            return hidden_states.new_zeros(1, 0, hidden_states.shape[2])
        query_NHd = _rotated(heads(attention.q_proj(used.of(normed_BSD))), used.of(cos_BSd), used.of(sin_BSd))
        query_BQHd = heads(used.laid_out(query_NHd.flatten(1)))
        if attention_mask is None and options.get("is_causal", attention.is_causal):
            attention_mask = torch.ones(S, S, dtype=torch.bool, device=keys.device).tril()[None, None]
        if attention_mask is not None:
            # Of every query its own line of the mask.
            row_B1 = torch.arange(B, device=hidden_states.device).unsqueeze(1)
            attention_mask = attention_mask.expand(B, -1, S, -1)[row_B1, :, used.positions()].transpose(1, 2)
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
        out_BQHd, _ = attend(
            attention,
            query_BQHd.transpose(1, 2),
            keys,
            values,
            attention_mask,
            dropout=0.0,
            scaling=attention.scaling,
            is_causal=False,
        )
        x_ND = used.of(hidden_states) + attention.o_proj(used.flat(out_BQHd.flatten(2)))
        x_ND = x_ND + self.mlp(self.post_attention_layernorm(x_ND))
        return x_ND.unsqueeze(0)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """`[..., H, d]` by angles `[..., d]`."""
    rotated: Tensor = x * cos.unsqueeze(-2) + rotate_half(x) * sin.unsqueeze(-2)
    return rotated
