"""DUS (arXiv 2506.19037): a fixed schedule inside each block, whatever the model says.

Shapes: `B` rows, `L` canvas positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import Decision, deterministic


def dilated_stage(block_length: int, base: int) -> list[int]:
    """The stage, from 1, of each position of a block: the first t where floor(block_length / base^t) divides its offset."""
    stages, spacing, stage = [0] * block_length, block_length, 0
    while 0 in stages:
        stage, spacing = stage + 1, max(1, spacing // base)
        for offset in range(0, block_length, spacing):
            stages[offset] = stages[offset] or stage
    return stages


class Dilated:
    """Commits positions of a block far apart first: of 8 positions 1 and 5, then 3 and 7, then the rest (`base` 2).

    The stage of a row is that of its next masked positions, so given tokens cost no pass.
    """

    needs = Needs(scope=Scope.BLOCK)

    def __init__(self, *, base: int) -> None:
        self._base = base

    def decide(self, observation: Observation) -> Decision:
        stage_BL = self._stages(observation)
        first_B1 = stage_BL.masked_fill(~observation.eligible_BL, stage_BL.shape[1] + 1).amin(1, keepdim=True)
        commit_BL = (stage_BL == first_B1) & observation.eligible_BL
        return deterministic(commit_BL, torch.zeros_like(observation.nfe_B))

    def _stages(self, observation: Observation) -> Tensor:
        """`[B, L]` stages inside each row's window; outside of it they mean nothing."""
        rows, L = observation.context, observation.masked_BL.shape[1]
        start_B = rows.window_BL.int().argmax(1)
        stage_BL = torch.zeros_like(rows.canvas_BL)
        for length in rows.block_length_B.unique().tolist():
            stages = torch.tensor(dilated_stage(length, self._base), device=stage_BL.device)
            mine_B = rows.block_length_B == length
            offset_BL = (torch.arange(L, device=stage_BL.device) - start_B[mine_B].unsqueeze(1)) % length
            stage_BL[mine_B] = stages[offset_BL]
        return stage_BL
