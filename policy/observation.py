"""What an unmasker sees of a batch of rows at one step.

Shapes: `B` rows, `L` canvas positions, `P` prompt, `K` top-p confidences per position, `D` hidden size, `V` vocabulary,
`N` canvases of a look ahead, or the positions that were asked for, in row-major order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policy.scope import Scope
from policy.used_positions import UsedPositions


@dataclass(frozen=True, slots=True)
class Needs:
    """Which predictions an unmasker asks the model for, and what else its decisions depend on."""

    scope: Scope = Scope.BLOCK
    num_confidences: int = 1
    """K: how many of the largest token probabilities per position."""
    entropy: bool = False
    margin: bool = False
    hidden: bool = False
    log_probs: bool = False
    """The whole token distributions: V numbers per position of `scope`."""
    verified: bool = False
    """How likely the model finds each token written in the current block without seeing it."""
    banned_ids: tuple[int, ...] = ()
    """Tokens that are never predicted."""
    memory: bool = False
    """It remembers: `Decision.memory` comes back as `RowContext.memory`."""
    lookahead: bool = False
    """It asks for further forward passes (`RowContext.lookahead`)."""
    own_blocks: bool = False
    """It chooses its own blocks: every masked position is eligible."""
    rewrites: bool = False
    """It may change any position, also one that it committed, because the row shows one of several canvases."""

    @property
    def is_plain(self) -> bool:
        """Whether a decision depends on the pass alone and commits eligible positions to the predicted tokens, for good."""
        special = (self.log_probs, self.verified, self.memory, self.lookahead, self.own_blocks, self.rewrites)
        return not any(special) and not self.banned_ids


class Lookahead(Protocol):
    """Further forward passes; each canvas counts as one in its row's NFE."""

    def __call__(self, row_N: Tensor, canvas_NL: Tensor, wanted_NL: Tensor) -> Observation:
        """What the model says of other canvases.

        Args:
            row_N: int64, the row whose prompt each canvas follows.
            canvas_NL: int64 token ids, with the mask id where nothing is committed.
            wanted_NL: bool, the positions to predict.

        Returns:
            An observation of N rows with the predictions of the unmasker's `needs`; `eligible_BL` is `wanted_NL`.
        """
        ...


@dataclass(frozen=True, slots=True)
class RowContext:
    """Where the rows stand, and what belongs to them alone."""

    canvas_BL: Tensor
    """int64 token ids; the mask id where nothing is committed."""
    written_BL: Tensor
    """bool: committed while decoding, not given."""
    window_BL: Tensor
    """bool: the row's current block, clean positions included."""
    block_length_B: Tensor
    prompt_BP: Tensor
    """int64 prompts, left-padded."""
    prompt_length_B: Tensor
    memory: tuple[object, ...]
    """What the row's previous decision left; None at its first pass. The engine keeps it, from admission to retirement."""
    lookahead: Lookahead


@dataclass(frozen=True, slots=True)
class Observation:
    """One step of B live rows."""

    masked_BL: Tensor
    """bool: the position still holds the mask token."""
    eligible_BL: Tensor
    """bool: masked and inside the row's current block; a decision commits only such positions."""
    confidences_BLK: Tensor
    """float32 top-K token probabilities, largest first; 1 (then 0) where nothing was asked for."""
    log_odds_BL: Tensor
    """float32 log(p / (1 - p)) of the largest probability, exact where p itself rounds to 1."""
    nfe_B: Tensor
    """int64 forward passes charged before this one."""
    time_B: Tensor
    """float32 NFE / L, the policy's clock."""
    keys_B: Tensor
    """int64 keys of the rows' noise (`policy.noise`)."""
    entropy_BL: Tensor | None = None
    """float32 entropy of the token distribution in nats; 0 where nothing was asked for, None unless `needs.entropy`."""
    margin_BL: Tensor | None = None
    """float32 difference of the two largest probabilities; 1 where nothing was asked for, None unless `needs.margin`."""
    hidden_BLD: Tensor | None = None
    """float32 last hidden states that positions are predicted from; 0 where nothing was asked for, None unless `needs.hidden`."""
    token_ids_BL: Tensor | None = None
    """int64 predicted tokens; -1 where nothing was asked for. None of observations made outside of the engine."""
    log_probs_NV: Tensor | None = None
    """Log-probabilities of all tokens at the positions of `needs.scope`, in row-major order; None unless `needs.log_probs`."""
    verified_BL: Tensor | None = None
    """float32 probability of the written token; 1 elsewhere, None unless `needs.verified`."""
    make_context: Callable[[], RowContext] | None = None
    """Looks up where the rows stand; None of observations made outside of the engine, as all below."""
    eligible_on_host_BL: NDArray[np.bool_] | None = None
    """`eligible_BL` on the host, where positions are looked up without waiting for the device."""
    wanted: UsedPositions | None = None
    """The positions that something was asked for."""

    @property
    def context(self) -> RowContext:
        """Where the rows stand, looked up for whoever asks."""
        assert self.make_context is not None, "this unmasker decides inside the engine only"
        return self.make_context()


def leading_block(masked_BL: Tensor, block_length: int) -> Tensor:
    """`[B, L]` bool: the block that holds each row's leftmost mask."""
    block_L = torch.arange(masked_BL.shape[1], device=masked_BL.device) // block_length
    return block_L == (masked_BL.int().argmax(1) // block_length).unsqueeze(1)
