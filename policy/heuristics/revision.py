"""WINO (arXiv 2507.18578), wide in and narrow out: draft many, take back what does not fit in with the others.

Shapes: `B` rows, `L` canvas positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policy.heuristics.choice import num_near, or_best, top_k
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import Decision

SHARE, FEWEST, MOST = 0.7, 5, 20
"""A pass drafts at most min(max(0.7 masked, 5), 20) positions of a block."""
FIRST_ACCEPTED = 30
"""Stands for the drafts of the pass before a block's first."""


@dataclass(frozen=True, slots=True)
class _Drafted:
    """What one row remembers of its previous pass."""

    start: int
    """Of the block."""
    num_accepted: int


class WideIn:
    """Commits confidences above `tau` (at least one), and masks tokens of the block again that are less likely than `tau_back`.

    A written token is verified by its probability given all others (`Needs.verified`). A pass takes back fewer tokens than the one
    before committed, and none where it commits one only, so every block ends after at most one pass per position.
    """

    needs = Needs(scope=Scope.BLOCK, verified=True, memory=True)

    def __init__(self, *, tau: float, tau_back: float) -> None:
        self._tau = tau
        self._tau_back = tau_back

    def decide(self, observation: Observation) -> Decision:
        rows, eligible_BL = observation.context, observation.eligible_BL
        assert observation.verified_BL is not None, "asked for in `needs`"
        confidence_BL = observation.confidences_BLK[:, :, 0]
        wide_BL = (confidence_BL > self._tau) & eligible_BL
        near_B = num_near(confidence_BL, self._tau, eligible_BL)
        commit_BL, near_B = or_best(wide_BL, observation.log_odds_BL, eligible_BL, near_B)
        written_BL = rows.written_BL & rows.window_BL
        doubtful_BL = written_BL & (observation.verified_BL < self._tau_back)
        near_B = near_B + num_near(observation.verified_BL, self._tau_back, written_BL)
        remask_BL = torch.zeros_like(commit_BL)
        memory: list[object] = []
        for row in range(len(commit_BL)):
            at = slice(row, row + 1)
            most = min(max(int(SHARE * int(eligible_BL[row].sum())), FEWEST), MOST)
            if int(commit_BL[row].sum()) > most:
                commit_BL[at], near_1 = top_k(observation.log_odds_BL[at], eligible_BL[at], most)
                near_B[at] += near_1
            start, past = int(rows.window_BL[row].int().argmax()), rows.memory[row]
            is_same = isinstance(past, _Drafted) and past.start == start
            allowed = (past.num_accepted if is_same and isinstance(past, _Drafted) else FIRST_ACCEPTED) - 1
            num_accepted = int(commit_BL[row].sum())
            if num_accepted > 1 and allowed > 0:
                remask_BL[at], near_1 = top_k(-observation.verified_BL[at], doubtful_BL[at], allowed)
                near_B[at] += near_1
            memory.append(_Drafted(start, num_accepted))
        no_log_prob_B = torch.zeros(len(memory), device=commit_BL.device)
        return Decision(commit_BL, no_log_prob_B, near_B, remask_BL=remask_BL, memory=tuple(memory))
