"""Oracles: all trajectories of a tiny decision process, in float64.

A state is the set of masked positions; one is chosen per step until none is left, by softmax of logits that depend on the state.
"""

from __future__ import annotations

import math
from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from learner.losses.grpo import clipped_surrogate, step_weights
from learner.losses.trajectory import output_kl, output_surrogate, trajectory_sums

LENGTH = 3
ORDERS = list(permutations(range(LENGTH)))
OFFSETS = torch.arange(len(ORDERS) + 1) * LENGTH


def logits_of(seed: int, scale: float = 1.0) -> Tensor:
    """`[2^L, L]` one row of logits per state."""
    return scale * torch.randn(2**LENGTH, LENGTH, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def step_log_probs(theta: Tensor) -> Tensor:
    """`[N]` log-probability of every step of every order, one order after another."""
    terms = []
    for order in ORDERS:
        left = list(range(LENGTH))
        for choice in order:
            u = theta[sum(2**i for i in left), left]
            terms.append(u.log_softmax(0)[left.index(choice)])
            left.remove(choice)
    return torch.stack(terms)


def sums(theta: Tensor) -> Tensor:
    return trajectory_sums(step_log_probs(theta), OFFSETS)


def gradient(loss: Tensor, theta: Tensor) -> Tensor:
    return torch.autograd.grad(loss, theta, retain_graph=True)[0]


def exact_kl(theta: Tensor, reference: Tensor) -> Tensor:
    s = sums(theta)
    return (s.exp() * (s - sums(reference))).sum()


@given(st.lists(st.lists(st.floats(-50, 0), max_size=5), min_size=1, max_size=6))
def test_sums_are_those_of_each_row_s_steps(rows: list[list[float]]) -> None:
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in rows])])
    values = torch.tensor([x for row in rows for x in row], dtype=torch.float32).requires_grad_()
    found = trajectory_sums(values, offsets)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([sum(row) for row in rows], rel=1e-6)
    weight = torch.arange(1.0, len(rows) + 1, dtype=torch.float64)
    (slope,) = torch.autograd.grad((weight * found).sum(), values)
    assert slope.tolist() == [r + 1.0 for r, row in enumerate(rows) for _ in row]


def test_the_process_s_trajectories_have_probabilities_that_sum_to_one() -> None:
    assert sums(logits_of(0)).exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("seed", range(3))
def test_at_the_old_policy_the_terms_have_the_gradient_of_the_kl_of_trajectories(seed: int) -> None:
    theta, reference = logits_of(seed).requires_grad_(), logits_of(seed + 10)
    s, old = sums(theta), sums(theta.detach())
    found = gradient((old.exp() * output_kl(s, old, sums(reference))).sum(), theta)
    assert torch.allclose(found, gradient(exact_kl(theta, reference), theta), atol=1e-12)


def test_off_the_old_policy_it_is_unbiased_as_long_as_no_ratio_is_cut() -> None:
    theta, reference = logits_of(0).requires_grad_(), logits_of(10)
    exact = gradient(exact_kl(theta, reference), theta)
    for step, is_cut in ((0.1, False), (2.0, True)):
        old = sums(theta.detach() + step * logits_of(5))
        s = sums(theta)
        ratio = (s - old).detach().exp()
        assert bool(((ratio < 0.5) | (ratio > 2)).any()) == is_cut
        found = gradient((old.exp() * output_kl(s, old, sums(reference))).sum(), theta)
        assert torch.allclose(found, exact, atol=1e-12) != is_cut


def test_the_terms_are_the_formula() -> None:
    s = torch.tensor([-3.0, -3.0, -3.0], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([-3.2, -5.0, -900.0], dtype=torch.float64)
    reference = torch.tensor([-4.0, -1.0, -60.0], dtype=torch.float64)
    (slope,) = torch.autograd.grad(output_kl(s, old, reference).sum(), s)
    assert slope.tolist() == pytest.approx([math.exp(0.2) * 2, 2 * -1, 2 * 58])


def advantages(num_rows: int) -> Tensor:
    advantage = torch.randn(num_rows, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return advantage - advantage.mean()


@pytest.mark.parametrize("num_filtered", [0, 3])
def test_at_the_old_policy_the_gradient_is_that_of_the_sum_over_steps(num_filtered: int) -> None:
    # Proposition 1 of UPO.
    theta, num_rows = logits_of(0).requires_grad_(), len(ORDERS) + num_filtered
    advantage = advantages(len(ORDERS))
    steps = step_log_probs(theta)
    s = trajectory_sums(steps, OFFSETS)
    output = output_surrogate(s, s.detach(), advantage, num_rows=num_rows, clip_low=0.2, clip_high=0.2)
    weight = step_weights(np.full(len(ORDERS), LENGTH), num_rows, normaliser="sum")
    token = clipped_surrogate(
        steps, steps.detach(), advantage.repeat_interleave(LENGTH), torch.from_numpy(weight).double(),
        clip_low=0.2, clip_high=0.2,
    )  # fmt: skip
    assert torch.allclose(gradient(output.loss, theta), gradient(token.loss, theta), atol=1e-7)
    assert output.loss.item() == pytest.approx(-float(advantage.sum()) / num_rows)
    assert (output.num_clipped, output.max_ratio_gap, output.sum_kl) == (0, 0.0, 0.0)


def test_its_expected_gradient_is_that_of_the_expected_advantage() -> None:
    theta, advantage = logits_of(0).requires_grad_(), advantages(len(ORDERS))
    s = sums(theta)
    exact = gradient((s.exp() * advantage).sum(), theta)
    # Each trajectory as often as it comes: its advantage weighted by its probability, times R.
    weighted = advantage * s.detach().exp() * len(ORDERS)
    terms = output_surrogate(s, s.detach(), weighted, num_rows=len(ORDERS), clip_low=0.2, clip_high=0.2)
    assert torch.allclose(-gradient(terms.loss, theta), exact, atol=1e-12)


@given(st.lists(st.tuples(st.floats(-3, 3), st.floats(-2, 2)), min_size=1, max_size=6), st.integers(0, 3))
def test_the_surrogate_is_the_formula(rows: list[tuple[float, float]], num_filtered: int) -> None:
    log_ratio, advantage = torch.tensor(rows, dtype=torch.float64).unbind(1)
    old = -torch.linspace(300, 500, len(rows), dtype=torch.float64)
    num_rows, total = len(rows) + num_filtered, 0.0
    for log_r, a in rows:
        ratio = math.exp(log_r)
        total += min(ratio * a, min(max(ratio, 0.7), 1.5) * a)
    terms = output_surrogate(old + log_ratio, old, advantage, num_rows=num_rows, clip_low=0.3, clip_high=0.5)
    assert terms.loss.item() == pytest.approx(-total / num_rows, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("log_ratio", [-2000.0, -11.0, 11.0, 2000.0])
@pytest.mark.parametrize("advantage", [-1.0, 1.0])
def test_ratios_beyond_the_limit_are_finite_and_pass_no_gradient(log_ratio: float, advantage: float) -> None:
    s = torch.tensor([log_ratio], requires_grad=True)
    terms = output_surrogate(s, torch.zeros(1), torch.tensor([advantage]), num_rows=1, clip_low=0.5, clip_high=0.5)
    terms.loss.backward()
    assert s.grad is not None
    assert s.grad.item() == 0
    assert math.isfinite(terms.loss.item())
    assert terms.max_ratio_gap <= math.exp(10)


def test_gradients_agree_with_finite_differences() -> None:
    old = torch.tensor([-4.0, -5.0, -6.0], dtype=torch.float64)
    s = (old + torch.tensor([0.3, -0.2, 1.5])).requires_grad_()
    advantage = torch.tensor([1.0, -0.5, 2.0], dtype=torch.float64)

    def loss(x: Tensor) -> Tensor:
        return output_surrogate(x, old, advantage, num_rows=4, clip_low=0.5, clip_high=0.5).loss

    assert torch.autograd.gradcheck(loss, (s,))


def test_no_trajectories_cost_nothing() -> None:
    empty = trajectory_sums(torch.zeros(0), torch.zeros(1, dtype=torch.int64))
    terms = output_surrogate(empty, empty, empty, num_rows=8, clip_low=0.5, clip_high=0.5)
    assert (empty.shape, terms.loss.item(), output_kl(empty, empty, empty).shape) == ((0,), 0, (0,))
