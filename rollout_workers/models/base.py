"""What the engine needs of a frozen dLLM. Every quirk of a model stops at its adapter.

Predictions are aligned with their own positions (no logit shift is visible), the mask id is never predicted, and nobody outside an
adapter ever sees a `[B, L, V]` tensor: only the positions asked for leave it, reduced over the vocabulary. Whole distributions
leave it only for samplers that compare them (`with_log_probs`), and only at the positions asked for.

Shapes: `B` rows, `P` prompt tokens (left-padded), `L` canvas tokens, `N` positions asked for, `K` confidences, `V` vocabulary,
`D` hidden size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from policy.config import BackboneShape
from rollout_workers.models.cache import CachedPass


class ModelError(ValueError):
    """A model that cannot be used; one line that names it and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Ids and sizes that decoding depends on."""

    name: str
    mask_id: int
    eos_id: int
    pad_id: int
    vocabulary_size: int
    """Rows of the output head; large models pad it."""
    num_tokens: int | None = None
    """Ids below it are tokens, those from it on are padding and never predicted; None where there is no padding."""
    end_of_turn_id: int | None = None
    """Ends an answer, as end-of-text does."""
    num_positions: int | None = None
    """Tokens of prompt and canvas that the model was made for; None where its config does not say."""
    can_cache: bool = False
    """Whether `predict` takes `cached`."""
    can_shadow: bool = False
    """Whether `predict` takes `shadow_BL`."""
    backbone: BackboneShape | None = None
    """Shape of its blocks, for policies that read its hidden states; None where it does not show them."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's opinion about N positions.

    All of it comes from untempered logits without the mask id, in float32 (float64 for a float64 model).
    """

    token_ids_N: Tensor
    """int64: the greedy token, or a sampled one when a token temperature was given."""
    confidences_NK: Tensor
    """The K largest probabilities, largest first."""
    log_odds_N: Tensor
    """log(p / (1 - p)) of the largest probability, computed from the logits of the other tokens, so it never saturates."""
    entropy_N: Tensor | None = None
    """Entropy in nats; None unless asked for, as all below."""
    margin_N: Tensor | None = None
    """The largest probability minus the second largest."""
    hidden_ND: Tensor | None = None
    """The last hidden state that the position is predicted from."""
    log_probs_NV: Tensor | None = None
    """Log-probabilities of all tokens; -inf of those that are never predicted."""
    shadow_M: Tensor | None = None
    """Probabilities of the canvas tokens at the M positions of `shadow_BL`, each seen by all others and not by itself."""

    def split(self, counts: Sequence[int]) -> list[Prediction]:
        """Consecutive parts of so many positions; shadows have no place in them."""
        parts = {name: column.split(list(counts)) for name, column in self._columns().items()}
        return [Prediction(**{name: each[n] for name, each in parts.items()}) for n in range(len(counts))]

    def at(self, index_M: Tensor) -> Prediction:
        """The positions with these numbers; shadows have no place in them."""
        return Prediction(**{name: column[index_M] for name, column in self._columns().items()})

    def _columns(self) -> dict[str, Tensor]:
        assert self.shadow_M is None
        columns = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: column for name, column in columns.items() if column is not None}


class FrozenDLLM(Protocol):
    """A masked diffusion language model that is never trained."""

    spec: ModelSpec
    device: torch.device

    def predict(
        self,
        prompt_BP: Tensor,
        prompt_length_B: Tensor,
        canvas_BL: Tensor,
        wanted_BL: Tensor,
        *,
        num_confidences: int = 1,
        token_temperature: float = 0.0,
        token_uniforms_N: Tensor | None = None,
        with_entropy: bool = False,
        with_margin: bool = False,
        with_hidden: bool = False,
        with_log_probs: bool = False,
        banned_ids: tuple[int, ...] = (),
        shadow_BL: Tensor | None = None,
        cached: CachedPass | None = None,
    ) -> Prediction:
        """One forward pass over all rows.

        Args:
            prompt_BP: left-padded prompt ids; what stands in the padding has no influence.
            prompt_length_B: number of real prompt tokens of each row; on the host, as `wanted_BL` and `shadow_BL`, for a pass is
                laid out there. On the device each of them costs a wait.
            canvas_BL: the canvases, with mask ids where nothing is committed.
            wanted_BL: bool, the positions to predict; N is their number, in row-major order.
            num_confidences: K.
            token_temperature: 0 picks the argmax; above 0 tokens are drawn by `token_uniforms_N`.
            token_uniforms_N: one uniform number per wanted position, needed when the temperature is above 0.
            with_entropy: fills `entropy_N`.
            with_margin: fills `margin_N`.
            with_hidden: fills `hidden_ND`; a ModelError from a model that does not show its hidden states.
            with_log_probs: fills `log_probs_NV`, which is as large as the vocabulary.
            banned_ids: tokens that are not predicted, as the mask id.
            shadow_BL: bool, one run of positions per row; fills `shadow_M`. A ModelError from a model whose attention is not ours.
            cached: which tokens are computed, and the keys and values of the others; wanted positions are computed ones. A
                ModelError from a model that keeps none.
        """
        ...
