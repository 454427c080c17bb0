"""Rows that fit into memory, by two small passes."""

from __future__ import annotations

import pytest

from cluster.config import build
from cluster.errors import UserError
from policy.observation import Needs
from rollout_workers.config import DecodeConfig
from rollout_workers.slots import CPU_SLOTS, MAX_SLOTS, RESERVE, fitting_slots, slots_within
from tests.fakes.models import HashModel


@pytest.mark.parametrize(("base", "each"), [(0, 60), (500, 60), (3000, 1), (0, 10_000)])
def test_the_most_rows_within_the_free_memory(base: int, each: int) -> None:
    free = 100_000
    found = slots_within(free, lambda rows: base + each * rows)
    allowed = free * (1 - RESERVE)
    assert base + each * found <= allowed or found == 1
    assert base + each * (found + 1) > allowed or found == MAX_SLOTS


def test_one_row_is_always_tried_and_no_more_than_the_maximum() -> None:
    assert slots_within(10, lambda rows: 1000 * rows) == 1
    assert slots_within(10**12, lambda rows: 7) == MAX_SLOTS


def test_a_cpu_has_a_fixed_number() -> None:
    assert fitting_slots(HashModel(), Needs(), prompt_length=4, canvas_length=8) == CPU_SLOTS


def test_kept_keys_and_values_need_a_number() -> None:
    assert build(DecodeConfig, {"num_slots": None}, where="decode").num_slots is None
    with pytest.raises(UserError, match=r"'decode.num_slots' is null; allowed: a number with decode.cache=dual"):
        build(DecodeConfig, {"num_slots": None, "cache": "dual"}, where="decode")
