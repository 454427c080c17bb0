"""How decisions of an expert are scored (`policy.steering` has the formulas). This module imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

SteeringMode = Literal["mixture", "per_decision", "policy_ratio"]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """How an expert's decision is scored."""

    mode: SteeringMode
    policy_share: float
    """Share of the policy's own rollouts in a group, G / (G + E); in (0, 1)."""
    expert_share: float
    """Share of one expert's rollout, 1 / (G + E)."""
