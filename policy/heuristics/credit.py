"""dInfer's credit decoding (arXiv 2510.08666): tokens that were likely before count for more now.

Shapes: `B` rows, `L` canvas positions, `V` vocabulary, `W` positions of a row's block, `n` its eligible positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from policy.heuristics.choice import by_row, num_near, or_best
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import Decision


@dataclass(frozen=True, slots=True)
class _Credit:
    """What one row remembers of its block."""

    start: int
    credit_WV: Tensor


class Credit:
    """The threshold rule on logits to which `alpha` log(1 + credit) is added.

    The credit of a token at a position is a sum over the passes of the block: `gain`-th power of its probability where it was the
    most likely one, times `decay` for every pass since. The committed token is the most likely one with its credit.
    """

    needs = Needs(scope=Scope.BLOCK, log_probs=True, memory=True)

    def __init__(self, *, tau: float, alpha: float, gain: float, decay: float) -> None:
        self._tau = tau
        self._alpha = alpha
        self._gain = gain
        self._decay = decay

    def decide(self, observation: Observation) -> Decision:
        rows, eligible_BL = observation.context, observation.eligible_BL
        assert observation.log_probs_NV is not None, "asked for in `needs`"
        log_probs = by_row(observation.log_probs_NV, eligible_BL)
        confidence_BL = torch.zeros(eligible_BL.shape, dtype=observation.log_probs_NV.dtype, device=eligible_BL.device)
        token_ids_BL = rows.canvas_BL.clone()
        memory: list[object] = []
        for row, log_probs_nV in enumerate(log_probs):
            position_n = eligible_BL[row].nonzero().squeeze(1)
            start = int(rows.window_BL[row].int().argmax())
            past = self._past(rows.memory[row], start, rows.window_BL[row], log_probs_nV)
            credit_WV = self._update(past.credit_WV, position_n - start, log_probs_nV)
            fused_nV = log_probs_nV + self._alpha * credit_WV[position_n - start].log1p()
            best_n, token_ids_BL[row, position_n] = fused_nV.max(1)
            confidence_BL[row, position_n] = (best_n - fused_nV.logsumexp(1)).exp()
            memory.append(_Credit(start, credit_WV))
        above_BL = (confidence_BL >= self._tau) & eligible_BL
        near_B = num_near(confidence_BL, self._tau, eligible_BL)
        commit_BL, near_B = or_best(above_BL, confidence_BL, eligible_BL, near_B)
        no_log_prob_B = torch.zeros(len(memory), device=commit_BL.device)
        return Decision(commit_BL, no_log_prob_B, near_B, token_ids_BL=token_ids_BL, memory=tuple(memory))

    def _past(self, memory: object, start: int, window_L: Tensor, log_probs_nV: Tensor) -> _Credit:
        """The row's credit; none at all in a new block."""
        if isinstance(memory, _Credit) and memory.start == start:
            return memory
        return _Credit(start, log_probs_nV.new_zeros(int(window_L.sum()), log_probs_nV.shape[1]))

    def _update(self, credit_WV: Tensor, offset_n: Tensor, log_probs_nV: Tensor) -> Tensor:
        top_n, token_n = log_probs_nV.max(1)
        credit_WV = credit_WV * self._decay
        credit_WV[offset_n, token_n] += (self._gain * top_n).exp()
        return credit_WV
