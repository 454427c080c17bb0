from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from policy.config import PolicyConfig
from policy.distributions import ARGMAX, Bernoulli, BernoulliArgmax
from policy.learned import make_distribution
from policy.noise import Stream, uniforms

BOTH = (Bernoulli, BernoulliArgmax)
LOGIT = st.floats(-8, 8, allow_nan=False)
ROW = st.lists(st.tuples(LOGIT, st.booleans()), min_size=1, max_size=6)
TEMPERATURE = st.sampled_from([0.25, 0.5, 1.0, 3.0])


def sigmoid(u: float) -> float:
    return 1 / (1 + math.exp(-u)) if u >= 0 else math.exp(u) / (1 + math.exp(u))


def naive_probability(
    kind: type[Bernoulli], logits: list[float], eligible: list[bool], committed: list[bool], temperature: float
) -> float:
    """The probability of one set, straight from algorithms.md 1.6 and 3.1."""
    assert not any(y and not s for y, s in zip(committed, eligible, strict=True))
    members = [i for i, is_eligible in enumerate(eligible) if is_eligible]
    natural = nothing = 1.0
    for i in members:
        p = sigmoid(logits[i] / temperature)
        natural *= p if committed[i] else 1 - p
        nothing *= 1 - p
    if kind is Bernoulli or not members:
        return natural
    if not any(committed):
        return 0.0
    best = max(members, key=lambda i: (logits[i], -i))
    return natural + (nothing if committed == [i == best for i in range(len(logits))] else 0.0)


def subsets(eligible: list[bool]) -> list[list[bool]]:
    return [list(bits) for bits in product(*[(False, True) if s else (False,) for s in eligible])]


def log_probs(
    distribution: Bernoulli, logits: list[float], eligible: list[bool], committed: list[list[bool]]
) -> Tensor:
    n = len(committed)
    return distribution.log_prob(
        torch.tensor([logits] * n, dtype=torch.float64), torch.tensor([eligible] * n), torch.tensor(committed)
    )


@pytest.mark.parametrize("kind", BOTH)
@given(row=ROW, temperature=TEMPERATURE)
def test_every_subset_has_the_probability_of_the_formula_and_they_sum_to_one(
    kind: type[Bernoulli], row: list[tuple[float, bool]], temperature: float
) -> None:
    logits, eligible = [u for u, _ in row], [s for _, s in row]
    every = subsets(eligible)
    got = log_probs(kind(temperature=temperature), logits, eligible, every).exp()
    expected = torch.tensor(
        [naive_probability(kind, logits, eligible, y, temperature) for y in every], dtype=torch.float64
    )
    assert torch.allclose(expected.sum(), torch.ones((), dtype=torch.float64), atol=1e-12)
    assert torch.allclose(got, expected, rtol=1e-9, atol=1e-12)


def test_the_empty_set_is_impossible_under_bernoulli_argmax() -> None:
    eligible = [True, False, True]
    empty = [[False, False, False]]
    assert log_probs(BernoulliArgmax(), [0.3, 1.0, -2.0], eligible, empty).tolist() == [-math.inf]
    plain = math.log((1 - sigmoid(0.3)) * (1 - sigmoid(-2.0)))
    assert log_probs(Bernoulli(), [0.3, 1.0, -2.0], eligible, empty).tolist() == pytest.approx([plain])


@pytest.mark.parametrize("kind", BOTH)
def test_a_row_with_nothing_eligible_commits_nothing_and_has_probability_one(kind: type[Bernoulli]) -> None:
    logits = torch.tensor([[5.0, -1.0], [5.0, -1.0]], requires_grad=True)
    eligible = torch.tensor([[False, False], [True, True]])
    committed, near = kind().sample(logits.detach(), eligible, torch.tensor([[1e-9, 1e-9]] * 2))
    assert committed.tolist() == [[False, False], [True, True]]
    assert near[0] == 0
    log_prob = kind().log_prob(logits, eligible, committed)
    assert log_prob[0] == 0
    assert kind().entropy(logits, eligible)[0] == 0
    log_prob.sum().backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == [0, 0]
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_sampled_frequencies_match_the_log_probabilities(kind: type[Bernoulli], temperature: float) -> None:
    logits, eligible, draws = [-1.5, 0.4, 2.0, -0.7, -1.0], [True, True, False, True, True], 40_000
    if temperature != 1.0:
        logits = [u - 1 for u in logits]
    distribution = kind(temperature=temperature)
    noise = uniforms(torch.full((draws,), 12345), torch.arange(draws), 5, Stream.POLICY)
    committed, _ = distribution.sample(torch.tensor([logits] * draws), torch.tensor([eligible] * draws), noise)
    every = subsets(eligible)
    probability = log_probs(distribution, logits, eligible, every).exp()
    code = (committed.long() * 2 ** torch.arange(5)).sum(1)
    statistic, cells = 0.0, 0
    for subset, p in zip(every, probability.tolist(), strict=True):
        observed = int((code == sum(2**i for i, y in enumerate(subset) if y)).sum())
        if not any(subset) and kind is BernoulliArgmax:
            assert observed == 0
        elif p * draws >= 5:
            statistic += (observed - p * draws) ** 2 / (p * draws)
            cells += 1
    assert cells >= 6
    assert statistic < cells + 5 * math.sqrt(2 * cells)  # mean and five standard deviations of chi-square


@given(row=ROW, temperature=TEMPERATURE, seed=st.integers(0, 10**6))
def test_a_forced_argmax_is_the_leftmost_largest_eligible_logit(
    row: list[tuple[float, bool]], temperature: float, seed: int
) -> None:
    logits = torch.tensor([[round(u) for u, _ in row]], dtype=torch.float32)  # rounded: plenty of ties
    eligible = torch.tensor([[s for _, s in row]])
    never = torch.ones_like(logits)
    committed, _ = BernoulliArgmax(temperature=temperature).sample(logits, eligible, never)
    members = [i for i, (_, is_eligible) in enumerate(row) if is_eligible]
    best = [max(members, key=lambda i: (float(logits[0, i]), -i))] if members else []
    assert committed[0].nonzero().flatten().tolist() == best
    assert not bool(Bernoulli(temperature=temperature).sample(logits, eligible, never)[0].any())


@pytest.mark.parametrize("kind", BOTH)
@given(row=ROW, temperature=TEMPERATURE, key=st.integers(0, 2**62))
def test_temperature_divides_the_logits_alike_in_sampling_scoring_and_entropy(
    kind: type[Bernoulli], row: list[tuple[float, bool]], temperature: float, key: int
) -> None:
    logits = torch.tensor([[u for u, _ in row]], dtype=torch.float64)
    eligible = torch.tensor([[s for _, s in row]])
    noise = uniforms(torch.tensor([key]), torch.tensor([0]), len(row), Stream.POLICY)
    hot, plain = kind(temperature=temperature), kind()
    committed, _ = hot.sample(logits, eligible, noise)
    assert torch.equal(committed, plain.sample(logits / temperature, eligible, noise)[0])
    assert torch.equal(
        hot.log_prob(logits, eligible, committed), plain.log_prob(logits / temperature, eligible, committed)
    )
    assert torch.equal(hot.entropy(logits, eligible), plain.entropy(logits / temperature, eligible))


@pytest.mark.parametrize("kind", BOTH)
@given(row=ROW, filler=st.floats(-1e6, 1e6, allow_nan=False), key=st.integers(0, 2**62))
def test_positions_outside_the_eligible_set_have_no_influence(
    kind: type[Bernoulli], row: list[tuple[float, bool]], filler: float, key: int
) -> None:
    logits = torch.tensor([[u for u, _ in row]])
    eligible = torch.tensor([[s for _, s in row]])
    other = torch.where(eligible, logits, torch.full_like(logits, filler)).requires_grad_()
    noise = uniforms(torch.tensor([key]), torch.tensor([0]), len(row), Stream.POLICY)
    committed, near = kind().sample(logits, eligible, noise)
    again, near_again = kind().sample(other.detach(), eligible, torch.where(eligible, noise, 1 - noise))
    assert torch.equal(committed, again)
    assert torch.equal(near, near_again)
    assert not bool((committed & ~eligible).any())
    assert torch.equal(kind().log_prob(logits, eligible, committed), kind().log_prob(other, eligible, committed))
    assert torch.equal(kind().entropy(logits, eligible), kind().entropy(other, eligible))
    kind().log_prob(other, eligible, committed).sum().backward()
    assert other.grad is not None
    assert bool((other.grad[~eligible] == 0).all())


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("u", [-50.0, -20.0, 0.0, 20.0, 50.0])
@pytest.mark.parametrize("committed", [[True, False, False], [True, True, True], [False, True, False]])
def test_values_and_gradients_stay_exact_at_extreme_logits(
    kind: type[Bernoulli], u: float, committed: list[bool]
) -> None:
    logits = torch.tensor([[u, -u, u / 2]], requires_grad=True)
    eligible = torch.ones(1, 3, dtype=torch.bool)
    value = kind().log_prob(logits, eligible, torch.tensor([committed]))
    (value + kind().entropy(logits, eligible)).sum().backward()
    assert logits.grad is not None
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(logits.grad).all())


def test_a_confident_position_keeps_its_gradient() -> None:
    # The reference clamps probabilities, which makes this gradient 0 (algorithms.md 3.1).
    logits = torch.tensor([[50.0]], requires_grad=True)
    value = Bernoulli().log_prob(logits, torch.tensor([[True]]), torch.tensor([[False]]))
    assert value.item() == pytest.approx(-50.0)
    value.sum().backward()
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(-1.0)


@pytest.mark.parametrize("kind", BOTH)
def test_gradients_agree_with_finite_differences(kind: type[Bernoulli]) -> None:
    eligible = torch.tensor([[True, True, False, True]] * 3)
    # Row 0 is the forced branch, row 1 another single position, row 2 two positions.
    committed = torch.tensor([[False, True, False, False], [True, False, False, False], [True, False, False, True]])
    logits = torch.tensor([[-1.0, 0.7, 3.0, -0.2]] * 3, dtype=torch.float64, requires_grad=True)
    distribution = kind(temperature=0.7)
    assert torch.autograd.gradcheck(lambda u: distribution.log_prob(u, eligible, committed), (logits,))


@pytest.mark.parametrize("kind", BOTH)
@given(row=ROW, temperature=TEMPERATURE)
def test_entropy_is_the_mean_binary_entropy_of_the_eligible_positions(
    kind: type[Bernoulli], row: list[tuple[float, bool]], temperature: float
) -> None:
    terms = []
    for u, is_eligible in row:
        if is_eligible:
            p = sigmoid(u / temperature)
            terms.append(-sum(q * math.log(q) for q in (p, 1 - p) if q > 0))
    logits = torch.tensor([[u for u, _ in row]], dtype=torch.float64)
    got = kind(temperature=temperature).entropy(logits, torch.tensor([[s for _, s in row]]))
    assert got.item() == pytest.approx(sum(terms) / len(terms) if terms else 0.0, abs=1e-9)


def test_near_ties_count_draws_at_their_threshold_and_contested_forced_positions() -> None:
    logits = torch.zeros(3, 2)
    eligible = torch.tensor([[True, True], [True, False], [True, True]])
    noise = torch.tensor([[0.5, 0.1], [0.9, 0.5], [0.9, 0.9]])
    assert Bernoulli().sample(logits, eligible, noise)[1].tolist() == [1, 0, 0]
    assert BernoulliArgmax().sample(logits, eligible, noise)[1].tolist() == [1, 0, 1]


@pytest.mark.parametrize("name", ["bernoulli", "bernoulli_argmax"])
def test_the_configured_distribution_has_the_configured_temperature(name: Any) -> None:
    kind = {"bernoulli": Bernoulli, "bernoulli_argmax": BernoulliArgmax}[name]
    distribution = make_distribution(PolicyConfig(distribution=name, policy_temperature=0.5))
    assert type(distribution) is kind
    row = (torch.tensor([[1.0, -1.0]]), torch.tensor([[True, True]]), torch.tensor([[True, False]]))
    assert torch.equal(distribution.log_prob(*row), kind(temperature=0.5).log_prob(*row))


def test_marks_change_nothing_where_there_is_no_tie() -> None:
    distribution, generator = BernoulliArgmax(), torch.Generator().manual_seed(0)
    logits = torch.randn(400, 5, generator=generator, dtype=torch.float64)
    eligible = torch.rand(400, 5, generator=generator) < 0.7
    outcome, _ = distribution.sample(logits - 2, eligible, torch.rand(400, 5, generator=generator, dtype=torch.float64))
    marked = distribution.marked(logits, eligible, outcome)
    assert torch.equal(marked.bool(), outcome)
    assert 50 < int((marked == ARGMAX).any(1).sum()) < 400
    for seen in (logits, logits + 0.1 * torch.randn(400, 5, generator=generator, dtype=torch.float64)):
        assert torch.equal(
            distribution.log_prob(seen, eligible, marked), distribution.log_prob(seen, eligible, outcome)
        )


def test_a_tie_is_scored_as_it_went() -> None:
    distribution = BernoulliArgmax()
    eligible = torch.ones(1, 3, dtype=torch.bool)
    one_way = torch.tensor([[0.5, 0.5 + 6e-8, -1.0]])
    other_way = one_way[:, [1, 0, 2]]
    for position in (0, 1):
        outcome = torch.zeros(1, 3, dtype=torch.bool)
        outcome[0, position] = True
        decided = distribution.log_prob(one_way, eligible, outcome)
        marked = distribution.marked(one_way, eligible, outcome)
        assert bool((marked == ARGMAX).any()) == (position == 1)
        torch.testing.assert_close(distribution.log_prob(other_way, eligible, marked), decided, atol=1e-5, rtol=0)
        # Without the mark it is scored by whichever is larger now.
        assert float((distribution.log_prob(other_way, eligible, outcome) - decided).abs()) > 0.1
        # Once the two are apart, the larger one is the most likely, whatever it was.
        apart = torch.tensor([[1.0, 0.5, -1.0]])
        torch.testing.assert_close(
            distribution.log_prob(apart, eligible, marked), distribution.log_prob(apart, eligible, outcome)
        )
