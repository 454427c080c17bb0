from __future__ import annotations

import math

import pytest
import torch

from policy.distributions import Categorical, TopK
from policy.distributions.plackett_luce import ranks_of_order
from tests.policy.distributions.outcomes import log_probs, orders, ranks


@pytest.mark.parametrize("k", [1, 3, 4, 9])
def test_orders_of_k_positions_sum_to_one_and_fewer_are_left_at_the_end(k: int) -> None:
    for eligible in ([True] * 4, [True, False, True, False]):
        size = min(k, sum(eligible))
        every = [ranks(order, 4) for order in orders(eligible, range(size, size + 1))]
        total = log_probs(TopK(k=k), [0.3, -1.0, 2.0, 0.0], eligible, every).exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-12)


def test_one_of_top_k_is_categorical() -> None:
    logits, eligible = torch.randn(30, 6, generator=torch.Generator().manual_seed(0)), torch.ones(30, 6).bool()
    noise = torch.rand(30, 6, generator=torch.Generator().manual_seed(1))
    rank, near = TopK(k=1).sample(logits, eligible, noise)
    chosen, near_categorical = Categorical().sample(logits, eligible, noise)
    assert torch.equal(rank.bool(), chosen)
    assert torch.equal(near, near_categorical)
    torch.testing.assert_close(
        TopK(k=1).log_prob(logits, eligible, rank), Categorical().log_prob(logits, eligible, chosen)
    )


def test_categorical_names_the_probability_of_every_position() -> None:
    log_p = Categorical(temperature=0.5).log_probs(torch.tensor([[0.5, 1.0, 9.0]]), torch.tensor([[True, True, False]]))
    total = math.exp(1) + math.exp(2)
    assert log_p.exp()[0].tolist() == pytest.approx([math.exp(1) / total, math.exp(2) / total, 0.0])


def test_ranks_invert_an_order() -> None:
    assert ranks_of_order(torch.tensor([[2, 0, 1]])).tolist() == [[2, 3, 1]]


def test_contested_last_places_are_near_ties() -> None:
    noise, eligible = torch.full((1, 3), 0.5), torch.tensor([[True, True, True]])
    tied, clear = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.5, 0.0]])
    assert [int(TopK(k=k).sample(tied, eligible, noise)[1]) for k in (1, 2, 3)] == [0, 1, 0]
    assert [int(TopK(k=k).sample(clear, eligible, noise)[1]) for k in (1, 2, 3)] == [0, 0, 0]
    few = torch.tensor([[False, True, True]])
    assert [int(TopK(k=k).sample(tied, few, noise)[1]) for k in (1, 2, 3)] == [1, 0, 0]
    assert int(Categorical().sample(tied, few, noise)[1]) == 1
    assert int(Categorical().sample(tied, eligible, noise)[1]) == 0
    assert int(Categorical().sample(tied, ~eligible, noise)[1]) == 0
