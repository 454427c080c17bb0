"""What holds for each distribution over sets of positions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from policy.distributions import ARGMAX, BernoulliArgmax, SetDistribution
from policy.noise import Stream, uniforms
from tests.policy.distributions.outcomes import KINDS, log_probs, outcome_tensor, outcomes, probability

ROWS = [
    ([0.3, -1.2, 2.0, -0.5], [True, True, True, True]),
    ([1.5, 0.1, -3.0, 0.1], [True, False, True, True]),
    ([-6.0, 5.0, 0.0, 4.0], [True, True, False, False]),
    ([0.7, -0.7, 9.0, 1.0], [False, False, False, True]),
    ([0.7, -0.7, 9.0, 1.0], [False, False, False, False]),
]
EACH = pytest.mark.parametrize("kind", KINDS)


def noise(distribution: SetDistribution, num_rows: int, length: int, *, key: int = 77) -> Tensor:
    width = length + distribution.num_extra_uniforms
    return uniforms(torch.full((num_rows,), key), torch.arange(num_rows), width, Stream.POLICY)


def random_rows(num_rows: int, length: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits, and eligible sets of which the first is empty and the second a single position."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(num_rows, length, generator=generator)
    eligible = torch.rand(num_rows, length, generator=generator) < 0.6
    eligible[0], eligible[1] = False, torch.arange(length) == 3
    return logits, eligible


@EACH
@pytest.mark.parametrize("temperature", [1.0, 0.4, 2.5])
def test_every_outcome_has_the_probability_of_the_definition_and_they_sum_to_one(kind: str, temperature: float) -> None:
    for logits, eligible in ROWS:
        every = outcomes(kind, eligible)
        got = log_probs(KINDS[kind](temperature), logits, eligible, every).exp()
        expected = torch.tensor(
            [probability(kind, logits, eligible, y, temperature) for y in every], dtype=torch.float64
        )
        accuracy = 1e-9 if kind == "dpls_set" else 1e-12
        assert float(expected.sum()) == pytest.approx(1, abs=1e-12)
        assert float(got.sum()) == pytest.approx(1, abs=accuracy)
        torch.testing.assert_close(got, expected, rtol=accuracy, atol=1e-14)


@EACH
def test_a_draw_is_a_sample_with_its_log_probability_and_marks(kind: str) -> None:
    distribution = KINDS[kind](0.6)
    logits_NL, eligible_NL = random_rows(200, 7)
    logits_NL[100:] -= 4.0  # where forced choices are common
    uniforms_NM = noise(distribution, 200, 7)
    drawn = distribution.draw(logits_NL, eligible_NL, uniforms_NM)
    outcome_NL, num_near_N = distribution.sample(logits_NL, eligible_NL, uniforms_NM)
    assert torch.equal(drawn.commit_BL, outcome_NL.bool())
    if distribution.is_ordered:
        assert drawn.rank_BL is not None
        assert torch.equal(drawn.rank_BL, outcome_NL)
    else:
        assert drawn.rank_BL is None
    assert torch.equal(drawn.num_near_ties_B, num_near_N)
    assert torch.equal(drawn.log_prob_B, distribution.log_prob(logits_NL, eligible_NL, outcome_NL))
    if isinstance(distribution, BernoulliArgmax):
        assert drawn.argmax_BL is not None
        assert torch.equal(drawn.argmax_BL, distribution.marked(logits_NL, eligible_NL, outcome_NL) == ARGMAX)
        assert 20 < drawn.argmax_BL.sum() < 180
    else:
        assert drawn.argmax_BL is None


@EACH
def test_sampled_frequencies_match_the_log_probabilities(kind: str) -> None:
    draws, (logits, eligible) = 30_000, ([-0.6, 0.4, 2.0, -0.7], [True, True, False, True])
    for temperature in (1.0, 0.5):
        distribution = KINDS[kind](temperature)
        drawn, _ = distribution.sample(
            torch.tensor([logits] * draws), torch.tensor([eligible] * draws), noise(distribution, draws, 4)
        )
        assert drawn.dtype == (torch.int16 if distribution.is_ordered else torch.bool)
        every = outcomes(kind, eligible)
        expected = log_probs(distribution, logits, eligible, every).exp() * draws
        code = (drawn.long() * 5 ** torch.arange(4)).sum(1)
        observed = torch.tensor([int((code == sum(rank * 5**i for i, rank in enumerate(y))).sum()) for y in every])
        assert int(observed.sum()) == draws
        is_cell = expected >= 5
        cells = int(is_cell.sum())
        statistic = float(((observed - expected) ** 2 / expected)[is_cell].sum())
        assert cells >= 3
        assert statistic < cells + 5 * math.sqrt(2 * cells)  # mean and five standard deviations of chi-square


@EACH
def test_gradients_agree_with_finite_differences_and_are_finite_for_every_outcome(kind: str) -> None:
    # Nodes of the quadrature move with the logits, so its differences are taken over a wider step.
    step, tolerance = (1e-3, 1e-5) if kind == "dpls_set" else (1e-5, 1e-8)
    for temperature in (1.0, 0.5):
        distribution = KINDS[kind](temperature)
        for logits, eligible in ROWS:
            every = outcomes(kind, eligible)
            rows = (torch.tensor([eligible] * len(every)), outcome_tensor(distribution, every))
            u = torch.tensor([logits] * len(every), dtype=torch.float64, requires_grad=True)
            distribution.log_prob(u, *rows).sum().backward()
            assert u.grad is not None
            assert bool(torch.isfinite(u.grad).all())
            for i in range(4):
                shift = torch.zeros(4, dtype=torch.float64)
                shift[i] = step
                ahead, behind = (distribution.log_prob(u.detach() + way * shift, *rows) for way in (1, -1))
                torch.testing.assert_close(u.grad[:, i], (ahead - behind) / (2 * step), atol=tolerance, rtol=tolerance)


@EACH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_stay_finite_for_empty_single_and_full_rows_at_extreme_logits(
    kind: str, dtype: torch.dtype
) -> None:
    distribution = KINDS[kind](1.0)
    for size in (1.0, 50.0):
        logits, eligible = random_rows(40, 12)
        eligible[2] = True
        logits = (size * logits).to(dtype).requires_grad_()
        drawn, _ = distribution.sample(logits.detach(), eligible, noise(distribution, 40, 12))
        if kind not in ("top_k", "categorical"):
            drawn[2] = torch.arange(1, 13).to(drawn.dtype)  # all selected, in order of position
        log_prob, entropy = distribution.log_prob(logits, eligible, drawn), distribution.entropy(logits, eligible)
        assert log_prob.dtype == entropy.dtype == dtype
        assert (log_prob[0].tolist(), entropy[0].tolist()) == (0, 0)
        assert bool((log_prob <= 1e-6).all())
        assert bool((entropy >= 0).all())
        (log_prob + entropy).sum().backward()
        assert logits.grad is not None
        assert bool(torch.isfinite(log_prob).all() & torch.isfinite(logits.grad).all())
        assert bool((logits.grad[~eligible] == 0).all())


@EACH
def test_an_outcome_that_cannot_be_drawn_is_impossible(kind: str) -> None:
    distribution, logits, eligible = KINDS[kind](1.0), [0.3, -1.0, 0.2], [True, True, True]
    nothing = log_probs(distribution, logits, eligible, [[0, 0, 0]]).item()
    assert (nothing == -math.inf) == (kind != "bernoulli")
    if kind in ("top_k", "categorical"):
        for wrong in ([1, 2, 3], [1, 0, 0] if kind == "top_k" else [1, 1, 0]):
            assert log_probs(distribution, logits, eligible, [wrong]).item() == -math.inf


@EACH
def test_temperature_divides_the_logits_alike_in_sampling_scoring_and_entropy(kind: str) -> None:
    logits, eligible = random_rows(64, 7)
    for temperature in (0.25, 3.0):
        hot, plain = KINDS[kind](temperature), KINDS[kind](1.0)
        drawn, near = hot.sample(logits, eligible, noise(hot, 64, 7))
        again, near_again = plain.sample(logits / temperature, eligible, noise(hot, 64, 7))
        assert torch.equal(drawn, again)
        assert torch.equal(near, near_again)
        assert torch.equal(hot.log_prob(logits, eligible, drawn), plain.log_prob(logits / temperature, eligible, drawn))
        assert torch.equal(hot.entropy(logits, eligible), plain.entropy(logits / temperature, eligible))


@EACH
def test_a_row_draws_and_scores_alone_as_it_does_in_a_batch(kind: str) -> None:
    distribution, (logits, eligible) = KINDS[kind](1.0), random_rows(30, 9)
    uniforms_NM = noise(distribution, 30, 9)
    together, near = distribution.sample(logits, eligible, uniforms_NM)
    log_prob = distribution.log_prob(logits, eligible, together)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    assert torch.equal(distribution.sample(logits[order], eligible[order], uniforms_NM[order])[0], together[order])
    for n in range(30):
        row = slice(n, n + 1)
        alone, near_alone = distribution.sample(logits[row], eligible[row], uniforms_NM[row])
        assert torch.equal(alone, together[row])
        assert torch.equal(near_alone, near[row])
        assert float(distribution.log_prob(logits[row], eligible[row], alone)) == pytest.approx(
            float(log_prob[n]), abs=1e-6
        )


@EACH
def test_positions_outside_the_eligible_set_have_no_influence(kind: str) -> None:
    distribution, (logits, eligible) = KINDS[kind](1.0), random_rows(50, 8)
    uniforms_NM = noise(distribution, 50, 8)
    drawn, near = distribution.sample(logits, eligible, uniforms_NM)
    assert not bool((drawn.bool() & ~eligible).any())
    other = torch.where(eligible, logits, torch.full_like(logits, 1e6))
    other_noise = uniforms_NM.clone()
    other_noise[:, :8] = torch.where(eligible, uniforms_NM[:, :8], 1 - uniforms_NM[:, :8])
    again, near_again = distribution.sample(other, eligible, other_noise)
    assert torch.equal(drawn, again)
    assert torch.equal(near, near_again)
    assert torch.equal(distribution.log_prob(logits, eligible, drawn), distribution.log_prob(other, eligible, drawn))
    assert torch.equal(distribution.entropy(logits, eligible), distribution.entropy(other, eligible))
