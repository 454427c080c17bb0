from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from learner.losses.grpo import clipped_surrogate, step_weights

STEP = st.tuples(st.floats(-1.5, 1.5), st.floats(-2, 2))
ROLLOUTS = st.lists(st.lists(STEP, min_size=1, max_size=4), min_size=1, max_size=5)


def naive_loss(rollouts: list[list[tuple[float, float]]], num_rows: int, low: float, high: float) -> float:
    """algorithms.md 4.1 for rollouts of (log-ratio, advantage) steps."""
    total = 0.0
    for rollout in rollouts:
        inner = 0.0
        for log_ratio, advantage in rollout:
            ratio = math.exp(log_ratio)
            clipped = min(max(ratio, 1 - low), 1 + high)
            inner += min(ratio * advantage, clipped * advantage)
        total += inner / len(rollout)
    return -total / num_rows


def tensors(rollouts: list[list[tuple[float, float]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    flat = torch.tensor([step for rollout in rollouts for step in rollout], dtype=torch.float64)
    old = -torch.linspace(1, 5, len(flat), dtype=torch.float64)
    return flat[:, 0] + old, old, flat[:, 1]


@given(ROLLOUTS, st.integers(0, 3), st.floats(0.05, 0.9), st.floats(0.05, 2.0))
def test_the_loss_is_the_formula_rollout_by_rollout(
    rollouts: list[list[tuple[float, float]]], num_filtered: int, low: float, high: float
) -> None:
    num_rows = len(rollouts) + num_filtered
    nfe = np.array([len(rollout) for rollout in rollouts])
    weight = torch.from_numpy(step_weights(nfe, num_rows, normaliser="per_rollout")).double()
    new, old, advantage = tensors(rollouts)
    terms = clipped_surrogate(new, old, advantage, weight, clip_low=low, clip_high=high)
    assert terms.loss.item() == pytest.approx(naive_loss(rollouts, num_rows, low, high), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(
    ("ratio", "advantage", "value", "slope", "is_cut"),
    [
        (1.8, 2.0, 3.0, 0.0, True),  # a good step may gain no more than 1 + high
        (1.8, -2.0, -3.6, -3.6, False),  # a bad one that became likelier keeps its whole gradient
        (0.4, -2.0, -1.4, 0.0, True),  # a bad step may lose no more than 1 - low
        (0.4, 2.0, 0.8, 0.8, False),
        (1.2, 2.0, 2.4, 2.4, False),
        (0.8, -2.0, -1.6, -1.6, False),
        (3.0, 0.0, 0.0, 0.0, False),
    ],
)
def test_the_clip_cuts_on_the_side_of_the_advantage_s_sign(
    ratio: float, advantage: float, value: float, slope: float, is_cut: bool
) -> None:
    new = torch.tensor([math.log(ratio)], dtype=torch.float64, requires_grad=True)
    one = torch.ones(1, dtype=torch.float64)
    terms = clipped_surrogate(new, 0 * one, advantage * one, one, clip_low=0.3, clip_high=0.5)
    terms.loss.backward()
    assert new.grad is not None
    assert terms.loss.item() == pytest.approx(-value)
    assert new.grad.item() == pytest.approx(-slope)
    assert terms.num_clipped == is_cut
    assert terms.max_ratio_gap == pytest.approx(abs(ratio - 1))
    assert terms.sum_kl == pytest.approx(ratio - 1 - math.log(ratio))


@given(ROLLOUTS)
def test_at_ratio_one_the_gradient_is_that_of_reinforce(rollouts: list[list[tuple[float, float]]]) -> None:
    _, old, advantage = tensors(rollouts)
    weight = torch.linspace(0.1, 1, len(old), dtype=torch.float64)
    new = old.clone().requires_grad_()
    terms = clipped_surrogate(new, old, advantage, weight, clip_low=0.2, clip_high=0.2)
    terms.loss.backward()
    reinforce = old.clone().requires_grad_()
    (-(weight * advantage * reinforce).sum()).backward()
    assert new.grad is not None
    assert reinforce.grad is not None
    assert torch.allclose(new.grad, reinforce.grad, atol=1e-15)
    assert (terms.num_clipped, terms.max_ratio_gap, terms.sum_kl) == (0, 0.0, 0.0)


@given(ROLLOUTS, st.integers(1, 6))
def test_micro_batches_add_up_to_the_whole(rollouts: list[list[tuple[float, float]]], size: int) -> None:
    new, old, advantage = tensors(rollouts)
    weight = torch.linspace(0.1, 1, len(old), dtype=torch.float64)
    features = torch.randn(len(old), 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def gradient(spans: list[slice]) -> tuple[torch.Tensor, list[float]]:
        theta = torch.zeros(3, dtype=torch.float64, requires_grad=True)
        sums = [0.0, 0.0, 0.0]
        for span in spans:
            log_prob = new[span] + features[span] @ theta
            terms = clipped_surrogate(log_prob, old[span], advantage[span], weight[span], clip_low=0.5, clip_high=0.5)
            terms.loss.backward()
            sums = [a + b for a, b in zip(sums, (terms.loss.item(), terms.sum_kl, terms.num_clipped), strict=True)]
        assert theta.grad is not None
        return theta.grad, sums

    whole, sums = gradient([slice(None)])
    split, split_sums = gradient([slice(start, start + size) for start in range(0, len(old), size)])
    assert torch.allclose(split, whole, atol=1e-9, rtol=0)
    assert split_sums == pytest.approx(sums, abs=1e-9)


@pytest.mark.parametrize("advantage", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("log_ratio", [100.0, -100.0])
def test_a_ratio_beyond_the_range_of_its_float_leaves_loss_and_gradient_finite(
    log_ratio: float, advantage: float
) -> None:
    new = torch.tensor([log_ratio, 0.1], requires_grad=True)
    terms = clipped_surrogate(
        new, torch.zeros(2), torch.tensor([advantage, 1.0]), torch.ones(2), clip_low=0.5, clip_high=0.5
    )
    terms.loss.backward()
    assert new.grad is not None
    assert bool(terms.loss.isfinite())
    assert new.grad.tolist() == pytest.approx([0.0, -math.exp(0.1)])
    assert math.isfinite(terms.sum_kl)


@pytest.mark.parametrize(("clip_low", "clip_high"), [(0.2, 0.2), (0.1, 0.4)])
def test_gradients_agree_with_finite_differences(clip_low: float, clip_high: float) -> None:
    """On both sides of both cuts and inside, for either sign of the advantage."""
    log_ratio_N = torch.tensor([-1.0, -0.15, -0.05, 0.05, 0.25, 1.0], dtype=torch.float64).repeat(2)
    old_N = torch.linspace(-9.0, -1.0, 12, dtype=torch.float64)
    advantage_N = torch.tensor([0.7] * 6 + [-0.4] * 6, dtype=torch.float64)
    weight_N = torch.linspace(0.1, 1.0, 12, dtype=torch.float64)
    log_prob_N = (old_N + log_ratio_N).requires_grad_()

    def loss(log_prob_N: torch.Tensor) -> torch.Tensor:
        return clipped_surrogate(log_prob_N, old_N, advantage_N, weight_N, clip_low=clip_low, clip_high=clip_high).loss

    assert torch.autograd.gradcheck(loss, (log_prob_N,), eps=1e-7, atol=1e-6)
    (slope_N,) = torch.autograd.grad(loss(log_prob_N), log_prob_N)
    assert 0 < int((slope_N == 0).sum()) < 12


def test_no_steps_cost_nothing() -> None:
    empty = torch.zeros(0)
    terms = clipped_surrogate(empty, empty, empty, empty, clip_low=0.5, clip_high=0.5)
    assert (terms.loss.item(), terms.num_clipped, terms.max_ratio_gap, terms.sum_kl) == (0, 0, 0, 0)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 5))
def test_weights_per_rollout_and_per_step(nfes: list[int], num_filtered: int) -> None:
    nfe, num_rows = np.array(nfes), len(nfes) + num_filtered
    per_rollout = step_weights(nfe, num_rows, normaliser="per_rollout")
    assert per_rollout.tolist() == pytest.approx([1 / (num_rows * t) for t in nfes for _ in range(t)])
    assert per_rollout.sum() == pytest.approx(len(nfes) / num_rows, rel=1e-5)
    num_all_steps = sum(nfes) + 3 * num_filtered
    per_step = step_weights(nfe, num_rows, normaliser="per_step", num_all_steps=num_all_steps)
    assert per_step.tolist() == pytest.approx([1 / num_all_steps] * sum(nfes))


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 5))
def test_the_weights_that_know_no_number_of_steps(nfes: list[int], num_filtered: int) -> None:
    nfe, num_rows = np.array(nfes), len(nfes) + num_filtered
    total = step_weights(nfe, num_rows, normaliser="sum", canvas_length=12)
    assert total.tolist() == pytest.approx([1 / num_rows] * sum(nfes))
    constant = step_weights(nfe, num_rows, normaliser="constant", canvas_length=12)
    assert constant.tolist() == pytest.approx([1 / (12 * num_rows)] * sum(nfes))
    with pytest.raises(AssertionError):
        step_weights(nfe, num_rows, normaliser="constant")


@pytest.mark.parametrize("normaliser", ["per_rollout", "per_step", "sum", "constant"])
def test_no_kept_row_gives_no_weights(normaliser: Any) -> None:
    weights = step_weights(np.zeros(0, np.int64), 8, normaliser=normaliser, num_all_steps=9, canvas_length=4)
    assert (weights.shape, weights.dtype) == ((0,), np.float32)
