"""Samples of a group are predicted once at their first pass, and decode as if each had been."""

from __future__ import annotations

import random

import pytest
import torch

from rollout_workers.engine import Engine
from rollout_workers.sequence import Sequence
from tests.fakes.models import MASK_ID, SpyModel, random_llama
from tests.fakes.policies import lively_policy


def groups(num_groups: int, size: int, *, length: int = 12) -> list[Sequence]:
    rng = random.Random(num_groups)
    rows = []
    for number in range(num_groups):
        prompt = [3 + number] * (number % 3 + 1)
        rows += [
            Sequence(f"row/{number}", prompt, [MASK_ID] * length, 6, rng.getrandbits(62), group=number, sample=sample)
            for sample in range(size)
        ]
    return rows


@pytest.mark.parametrize("num_slots", [pytest.param(1, marks=pytest.mark.slow), 3, 64])
def test_a_group_decodes_as_its_samples_do_alone(num_slots):
    model, unmasker = SpyModel(random_llama(seed=1)), lively_policy(seed=2, initial_logit=-1.0)
    rows = groups(3, 4)
    decoded = Engine(model, unmasker, num_slots=num_slots).decode(rows, record=True)
    assert decoded.stats.num_shared_first_passes == 3 * 3
    computed = sum(len(call.canvas_BL) for call in model.calls)
    assert computed == decoded.stats.num_row_forwards - 3 * 3
    assert decoded.stats.num_row_forwards == sum(row.nfe for row in rows), "a shared pass is one of each row's"
    for row in groups(3, 4):
        alone = Engine(model, unmasker).decode([row]).sequences[0]
        mine = next(each for each in rows if each.key == row.key)
        if not mine.num_near_ties:
            assert mine.tokens_L.tolist() == alone.tokens_L.tolist()
            assert mine.order_L.tolist() == alone.order_L.tolist()


def test_other_blocks_or_given_tokens_begin_otherwise():
    model, unmasker = SpyModel(random_llama(seed=1)), lively_policy(seed=2)
    rows = groups(1, 3)
    rows[1].block_length = 12
    rows[2].canvas_ids = [5, *[MASK_ID] * 11]
    assert Engine(model, unmasker).decode(rows).stats.num_shared_first_passes == 0


def test_drawn_tokens_are_not_shared():
    model, unmasker = random_llama(seed=1, dtype=torch.float32), lively_policy(seed=2)
    engine = Engine(model, unmasker, token_temperature=1.0)
    assert engine.decode(groups(2, 4)).stats.num_shared_first_passes == 0
