"""Terminal rewards from a grade and the number of forward passes.

A reward is a weighted sum of named terms, all of which see the same grade and the same NFE. A term of weight 0 is logged and
earns nothing. C is 1 for a right answer and else 0, s the score in [0, 1] (partial credit, where the task gives it), n the NFE
of the row, L the canvas length, alpha the speed exponent:

    multiplicative        C * ((L - min(n, L) + 1) / L) ** alpha       arXiv 2512.09106
    additive              C - alpha * n / L                            the same; known to collapse into fast and wrong policies
    correctness           C
    dense                 s                                            cells of a Sudoku in arXiv 2510.05725
    dense_multiplicative  s * ((L - min(n, L) + 1) / L) ** alpha
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rollout_workers.grading.answers import Grade

_Term = Callable[[Grade, int, int, float], float]


def speed(nfe: int, length: int, alpha: float) -> float:
    """((L - min(n, L) + 1) / L) ** alpha: 1 for one pass, never 0."""
    return float(((length - min(nfe, length) + 1) / length) ** alpha)


TERMS: Mapping[str, _Term] = {
    "multiplicative": lambda grade, nfe, length, alpha: float(grade.is_correct) * speed(nfe, length, alpha),
    "additive": lambda grade, nfe, length, alpha: float(grade.is_correct) - alpha * nfe / length,
    "correctness": lambda grade, nfe, length, alpha: float(grade.is_correct),
    "dense": lambda grade, nfe, length, alpha: grade.score,
    "dense_multiplicative": lambda grade, nfe, length, alpha: grade.score * speed(nfe, length, alpha),
}


@dataclass(frozen=True, slots=True)
class Reward:
    """What one row earned, and the terms that it is made of, unweighted."""

    total: float
    terms: dict[str, float]


class RewardFunction:
    """The weighted sum of some terms."""

    def __init__(self, weights: Mapping[str, float], *, alpha: float) -> None:
        check_terms(weights)
        self._weights = dict(weights)
        self._alpha = alpha

    def __call__(self, grade: Grade, nfe: int, length: int, *, alpha: float | None = None) -> Reward:
        """The reward of a row with `grade` after `nfe` passes over a canvas of `length`, at another `alpha` if one is given."""
        alpha = self._alpha if alpha is None else alpha
        terms = {name: TERMS[name](grade, nfe, length, alpha) for name in self._weights}
        return Reward(sum(weight * terms[name] for name, weight in self._weights.items()), terms)


def check_terms(weights: Mapping[str, float], *, where: str = "terms") -> None:
    """ValueError for an unknown term, and where no term counts."""
    for name, weight in weights.items():
        if name not in TERMS:
            raise ValueError(f"config key '{where}.{name}' is {weight:g}; allowed terms: {', '.join(TERMS)}")
    if not any(weights.values()):
        raise ValueError(
            f"config key '{where}' is {dict(weights)}; allowed: at least one term with a weight other than 0"
        )
