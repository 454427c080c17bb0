"""Rows are cut by the length of their prompts: little padding, few slices, and every row as if it were alone."""

from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rollout_workers.engine import Engine
from rollout_workers.sequence import Sequence
from rollout_workers.slices import MAX_PADDING, slices_by_length
from tests.fakes.models import MASK_ID, SpyModel, random_llama
from tests.fakes.policies import lively_policy


@given(lengths=st.lists(st.integers(0, 60), max_size=12), canvas_length=st.integers(1, 40))
def test_every_row_is_in_one_slice_and_padding_is_bounded(lengths, canvas_length):
    slices = slices_by_length(lengths, canvas_length)
    assert sorted(row for rows in slices for row in rows) == list(range(len(lengths)))
    for rows in slices:
        assert rows == sorted(rows)
        tokens = [lengths[row] + canvas_length for row in rows]
        assert len(tokens) * max(tokens) - sum(tokens) <= MAX_PADDING * len(tokens) * max(tokens)


def test_rows_of_like_lengths_stay_together():
    assert slices_by_length([20, 21, 20, 22], 48) == [[0, 1, 2, 3]]
    assert slices_by_length([60, 5, 58, 6], 48) == [[0, 2], [1, 3]]
    assert slices_by_length([], 48) == []


def mixed_rows(num_rows: int, *, length: int = 12) -> list[Sequence]:
    rng = random.Random(num_rows)
    return [
        Sequence(f"row/{number}", [3 + number % 5] * rng.choice([0, 1, 2, 9, 10, 30]), [MASK_ID] * length, 6, number)
        for number in range(num_rows)
    ]


@pytest.mark.parametrize("token_temperature", [0.0, 1.0])
def test_rows_of_mixed_lengths_decode_as_they_do_alone(token_temperature):
    model, unmasker = SpyModel(random_llama(seed=1, dtype=torch.float64)), lively_policy(seed=2, initial_logit=-1.0)

    def decode(rows: list[Sequence]) -> tuple[Sequence, ...]:
        engine = Engine(model, unmasker, num_slots=8, token_temperature=token_temperature)
        return engine.decode(rows).sequences

    together = decode(mixed_rows(20))
    calls = list(model.calls)
    assert max(len(call.canvas_BL) for call in calls) > 1, "some rows are computed side by side"
    computed = sum(call.prompt_BP.numel() + call.canvas_BL.numel() for call in calls)
    padding = sum(call.prompt_BP.numel() - int(call.prompt_length_B.sum()) for call in calls)
    assert padding <= MAX_PADDING * computed
    for row, alone in zip(together, mixed_rows(20), strict=True):
        (alone,) = decode([alone])
        assert row.nfe == alone.nfe
        assert row.tokens_L.tolist() == alone.tokens_L.tolist()
        assert row.order_L.tolist() == alone.order_L.tolist()
