from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy.networks.layers import AdaptiveBlock, attend, rotate, rotations, time_embedding


def bfloat16(value: float) -> float:
    """Round to nearest even on the upper 16 bits of a float32, by hand."""
    (bits,) = torch.tensor([value], dtype=torch.float32).view(torch.int32).tolist()
    bits = (bits + 0x7FFF + (bits >> 16 & 1)) & ~0xFFFF
    return torch.tensor([bits], dtype=torch.int64).to(torch.int32).view(torch.float32).item()


@pytest.mark.parametrize("time", [0.0, 1 / 256, 0.1, 0.5, 100 / 256, 1.0])
def test_the_legacy_embedding_is_one_cosine_and_one_sine_rounded_to_bfloat16(time: float) -> None:
    embedding = time_embedding(torch.tensor([time]), 8, legacy=True)
    assert embedding.shape == (1, 1, 8)
    assert embedding.dtype == torch.float32
    cos, sin = bfloat16(math.cos(time)), bfloat16(math.sin(time))
    assert embedding.flatten().tolist() == [cos] * 4 + [sin] * 4


def test_legacy_values_known_from_the_format() -> None:
    # bfloat16 has 8 significant bits: cos(0.5) = 0.87758 -> 225/256, sin(0.5) = 0.47943 -> 245/512, cos(1/256) -> 1.
    half, small = time_embedding(torch.tensor([0.5, 1 / 256]), 2, legacy=True).squeeze(1).tolist()
    assert half == [225 / 256, 245 / 512]
    assert small == [1.0, 1 / 256]


def test_the_default_embedding_has_period_ten_thousand_over_a_thousand_times_the_time() -> None:
    time = torch.tensor([0.0, 0.3, 1.0])
    embedding = time_embedding(time, 6, legacy=False).squeeze(1)
    for t, row in zip([0.0, 0.3, 1.0], embedding.tolist(), strict=True):
        angles = [1000 * t * 10_000 ** (-j / 3) for j in range(3)]
        assert row == pytest.approx([math.cos(a) for a in angles] + [math.sin(a) for a in angles], abs=2e-4)


def test_the_default_embedding_tells_neighbouring_steps_of_a_long_canvas_apart() -> None:
    time = torch.arange(256) / 256
    assert len(time_embedding(time, 64, legacy=False).squeeze(1).unique(dim=0)) == 256
    assert len(time_embedding(time, 64, legacy=True).squeeze(1).unique(dim=0)) <= 256


def naive_rotate(x: list[float], position: int) -> list[float]:
    size = len(x)
    turned = []
    for j in range(size // 2):
        angle = position * 10_000.0 ** (-2 * j / size)
        turned.append(x[2 * j] * math.cos(angle) - x[2 * j + 1] * math.sin(angle))
        turned.append(x[2 * j] * math.sin(angle) + x[2 * j + 1] * math.cos(angle))
    return turned


def rotated(x_LD: torch.Tensor) -> torch.Tensor:
    return rotate(x_LD, rotations(*x_LD.shape, x_LD.dtype, x_LD.device))


def test_rotation_turns_pairs_of_even_and_odd() -> None:
    x = torch.randn(20, 8, generator=torch.Generator().manual_seed(0))
    got = rotated(x)
    for position in range(20):
        assert got[position].tolist() == pytest.approx(naive_rotate(x[position].tolist(), position), abs=1e-5)


@given(st.integers(0, 1000), st.integers(1, 30))
def test_scores_depend_on_the_distance_of_positions_alone(seed: int, shift: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    query, key = torch.randn(2, 8, generator=generator, dtype=torch.float64)
    length = 40
    rotated_query = rotated(query.expand(length, 8))
    rotated_key = rotated(key.expand(length, 8))
    score = rotated_query @ rotated_key.T
    assert torch.allclose(score[shift:, shift:], score[:-shift, :-shift], atol=1e-4)
    assert torch.allclose(score.diagonal(), (query @ key).expand(length), atol=1e-4)
    # ... and on the distance they do depend.
    assert float((score[0] - score[0, 0]).abs().max()) > 1e-3


def self_attention(block: AdaptiveBlock, h: torch.Tensor) -> torch.Tensor:
    return block.out_proj(attend(block.q_proj(h), block.k_proj(h), block.v_proj(h), num_heads=block.num_heads))


def test_a_zeroed_conditioning_leaves_a_standard_pre_norm_block() -> None:
    torch.manual_seed(0)
    block = AdaptiveBlock(8, 16, 2)
    torch.nn.init.zeros_(block.ada_conditioning.weight)
    torch.nn.init.zeros_(block.ada_conditioning.bias)
    x, condition, state = torch.randn(2, 5, 8), torch.randn(2, 3, 8), torch.randint(3, (2, 5))
    middle = x + self_attention(block, block.norm1(x))
    hidden = torch.nn.functional.gelu(block.linear1(block.norm2(middle)))
    assert torch.equal(block(x, condition, state), middle + block.linear2(hidden))
    assert not torch.equal(block(x, condition, state), x)


def test_each_position_is_conditioned_on_its_own_rows_state() -> None:
    torch.manual_seed(0)
    block = AdaptiveBlock(8, 16, 2).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    condition, state = torch.randn(3, 2, 8, dtype=torch.float64), torch.randint(2, (3, 5))
    ada = torch.stack([block.ada_conditioning(condition[row, state[row]]) for row in range(3)])
    scale1, shift1, gate1, scale2, shift2, gate2 = ada.chunk(6, -1)
    middle = x + (1 + gate1) * self_attention(block, block.norm1(x) * (1 + scale1) + shift1)
    hidden = torch.nn.functional.gelu(block.linear1(block.norm2(middle) * (1 + scale2) + shift2))
    torch.testing.assert_close(block(x, condition, state), middle + (1 + gate2) * block.linear2(hidden))
