from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from policy.recording import hidden_of, pack_step, stored_hidden
from policy.unmasker import Decision, deterministic
from tests.policy.observations import random_observation, with_hidden


def test_stored_hidden_states_are_exact_for_bfloat16_models_and_rounding_them_again_changes_nothing() -> None:
    values = 30 * torch.randn(1000, generator=torch.Generator().manual_seed(0)).bfloat16()
    assert torch.equal(stored_hidden(values).bfloat16(), values)
    fine = torch.randn(1000, generator=torch.Generator().manual_seed(1))
    assert stored_hidden(fine).dtype == torch.float16
    assert torch.equal(stored_hidden(stored_hidden(fine)), stored_hidden(fine))


def test_what_float16_cannot_hold_ends_at_its_limit() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        extreme = stored_hidden(torch.tensor([1e6, -1e6, 65504.0, 0.0], dtype=dtype))
        assert extreme.tolist() == [65504, -65504, 65504, 0]


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=12), st.booleans())
def test_flags_survive_packing(bits: list[list[bool]], has_argmax: bool) -> None:
    masked, eligible, committed, argmax = (torch.tensor(mask).unsqueeze(0) for mask in zip(*bits, strict=True))
    observation = replace(random_observation(1, len(bits)), masked_BL=masked, eligible_BL=eligible)
    decision = Decision(
        committed, torch.zeros(1), torch.zeros(1, dtype=torch.int64), argmax_BL=argmax if has_argmax else None
    )
    steps = pack_step(observation, decision)
    assert steps.flags_NL.dtype == np.uint8
    for mask, unpacked in (
        (masked, steps.masked_NL),
        (eligible, steps.eligible_NL),
        (committed, steps.committed_NL),
        (argmax & has_argmax, steps.argmax_NL),
    ):
        assert unpacked.dtype == bool
        np.testing.assert_array_equal(unpacked, mask.numpy())


def test_a_step_keeps_what_was_seen_and_decided_and_no_more() -> None:
    observation = random_observation(3, 6, num_confidences=2, seed=1)
    plain = pack_step(observation, deterministic(observation.eligible_BL, torch.zeros(3, dtype=torch.int64)))
    assert (plain.rank_NL, plain.hidden_NLD, hidden_of(observation)) == (None, None, None)
    for column, values in (
        (observation.masked_BL, plain.masked_NL),
        (observation.eligible_BL, plain.eligible_NL),
        (observation.eligible_BL, plain.committed_NL),
        (observation.confidences_BLK, plain.confidences_NLK),
        (observation.time_B, plain.time_N),
    ):
        np.testing.assert_array_equal(column.numpy(), values)
    rank_BL = observation.eligible_BL.cumsum(1).short() * observation.eligible_BL
    ordered = Decision(observation.eligible_BL, torch.zeros(3), torch.zeros(3, dtype=torch.int64), rank_BL)
    full = pack_step(with_hidden(observation, 4), ordered)
    assert full.rank_NL is not None
    assert full.hidden_NLD is not None
    assert (full.rank_NL.dtype, full.hidden_NLD.dtype, full.hidden_NLD.shape) == (np.int16, np.float16, (3, 6, 4))
    np.testing.assert_array_equal(full.rank_NL, rank_BL.numpy())
