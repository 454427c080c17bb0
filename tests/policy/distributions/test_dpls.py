from __future__ import annotations

import math
from itertools import permutations

import pytest
import torch

from policy.distributions import Dpls
from policy.distributions.dpls_set import set_log_prob
from policy.noise import Stream, uniforms
from tests.policy.distributions.outcomes import log_probs, outcomes, ranks


@pytest.mark.parametrize("stop", [-4.0, 0.0, 3.0])
@pytest.mark.parametrize("spread", [0.3, 2.0, 10.0])
def test_the_set_likelihood_is_the_sum_over_the_orders(stop: float, spread: float) -> None:
    generator = torch.Generator().manual_seed(round(10 * spread))
    logits = (spread * torch.randn(4, generator=generator)).tolist()
    by_order, by_set = Dpls(stop_logit=stop), Dpls(stop_logit=stop, likelihood="set")
    for members in outcomes("dpls_set", [True] * 4):
        chosen = [i for i, is_member in enumerate(members) if is_member]
        every_order = [ranks(order, 4) for order in permutations(chosen)]
        expected = log_probs(by_order, logits, [True] * 4, every_order).logsumexp(0)
        got = log_probs(by_set, logits, [True] * 4, [members])
        assert float(got) == pytest.approx(float(expected), abs=5e-10)


@pytest.mark.parametrize("length", [16, 256])
@pytest.mark.parametrize("spread", [0.1, 4.0])
def test_64_nodes_give_what_many_more_give_for_sets_of_any_size(length: int, spread: float) -> None:
    generator = torch.Generator().manual_seed(length)
    logits = spread * torch.randn(12, length, generator=generator, dtype=torch.float64) - 1
    chosen = torch.rand(12, length, generator=generator) < torch.linspace(0.01, 1.0, 12).unsqueeze(1)
    chosen[:, 0] = True
    everything = torch.ones_like(chosen)
    usual = set_log_prob(logits, everything, chosen, stop_logit=0.0)
    finer = set_log_prob(logits, everything, chosen, stop_logit=0.0, num_nodes=400)
    torch.testing.assert_close(usual, finer, rtol=0, atol=5e-10)


def test_the_two_likelihoods_draw_the_same_sets() -> None:
    logits, eligible = torch.randn(50, 9, generator=torch.Generator().manual_seed(0)), torch.ones(50, 9).bool()
    noise = uniforms(torch.arange(50), torch.zeros(50, dtype=torch.int64), 10, Stream.POLICY)
    rank, _ = Dpls().sample(logits, eligible, noise)
    committed, _ = Dpls(likelihood="set").sample(logits, eligible, noise)
    assert torch.equal(rank.bool(), committed)
    for row in rank.tolist():
        assert sorted(r for r in row if r) == list(range(1, sum(r > 0 for r in row) + 1))


def test_a_single_eligible_position_is_certain() -> None:
    for distribution in (Dpls(), Dpls(likelihood="set")):
        assert log_probs(distribution, [3.0, -2.0], [False, True], [[0, 1]]).item() == pytest.approx(0, abs=5e-10)


def test_inclusion_and_count_at_the_start_of_training() -> None:
    # Every position but the first precedes STOP with probability sigmoid(-2) = .119.
    p = 1 / (1 + math.exp(2))
    every = outcomes("dpls_set", [True] * 4)
    mass = log_probs(Dpls(likelihood="set"), [-2.0] * 4, [True] * 4, every).exp()
    expected_count = float((mass * torch.tensor(every).sum(1)).sum())
    assert expected_count == pytest.approx(1 + p * 3, abs=1e-8)
    draws, length = 20_000, 32
    noise = uniforms(torch.full((draws,), 5), torch.arange(draws), length + 1, Stream.POLICY)
    rank, _ = Dpls().sample(torch.full((draws, length), -2.0), torch.ones(draws, length).bool(), noise)
    count = (rank > 0).sum(1).double()
    assert float(count.mean()) == pytest.approx(1 + p * (length - 1), abs=5 * float(count.std()) / math.sqrt(draws))
    # The shared STOP makes counts vary more than independent draws do.
    assert float(count.var()) > 3 * p * (1 - p) * (length - 1)
    not_first = (rank[:, 0] != 1).double()
    included = (rank[:, 0] > 1).double()
    assert float(included.sum() / not_first.sum()) == pytest.approx(p, abs=5 * math.sqrt(p / draws))


def test_draws_at_their_limit_are_counted_but_not_the_forced_one() -> None:
    distribution, eligible = Dpls(), torch.tensor([[True, True]])
    noise = torch.tensor([[0.9, 0.5, 0.5]])
    keys = torch.tensor([2.0, 0.0], dtype=torch.float64) - torch.log(-torch.log(noise[0, :2].double()))
    stop = -torch.log(-torch.log(noise[0, 2].double()))
    limit = -torch.logaddexp(-keys[0], -stop)
    at_limit = torch.tensor([[2.0, float(limit - keys[1])]], dtype=torch.float64)
    assert distribution.sample(at_limit, eligible, noise)[1].tolist() == [1]
    assert distribution.sample(at_limit - torch.tensor([0.0, 0.1]), eligible, noise)[1].tolist() == [0]
    assert distribution.sample(at_limit, eligible & torch.tensor([True, False]), noise)[1].tolist() == [0]
