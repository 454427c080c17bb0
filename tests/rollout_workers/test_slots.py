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

    def peak(rows: int) -> int:
        return base + each * rows

    found = slots_within(free, layers=peak, head=peak, filling_rows=3)
    allowed = free * (1 - RESERVE)
    assert base + each * found <= allowed or found == 1
    assert base + each * (found + 1) > allowed or found == MAX_SLOTS


@pytest.mark.parametrize("length", [64, 256, 512, 1024])
@pytest.mark.parametrize("free_gb", [2, 8, 24, 120])
def test_a_head_in_pieces_hides_neither_what_a_row_takes_nor_that_it_takes_little(length: int, free_gb: int) -> None:
    """MB of a model of 8 billion parameters: the layers' line, beside pieces of 530 positions."""
    layers_each, piece, position = 0.165 * length + 15, 530, 1.28

    def layers(rows: int) -> int:
        return int((5 + layers_each * rows) * 1e6)

    def whole(rows: int) -> int:
        head = min(rows * length, piece) * position + rows * length * 0.008
        return max(layers(rows), int(head * 1e6))

    filling = min(8, -(-piece // length))
    free = free_gb * 10**9
    found = slots_within(free, layers=layers, head=whole, filling_rows=filling)
    allowed = free * (1 - RESERVE)
    assert whole(found) <= allowed
    assert found == MAX_SLOTS or whole(int(found * 1.1) + 1) > allowed


def test_one_row_is_always_tried_and_no_more_than_the_maximum() -> None:
    assert slots_within(10, layers=lambda rows: 1000 * rows, head=lambda rows: 7, filling_rows=2) == 1
    assert slots_within(10, layers=lambda rows: 7, head=lambda rows: 1000 * rows, filling_rows=2) == 1
    assert slots_within(10**12, layers=lambda rows: 7, head=lambda rows: 7, filling_rows=2) == MAX_SLOTS


def test_a_cpu_has_a_fixed_number() -> None:
    assert fitting_slots(HashModel(), Needs(), prompt_length=4, canvas_length=8) == CPU_SLOTS


def test_kept_keys_and_values_need_a_number() -> None:
    assert build(DecodeConfig, {"num_slots": None}, where="decode").num_slots is None
    with pytest.raises(UserError, match=r"'decode.num_slots' is null; allowed: a number with decode.cache=dual"):
        build(DecodeConfig, {"num_slots": None, "cache": "dual"}, where="decode")
