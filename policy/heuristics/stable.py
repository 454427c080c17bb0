"""KLASS (arXiv 2511.05664): commit what the model is confident of and does not change its mind about.

Shapes: `B` rows, `L` canvas positions, `V` vocabulary, `n` masked positions of one row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policy.heuristics.choice import by_row, num_near, top_k
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import NEAR_TIE, Decision


@dataclass(frozen=True, slots=True)
class _Past:
    """What one row remembers of its previous pass."""

    start: int
    """Of the block."""
    num_passes: int
    """In this block."""
    masked_L: Tensor
    log_probs_nV: Tensor
    streak_L: Tensor
    """int64: for how many passes in a row the distribution has moved by less than `kl`."""


class Stable:
    """Commits positions with a confidence above `tau` whose KL(p_t || p_t-1) was below `kl` at each of the last `history` passes.

    Where there is none, the `k` most confident positions. The history spans blocks, but the first `history` - 1 passes of a block
    commit by the latter rule.
    """

    needs = Needs(scope=Scope.MASKED, log_probs=True, memory=True)

    def __init__(self, *, tau: float, kl: float, history: int, k: int) -> None:
        self._tau = tau
        self._kl = kl
        self._history = history
        self._k = k

    def decide(self, observation: Observation) -> Decision:
        rows, eligible_BL = observation.context, observation.eligible_BL
        assert observation.log_probs_NV is not None, "asked for in `needs`"
        stable_BL = torch.zeros_like(eligible_BL)
        near_B = torch.zeros_like(observation.nfe_B)
        memory: list[object] = []
        for row, log_probs_nV in enumerate(by_row(observation.log_probs_NV, observation.masked_BL)):
            start = int(rows.window_BL[row].int().argmax())
            now, near = self._advance(rows.memory[row], start, observation.masked_BL[row], log_probs_nV)
            if now.num_passes >= self._history:
                stable_BL[row] = now.streak_L >= self._history
            near_B[row] = near
            memory.append(now)
        confidence_BL = observation.confidences_BLK[:, :, 0]
        ready_BL = stable_BL & (confidence_BL > self._tau) & eligible_BL
        near_B = near_B + num_near(confidence_BL, self._tau, eligible_BL)
        best_BL, best_near_B = top_k(observation.log_odds_BL, eligible_BL, self._k)
        is_empty_B = ~ready_BL.any(1)
        commit_BL = torch.where(is_empty_B.unsqueeze(1), best_BL, ready_BL)
        no_log_prob_B = torch.zeros(len(memory), device=commit_BL.device)
        return Decision(commit_BL, no_log_prob_B, near_B + is_empty_B * best_near_B, memory=tuple(memory))

    def _advance(self, past: object, start: int, masked_L: Tensor, log_probs_nV: Tensor) -> tuple[_Past, int]:
        """The row's record with this pass in it, and how many divergences nearly fell on the other side of `kl`."""
        streak_L = torch.zeros(len(masked_L), dtype=torch.int64, device=masked_L.device)
        if not isinstance(past, _Past):
            return _Past(start, 1, masked_L, log_probs_nV, streak_L), 0
        # What is masked now was masked then.
        kl_n = divergence(log_probs_nV, past.log_probs_nV[masked_L[past.masked_L]])
        streak_L[masked_L] = torch.where(kl_n < self._kl, past.streak_L[masked_L] + 1, 0)
        num_passes = past.num_passes + 1 if past.start == start else 1
        num_close = int(((kl_n - self._kl).abs() < NEAR_TIE).sum())
        return _Past(start, num_passes, masked_L, log_probs_nV, streak_L), num_close


def divergence(log_p_nV: Tensor, log_q_nV: Tensor) -> Tensor:
    """`[n]` KL(p || q) in nats; tokens that p excludes count nothing."""
    p_nV = log_p_nV.exp()
    return torch.where(p_nV > 0, p_nV * (log_p_nV - log_q_nV), 0).sum(1)
