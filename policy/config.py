"""Settings of the learned policy: its network, its distribution and its temperature.

Field metadata (`minimum`, `above`, ...) is read by the configuration machinery; this module imports neither torch nor Ray.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from policy.scope import Scope


@dataclass(frozen=True)
class BackboneShape:
    """The transformer blocks of the dLLM whose hidden states a policy reads; the policy's own block is shaped like them."""

    hidden_size: int = field(metadata={"minimum": 8})
    """D"""
    num_heads: int = field(metadata={"minimum": 1})
    feed_forward_size: int = field(metadata={"minimum": 8})

    def validate(self, where: str) -> None:
        """Heads of an even size; `where` is the section's dotted name."""
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"config key '{where}.hidden_size' is {self.hidden_size}; "
                f"allowed: a multiple of 2 * num_heads = {2 * self.num_heads}"
            )


@dataclass(frozen=True)
class PolicyConfig:
    """A learned policy; the defaults are the published size of `dit_confidence` (331,265 parameters
    with `raw` confidences, arXiv 2512.09106; 331,393 with the log-odds beside them)."""

    network: Literal["dit_confidence", "dit_hidden", "upo"] = "dit_confidence"
    """`dit_confidence` and `dit_hidden` are of arXiv 2512.09106, `upo` of arXiv 2510.05725; the last two read hidden states."""
    hidden_size: int = field(default=128, metadata={"minimum": 8})
    """This, `feed_forward_size` and `num_heads` are `dit_confidence`'s; the others take theirs from `backbone`."""
    feed_forward_size: int = field(default=512, metadata={"minimum": 8})
    num_heads: int = field(default=2, metadata={"minimum": 1})
    num_blocks: int = field(default=1, metadata={"minimum": 1})
    """`upo` always has one."""
    time_embed_size: int = field(default=128, metadata={"minimum": 2})
    num_confidences: int = field(default=1, metadata={"minimum": 1})
    """K: top-p token probabilities per position. `dit_hidden` does not see them; arXiv 2510.05725 has 8."""
    confidence_features: Literal["raw", "raw_and_log_odds"] = "raw_and_log_odds"
    """`raw` is the published input; the log-odds beside it keep confidences near 1 apart. `dit_confidence` alone."""
    time_embedding: Literal["legacy", "sinusoidal"] = "sinusoidal"
    """`legacy`: period 1 in bfloat16 as in the reference release; `sinusoidal`: period 10,000 over 1000 t in float32."""
    see_block: bool = False
    """Tell the network which masked positions lie in the current block (the published policy cannot see it)."""
    see_mask: bool = True
    """False hides from `dit_confidence` which positions are masked, `see_time` how many passes were made (ablations)."""
    see_time: bool = True
    scope: Scope = Scope.MASKED
    """Where the policy sees confidences and hidden states; `canvas` is the reference release's input."""
    initial_logit: float = -2.0
    """Output bias at the start: every position is committed with probability about sigmoid of it."""
    backbone: BackboneShape | None = None
    """Of the dLLM whose hidden states are read; null takes the model's (`for_backbone`)."""
    num_candidates: int = field(default=5, metadata={"minimum": 1})
    """How many of the most confident eligible positions are candidates: `upo` is shown which."""
    candidates_only: bool = False
    """`categorical` draws among the candidates instead of all eligible positions."""
    distribution: Literal["bernoulli", "bernoulli_argmax", "dpls", "top_k", "categorical"] = "bernoulli_argmax"
    policy_temperature: float = field(default=1.0, metadata={"above": 0.0})
    dpls_stop_logit: float = 0.0
    """Of `dpls`; the temperature does not divide it."""
    dpls_likelihood: Literal["order", "set"] = "order"
    """`order` scores the order of choice too, as the reference release does; `set` what the decoder sees of it."""
    top_k: int | None = field(default=None, metadata={"minimum": 1})
    """Of `top_k`: positions per pass."""

    def validate(self, where: str) -> None:
        """Checks between fields; `where` is the section's dotted name."""
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"config key '{where}.hidden_size' is {self.hidden_size}; "
                f"allowed: a multiple of 2 * num_heads = {2 * self.num_heads}"
            )
        if self.time_embed_size % 2:
            raise ValueError(f"config key '{where}.time_embed_size' is {self.time_embed_size}; allowed: an even number")
        if self.network == "dit_confidence" and self.backbone is not None:
            raise ValueError(
                f"config key '{where}.backbone' is set, but network 'dit_confidence' reads no hidden states; allowed: null"
            )
        if self.see_block and not self.see_mask:
            raise ValueError(f"config key '{where}.see_block' is True; allowed: False where see_mask is False")
        if self.network != "dit_confidence" and not (self.see_mask and self.see_time):
            hidden = "see_time" if self.see_mask else "see_mask"
            raise ValueError(f"config key '{where}.{hidden}' is False; allowed: True with network {self.network!r}")
        for name, network, only in (
            ("see_block", "upo", False),
            ("time_embedding", "upo", "sinusoidal"),
            ("num_blocks", "upo", 1),
            ("num_confidences", "dit_hidden", 1),
        ):
            if self.network == network and getattr(self, name) != only:
                raise ValueError(
                    f"config key '{where}.{name}' is {getattr(self, name)!r}; allowed: {only!r} with network {network!r}"
                )
        if self.network == "upo" and self.distribution != "categorical":
            raise ValueError(
                f"config key '{where}.distribution' is {self.distribution!r}; allowed: 'categorical' with network 'upo'"
            )
        if self.candidates_only and self.distribution != "categorical":
            raise ValueError(
                f"config key '{where}.candidates_only' is True; allowed: False with distribution {self.distribution!r}"
            )
        self._validate_top_k(where)

    def _validate_top_k(self, where: str) -> None:
        if (self.top_k is not None) == (self.distribution == "top_k"):
            return
        allowed = "an integer >= 1" if self.top_k is None else "null"
        raise ValueError(
            f"config key '{where}.top_k' is {self.top_k}; allowed: {allowed} with distribution {self.distribution!r}"
        )

    @property
    def draws_independently(self) -> bool:
        """Whether each position is drawn by itself."""
        return self.distribution in ("bernoulli", "bernoulli_argmax")

    @property
    def reads_hidden(self) -> bool:
        """Whether the network reads the dLLM's hidden states."""
        return self.network != "dit_confidence"

    def for_backbone(self, shape: BackboneShape | None, *, where: str = "policy") -> PolicyConfig:
        """These settings with the `backbone` of the model that the policy works with; None is a model without hidden states.

        A `backbone` that is set stays, for its heads and feed-forward size are free; its hidden size must be the model's.
        """
        if not self.reads_hidden:
            return self
        if shape is None:
            raise ValueError(
                f"config key '{where}.network' is {self.network!r}; "
                "allowed: 'dit_confidence' with a model that shows no hidden states"
            )
        if self.backbone is None:
            return replace(self, backbone=shape)
        if self.backbone.hidden_size != shape.hidden_size:
            raise ValueError(
                f"config key '{where}.backbone.hidden_size' is {self.backbone.hidden_size}; "
                f"allowed: the model's, {shape.hidden_size}"
            )
        return self
