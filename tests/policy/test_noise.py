from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy.noise import Stream, row_key, uniforms

INT64 = st.integers(-(2**63), 2**63 - 1)
ROWS = st.lists(st.tuples(INT64, st.integers(0, 10_000)), min_size=1, max_size=6)

M64 = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15


def splitmix_finaliser(x: int) -> int:
    """The published mixer on Python integers (Steele et al., 2014)."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & M64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & M64
    return x ^ (x >> 31)


def draw(key: int, step: int, num_positions: int, stream: Stream = Stream.POLICY) -> torch.Tensor:
    return uniforms(torch.tensor([key]), torch.tensor([step]), num_positions, stream)[0]


@given(ROWS, st.integers(1, 40), st.randoms(use_true_random=False), st.sampled_from(list(Stream)))
def test_a_row_draws_the_same_noise_whatever_is_beside_it(
    rows: list[tuple[int, int]], length: int, random: object, stream: Stream
) -> None:
    alone = [draw(key, step, length, stream) for key, step in rows]
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    together = uniforms(
        torch.tensor([rows[i][0] for i in order]), torch.tensor([rows[i][1] for i in order]), length, stream
    )
    for place, i in enumerate(order):
        assert torch.equal(together[place], alone[i])


@given(INT64, st.integers(0, 1000), st.integers(1, 20), st.integers(1, 20))
def test_a_longer_canvas_only_appends_draws(key: int, step: int, short: int, more: int) -> None:
    assert torch.equal(draw(key, step, short + more)[:short], draw(key, step, short))


@given(INT64, st.integers(0, 1000), st.integers(0, 50), st.sampled_from(list(Stream)))
def test_draws_follow_the_chained_splitmix_formula(key: int, step: int, position: int, stream: Stream) -> None:
    row = splitmix_finaliser((splitmix_finaliser((key + GOLDEN * stream) & M64) + GOLDEN * (step + 1)) & M64)
    bits = splitmix_finaliser((row + GOLDEN * (position + 1)) & M64) >> 40
    value = float(draw(key, step, position + 1, stream)[position])
    assert value == pytest.approx((bits + 0.5) / 2**24, abs=2**-23)


@given(INT64, st.integers(0, 1000))
def test_keys_steps_positions_and_streams_all_change_the_noise(key: int, step: int) -> None:
    base = draw(key, step, 16)
    other_key = key - 1 if key == 2**63 - 1 else key + 1
    assert len(set(base.tolist())) >= 15
    for other in (draw(other_key, step, 16), draw(key, step + 1, 16), draw(key, step, 16, Stream.TOKEN)):
        assert (other == base).sum() <= 1
    # Neighbouring counters must not be shifted copies of one another.
    assert not torch.equal(draw(key, step + 1, 16)[:-1], base[1:])


def test_a_hundred_thousand_draws_look_uniform_and_uncorrelated() -> None:
    keys = torch.tensor([row_key(run_seed=0, example_id="e", sample_index=i, weight_version=0) for i in range(25)])
    steps = torch.arange(40)
    noise = uniforms(keys.repeat_interleave(40), steps.repeat(25), 100, Stream.POLICY).double()
    flat = noise.flatten()
    n = len(flat)
    assert n == 100_000
    # Five standard errors each.
    assert abs(flat.mean() - 0.5) < 5 * math.sqrt(1 / 12 / n)
    assert abs(flat.var() - 1 / 12) < 5 * math.sqrt(1 / 180 / n)
    ordered = flat.sort().values
    grid = torch.arange(1, n + 1, dtype=torch.float64) / n
    distance = torch.maximum((grid - ordered).abs(), (ordered - grid + 1 / n).abs()).max()
    assert distance < 2.0 / math.sqrt(n)  # P(KS > 2.0 / sqrt(n)) is about 7e-4 for truly uniform draws
    cube = noise.view(25, 40, 100) - 0.5
    for a, b in ((cube[1:], cube[:-1]), (cube[:, 1:], cube[:, :-1]), (cube[:, :, 1:], cube[:, :, :-1])):
        assert abs((a * b).mean() * 12) < 5 / math.sqrt(a.numel())
    tokens = uniforms(keys.repeat_interleave(40), steps.repeat(25), 100, Stream.TOKEN).double() - 0.5
    assert abs((tokens * (noise - 0.5)).mean() * 12) < 5 / math.sqrt(n)


@pytest.mark.parametrize(
    ("key", "step", "position", "stream"),
    [
        (-8658953232582116990, 0, 0, Stream.POLICY),  # all bits set: the largest number
        (-4872266870078642923, 3, 5, Stream.TOKEN),
        (8741965014242643702, 0, 0, Stream.POLICY),  # no bit set: the smallest
    ],
)
def test_the_interval_is_open_at_both_ends(key: int, step: int, position: int, stream: Stream) -> None:
    # These keys were found by inverting the mixer, so that they hit the extreme draws.
    extreme = draw(key, step, position + 1, stream)[position]
    assert extreme.dtype == torch.float32
    assert float(extreme) < 1e-6 or float(extreme) > 1 - 1e-6
    assert 0 < float(extreme) < 1


def test_a_row_key_is_the_same_in_every_process() -> None:
    """This one hashes strings with a seed of its own."""
    arguments = dict(run_seed=7, example_id="arithmetic/train/3", sample_index=2, weight_version=5)
    assert row_key(**arguments) == 5215162984523854703  # type: ignore[arg-type]


def test_every_argument_changes_the_row_key_and_keys_fit_int64() -> None:
    keys = {
        row_key(run_seed=seed, example_id=example, sample_index=sample, weight_version=version)
        for seed in (0, 1, 11)
        for example in ("a", "a/1", "1/a", "1")
        for sample in (0, 1, 11)
        for version in (0, 1, 11)
    }
    assert len(keys) == 3 * 4 * 3 * 3
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert min(keys) < 0 < max(keys)
