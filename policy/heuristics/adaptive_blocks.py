"""AdaBlock (arXiv 2509.26432): blocks that end where the model sees the end of a step.

Shapes: `B` rows, `L` canvas positions.
"""

from __future__ import annotations

import torch

from policy.heuristics.choice import num_near, or_best
from policy.heuristics.resources import Resources
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import Decision

WINDOW_SHARE = 0.25
"""Of the canvas: how far from a block's start its end is looked for."""


class AdaptiveBlocks:
    """The threshold rule in blocks whose lengths the first pass of each decides.

    A block ends at the most confident `delimiter` that is predicted within a quarter of the canvas, if that confidence is at least
    `delimiter_tau`, else after the block length that the row was posed with. The next begins at the next masked position.
    """

    needs = Needs(scope=Scope.MASKED, memory=True, own_blocks=True)

    def __init__(self, *, tau: float, delimiter_tau: float, delimiter: str, resources: Resources) -> None:
        self._tau = tau
        self._delimiter_tau = delimiter_tau
        self._delimiter_id = resources.token_id(delimiter)

    def decide(self, observation: Observation) -> Decision:
        rows, masked_BL, token_ids_BL = observation.context, observation.masked_BL, observation.token_ids_BL
        assert token_ids_BL is not None, "the engine fills them"
        confidence_BL = observation.confidences_BLK[:, :, 0]
        L = masked_BL.shape[1]
        position_L = torch.arange(L, device=masked_BL.device)
        start_B = masked_BL.int().argmax(1)
        ends = [end if isinstance(end, int) else 0 for end in rows.memory]
        end_B = torch.tensor(ends, device=masked_BL.device)
        is_new_B = start_B >= end_B
        seen_BL = masked_BL & (position_L < (start_B + int(WINDOW_SHARE * L)).unsqueeze(1))
        found_BL = seen_BL & (token_ids_BL == self._delimiter_id)
        best_B = torch.where(found_BL, confidence_BL, -1).argmax(1)
        is_sure_B = found_BL.any(1) & (confidence_BL.gather(1, best_B.unsqueeze(1)).squeeze(1) >= self._delimiter_tau)
        new_end_B = torch.where(is_sure_B, best_B + 1, (start_B + rows.block_length_B).clamp(max=L))
        end_B = torch.where(is_new_B, new_end_B, end_B)
        eligible_BL = masked_BL & (position_L < end_B.unsqueeze(1))
        near_B = num_near(confidence_BL, self._tau, eligible_BL)
        near_B = near_B + is_new_B * num_near(confidence_BL, self._delimiter_tau, found_BL)
        above_BL = (confidence_BL >= self._tau) & eligible_BL
        commit_BL, near_B = or_best(above_BL, observation.log_odds_BL, eligible_BL, near_B)
        no_log_prob_B = torch.zeros(len(near_B), device=commit_BL.device)
        return Decision(commit_BL, no_log_prob_B, near_B, memory=tuple(end_B.tolist()))
