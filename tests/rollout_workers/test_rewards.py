"""Rewards against the published numbers."""

from __future__ import annotations

import pytest

from cluster.config import build
from cluster.errors import UserError
from rollout_workers.config import RewardConfig
from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.rewards import TERMS, RewardFunction

RIGHT = Grade(GradeKind.CORRECT, 1.0, "4")
PARTLY = Grade(GradeKind.WRONG, 0.4, "3")
WRONG = Grade(GradeKind.WRONG, 0.0, "5")


def earned(term: str, grade: Grade, nfe: int, length: int, *, alpha: float) -> float:
    return RewardFunction({term: 1.0}, alpha=alpha)(grade, nfe, length).total


@pytest.mark.parametrize(
    ("alpha", "nfe", "reward"),
    [(10, 10, 0.699), (3, 30, 0.697), (1, 128, 0.504), (0.3, 256, 0.189), (1, 1, 1.0), (5, 1, 1.0), (1, 256, 1 / 256)],
)
def test_multiplicative(alpha: float, nfe: int, reward: float) -> None:
    assert earned("multiplicative", RIGHT, nfe, 256, alpha=alpha) == pytest.approx(reward, abs=5e-4)


@pytest.mark.parametrize("grade", [RIGHT, PARTLY, WRONG])
def test_without_alpha_only_the_grade_counts(grade: Grade) -> None:
    for term in ("multiplicative", "additive", "correctness"):
        assert earned(term, grade, 17, 256, alpha=0) == float(grade.is_correct)
    for term in ("dense", "dense_multiplicative"):
        assert earned(term, grade, 17, 256, alpha=0) == grade.score


def test_wrong_answers_earn_nothing_however_fast_but_for_the_additive_reward() -> None:
    for grade in (WRONG, PARTLY):
        assert earned("multiplicative", grade, 1, 64, alpha=1) == 0
        assert earned("additive", grade, 1, 64, alpha=1) > earned("additive", grade, 64, 64, alpha=1)


def test_faster_is_better_and_never_worse_than_the_cap() -> None:
    values = [earned("multiplicative", RIGHT, nfe, 64, alpha=1) for nfe in range(1, 65)]
    assert values == sorted(values, reverse=True)
    assert earned("multiplicative", RIGHT, 100, 64, alpha=1) == values[-1] > 0


def test_partial_scores_scale_the_dense_terms_alone() -> None:
    right = earned("dense_multiplicative", RIGHT, 9, 64, alpha=2)
    assert earned("dense_multiplicative", PARTLY, 9, 64, alpha=2) == pytest.approx(0.4 * right)
    assert right == earned("multiplicative", RIGHT, 9, 64, alpha=2)
    assert earned("dense", PARTLY, 9, 64, alpha=2) == 0.4


def test_additive() -> None:
    assert earned("additive", RIGHT, 16, 64, alpha=2) == pytest.approx(0.5)
    assert earned("additive", WRONG, 64, 64, alpha=2) == pytest.approx(-2.0)


def test_terms_add_up_by_weight_and_those_of_weight_zero_are_only_told() -> None:
    reward = RewardFunction({"multiplicative": 1.0, "dense": 0.5, "correctness": 0.0}, alpha=1)(PARTLY, 5, 64)
    assert reward.total == pytest.approx(0.5 * 0.4)
    assert reward.terms == {"multiplicative": 0.0, "dense": 0.4, "correctness": 0.0}
    with_zero = RewardFunction({"multiplicative": 1.0, "additive": 0.0}, alpha=3)(RIGHT, 5, 64)
    assert with_zero.total == earned("multiplicative", RIGHT, 5, 64, alpha=3)


def test_unknown_terms_and_rewards_that_never_pay_are_one_clear_line() -> None:
    with pytest.raises(UserError, match=r"'terms\.exponential' is 1; allowed terms: multiplicative, additive, corr"):
        build(RewardConfig, {"terms": {"exponential": 1}})
    for terms in ({}, {"dense": 0.0}):
        with pytest.raises(UserError, match="allowed: at least one term with a weight other than 0"):
            build(RewardConfig, {"terms": terms})


def test_every_term_sees_the_same_nfe() -> None:
    seen = RewardFunction(dict.fromkeys(TERMS, 1.0), alpha=1)(RIGHT, 7, 64).terms
    assert seen == {term: earned(term, RIGHT, 7, 64, alpha=1) for term in TERMS}
