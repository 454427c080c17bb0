"""Samplers that commit k positions per pass, in some order.

Sources: random and low_confidence from LLaDA (arXiv 2502.09992), margin from arXiv 2510.05725, entropy from Dream.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from policy.heuristics.choice import top_k
from policy.noise import Stream, uniforms
from policy.observation import Needs, Observation
from policy.scope import Scope
from policy.unmasker import Decision, deterministic


class RandomOrder:
    """Commits k uniformly random positions per pass."""

    needs = Needs(scope=Scope.BLOCK)

    def __init__(self, *, k: int) -> None:
        self._k = k

    def decide(self, observation: Observation) -> Decision:
        noise_BL = uniforms(observation.keys_B, observation.nfe_B, observation.masked_BL.shape[1], Stream.POLICY)
        chosen_BL, near_B = top_k(noise_BL, observation.eligible_BL, self._k)
        # Noise does not depend on the batch, so equal draws are broken the same way everywhere.
        return deterministic(chosen_BL, torch.zeros_like(near_B))


class _BestFirst(ABC):
    """Commits the k positions with the largest scores per pass."""

    def __init__(self, *, k: int) -> None:
        self._k = k

    def decide(self, observation: Observation) -> Decision:
        return deterministic(*top_k(self._score(observation), observation.eligible_BL, self._k))

    @abstractmethod
    def _score(self, observation: Observation) -> Tensor:
        """`[B, L]`, largest for what is committed first."""


class LowConfidence(_BestFirst):
    """Commits the k most confident positions per pass (LLaDA's low-confidence remasking)."""

    needs = Needs(scope=Scope.BLOCK)

    def _score(self, observation: Observation) -> Tensor:
        return observation.log_odds_BL


class Margin(_BestFirst):
    """Commits the k positions whose two largest token probabilities are furthest apart (arXiv 2510.05725's `margin`)."""

    needs = Needs(scope=Scope.BLOCK, margin=True)

    def _score(self, observation: Observation) -> Tensor:
        assert observation.margin_BL is not None, "asked for in `needs`"
        return observation.margin_BL


class Entropy(_BestFirst):
    """Commits the k positions whose token distributions have the least entropy."""

    needs = Needs(scope=Scope.BLOCK, entropy=True)

    def _score(self, observation: Observation) -> Tensor:
        assert observation.entropy_BL is not None, "asked for in `needs`"
        return -observation.entropy_BL


class LeftToRight(_BestFirst):
    """Commits the k leftmost positions per pass."""

    needs = Needs(scope=Scope.BLOCK)

    def _score(self, observation: Observation) -> Tensor:
        score_BL = torch.zeros_like(observation.log_odds_BL)
        return score_BL - torch.arange(score_BL.shape[1], device=score_BL.device)
