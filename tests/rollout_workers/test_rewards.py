"""Rewards against the published numbers."""

from __future__ import annotations

import pytest

from rollout_workers.rewards import make_reward


@pytest.mark.parametrize(
    ("alpha", "nfe", "reward"),
    [(10, 10, 0.699), (3, 30, 0.697), (1, 128, 0.504), (0.3, 256, 0.189), (1, 1, 1.0), (5, 1, 1.0), (1, 256, 1 / 256)],
)
def test_multiplicative(alpha, nfe, reward):
    assert make_reward("multiplicative", alpha=alpha)(1.0, nfe, 256) == pytest.approx(reward, abs=5e-4)


@pytest.mark.parametrize("score", [0.0, 0.4, 1.0])
def test_without_alpha_only_the_score_counts(score):
    assert make_reward("multiplicative", alpha=0)(score, 17, 256) == score
    assert make_reward("additive", alpha=0)(score, 17, 256) == score


def test_wrong_answers_earn_nothing_however_fast():
    assert make_reward("multiplicative", alpha=1)(0.0, 1, 64) == 0


def test_faster_is_better_and_never_worse_than_the_cap():
    reward = make_reward("multiplicative", alpha=1)
    values = [reward(1.0, nfe, 64) for nfe in range(1, 65)]
    assert values == sorted(values, reverse=True)
    assert reward(1.0, 100, 64) == reward(1.0, 64, 64) > 0


def test_partial_scores_scale():
    reward = make_reward("multiplicative", alpha=2)
    assert reward(0.5, 9, 64) == pytest.approx(0.5 * reward(1.0, 9, 64))


def test_additive():
    reward = make_reward("additive", alpha=2)
    assert reward(1.0, 16, 64) == pytest.approx(0.5)
    assert reward(0.0, 64, 64) == pytest.approx(-2.0)


def test_unknown_kinds_are_named():
    with pytest.raises(ValueError, match=r"'exponential'; allowed: multiplicative, additive"):
        make_reward("exponential", alpha=1)
