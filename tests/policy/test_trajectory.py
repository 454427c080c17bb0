from __future__ import annotations

import pickle
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.trajectory import SCHEMA, PackedSteps, TrajectoryBatch, TrajectoryRow

NFES = st.lists(st.integers(1, 4), min_size=1, max_size=6)


def make_batch(
    nfes: list[int], *, first_group: int = 0, length: int = 5, seed: int = 0, is_full: bool = False
) -> TrajectoryBatch:
    """Random steps; `is_full` ones have every optional column."""
    random, num_steps = np.random.default_rng(seed), sum(nfes)
    rows = tuple(
        TrajectoryRow(
            example_id=f"e{index}", group=first_group + index, sample=0, weight_version=3,
            tokens_L=np.full(length, index, np.int32), order_L=np.ones(length, np.int16), status="clean", nfe=nfe,
            num_near_ties=0,
        )
        for index, nfe in enumerate(nfes)
    )  # fmt: skip
    steps = PackedSteps(
        random.random((num_steps, length, 2), np.float32),
        random.integers(0, 8, (num_steps, length), np.uint8),
        random.random(num_steps, np.float32),
        random.random(num_steps, np.float32),
        random.integers(0, length, (num_steps, length), np.int16) if is_full else None,
        random.random((num_steps, length, 3), np.float32).astype(np.float16) if is_full else None,
    )
    return TrajectoryBatch(rows, steps, np.concatenate([[0], np.cumsum(nfes)]).astype(np.int64))


def assert_same_steps(a: PackedSteps, b: PackedSteps) -> None:
    for field in fields(PackedSteps):
        left, right = getattr(a, field.name), getattr(b, field.name)
        if left is None or right is None:
            assert left is right
            continue
        assert left.dtype == right.dtype
        np.testing.assert_array_equal(left, right)


def assert_same(a: TrajectoryBatch, b: TrajectoryBatch) -> None:
    assert [(row.example_id, row.group, row.nfe) for row in a.rows] == [(r.example_id, r.group, r.nfe) for r in b.rows]
    assert_same_steps(a.steps, b.steps)
    np.testing.assert_array_equal(a.offsets, b.offsets)
    assert a.offsets.dtype == b.offsets.dtype == np.int64


@given(NFES, NFES, st.integers(0, 100), st.booleans())
def test_selecting_each_part_of_a_concatenation_gives_it_back(
    first: list[int], second: list[int], seed: int, is_full: bool
) -> None:
    a = make_batch(first, seed=seed, is_full=is_full)
    b = make_batch(second, first_group=100, seed=seed + 1, is_full=is_full)
    joined = TrajectoryBatch.concatenate([a, b])
    assert len(joined.steps) == sum(first) + sum(second)
    assert_same(joined.select(range(len(first))), a)
    assert_same(joined.select(range(len(first), len(first) + len(second))), b)


@given(NFES, st.randoms(use_true_random=False), st.integers(0, 100))
def test_concatenating_single_rows_in_any_order_is_selecting_that_order(
    nfes: list[int], random: object, seed: int
) -> None:
    batch = make_batch(nfes, seed=seed)
    order = list(range(len(nfes)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert_same(TrajectoryBatch.concatenate([batch.select([row]) for row in order]), batch.select(order))
    assert_same(batch.select(order).select([order.index(row) for row in range(len(nfes))]), batch)


@given(NFES)
def test_selecting_a_row_takes_its_steps(nfes: list[int]) -> None:
    batch = make_batch(nfes)
    row_of_step_N = np.repeat(np.arange(len(nfes)), nfes)
    for row in range(len(nfes)):
        mine = batch.steps.select(np.flatnonzero(row_of_step_N == row))
        assert_same_steps(mine, batch.select([row]).steps)


def test_selecting_no_row_leaves_an_empty_batch_of_the_same_shapes() -> None:
    empty = make_batch([2, 3]).select([])
    assert empty.rows == ()
    assert (len(empty.steps), empty.steps.confidences_NLK.shape, empty.offsets.tolist()) == (0, (0, 5, 2), [0])
    assert_same(TrajectoryBatch.concatenate([empty, make_batch([2]), empty]), make_batch([2]))


def test_optional_columns_are_recorded_by_all_steps_or_by_none() -> None:
    plain, full = make_batch([2]), make_batch([3], is_full=True)
    assert (plain.steps.rank_NL, plain.steps.hidden_NLD) == (None, None)
    with pytest.raises(AssertionError, match="same columns"):
        TrajectoryBatch.concatenate([plain, full])
    assert full.select([]).steps.hidden_NLD.shape == (0, 5, 3)  # type: ignore[union-attr]


def test_a_record_without_optional_columns_is_as_small_as_its_four_arrays() -> None:
    steps = make_batch([50], length=64).steps
    arrays = (steps.confidences_NLK, steps.flags_NL, steps.time_N, steps.log_prob_N)
    assert len(pickle.dumps(steps, protocol=5)) < sum(array.nbytes for array in arrays) + 1000


@pytest.mark.parametrize("schema", [0, SCHEMA - 1, SCHEMA + 1])
def test_a_record_of_another_schema_is_refused(schema: int) -> None:
    with pytest.raises(
        ValueError, match=rf"^trajectory schema {schema} is not supported; this version reads {SCHEMA}$"
    ):
        replace(make_batch([1]), schema=schema)


def test_offsets_that_do_not_fit_are_a_bug() -> None:
    batch = make_batch([1, 2])
    with pytest.raises(AssertionError, match="offset"):
        replace(batch, offsets=np.array([0, 1, 2]))
    with pytest.raises(AssertionError, match="offset"):
        replace(batch, offsets=np.array([0, 3]))
