"""Counter-based uniform noise: a pure function of (row key, step, position), never of batch, order or device state.

A row's key names the run seed, example, sample and weight version (`row_key`), so the same row draws the same noise wherever and
beside whomever it is decoded. The mixer is the finaliser of SplitMix64 (Steele et al., 2014), applied once per counter word.

Shapes: `B` rows, `L` positions.
"""

from __future__ import annotations

import functools
import hashlib
from enum import IntEnum

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15 - (1 << 64)
_MIX_1 = 0xBF58476D1CE4E5B9 - (1 << 64)
_MIX_2 = 0x94D049BB133111EB - (1 << 64)
_UNIFORM_BITS = 23
"""With half a unit added every value is exact in float32, so neither 0 nor 1 can come out."""


class Stream(IntEnum):
    """What the noise is for; streams of one row are independent."""

    POLICY = 1
    TOKEN = 2


def row_key(*, run_seed: int, example_id: str, sample_index: int, weight_version: int) -> int:
    """A signed 64-bit key of one row."""
    name = f"{run_seed}/{example_id}/{sample_index}/{weight_version}"
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little", signed=True)


def _shift_right(x: Tensor, bits: int) -> Tensor:
    """Logical shift: int64 shifts are arithmetic, so the copied sign bits are masked off."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


@functools.lru_cache(maxsize=16)
def _golden(device: torch.device) -> Tensor:
    """A tensor, so that products wrap instead of overflowing; kept, because making one waits for the device."""
    return torch.tensor(_GOLDEN, device=device)


@functools.lru_cache(maxsize=16)
def _position_words(num: int, device: torch.device) -> Tensor:
    """`[num]` int64, the part of the counter that names the position."""
    return _golden(device) * (torch.arange(num, device=device) + 1)


def uniforms(keys_B: Tensor, steps_B: Tensor, num_positions: int, stream: Stream) -> Tensor:
    """Uniform float32 noise in the open interval (0, 1).

    Args:
        keys_B: int64 row keys.
        steps_B: int64 forward passes that each row has been charged so far.
        num_positions: L.
        stream: which independent stream.

    Returns:
        `[B, L]` float32, a multiple of 2**-23 plus half of one.
    """
    golden = _golden(keys_B.device)
    row_B = _mix(_mix(keys_B + golden * int(stream)) + golden * (steps_B + 1))
    position_L = _position_words(num_positions, keys_B.device)
    bits_BL = _shift_right(_mix(row_B.unsqueeze(1) + position_L), 64 - _UNIFORM_BITS)
    return (bits_BL.float() + 0.5).mul_(2.0**-_UNIFORM_BITS)
