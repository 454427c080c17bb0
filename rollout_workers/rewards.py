"""Terminal rewards from a grade and the number of forward passes (arXiv 2512.09106, section on rewards)."""

from __future__ import annotations

from collections.abc import Callable

RewardFunction = Callable[[float, int, int], float]
"""(score in [0, 1], NFE, canvas length L) -> reward."""


def multiplicative(score: float, nfe: int, length: int, *, alpha: float) -> float:
    """score * ((L - min(n, L) + 1) / L) ** alpha: 1 for a right answer in one pass, score itself at alpha = 0."""
    return score * ((length - min(nfe, length) + 1) / length) ** alpha


def additive(score: float, nfe: int, length: int, *, alpha: float) -> float:
    """score - alpha * n / L; known to collapse into fast and wrong policies, kept for comparison."""
    return score - alpha * nfe / length


def make_reward(kind: str, *, alpha: float) -> RewardFunction:
    """The reward called `kind` at speed exponent `alpha`."""
    functions: dict[str, Callable[..., float]] = {"multiplicative": multiplicative, "additive": additive}
    if kind not in functions:
        raise ValueError(f"unknown reward {kind!r}; allowed: {', '.join(functions)}")
    function = functions[kind]

    def reward(score: float, nfe: int, length: int) -> float:
        return function(score, nfe, length, alpha=alpha)

    return reward
