from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from policy.distinct_positions import DistinctPositions, is_uncertain
from policy.used_positions import UsedPositions

POSITION = st.tuples(st.integers(0, 2), st.sampled_from([(1.0, 0.0), (0.5, 0.25), (1.0, 0.125)]), st.booleans())


@given(st.lists(st.lists(POSITION, min_size=5, max_size=5), min_size=1, max_size=4))
def test_every_position_finds_its_own_state_and_confidences(
    rows: list[list[tuple[int, tuple[float, float], bool]]],
) -> None:
    state_NL = torch.tensor([[state for state, _, _ in row] for row in rows])
    confidences_NLK = torch.tensor([[confidences for _, confidences, _ in row] for row in rows])
    used = UsedPositions.where(torch.tensor([[is_used for _, _, is_used in row] for row in rows]))
    uncertain = UsedPositions.where(is_uncertain(confidences_NLK.numpy()))
    distinct = DistinctPositions.of(state_NL, confidences_NLK, 3, uncertain)
    num_uncertain = sum(confidences != (1.0, 0.0) for row in rows for _, confidences, _ in row)
    assert len(distinct.state_P) == len(distinct.confidences_PK) == 3 * len(rows) + num_uncertain
    assert torch.equal(distinct.everywhere(distinct.confidences_PK), confidences_NLK)
    assert torch.equal(distinct.at(used, distinct.confidences_PK)[0], used.of(confidences_NLK))
    row_state_NL = distinct.state_P[distinct.place_NL]
    assert torch.equal(row_state_NL, state_NL + 3 * torch.arange(len(rows)).unsqueeze(1))
