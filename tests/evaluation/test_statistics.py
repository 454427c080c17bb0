"""Intervals, paired tests and frontiers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evaluation.statistics import bootstrap, frontier, holm, hypervolume, sign_flip_p, wilson

POINTS = st.lists(st.tuples(st.floats(1, 48), st.floats(0, 1)), max_size=12)


@pytest.mark.parametrize(
    ("right", "num", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (50, 100, 0.4038, 0.5962),
        (0, 10, 0.0, 0.2775),
        (10, 10, 0.7225, 1.0),
        (1, 1, 0.2065, 1.0),
    ],
)
def test_wilson_against_published_values(right, num, low, high):
    got = wilson(right, num)
    assert (got.mean, got.low, got.high) == pytest.approx((right / num, low, high), abs=2e-4)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_wilson_holds_its_own_mean_at_the_ends(share):
    """Rounding must not push an end past the mean: matplotlib refuses negative error bars."""
    wrong = [num for num in range(1, 400) if not (i := wilson(share * num, num)).low <= i.mean <= i.high]
    assert not wrong


def test_wilson_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    rights = rng.binomial(80, 0.9, size=2000)
    covered = np.mean([(i := wilson(float(right), 80)).low <= 0.9 <= i.high for right in rights])
    assert 0.92 <= covered <= 0.98


def test_the_bootstrap_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    got = bootstrap(values)
    half = 1.96 * values.std() / 20
    assert got.mean == pytest.approx(values.mean())
    assert (got.low, got.high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.15 * half)
    assert got == bootstrap(values)


def test_the_bootstrap_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    intervals = [bootstrap(rng.exponential(1.0, size=60), seed=seed) for seed in range(120)]
    assert 0.86 <= np.mean([i.low <= 1.0 <= i.high for i in intervals]) <= 0.99


def test_the_sign_flip_test_is_exact_on_a_small_sample():
    """Of the 2^4 sign patterns of four equal differences two are as extreme as what was seen."""
    assert sign_flip_p(np.ones(4)) == pytest.approx(2 / 16, abs=0.01)
    assert sign_flip_p(np.zeros(5)) == 1.0
    assert sign_flip_p(-np.ones(40)) == pytest.approx(1e-4)


def test_the_sign_flip_test_rejects_as_often_as_it_says():
    rng = np.random.default_rng(4)
    p = np.array([sign_flip_p(rng.normal(size=30), seed=seed) for seed in range(150)])
    assert 0.01 <= np.mean(p <= 0.05) <= 0.12
    assert abs(p.mean() - 0.5) < 0.08


def test_holm_of_known_values():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_never_makes_a_value_smaller(values):
    adjusted = holm(values)
    assert all(
        value <= new <= min(1.0, len(values) * max(values)) + 1e-12 for value, new in zip(values, adjusted, strict=True)
    )
    by_value = [new for _, new in sorted(zip(values, adjusted, strict=True))]
    assert by_value == sorted(by_value)


@given(POINTS)
def test_no_point_beats_one_of_the_frontier(points):
    kept = frontier(points)
    assert kept == sorted(kept)
    assert all(not any(n <= nfe and a > accuracy for n, a in points) for nfe, accuracy in kept)
    assert all(any(n <= nfe and a >= accuracy for n, a in kept) for nfe, accuracy in points)


@given(POINTS, st.tuples(st.floats(1, 48), st.floats(0, 1)))
def test_the_hypervolume_is_a_share_that_no_point_lowers_and_none_dominated_raises(points, extra):
    volume = hypervolume(points, 48)
    assert -1e-12 <= volume <= 1 + 1e-12
    assert hypervolume([*points, extra], 48) >= volume - 1e-12
    assert hypervolume([*points, *((nfe, accuracy / 2) for nfe, accuracy in points)], 48) == pytest.approx(volume)


def test_the_hypervolume_of_known_corners():
    assert hypervolume([], 48) == 0
    assert hypervolume([(1, 1.0)], 48) == pytest.approx(1)
    assert hypervolume([(48, 1.0)], 48) == pytest.approx(0)
    half = math.sqrt(48)
    assert hypervolume([(half, 0.8)], 48) == pytest.approx(0.4)
    assert hypervolume([(1, 0.5), (half, 0.8)], 48) == pytest.approx(0.5 * 0.5 + 0.5 * 0.8)
    assert hypervolume([(1, 0.7)], 1) == 0.7
