from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from policy.distributions import Bernoulli, BernoulliArgmax, ExpectedCount, Greedy, Threshold
from policy.distributions.bernoulli import scale_probabilities

ANY_NOISE = torch.full((1, 4), 0.123)
ELIGIBLE = torch.tensor([[True, True, True, False]])


def logits_of(*probabilities: float) -> Tensor:
    return torch.logit(torch.tensor([probabilities]))


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.6, 0.4, 0.9, 0.99), [True, False, True, False]),
        ((0.3, 0.4, 0.2, 0.99), [False, True, False, False]),  # none above 1/2: the most likely one
        ((0.4, 0.4, 0.2, 0.99), [True, False, False, False]),  # ties go to the left
    ],
)
def test_threshold_commits_what_is_likelier_than_not_and_at_least_one(
    probabilities: tuple[float, ...], expected: list[bool]
) -> None:
    assert Threshold().sample(logits_of(*probabilities), ELIGIBLE, ANY_NOISE)[0].tolist() == [expected]


@pytest.mark.parametrize(
    ("probabilities", "expected"),
    [
        ((0.9, 0.4, 0.8, 0.99), [True, False, True, False]),  # floor(2.1) = 2
        ((0.3, 0.4, 0.2, 0.99), [False, True, False, False]),  # floor(0.9) = 0, at least one
        ((0.99, 0.98, 0.97, 0.99), [True, True, False, False]),  # floor(2.94) = 2
    ],
)
def test_expected_count_commits_the_floor_of_the_sum_of_probabilities(
    probabilities: tuple[float, ...], expected: list[bool]
) -> None:
    assert ExpectedCount().sample(logits_of(*probabilities), ELIGIBLE, ANY_NOISE)[0].tolist() == [expected]


def test_temperature_and_scale_move_both() -> None:
    u = logits_of(0.45, 0.3, 0.2, 0.9)
    assert Threshold().sample(u, ELIGIBLE, ANY_NOISE)[0].sum() == 1
    assert Threshold(prob_scale=2.0).sample(u, ELIGIBLE, ANY_NOISE)[0].tolist() == [[True, True, False, False]]
    assert ExpectedCount(prob_scale=3.3).sample(u, ELIGIBLE, ANY_NOISE)[0].sum() == 2  # 1 + .99 + .66
    hot = ExpectedCount(temperature=100.0).sample(logits_of(0.99, 0.99, 0.99, 0.99), ELIGIBLE, ANY_NOISE)[0]
    assert hot.sum() == 1  # three times about a half


def test_greedy_takes_the_k_largest_logits() -> None:
    u = torch.tensor([[0.1, 2.0, 2.0, 9.0]])
    assert Greedy().sample(u, ELIGIBLE, ANY_NOISE)[0].tolist() == [[False, True, False, False]]
    assert Greedy(k=2).sample(u, ELIGIBLE, ANY_NOISE)[0].tolist() == [[False, True, True, False]]
    assert Greedy(k=9).sample(u, ELIGIBLE, ANY_NOISE)[0].tolist() == ELIGIBLE.tolist()


@pytest.mark.parametrize("mode", [Threshold(), ExpectedCount(), Greedy()])
def test_the_outcome_is_certain_and_rows_with_nothing_eligible_have_none(
    mode: Threshold | ExpectedCount | Greedy,
) -> None:
    u = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    eligible = torch.ones(6, 4, dtype=torch.bool)
    eligible[0] = False
    chosen, near = mode.sample(u, eligible, torch.rand(6, 4))
    again, _ = mode.sample(u, eligible, torch.rand(6, 4))
    assert torch.equal(chosen, again)
    assert chosen.any(1).tolist() == [False] + [True] * 5
    assert near[0] == 0
    assert mode.log_prob(u, eligible, chosen).tolist() == [0] * 6
    assert mode.entropy(u, eligible).tolist() == [0] * 6
    assert bool((mode.log_prob(u, eligible, ~chosen) == -math.inf).all())


def test_contested_outcomes_are_near_ties() -> None:
    both = torch.ones(1, 2, dtype=torch.bool)

    def near(mode: Threshold | ExpectedCount | Greedy, *logits: float) -> int:
        return int(mode.sample(torch.tensor([logits]), both, torch.rand(1, 2))[1])

    assert (near(Threshold(), 0.0, 1.0), near(Threshold(), 0.1, 1.0)) == (1, 0)
    assert (near(Greedy(), 0.5, 0.5), near(Greedy(), 0.5, 0.4), near(Greedy(k=2), 0.5, 0.5)) == (1, 0, 0)
    # A sum at a whole number, and a tie for the last place.
    assert (near(ExpectedCount(), 1.0, -1.0), near(ExpectedCount(), 0.1, -1.0)) == (1, 0)
    assert near(ExpectedCount(), -1.0, -1.0) == 1


@pytest.mark.parametrize("beta", [0.3, 1.5, 4.0])
def test_probabilities_are_scaled_and_end_at_one(beta: float) -> None:
    p = torch.tensor([[1e-6, 0.1, 0.25, 0.6, 0.999]], dtype=torch.float64)
    scaled = torch.sigmoid(scale_probabilities(torch.logit(p), beta))
    torch.testing.assert_close(scaled, (beta * p).clamp(max=1), rtol=1e-12, atol=0)
    assert bool(torch.isfinite(scale_probabilities(torch.tensor([-200.0, 0.0, 200.0]), beta)).all())


@pytest.mark.parametrize("kind", [Bernoulli, BernoulliArgmax])
def test_scaled_draws_are_draws_with_the_scaled_probabilities(kind: type[Bernoulli]) -> None:
    u, eligible = logits_of(0.1, 0.3, 0.7, 0.9), torch.ones(1, 4, dtype=torch.bool)
    scaled, plain = kind(temperature=2.0, prob_scale=1.4), kind()
    p = (1.4 * torch.sigmoid(u / 2)).clamp(max=1 - 1e-7)
    for seed in range(30):
        noise = torch.rand(1, 4, generator=torch.Generator().manual_seed(seed))
        drawn, _ = scaled.sample(u, eligible, noise)
        assert torch.equal(drawn, plain.sample(torch.logit(p), eligible, noise)[0])
        torch.testing.assert_close(
            scaled.log_prob(u, eligible, drawn), plain.log_prob(torch.logit(p), eligible, drawn), rtol=1e-4, atol=1e-4
        )
    certain = kind(prob_scale=2.0).log_prob(logits_of(0.6, 0.7, 0.8, 0.9), eligible, eligible)
    assert float(certain) == 0
