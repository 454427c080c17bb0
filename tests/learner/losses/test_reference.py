from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.losses.reference import FLOOR_NATS, bernoulli_kl, categorical_kl, cross_entropy, reference_log_prob
from policy.distributions import Bernoulli, Categorical

ROW = st.lists(st.tuples(st.floats(-8, 8), st.booleans(), st.floats(0.01, 0.99)), min_size=1, max_size=5)
Row = list[tuple[float, bool, float]]


def parallel_cross_entropy(logits: Tensor, eligible: Tensor, reference: Tensor) -> Tensor:
    return cross_entropy(logits, eligible, reference, family="parallel")


PARALLEL = (bernoulli_kl, parallel_cross_entropy)
ONE_TOKEN = (categorical_kl, cross_entropy)
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def tensors(row: Row, *, normalised: bool) -> tuple[Tensor, Tensor, Tensor]:
    """float64 (logits, eligible, reference) `[1, L]`; the reference is 0 where nothing is eligible."""
    eligible = torch.tensor([[s for _, s, _ in row]])
    reference = torch.tensor([[p for _, _, p in row]], dtype=torch.float64) * eligible
    if normalised and bool(eligible.any()):
        reference = reference / reference.sum()
    return torch.tensor([[u for u, _, _ in row]], dtype=torch.float64), eligible, reference


def outcomes(eligible: Tensor, *, single: bool) -> Tensor:
    """`[n, L]` every set of eligible positions, or every one of them."""
    sets = [list(bits) for bits in product(*[(False, True) if s else (False,) for s in eligible[0].tolist()])]
    return torch.tensor([bits for bits in sets if not single or sum(bits) == min(1, int(eligible.sum()))])


def log_probs(distribution: Any, logits: Tensor, eligible: Tensor, outcome: Tensor) -> Tensor:
    n = len(outcome)
    found: Tensor = distribution.log_prob(logits.expand(n, -1), eligible.expand(n, -1), outcome)
    return found


@given(ROW)
def test_parallel_divergences_are_those_of_the_enumerated_sets(row: Row) -> None:
    logits, eligible, reference = tensors(row, normalised=False)
    every = outcomes(eligible, single=False)
    log_q = log_probs(Bernoulli(), logits, eligible, every)
    n = len(every)
    log_p = reference_log_prob(every, eligible.expand(n, -1), reference.expand(n, -1), family="parallel")
    expected_p = torch.stack([torch.where(y, reference[0], 1 - reference[0])[eligible[0]].prod() for y in every])
    assert torch.allclose(log_p.exp(), expected_p, rtol=1e-9)
    assert log_p.exp().sum().item() == pytest.approx(1)
    kl = bernoulli_kl(logits, eligible, reference)
    assert kl.item() == pytest.approx(float((log_q.exp() * (log_q - log_p)).sum()), rel=1e-6, abs=1e-9)
    assert kl.item() >= -1e-12
    found = cross_entropy(logits, eligible, reference, family="parallel")
    assert found.item() == pytest.approx(-float((log_p.exp() * log_q).sum()), rel=1e-6, abs=1e-9)


@given(ROW)
def test_one_token_divergences_are_those_of_the_enumerated_choices(row: Row) -> None:
    logits, eligible, reference = tensors(row, normalised=True)
    every = outcomes(eligible, single=True)
    n = len(every)
    log_pi = log_probs(Categorical(), logits, eligible, every)
    log_g = reference_log_prob(every, eligible.expand(n, -1), reference.expand(n, -1), family="one_token")
    assert log_g.exp().sum().item() == pytest.approx(1)
    kl = categorical_kl(logits, eligible, reference)
    assert kl.item() == pytest.approx(float((log_pi.exp() * (log_pi - log_g)).sum()), rel=1e-6, abs=1e-9)
    assert kl.item() >= -1e-12
    found = cross_entropy(logits, eligible, reference)
    assert found.item() == pytest.approx(-float((log_g.exp() * log_pi).sum()), rel=1e-6, abs=1e-9)


def test_a_policy_that_is_its_reference_is_nowhere_away_from_it() -> None:
    logits = torch.tensor([[0.3, -2.0, 1.0, 5.0]], dtype=torch.float64, requires_grad=True)
    eligible = torch.tensor([[True, True, True, False]])
    soft = logits.detach().masked_fill(~eligible, -torch.inf).softmax(1)
    parallel = torch.sigmoid(logits.detach())
    value = bernoulli_kl(logits, eligible, parallel) + categorical_kl(logits, eligible, soft)
    value.sum().backward()
    assert logits.grad is not None
    assert value.item() == pytest.approx(0, abs=1e-12)
    assert torch.allclose(logits.grad, torch.zeros_like(logits), atol=1e-12)


@pytest.mark.parametrize("loss", [*PARALLEL, *ONE_TOKEN])
def test_gradients_agree_with_finite_differences(loss: Loss) -> None:
    eligible = torch.tensor([[True, True, False, True], [True, False, False, False], [False] * 4])
    reference = torch.tensor([[0.2, 0.7, 0.0, 0.1], [1.0, 0.0, 0.0, 0.0], [0.0] * 4], dtype=torch.float64)
    if loss in PARALLEL:
        reference = reference.clamp(0.05, 0.95) * eligible
    logits = torch.tensor([[-1.0, 0.7, 3.0, -0.2]] * 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda u: loss(u, eligible, reference), (logits,))


@pytest.mark.parametrize("loss", [*PARALLEL, *ONE_TOKEN])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("reference_dtype", [torch.float32, torch.float64])
def test_rows_with_nothing_eligible_cost_nothing_and_the_logits_decide_the_float_type(
    loss: Loss, dtype: torch.dtype, reference_dtype: torch.dtype
) -> None:
    logits = torch.tensor([[5.0, -1.0], [50.0, -50.0], [1e4, -1e4]], dtype=dtype, requires_grad=True)
    eligible = torch.tensor([[False, False], [True, True], [True, False]])
    reference = torch.tensor([[0.0, 0.0], [0.3, 0.7], [0.9, 0.0]], dtype=reference_dtype)
    value = loss(logits, eligible, reference)
    value.sum().backward()
    assert logits.grad is not None
    assert value.dtype == dtype
    assert value[0] == 0
    assert logits.grad[0].tolist() == [0, 0]
    assert logits.grad[2, 1] == 0
    assert bool(torch.isfinite(value).all())
    assert bool(torch.isfinite(logits.grad).all())


@pytest.mark.parametrize("loss", [*PARALLEL, *ONE_TOKEN])
@pytest.mark.parametrize("filler", [0.0, 1e30, -1e30, math.inf, math.nan])
def test_positions_outside_the_eligible_set_have_no_influence(loss: Loss, filler: float) -> None:
    logits = torch.tensor([[0.3, filler, -1.0]], requires_grad=True)
    eligible = torch.tensor([[True, False, True]])
    expected = loss(torch.tensor([[0.3, -1.0]]), torch.tensor([[True, True]]), torch.tensor([[0.4, 0.6]]))
    found = loss(logits, eligible, torch.tensor([[0.4, 0.0, 0.6]]))
    found.sum().backward()
    assert logits.grad is not None
    assert torch.allclose(found, expected)
    assert logits.grad[0, 1] == 0
    assert bool(torch.isfinite(logits.grad).all())


def test_confident_positions_keep_their_gradient() -> None:
    logits = torch.tensor([[40.0]], requires_grad=True)
    value = bernoulli_kl(logits, torch.tensor([[True]]), torch.tensor([[0.25]]))
    cross_entropy(logits, torch.tensor([[True]]), torch.tensor([[0.25]]), family="parallel").sum().backward()
    assert value.item() == pytest.approx(math.log(4))
    assert logits.grad is not None
    assert logits.grad.item() == pytest.approx(0.75)


def test_what_a_one_token_reference_never_chooses_costs_its_floor() -> None:
    logits = torch.tensor([[0.4, -0.3, 1.0]], dtype=torch.float64)
    eligible = torch.ones(1, 3, dtype=torch.bool)
    uniform = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64)
    pi = logits.softmax(1)[0]
    expected = float((pi * pi.log()).sum() - (pi[0] + pi[1]) * math.log(0.5) - pi[2] * FLOOR_NATS)
    assert categorical_kl(logits, eligible, uniform).item() == pytest.approx(expected)
    # Policies that are kept to the support are as far away as if there were nothing else.
    inside = categorical_kl(logits, torch.tensor([[True, True, False]]), uniform)
    assert inside.item() == pytest.approx(categorical_kl(logits[:, :2], eligible[:, :2], uniform[:, :2]).item())
    chosen = torch.tensor([[False, False, True]])
    assert reference_log_prob(chosen, eligible, uniform, family="one_token").item() == pytest.approx(FLOOR_NATS)


def test_log_probabilities_of_rows_and_outcomes_that_are_special() -> None:
    eligible = torch.tensor([[True, True], [True, True], [True, True], [False, False]])
    outcome = torch.tensor([[True, True], [False, False], [False, True], [False, False]])
    reference = torch.tensor([[0.25, 0.75]] * 3 + [[0.0, 0.0]])
    one = reference_log_prob(outcome, eligible, reference, family="one_token")
    assert one.tolist() == pytest.approx([-math.inf, -math.inf, math.log(0.75), 0.0])
    both = reference_log_prob(outcome, eligible, reference, family="parallel")
    assert both.tolist() == pytest.approx([math.log(3 / 16), math.log(3 / 16), math.log(9 / 16), 0.0])
    assert torch.equal(reference_log_prob(outcome.to(torch.int16), eligible, reference, family="parallel"), both)
