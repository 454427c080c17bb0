"""Samplers that commit what the model is confident of: Fast-dLLM's two rules (arXiv 2505.22618).

Shapes: `B` rows, `L` canvas positions.
"""

from __future__ import annotations

import torch

from policy.heuristics.choice import num_near, or_best
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import NEAR_TIE, Decision, deterministic


class Threshold:
    """Commits every position whose confidence is at least `tau`, and the most confident one where none is."""

    needs = Needs(scope=Scope.BLOCK)

    def __init__(self, *, tau: float) -> None:
        self._tau = tau

    def decide(self, observation: Observation) -> Decision:
        confidence_BL = observation.confidences_BLK[:, :, 0]
        eligible_BL = observation.eligible_BL
        above_BL = (confidence_BL >= self._tau) & eligible_BL
        near_B = num_near(confidence_BL, self._tau, eligible_BL)
        return deterministic(*or_best(above_BL, observation.log_odds_BL, eligible_BL, near_B))


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
