"""Intervals, paired tests and frontiers. Intervals are 95%: Wilson's for shares, percentile bootstrap over examples for the rest.

All draws are from generators with fixed seeds, so the same records give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_Z = 1.959964
_NUM_RESAMPLES = 2000
_NUM_FLIPS = 9999


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95% interval."""

    mean: float
    low: float
    high: float


def wilson(num_right: float, num: int) -> Interval:
    """Wilson's interval of a proportion."""
    share, z2 = num_right / num, _Z**2
    centre = (share + z2 / (2 * num)) / (1 + z2 / num)
    half = _Z / (1 + z2 / num) * np.sqrt(share * (1 - share) / num + z2 / (4 * num**2))
    # Rounding must not push the interval past its own mean.
    return Interval(share, min(share, max(0.0, float(centre - half))), max(share, min(1.0, float(centre + half))))


def bootstrap(values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """Percentile bootstrap of a mean over examples."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(_NUM_RESAMPLES, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high))


def sign_flip_p(differences: NDArray[np.float64], *, seed: int = 0) -> float:
    """Two-sided p-value of a paired permutation test that the mean difference is 0: signs are flipped at random.

    The observed signs count as one permutation, so the smallest value is 1 / 10,000 (Phipson and Smyth, 2010).
    """
    observed = abs(float(differences.mean()))
    signs = np.random.default_rng(seed).integers(0, 2, size=(_NUM_FLIPS, len(differences)), dtype=np.int8)
    # A flipped mean is the mean less twice what was flipped; equal ones must not differ by rounding.
    means = np.abs(differences.mean() - 2.0 * (signs @ differences) / len(differences))
    return float((1 + np.count_nonzero(means >= observed - 1e-12)) / (_NUM_FLIPS + 1))


def holm(values: Sequence[float]) -> list[float]:
    """p-values of several tests, adjusted so that the chance of any false rejection is bounded (Holm, 1979)."""
    adjusted = [0.0] * len(values)
    largest = 0.0
    for rank, number in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[number]))
        adjusted[number] = largest
    return adjusted


def frontier(points: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
    """The (NFE, accuracy) points that no other one beats in both, by NFE."""
    kept: list[tuple[float, float]] = []
    for nfe, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not kept or accuracy > kept[-1][1]:
            kept.append((nfe, accuracy))
    return kept


def hypervolume(points: Iterable[tuple[float, float]], canvas_length: int) -> float:
    """Share of the rectangle log NFE in [0, log L] x accuracy in [0, 1] that some point dominates.

    1 is a perfect sampler with one pass; the reference point is accuracy 0 at L passes.
    """
    if canvas_length == 1:
        return max((accuracy for _, accuracy in points), default=0.0)
    limit = math.log(canvas_length)
    steps = frontier(point for point in points if point[0] <= canvas_length)
    ends = [*(math.log(max(1.0, nfe)) for nfe, _ in steps), limit]
    return sum((ends[i + 1] - ends[i]) / limit * max(0.0, accuracy) for i, (_, accuracy) in enumerate(steps))
