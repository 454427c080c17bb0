"""EB-Sampler (arXiv 2505.24857): as many positions as their joint dependence, bounded by their entropies, allows.

Shapes: `B` rows, `L` canvas positions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import NEAR_TIE, Decision, deterministic

Proxy = Literal["entropy", "confidence", "margin"]


class EntropyBounded:
    """Commits the k positions of least error, for the largest k whose entropies without the largest sum to at most `gamma`.

    The error is estimated by `proxy`: entropy, 1 - confidence or -margin. At least one position is committed; the bound does not
    fall with k.
    """

    def __init__(self, *, gamma: float, proxy: Proxy) -> None:
        self._gamma = gamma
        self._proxy = proxy
        self.needs = Needs(scope=Scope.BLOCK, entropy=True, margin=proxy == "margin")

    def decide(self, observation: Observation) -> Decision:
        assert observation.entropy_BL is not None, "asked for in `needs`"
        eligible_BL = observation.eligible_BL
        error_BL = self._error(observation).masked_fill(~eligible_BL, torch.inf)
        error_BL, order_BL = error_BL.sort(dim=1, stable=True)
        entropy_BL = observation.entropy_BL.double().gather(1, order_BL)
        bound_BL = entropy_BL.cumsum(1) - entropy_BL.cummax(1).values
        accepted_BL = bound_BL <= self._gamma
        accepted_BL[:, 0] = True
        commit_BL = torch.zeros_like(eligible_BL).scatter_(1, order_BL, accepted_BL) & eligible_BL
        # Near where the last position and the next are about as uncertain, or where the bound is about reached.
        ordered_BL = eligible_BL.gather(1, order_BL)
        is_last_BL = accepted_BL[:, :-1] & ~accepted_BL[:, 1:] & ordered_BL[:, 1:]
        tied_BL = is_last_BL & (error_BL[:, 1:] - error_BL[:, :-1] < NEAR_TIE)
        near_BL = ((bound_BL - self._gamma).abs() < NEAR_TIE) & ordered_BL
        return deterministic(commit_BL, tied_BL.sum(1) + near_BL[:, 1:].sum(1))

    def _error(self, observation: Observation) -> Tensor:
        """`[B, L]`, smallest for what is committed first."""
        if self._proxy == "confidence":
            return -observation.log_odds_BL
        error_BL = observation.entropy_BL
        if self._proxy == "margin":
            error_BL = None if observation.margin_BL is None else -observation.margin_BL
        assert error_BL is not None, "asked for in `needs`"
        return error_BL
