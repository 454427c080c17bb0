"""Hand-made unmaskers. All ties go to the leftmost position, all rules hold per row.

Sources: random and low_confidence from LLaDA (arXiv 2502.09992), threshold with `>=` and factor from Fast-dLLM (arXiv
2505.22618).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from policy.noise import Stream, uniforms
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import NEAR_TIE, Decision, deterministic


def top_k(score_BL: Tensor, eligible_BL: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k eligible positions with the largest scores (all of them where fewer are left).

    Returns:
        (`[B, L]` bool, `[B]` int64 that is 1 where the k-th and the next score are a near tie).
    """
    k = min(k, score_BL.shape[1])
    scores_BL = score_BL.masked_fill(~eligible_BL, -torch.inf)
    ordered_BL, order_BL = scores_BL.sort(dim=1, descending=True, stable=True)
    chosen_BL = torch.zeros_like(eligible_BL).scatter_(1, order_BL[:, :k], True) & eligible_BL
    if k == score_BL.shape[1]:
        return chosen_BL, torch.zeros(len(score_BL), dtype=torch.int64, device=score_BL.device)
    gap_B = ordered_BL[:, k - 1] - ordered_BL[:, k]
    return chosen_BL, (gap_B < NEAR_TIE).long()


class RandomOrder:
    """Commits k uniformly random positions per pass."""

    needs = Needs(scope=Scope.BLOCK)

    def __init__(self, *, k: int) -> None:
        self._k = k

    def decide(self, observation: Observation) -> Decision:
        noise_BL = uniforms(observation.keys_B, observation.nfe_B, observation.masked_BL.shape[1], Stream.POLICY)
        chosen_BL, near_B = top_k(noise_BL, observation.eligible_BL, self._k)
        # Noise does not depend on the batch, so equal draws are broken the same way everywhere.
        return deterministic(chosen_BL, torch.zeros_like(near_B))


class _BestFirst(ABC):
    """Commits the k positions with the largest scores per pass."""

    def __init__(self, *, k: int) -> None:
        self._k = k

    def decide(self, observation: Observation) -> Decision:
        return deterministic(*top_k(self._score(observation), observation.eligible_BL, self._k))

    @abstractmethod
    def _score(self, observation: Observation) -> Tensor:
        """`[B, L]`, largest for what is committed first."""


class LowConfidence(_BestFirst):
    """Commits the k most confident positions per pass (LLaDA's low-confidence remasking)."""

    needs = Needs(scope=Scope.BLOCK)

    def _score(self, observation: Observation) -> Tensor:
        return observation.log_odds_BL


class Margin(_BestFirst):
    """Commits the k positions whose two largest token probabilities are furthest apart (arXiv 2510.05725's `margin`)."""

    needs = Needs(scope=Scope.BLOCK, margin=True)

    def _score(self, observation: Observation) -> Tensor:
        assert observation.margin_BL is not None, "asked for in `needs`"
        return observation.margin_BL


class Entropy(_BestFirst):
    """Commits the k positions whose token distributions have the least entropy."""

    needs = Needs(scope=Scope.BLOCK, entropy=True)

    def _score(self, observation: Observation) -> Tensor:
        assert observation.entropy_BL is not None, "asked for in `needs`"
        return -observation.entropy_BL


class Threshold:
    """Commits every position whose confidence is at least `tau`, and the most confident one where none is."""

    needs = Needs(scope=Scope.BLOCK)

    def __init__(self, *, tau: float) -> None:
        self._tau = tau

    def decide(self, observation: Observation) -> Decision:
        confidence_BL = observation.confidences_BLK[:, :, 0]
        above_BL = (confidence_BL >= self._tau) & observation.eligible_BL
        near_BL = ((confidence_BL - self._tau).abs() < NEAR_TIE) & observation.eligible_BL
        best_BL, best_near_B = top_k(observation.log_odds_BL, observation.eligible_BL, 1)
        is_empty_B = ~above_BL.any(1)
        commit_BL = torch.where(is_empty_B.unsqueeze(1), best_BL, above_BL)
        return deterministic(commit_BL, near_BL.sum(1) + is_empty_B * best_near_B)


class Factor:
    """Commits the n most confident positions, for the largest n with (n + 1)(1 - c_n) < `factor` where c_n is the n-th confidence.

    At least the most confident one is committed (Fast-dLLM's factor rule; its release accepts equality too). The left side
    does not fall with n, so every smaller n satisfies it too.
    """

    needs = Needs(scope=Scope.BLOCK)

    def __init__(self, *, factor: float) -> None:
        self._factor = factor

    def decide(self, observation: Observation) -> Decision:
        eligible_BL = observation.eligible_BL
        confidence_BL = observation.confidences_BLK[:, :, 0].masked_fill(~eligible_BL, -torch.inf)
        sorted_BL, order_BL = confidence_BL.double().sort(dim=1, descending=True, stable=True)
        next_L = torch.arange(2, sorted_BL.shape[1] + 2, device=sorted_BL.device)
        cost_BL = next_L * (1 - sorted_BL)
        accepted_BL = cost_BL < self._factor
        accepted_BL[:, 0] = True
        commit_BL = torch.zeros_like(eligible_BL).scatter_(1, order_BL, accepted_BL) & eligible_BL
        # Near either where the next position is about as confident as the last, or where a confidence is about at its bound.
        is_last_BL = accepted_BL[:, :-1] & ~accepted_BL[:, 1:]
        tied_B = (is_last_BL & (sorted_BL[:, :-1] - sorted_BL[:, 1:] < NEAR_TIE)).sum(1)
        near_BL = (cost_BL - self._factor).abs() < NEAR_TIE * next_L
        return deterministic(commit_BL, tied_B + near_BL[:, 1:].sum(1))
