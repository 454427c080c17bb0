"""Positions that a policy cannot tell apart: where nothing was asked for, a row's positions of one state all look certain.

Everything before attention is computed once for those. On a canvas of which half is committed, or of which one block in three is
decided, that is most of it.

Shapes: `N` rows, `L` positions of each, `K` confidences of a position, `S` states, `P` distinct places of all rows, `O` uncertain
positions, `M` used positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from policy.used_positions import UsedPositions


@dataclass(frozen=True, slots=True)
class DistinctPositions:
    """One place for each state of each row, and one for each position that is not certain."""

    state_P: Tensor
    """int64, row * S + state."""
    confidences_PK: Tensor
    place_NL: Tensor
    """Where each position's lies."""

    @staticmethod
    def of(state_NL: Tensor, confidences_NLK: Tensor, num_states: int, uncertain: UsedPositions) -> DistinctPositions:
        """The places of positions with these states and confidences, which are certain but for the `uncertain` ones."""
        N, _, K = confidences_NLK.shape
        certain_K = confidences_NLK.new_zeros(K)
        certain_K[0] = 1.0
        state_NL = row_states(state_NL, num_states)
        shared_P = torch.arange(N * num_states, device=state_NL.device)
        own_places_O = N * num_states + torch.arange(len(uncertain), device=state_NL.device)
        return DistinctPositions(
            torch.cat([shared_P, uncertain.of(state_NL)]),
            torch.cat([certain_K.expand(N * num_states, K), uncertain.of(confidences_NLK)]),
            state_NL.flatten().index_copy(0, uncertain.flat_N, own_places_O).view_as(state_NL),
        )

    def everywhere(self, x_PC: Tensor) -> Tensor:
        """`[N, L, C]`. As an embedding, whose gradient is a sum in a fixed order."""
        return F.embedding(self.place_NL, x_PC)

    def at(self, used: UsedPositions, *each_PC: Tensor) -> list[Tensor]:
        """`[M, C]` of the used positions, of each."""
        place_M = used.of(self.place_NL)
        return [F.embedding(place_M, x_PC) for x_PC in each_PC]


def is_uncertain(confidences_NLK: NDArray[np.float32]) -> NDArray[np.bool_]:
    """`[N, L]`: where confidences are not those of positions that nothing was asked for, 1 and then 0."""
    certain_K = np.zeros(confidences_NLK.shape[2], confidences_NLK.dtype)
    certain_K[0] = 1.0
    uncertain_NL: NDArray[np.bool_] = (confidences_NLK != certain_K).any(-1)
    return uncertain_NL


def row_states(state_NL: Tensor, num_states: int) -> Tensor:
    """`[N, L]` int64 row * S + state."""
    return state_NL + num_states * torch.arange(len(state_NL), device=state_NL.device).unsqueeze(1)
