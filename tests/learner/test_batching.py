from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learner.batching import UpdateBatch, take_share
from learner.update_plan import UpdateRows, make_update_plan
from policy.trajectory import TrajectoryBatch
from tests.learner.records import make_row, random_steps


def part(groups: list[int], nfes: list[int], *, seed: int = 0) -> TrajectoryBatch:
    rows = tuple(make_row(group, nfe, length=4) for group, nfe in zip(groups, nfes, strict=True))
    offsets = np.concatenate([[0], np.cumsum(nfes)]).astype(np.int64)
    return TrajectoryBatch(rows, random_steps(sum(nfes), seed=seed), offsets)


def shares(
    parts: list[TrajectoryBatch], rewards: list[float], valid: list[bool] | None = None, *,
    normaliser: Any = "per_rollout", num_ranks: int = 1, fetched: list[list[int]] | None = None,
) -> list[UpdateBatch]:  # fmt: skip
    rows = UpdateRows.of([each.rows for each in parts], rewards, valid or [True] * len(rewards))
    plan = make_update_plan(rows, advantage="mean", normaliser=normaliser)

    def fetch(numbers: list[int]) -> list[TrajectoryBatch]:
        if fetched is not None:
            fetched.append(numbers)
        return [parts[number] for number in numbers]

    return [take_share(plan, plan.share(rank, num_ranks), rows, fetch) for rank in range(num_ranks)]


def update_batch(parts: list[TrajectoryBatch], rewards: list[float], *others: Any, **settings: Any) -> UpdateBatch:
    return shares(parts, rewards, *others, **settings)[0]


# Groups 4 and 5 straddle nothing: a lease holds whole groups.
PARTS = [part([4, 4, 5, 5], [2, 1, 3, 1], seed=1), part([6, 6, 6], [1, 2, 2], seed=2)]
REWARDS = [1.0, 0.0, 0.5, 0.5, 0.9, 0.0, 0.3]


def test_groups_without_a_signal_are_filtered_and_the_normaliser_still_counts_their_rows() -> None:
    batch = update_batch(PARTS, REWARDS)
    whole = TrajectoryBatch.concatenate(PARTS)
    kept_steps = np.r_[0:3, 7:12]
    np.testing.assert_array_equal(batch.steps.confidences_NLK, whole.steps.confidences_NLK[kept_steps])
    np.testing.assert_array_equal(batch.steps.flags_NL, whole.steps.flags_NL[kept_steps])
    np.testing.assert_array_equal(batch.steps.log_prob_N, whole.steps.log_prob_N[kept_steps])
    assert batch.num_rows == 7
    assert batch.advantage_N.tolist() == pytest.approx([0.5, 0.5, -0.5, 0.5, -0.4, -0.4, -0.1, -0.1])
    assert batch.weight_N.tolist() == pytest.approx([1 / (7 * t) for t in (2, 2, 1, 1, 2, 2, 2, 2)])
    assert batch.advantages.num_zero_groups == 1
    assert batch.advantage_N.dtype == batch.weight_N.dtype == np.float32


def test_a_row_without_a_grade_is_left_out_and_its_group_goes_on_without_it() -> None:
    batch = update_batch(PARTS, REWARDS, [True] * 4 + [True, False, True])
    assert batch.advantage_N.tolist() == pytest.approx([0.5, 0.5, -0.5, 0.3, -0.3, -0.3])


def test_per_step_weights_are_equal() -> None:
    assert len(set(update_batch(PARTS, REWARDS, normaliser="per_step").weight_N.tolist())) == 1
    every = update_batch(PARTS, [1.0, 0.0, 1.0, 0.0, 0.9, 0.0, 0.3], normaliser="per_step")
    assert every.weight_N.tolist() == pytest.approx([1 / 12] * 12)


def test_a_batch_without_any_signal_is_empty() -> None:
    batch = update_batch(PARTS, [1.0] * 7)
    assert (batch.steps, batch.num_steps, len(batch.advantage_N), len(batch.weight_N)) == (None, 0, 0, 0)
    assert batch.num_rows == 7
    assert list(batch.micro_batches(4)) == []


def test_how_rows_are_spread_over_leases_does_not_matter() -> None:
    one = TrajectoryBatch.concatenate(PARTS)
    rows = update_batch([one.select([row]) for row in range(7)], REWARDS)
    whole = update_batch([one], REWARDS)
    np.testing.assert_array_equal(rows.steps.confidences_NLK, whole.steps.confidences_NLK)
    assert rows.advantage_N.tolist() == whole.advantage_N.tolist()
    assert rows.weight_N.tolist() == whole.weight_N.tolist()


@given(st.lists(st.integers(1, 5), min_size=2, max_size=8), st.integers(1, 50))
def test_micro_batches_cover_every_step_once_in_order(nfes: list[int], size: int) -> None:
    batch = update_batch([part([0] * len(nfes), nfes)], [float(i) for i in range(len(nfes))])
    spans = list(batch.micro_batches(size))
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(sum(nfes)))
    assert all(1 <= span.stop - span.start <= size for span in spans)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=30), st.integers(1, 6), st.data())
def test_ranks_share_all_rows_in_order_with_the_weights_of_the_whole(
    nfes: list[int], num_ranks: int, data: Any
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(nfes)), max_size=3)))
    bounds = [0, *cuts, len(nfes)]
    parts = [
        part([0] * (stop - start), nfes[start:stop], seed=start)
        for start, stop in itertools.pairwise(bounds)
        if stop > start
    ]
    rewards = [float(number) for number in range(len(nfes))]
    (whole,) = shares(parts, rewards)
    fetched: list[list[int]] = []
    split = shares(parts, rewards, num_ranks=num_ranks, fetched=fetched)
    assert whole.steps is not None
    held = [each.steps.log_prob_N for each in split if each.steps is not None]
    np.testing.assert_array_equal(np.concatenate(held), whole.steps.log_prob_N)
    np.testing.assert_array_equal(np.concatenate([each.weight_N for each in split]), whole.weight_N)
    np.testing.assert_array_equal(np.concatenate([each.advantage_N for each in split]), whole.advantage_N)
    assert {(each.num_rows, each.num_update_steps) for each in split} == {(len(nfes), sum(nfes))}
    # Nobody has more than an even share and one row, and a lease result goes to those alone that learn from it.
    assert max(each.num_steps for each in split) <= sum(nfes) / num_ranks + max(nfes)
    assert sum(len(numbers) for numbers in fetched) <= len(parts) + num_ranks - 1
