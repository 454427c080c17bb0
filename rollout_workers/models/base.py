"""What the engine needs of a frozen dLLM. Every quirk of a model stops at its adapter.

Predictions are aligned with their own positions (no logit shift is visible), the mask id is never predicted, and nobody outside an
adapter ever sees a `[B, L, V]` tensor: only the positions asked for leave it, reduced over the vocabulary.

Shapes: `B` rows, `P` prompt tokens (left-padded), `L` canvas tokens, `N` positions asked for, `K` confidences, `V` vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class ModelError(ValueError):
    """A model folder that cannot be used; one line that names the folder and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """Ids that decoding depends on."""

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


@dataclass(frozen=True, slots=True)
class Prediction:
    """The model's opinion about N positions."""

    token_ids_N: Tensor
    """int64: the greedy token, or a sampled one when a token temperature was given."""
    confidences_NK: Tensor
    """The K largest probabilities, largest first, from untempered logits in float32 (float64 for a float64 model)."""
    log_odds_N: Tensor
    """log(p / (1 - p)) of the largest probability, computed from the logits of the other tokens, so it never saturates."""


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
    ) -> Prediction:
        """One forward pass over all rows.

        Args:
            prompt_BP: left-padded prompt ids; what stands in the padding has no influence.
            prompt_length_B: number of real prompt tokens of each row.
            canvas_BL: the canvases, with mask ids where nothing is committed.
            wanted_BL: bool, the positions to predict; N is their number, in row-major order.
            num_confidences: K.
            token_temperature: 0 picks the argmax; above 0 tokens are drawn by `token_uniforms_N`.
            token_uniforms_N: one uniform number per wanted position, needed when the temperature is above 0.
        """
        ...
