"""Seconds of things that take turns, the first turn being the warm-up of each.

A machine's speed drifts from second to second, so two sides are held against each other within a turn, where they ran one after the
other, and the median is that of these ratios.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from evaluation.roofline import synchronise


class Timer:
    """Appends the seconds spent in its context, the device's queued work included."""

    def __init__(self, device: torch.device, times: list[float]) -> None:
        self._device = device
        self._times = times

    def __enter__(self) -> None:
        synchronise(self._device)
        self._started = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        synchronise(self._device)
        self._times.append(time.perf_counter() - self._started)


def typical(times: Sequence[float]) -> float:
    """The median turn."""
    return statistics.median(times[1:])


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Of each turn but the warm-up."""
    return [one / other for one, other in zip(above[1:], below[1:], strict=True)]


def relative_spread(values: Sequence[float]) -> float:
    """(largest - smallest) / median."""
    return (max(values) - min(values)) / statistics.median(values)
