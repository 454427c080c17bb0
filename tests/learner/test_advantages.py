from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.advantages import Advantages, group_advantages

REWARDS = [1.0, 0.0, 0.25, 0.75, 0.5, 0.5, 0.9, 0.1]
GROUPS = [7, 7, 3, 3, 3, 5, 5, 7]


def advantages(
    rewards: list[float], groups: list[int], valid: list[bool] | None = None, *, kind: Any = "mean"
) -> Advantages:
    return group_advantages(
        np.asarray(rewards, np.float64), np.asarray(groups, np.int64),
        np.asarray(valid if valid is not None else [True] * len(rewards)), kind=kind,
    )  # fmt: skip


def test_the_mean_of_the_group_is_subtracted_and_nothing_divided() -> None:
    got = advantages(REWARDS, GROUPS)
    mean7 = 1.1 / 3
    assert got.advantage_R.tolist() == pytest.approx(
        [1 - mean7, -mean7, -0.25, 0.25, 0.0, -0.2, 0.2, 0.1 - mean7], abs=1e-12
    )
    assert got.kept_R.all()
    assert (got.num_groups, got.num_zero_groups, got.num_small_groups) == (3, 0, 0)


def test_mean_std_also_divides_by_the_standard_deviation_of_the_group() -> None:
    got = advantages([1.0, 0.0, 1.0, 0.0, 3.0, 1.0], [0, 0, 0, 0, 1, 1], kind="mean_std").advantage_R
    assert got.tolist() == pytest.approx([1, -1, 1, -1, 1, -1], rel=1e-3)
    assert advantages([0.9, 0.1, 0.2], [0] * 3, kind="mean_std").advantage_R.tolist() == pytest.approx(
        [(r - 0.4) / math.sqrt(0.38 / 3) for r in (0.9, 0.1, 0.2)], rel=1e-3
    )


def test_leave_one_out_subtracts_the_mean_of_the_others() -> None:
    got = advantages(REWARDS, GROUPS, kind="leave_one_out").advantage_R
    expected = [1 - 0.05, 0 - 0.55, 0.25 - 0.625, 0.75 - 0.375, 0.5 - 0.5, 0.5 - 0.9, 0.9 - 0.5, 0.1 - 0.5]
    assert got.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("kind", ["mean", "mean_std", "leave_one_out"])
def test_groups_whose_rewards_are_all_alike_are_left_out_whole(kind: Any) -> None:
    rewards = [1.0, 1.0, 0.3, 0.3 + 1e-7, 1.0, 0.0]
    got = advantages(rewards, [0, 0, 1, 1, 2, 2], kind=kind)
    assert got.kept_R.tolist() == [False] * 4 + [True] * 2
    assert got.advantage_R[:4].tolist() == [0] * 4
    assert (got.num_groups, got.num_zero_groups, got.num_small_groups) == (3, 2, 0)


@pytest.mark.parametrize("kind", ["mean", "mean_std", "leave_one_out"])
def test_rows_that_were_not_graded_enter_no_mean_and_are_never_kept(kind: Any) -> None:
    rewards = [1.0, math.nan, 0.0, 0.5, math.nan, 0.2, 0.8]
    groups = [0, 0, 0, 0, 1, 1, 1]
    valid = [True, False, True, True, False, True, True]
    got = advantages(rewards, groups, valid, kind=kind)
    present = [i for i, is_valid in enumerate(valid) if is_valid]
    alone = advantages([rewards[i] for i in present], [groups[i] for i in present], kind=kind)
    assert got.advantage_R[present].tolist() == alone.advantage_R.tolist()
    assert got.advantage_R[[1, 4]].tolist() == [0, 0]
    assert got.kept_R.tolist() == valid


def test_a_group_with_fewer_than_two_graded_rows_is_dropped_and_counted_apart() -> None:
    got = advantages([1.0, 0.0, 1.0, 0.0, 1.0, 1.0], [0, 0, 1, 1, 2, 2], [True, False, False, False, True, True])
    assert not got.kept_R.any()
    assert got.advantage_R.tolist() == [0] * 6
    assert (got.num_groups, got.num_zero_groups, got.num_small_groups) == (3, 1, 2)


@given(
    st.lists(st.tuples(st.floats(-2, 2), st.integers(0, 3), st.booleans()), min_size=1, max_size=20),
    st.floats(-5, 5), st.sampled_from(["mean", "mean_std", "leave_one_out"]),
)  # fmt: skip
def test_kept_groups_sum_to_zero_and_a_constant_reward_changes_nothing(
    rows: list[tuple[float, int, bool]], shift: float, kind: str
) -> None:
    rewards, groups, valid = [r for r, _, _ in rows], [g for _, g, _ in rows], [v for _, _, v in rows]
    rewards = [round(r, 2) for r in rewards]
    got = advantages(rewards, groups, valid, kind=kind)
    for group in set(groups):
        members = [i for i, g in enumerate(groups) if g == group]
        assert sum(got.advantage_R[members]) == pytest.approx(0, abs=1e-9)
        kept = {bool(got.kept_R[i]) for i in members if valid[i]}
        assert len(kept) <= 1
    shifted = advantages([r + shift for r in rewards], groups, valid, kind=kind)
    np.testing.assert_allclose(shifted.advantage_R, got.advantage_R, atol=1e-9)
    assert shifted.kept_R.tolist() == got.kept_R.tolist()


def test_a_floor_moves_from_the_standard_deviation_to_the_plain_mean() -> None:
    rewards, groups = np.asarray([1.0, 0.0, 0.9, 0.8]), np.asarray([0, 0, 1, 1])
    valid = np.ones(4, bool)
    got = group_advantages(rewards, groups, valid, kind="mean_std", std_floor=0.5).advantage_R
    assert got.tolist() == pytest.approx([0.5, -0.5, 0.05 / 0.55, -0.05 / 0.55])
    far = group_advantages(rewards, groups, valid, kind="mean_std", std_floor=1e6).advantage_R * 1e6
    assert far == pytest.approx(group_advantages(rewards, groups, valid).advantage_R, rel=1e-5)
