"""A batch that is too large for memory is halved once, says so, and decides what it would have decided."""

from __future__ import annotations

import logging

import pytest
import torch

from policy.factory import make_heuristic
from rollout_workers.engine import Engine
from rollout_workers.models.backoff import BackingOff, is_out_of_memory
from rollout_workers.models.base import ModelError
from rollout_workers.sequence import Sequence
from tests.fakes.models import MASK_ID, HashModel, SpyModel


class SmallMemory(SpyModel):
    """Has room for `limit` rows."""

    def __init__(self, limit: int) -> None:
        super().__init__(HashModel())
        self.limit = limit

    def predict(self, prompt_BP, prompt_length_B, canvas_BL, wanted_BL, **options):
        if len(canvas_BL) > self.limit:
            raise torch.OutOfMemoryError("out of memory: tried to allocate a lot\nmore")
        return super().predict(prompt_BP, prompt_length_B, canvas_BL, wanted_BL, **options)


def rows() -> list[Sequence]:
    return [Sequence(f"row/{n}", [3 + n] * 3, [MASK_ID] * 12, 6, 17 * n) for n in range(9)]


def decode(model, *, temperature: float = 0.0) -> list[list[int]]:
    engine = Engine(model, make_heuristic("random", 2), num_slots=9, token_temperature=temperature)
    return [sequence.tokens_L.tolist() for sequence in engine.decode(rows()).sequences]


def test_the_cpu_s_allocator_and_no_other_error_is_running_out_of_memory() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2) @ torch.zeros(3)
    assert not is_out_of_memory(caught.value)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_batch_is_halved_once_and_decides_the_same(temperature, caplog):
    model = SmallMemory(5)
    with caplog.at_level(logging.WARNING):
        halved = BackingOff(model)
        assert decode(halved, temperature=temperature) == decode(HashModel(), temperature=temperature)
    assert halved.rows_at_once == 5
    assert max(len(call.canvas_BL) for call in model.calls) == 5
    assert [record.message for record in caplog.records] == [
        "a forward pass of model 'fake' over 9 rows does not fit into memory: it computes 5 at a time from now on "
        "(decode.num_slots=5 avoids that)"
    ]


def test_a_second_time_is_an_error_that_says_what_to_change():
    with pytest.raises(
        ModelError, match=r"does not fit into memory with 5 rows at a time; allowed: a smaller decode\.num"
    ):
        decode(BackingOff(SmallMemory(4)))


def test_one_row_cannot_be_halved():
    with pytest.raises(ModelError, match="with 1 rows at a time"):
        Engine(BackingOff(SmallMemory(0)), make_heuristic("random", 2)).decode(rows()[:1])
