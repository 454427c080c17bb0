"""Hand-made unmaskers. All ties go to the leftmost position, all rules hold per row.

Sources: random and low_confidence from LLaDA (arXiv 2502.09992), threshold from Fast-dLLM (arXiv 2505.22618) with `>=`.
"""

from __future__ import annotations

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


class LowConfidence:
    """Commits the k most confident positions per pass (LLaDA's low-confidence remasking)."""

    needs = Needs(scope=Scope.BLOCK)

    def __init__(self, *, k: int) -> None:
        self._k = k

    def decide(self, observation: Observation) -> Decision:
        return deterministic(*top_k(observation.log_odds_BL, observation.eligible_BL, self._k))


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
