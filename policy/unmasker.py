"""The one interface of learned and heuristic unmasking.

The engine's loop, which is all that calls it:

    observation = observe(model.predict(...))       # at the positions of `unmasker.needs`
    decision = unmasker.decide(observation)
    canvas = where(decision.commit, predicted tokens, canvas)

A decision depends on its own row alone: rows of one batch never influence each other. An unmasker keeps nothing between calls:
what a sampler must remember of a row goes out with the decision and comes back with the row's next observation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from policy.observation import Needs, Observation

NEAR_TIE = 1e-6
"""Two numbers closer than this may compare differently when a row is computed in another batch."""


@dataclass(frozen=True, slots=True)
class Decision:
    """Which positions each row commits."""

    commit_BL: Tensor
    """bool, a subset of the observation's `eligible_BL` (of all positions where `needs.rewrites`)."""
    log_prob_B: Tensor
    """float32 exact log-probability of the decision; 0 for deterministic unmaskers."""
    num_near_ties_B: Tensor
    """int64: comparisons within `NEAR_TIE` of going the other way; such a row may decode otherwise in another batch."""
    rank_BL: Tensor | None = None
    """int16 order of choice, from 1 and 0 where nothing is committed: of distributions whose likelihood knows the order."""
    argmax_BL: Tensor | None = None
    """bool, positions that are committed alone and were the most likely ones: of distributions whose likelihood asks for it."""
    remask_BL: Tensor | None = None
    """bool, committed positions to mask again (samplers that revise)."""
    token_ids_BL: Tensor | None = None
    """int64 tokens to commit instead of the predicted ones."""
    extra_nfe_B: Tensor | None = None
    """int64 forward passes of other models; those of `RowContext.lookahead` count by themselves."""
    memory: tuple[object, ...] | None = None
    """One record per row, for that row's next observation."""


class Unmasker(Protocol):
    """Decides what to unmask."""

    needs: Needs

    def decide(self, observation: Observation) -> Decision:
        """The positions to commit at this step; called in inference mode."""
        ...


def deterministic(commit_BL: Tensor, num_near_ties_B: Tensor) -> Decision:
    """A decision that was not drawn from a distribution."""
    log_prob_B = torch.zeros(commit_BL.shape[0], device=commit_BL.device)
    return Decision(commit_BL=commit_BL, log_prob_B=log_prob_B, num_near_ties_B=num_near_ties_B)
