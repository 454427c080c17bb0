"""Settings of the learned policy: its network, its distribution and its temperature.

Field metadata (`minimum`, `above`, ...) is read by the configuration machinery; this module imports neither torch nor Ray.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from policy.scope import Scope


@dataclass(frozen=True)
class PolicyConfig:
    """A `dit_confidence` policy; the defaults are the published size (331,265 parameters, arXiv 2512.09106)."""

    network: Literal["dit_confidence"] = "dit_confidence"
    hidden_size: int = field(default=128, metadata={"minimum": 8})
    feed_forward_size: int = field(default=512, metadata={"minimum": 8})
    num_heads: int = field(default=2, metadata={"minimum": 1})
    num_blocks: int = field(default=1, metadata={"minimum": 1})
    time_embed_size: int = field(default=128, metadata={"minimum": 2})
    num_confidences: int = field(default=1, metadata={"minimum": 1})
    """K: top-p token probabilities per position."""
    confidence_features: Literal["raw", "raw_and_log_odds"] = "raw_and_log_odds"
    """`raw` is the published input; the log-odds beside it keep confidences near 1 apart."""
    time_embedding: Literal["legacy", "sinusoidal"] = "sinusoidal"
    """`legacy`: period 1 in bfloat16 as in the reference release; `sinusoidal`: period 10,000 over 1000 t in float32."""
    see_block: bool = False
    """Tell the network which masked positions lie in the current block (the published policy cannot see it)."""
    scope: Scope = Scope.MASKED
    """Where the policy sees confidences; `canvas` is the reference release's input."""
    initial_logit: float = -2.0
    """Output bias at the start: every position is committed with probability about sigmoid of it."""
    distribution: Literal["bernoulli", "bernoulli_argmax"] = "bernoulli_argmax"
    policy_temperature: float = field(default=1.0, metadata={"above": 0.0})

    def validate(self, where: str) -> None:
        """Checks between fields; `where` is the section's dotted name."""
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"config key '{where}.hidden_size' is {self.hidden_size}; "
                f"allowed: a multiple of 2 * num_heads = {2 * self.num_heads}"
            )
        if self.time_embed_size % 2:
            raise ValueError(f"config key '{where}.time_embed_size' is {self.time_embed_size}; allowed: an even number")
