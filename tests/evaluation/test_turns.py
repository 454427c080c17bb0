"""Medians over turns: of times, and of ratios within each turn."""

from __future__ import annotations

import statistics

import pytest
import torch

from evaluation.turns import Timer, ratios, relative_spread, typical

WARM_UP = 99.0


def test_the_warm_up_counts_for_nothing() -> None:
    assert typical([WARM_UP, 1.0, 5.0, 2.0]) == 2.0
    assert ratios([WARM_UP, 2.0, 9.0], [WARM_UP, 1.0, 3.0]) == [2.0, 3.0]


def test_a_machine_that_slows_down_between_turns_leaves_the_ratio_alone() -> None:
    speed = [1.0, 1.0, 4.0, 0.5, 3.0]
    ours, theirs = [2.0 * each for each in speed], [3.0 * each for each in speed]
    within = ratios(theirs, ours)
    assert statistics.median(within) == pytest.approx(1.5)
    assert relative_spread(within) == pytest.approx(0.0)


def test_spread_is_relative_to_the_median() -> None:
    assert relative_spread([1.0, 2.0, 4.0]) == pytest.approx(1.5)


def test_a_timer_adds_one_time_per_use() -> None:
    times: list[float] = []
    for _ in range(3):
        with Timer(torch.device("cpu"), times):
            pass
    assert len(times) == 3
    assert min(times) >= 0
