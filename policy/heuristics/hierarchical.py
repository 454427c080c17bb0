"""dInfer's hierarchical decoding (arXiv 2510.08666): the best position of every gap, and all that the model is sure of.

Shapes: `B` rows, `L` canvas positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policy.heuristics.choice import num_near, or_best
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import NEAR_TIE, Decision, deterministic


class Hierarchical:
    """Commits the most confident position of each run of eligible positions if it is above `low`, and all above `tau`.

    Where none is, the most confident position of the row.
    """

    needs = Needs(scope=Scope.BLOCK)

    def __init__(self, *, tau: float, low: float) -> None:
        self._tau = tau
        self._low = low

    def decide(self, observation: Observation) -> Decision:
        confidence_BL, eligible_BL = observation.confidences_BLK[:, :, 0], observation.eligible_BL
        best_BL, near_B = best_of_runs(observation.log_odds_BL, eligible_BL)
        chosen_BL = (best_BL & (confidence_BL > self._low)) | (eligible_BL & (confidence_BL > self._tau))
        near_B = near_B + num_near(confidence_BL, self._low, best_BL) + num_near(confidence_BL, self._tau, eligible_BL)
        return deterministic(*or_best(chosen_BL, observation.log_odds_BL, eligible_BL, near_B))


def best_of_runs(score_BL: Tensor, eligible_BL: Tensor) -> tuple[Tensor, Tensor]:
    """(`[B, L]` bool: the eligible position with the largest score in each run of them, ties to the left, near ties `[B]`)."""
    before_BL = torch.cat([torch.zeros_like(eligible_BL[:, :1]), eligible_BL[:, :-1]], 1)
    run_BL = (eligible_BL & ~before_BL).cumsum(1).masked_fill(~eligible_BL, 0)
    by_score_BL = score_BL.sort(dim=1, descending=True, stable=True).indices
    run_sorted_BL, by_run_BL = run_BL.gather(1, by_score_BL).sort(dim=1, stable=True)
    order_BL = by_score_BL.gather(1, by_run_BL)
    previous_BL = torch.cat([torch.zeros_like(run_sorted_BL[:, :1]), run_sorted_BL[:, :-1]], 1)
    is_first_BL = run_sorted_BL != previous_BL
    best_BL = torch.zeros_like(eligible_BL).scatter_(1, order_BL, is_first_BL)
    score_sorted_BL = score_BL.gather(1, order_BL)
    is_tied_BL = (
        is_first_BL[:, :-1] & ~is_first_BL[:, 1:] & (score_sorted_BL[:, :-1] - score_sorted_BL[:, 1:] < NEAR_TIE)
    )
    return best_BL, is_tied_BL.sum(1)
