"""How close decoding comes to what the device can do: floating-point operations of forward passes, and the peak of its matmuls.

Useful operations are those of live rows' real tokens: padding, rows that are done and positions that nobody asked for do not
count, whoever computes them. A multiplication and an addition are two operations.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from transformers import LlamaConfig, Qwen2Config

_MATMUL_SIZES = {"cpu": (512, 1024, 2048), "cuda": (4096, 8192, 16384)}
_SECONDS_PER_SIZE = 0.3


@dataclass(frozen=True, slots=True)
class RowForward:
    """One live row of one forward pass."""

    num_tokens: int
    """Real tokens: prompt and canvas."""
    num_wanted: int
    """Positions whose prediction was asked for."""


def forward_flops(config: LlamaConfig | Qwen2Config, rows: Iterable[RowForward]) -> float:
    """Operations of the transformer blocks over all real tokens, and of the head over the wanted positions.

    Of the last block, what is no key and no value counts for the wanted positions only.
    """
    D, F, heads = config.hidden_size, config.intermediate_size, config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or D // heads
    q_size, kv_size = heads * head_size, (config.num_key_value_heads or heads) * head_size
    per_token, per_query = 4 * D * kv_size, 2 * (2 * D * q_size + 3 * D * F)
    per_pair, per_logits = 4 * q_size, 2.0 * D * config.vocab_size
    num_blocks = config.num_hidden_layers
    total = 0.0
    for row in rows:
        num_queries = (num_blocks - 1) * row.num_tokens + row.num_wanted
        total += num_blocks * per_token * row.num_tokens + num_queries * (per_query + per_pair * row.num_tokens)
        total += per_logits * row.num_wanted
    return total


def measure_matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of the fastest square matrix product on the device, measured now."""
    return max(_matmul_rate(size, device, dtype) for size in _MATMUL_SIZES.get(device.type, _MATMUL_SIZES["cpu"]))


def _matmul_rate(size: int, device: torch.device, dtype: torch.dtype) -> float:
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = a @ b
    synchronise(device)
    best, spent = 0.0, 0.0
    while spent < _SECONDS_PER_SIZE:
        started = time.perf_counter()
        torch.matmul(a, b, out=out)
        synchronise(device)
        seconds = time.perf_counter() - started
        best, spent = max(best, 2.0 * size**3 / seconds), spent + seconds
    return best


def synchronise(device: torch.device) -> None:
    """Waits until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
