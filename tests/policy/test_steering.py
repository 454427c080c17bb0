"""Experts decide as the heuristic does, and are scored as decisions of the policy within the mixture."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from policy.behaviour import Behaviour
from policy.config import PolicyConfig
from policy.factory import make_heuristic
from policy.learned import make_distribution, recorded_outcome, step_logits
from policy.observation import leading_block
from policy.steering import ExpertUnmasker, expert_log_prob
from tests.fakes.policies import lively_policy
from tests.policy.observations import random_observation, record

MODES: tuple[Any, ...] = ("mixture", "per_decision", "policy_ratio")
NUM_EXPERTS = 2
SHARE, EXPERT_SHARE = 8 / (8 + NUM_EXPERTS), 1 / (8 + NUM_EXPERTS)


def behaviour(mode: Any) -> Behaviour:
    return Behaviour(mode, SHARE, EXPERT_SHARE)


def expert(mode: Any, *, block_length: int | None = 4, **settings: Any) -> ExpertUnmasker:
    heuristic = make_heuristic("threshold", 0.6)
    return ExpertUnmasker(lively_policy(**settings), heuristic, block_length=block_length, behaviour=behaviour(mode))


def test_the_expert_decides_inside_its_own_leading_block() -> None:
    observation = random_observation(40, 16, seed=1)
    window = leading_block(observation.masked_BL, 4)
    decision = expert("mixture").decide(observation)
    assert bool(decision.commit_BL.any(1).all())
    assert not bool((decision.commit_BL & ~(window & observation.eligible_BL)).any())
    whole = expert("mixture", block_length=None).decide(observation)
    alone = make_heuristic("threshold", 0.6).decide(observation)
    assert torch.equal(whole.commit_BL, alone.commit_BL)
    assert bool((whole.commit_BL & ~window).any())


def test_the_leading_block_is_that_of_the_leftmost_mask() -> None:
    masked = torch.tensor([[0, 0, 1, 0, 0, 1], [0, 0, 0, 0, 1, 1], [1, 1, 1, 1, 1, 1]], dtype=torch.bool)
    window = leading_block(masked, 2)
    assert window.int().tolist() == [[0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1], [1, 1, 0, 0, 0, 0]]


SET_DPLS: dict[str, Any] = dict(distribution="dpls", dpls_likelihood="set")


@pytest.mark.parametrize(
    ("mode", "settings"),
    [
        *((mode, dict(distribution=name)) for mode in MODES for name in ("bernoulli", "bernoulli_argmax")),
        ("mixture", SET_DPLS),
        ("policy_ratio", SET_DPLS),
    ],
)
def test_what_is_recorded_is_what_scoring_gives_again(mode: Any, settings: dict[str, Any]) -> None:
    unmasker = expert(mode, **settings)
    observation = random_observation(30, 12, seed=2)
    with torch.no_grad():
        steps = record(observation, unmasker.decide(observation))
    learned = unmasker._learned
    logits, open_positions = step_logits(learned.network, steps)
    outcome = recorded_outcome(learned.network, learned.distribution, steps)
    again = expert_log_prob(learned.distribution, logits, open_positions, outcome, behaviour(mode))
    assert torch.allclose(again, torch.from_numpy(steps.log_prob_N), atol=1e-5)


def test_the_modes_are_their_formulas() -> None:
    learned = lively_policy(distribution="bernoulli")
    logits, eligible = torch.randn(5, 6, dtype=torch.float64), torch.rand(5, 6) < 0.8
    outcome = (torch.rand(5, 6) < 0.4) & eligible

    def score(mode: Any) -> torch.Tensor:
        return expert_log_prob(learned.distribution, logits, eligible, outcome, behaviour(mode))

    p = torch.where(outcome, logits.sigmoid(), 1 - logits.sigmoid())
    p = torch.where(eligible, p, torch.ones_like(p))
    assert torch.allclose(score("policy_ratio"), p.log().sum(1))
    assert torch.allclose(score("mixture"), (SHARE * p.prod(1) + EXPERT_SHARE).log())
    each = torch.where(eligible, (SHARE * p + EXPERT_SHARE).log(), torch.zeros_like(p))
    assert torch.allclose(score("per_decision"), each.sum(1))


def test_the_mixture_loses_the_gradient_where_the_policy_finds_the_decision_unlikely_and_its_cures_do_not() -> None:
    learned = lively_policy(distribution="bernoulli")
    length = 64
    eligible = torch.ones(1, length, dtype=torch.bool)
    outcome = torch.zeros(1, length, dtype=torch.bool)
    outcome[0, :16] = True
    norms = {}
    for mode in MODES:
        logits = torch.full((1, length), -2.0, dtype=torch.float64, requires_grad=True)
        expert_log_prob(learned.distribution, logits, eligible, outcome, behaviour(mode)).sum().backward()
        assert logits.grad is not None
        norms[mode] = float(logits.grad.norm())
    # Responsibility of the policy for the whole decision: w pi / (w pi + v).
    log_pi = 16 * math.log(torch.sigmoid(torch.tensor(-2.0))) + 48 * math.log(1 - torch.sigmoid(torch.tensor(-2.0)))
    responsibility = SHARE * math.exp(log_pi) / (SHARE * math.exp(log_pi) + EXPERT_SHARE)
    assert norms["mixture"] / norms["policy_ratio"] == pytest.approx(responsibility, rel=1e-6)
    assert norms["mixture"] < 1e-12 < 0.1 < norms["per_decision"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("distribution", ["bernoulli", "bernoulli_argmax", "dpls"])
def test_gradients_agree_with_finite_differences(mode: Any, distribution: Any) -> None:
    if mode == "per_decision" and distribution == "dpls":
        pytest.skip("its positions are not independent")
    scorer = make_distribution(PolicyConfig(distribution=distribution, dpls_likelihood="set"))
    generator = torch.Generator().manual_seed(3)
    logits_NL = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()
    open_NL = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0], [1, 0, 1, 1], [0, 0, 1, 0]], dtype=torch.bool)
    commit_NL = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 1, 0]], dtype=torch.bool)

    def log_prob(logits_NL: torch.Tensor) -> torch.Tensor:
        return expert_log_prob(scorer, logits_NL, open_NL, commit_NL, behaviour(mode))

    assert torch.autograd.gradcheck(log_prob, (logits_NL,), eps=1e-6, atol=1e-6)


def test_the_expert_asks_for_what_the_policy_and_the_heuristic_need() -> None:
    unmasker = expert("mixture", num_confidences=3)
    assert unmasker.needs.num_confidences == 3
    assert unmasker.needs.scope == unmasker._learned.needs.scope
