from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from policy.used_positions import UsedPositions


@given(st.lists(st.lists(st.booleans(), min_size=5, max_size=5), min_size=1, max_size=6))
def test_taking_laying_out_and_scattering_agree(used: list[list[bool]]) -> None:
    is_used = torch.tensor(used)
    some = UsedPositions.where(is_used)
    x = torch.arange(is_used.numel() * 2.0).view(*is_used.shape, 2) + 1
    assert torch.equal(some.of(x), x[is_used])
    assert torch.equal(some.scattered(x[is_used][:, 0]), x[..., 0] * is_used)
    laid_out, positions = some.laid_out(some.of(x)), some.positions()
    assert torch.equal(some.flat(laid_out), x[is_used])
    assert laid_out.shape == (len(used), max(map(sum, used)), 2)
    for row, flags in enumerate(used):
        mine = [i for i in range(5) if flags[i]]
        assert laid_out[row, : len(mine)].tolist() == x[row, mine].tolist()
        assert not laid_out[row, len(mine) :].any()
        assert positions[row, : len(mine)].tolist() == mine
        assert set(positions[row, len(mine) :].tolist()) <= set(mine or [4])
