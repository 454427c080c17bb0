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
    """w, the share of the policy's own rollouts in a group; in (0, 1)."""
