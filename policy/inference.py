"""How a trained policy decides where nothing is learned from its decisions.

Training has none of these settings: what it records must be re-scored by the distribution that drew it. This module imports neither
torch nor Ray.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from policy.config import PolicyConfig


@dataclass(frozen=True)
class InferenceConfig:
    """Settings of evaluation alone."""

    selection: Literal["draw", "threshold", "expected_count", "greedy"] = "draw"
    """`draw` from the distribution. Without noise: `threshold` takes p > 1/2, `expected_count` the floor(sum p) most likely
    positions (dUltra), both at least one; `greedy` the most likely outcome of `categorical` and `top_k`."""
    prob_scale: float = field(default=1.0, metadata={"above": 0.0})
    """beta: p' = min(1, beta p) moves one trained policy along the frontier (arXiv 2512.09106)."""

    forced_argmax: bool = False
    """`bernoulli` decides as `bernoulli_argmax`: a pass that draws nothing commits the likeliest position (arXiv 2512.09106
    evaluates so)."""

    @property
    def is_training(self) -> bool:
        """Whether decisions are those of training, which re-scoring reproduces."""
        return self.selection == "draw" and self.prob_scale == 1.0 and not self.forced_argmax

    @property
    def draws(self) -> bool:
        """Whether decisions depend on noise."""
        return self.selection == "draw"

    def check(self, policy: PolicyConfig, *, where: str = "inference") -> None:
        """Raises ValueError where the policy's distribution does not allow these settings."""
        if self.forced_argmax and not policy.draws_independently:
            raise ValueError(
                f"config key '{where}.forced_argmax' is True; allowed: False with distribution {policy.distribution!r}"
            )
        selections = ["draw"]
        if policy.draws_independently:
            selections += ["threshold", "expected_count"]
        elif policy.distribution in ("top_k", "categorical"):
            selections.append("greedy")
        if self.selection not in selections:
            raise ValueError(
                f"config key '{where}.selection' is {self.selection!r}; "
                f"allowed: {', '.join(map(repr, selections))} with distribution {policy.distribution!r}"
            )
        if self.prob_scale != 1.0 and not policy.draws_independently:
            raise ValueError(
                f"config key '{where}.prob_scale' is {self.prob_scale:g}; "
                f"allowed: 1 with distribution {policy.distribution!r}"
            )
