"""What must hold of every model before it decodes; each check fails by its name.

The checks see a model only through its predictions and its raw logits, so they hold every adapter to the same contract.

Shapes: see `rollout_workers.models.base`; `S` tokens of a text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from rollout_workers.models.base import FrozenDLLM, ModelError, ModelSpec, Prediction
from rollout_workers.tokenizer import DllmTokenizer

PADDING_CURE = (
    "its attention must leave out what attention_mask says is padding (LLaDA's own code does since October 2025): "
    "take a revision that does, or mend its code"
)
DIGITS = "1 2 3 4 5 6 7 8 9"
TEXT = (
    "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen, fourteen, fifteen, sixteen."
)
SHIFT_MARGIN_NATS = 1.0
SIGHT_CANVAS = 128
"""Longer than the blocks of block-causal models (4 to 64)."""


class TextModel(Protocol):
    """A model that shows the logits of a text."""

    spec: ModelSpec
    device: torch.device
    is_shifted: bool

    def raw_logits(self, ids_S: Tensor) -> Tensor:
        """`[S, V]` logits of one row, not shifted."""
        ...


def check_vocabulary(spec: ModelSpec, tokenizer: DllmTokenizer) -> None:
    """Fails where the tokenizer cannot be the weights' own: too many tokens, special ids that do not read back, changed digits."""
    if tokenizer.num_tokens > spec.vocabulary_size:
        raise _failed(
            spec,
            "vocabulary",
            f"its tokenizer has {tokenizer.num_tokens} tokens and its head {spec.vocabulary_size} rows",
        )
    for what, special in (("mask", spec.mask_id), ("end-of-text", spec.eos_id), ("end-of-turn", spec.end_of_turn_id)):
        if special is None:
            continue
        if not 0 <= special < tokenizer.num_tokens:
            raise _failed(
                spec, "vocabulary", f"its {what} id {special} is none of its tokenizer's {tokenizer.num_tokens} tokens"
            )
        written = tokenizer.tokens([special])[0]
        if (ids := _encode(tokenizer, written)) != [special]:
            raise _failed(
                spec, "vocabulary", f"its {what} id {special} is written {written!r}, which reads back as {ids}"
            )
    digits = _encode(tokenizer, DIGITS)
    if digits is not None and (text := tokenizer.decode_canvas(digits).strip()) != DIGITS:
        raise _failed(spec, "vocabulary", f"its tokenizer turns {DIGITS!r} into {text!r}")


@torch.no_grad()
def self_check(model: FrozenDLLM, *, tolerance: float) -> None:
    """Fails where confidences are not numbers, the mask id is predicted, or a row's confidences move with its padding by more than
    `tolerance` on average."""
    spec, prompt = model.spec, _prompt(model.spec)
    canvas = [spec.mask_id] * 8
    lone = _predict(model, prompt, len(prompt), canvas)
    if not bool(lone.confidences_NK.isfinite().all()):
        raise _failed(spec, "numbers", "its confidences are not numbers")
    if bool((lone.token_ids_N == spec.mask_id).any()):
        raise _failed(spec, "mask id", f"it predicts its own mask id {spec.mask_id}")
    padded = _predict(model, [spec.pad_id] * 5 + prompt, len(prompt), canvas)
    otherwise = _predict(model, [spec.mask_id] * 5 + prompt, len(prompt), canvas)
    for other, what in ((padded, "padding"), (otherwise, "what stands in the padding")):
        gap = float((lone.confidences_NK - other.confidences_NK).abs().mean())
        if not gap <= tolerance:
            raise _failed(spec, "padding", f"{what} moves confidences by {gap:.2g}; {PADDING_CURE}")


@torch.no_grad()
def check_sight(model: FrozenDLLM) -> None:
    """Fails where a position does not see the whole canvas: a causal or block-causal model decodes wrongly here, and silently."""
    spec, prompt = model.spec, _prompt(model.spec)
    half = min(SIGHT_CANVAS, (spec.num_positions or SIGHT_CANVAS) - len(prompt)) // 2
    masks = _predict(model, prompt, len(prompt), [spec.mask_id] * 2 * half)
    written = _predict(model, prompt, len(prompt), [spec.mask_id] * half + [spec.eos_id] * half)
    if torch.equal(masks.log_odds_N[: half // 2], written.log_odds_N[: half // 2]):
        raise _failed(
            spec,
            "sight",
            "its first positions do not see what is written at the end; causal and block-causal models do not fit",
        )


@torch.no_grad()
def check_shift(model: TextModel, tokenizer: DllmTokenizer) -> None:
    """Fails where masked words of plain text are well predicted under the other alignment of logits and positions, and worse as
    configured. Weights that were never trained predict nothing well, so only a trained model of the wrong kind can fail."""
    ids = _encode(tokenizer, TEXT)
    if ids is None:
        return  # A vocabulary without plain text cannot tell.
    # Every third token, so that the token to the left of a masked one is there to be read.
    masked = torch.arange(2, len(ids), 3, device=model.device)
    ids_S = torch.tensor(ids, device=model.device)
    canvas_S = ids_S.clone()
    canvas_S[masked] = model.spec.mask_id
    scores_SV = model.raw_logits(canvas_S).log_softmax(-1)
    aligned = float(scores_SV[masked].gather(1, ids_S[masked, None]).mean())
    shifted = float(scores_SV[masked - 1].gather(1, ids_S[masked, None]).mean())
    ours, other = (shifted, aligned) if model.is_shifted else (aligned, shifted)
    if other > ours + SHIFT_MARGIN_NATS and -other < math.log(model.spec.vocabulary_size) / 2:
        raise _failed(
            model.spec, "shift",
            f"masked words cost {-ours:.1f} nats each as configured and {-other:.1f} with logits "
            f"{'in place' if model.is_shifted else 'shifted by one'}",
        )  # fmt: skip


def _prompt(spec: ModelSpec) -> list[int]:
    return [i % spec.vocabulary_size for i in range(6)]


def _predict(model: FrozenDLLM, prompt: Sequence[int], num_real: int, canvas: Sequence[int]) -> Prediction:
    """All positions of one row."""

    def row(values: Sequence[int]) -> Tensor:
        return torch.tensor([list(values)], device=model.device)

    wanted_BL = torch.ones(1, len(canvas), dtype=torch.bool, device=model.device)
    return model.predict(row(prompt), torch.tensor([num_real], device=model.device), row(canvas), wanted_BL)


def _encode(tokenizer: DllmTokenizer, text: str) -> list[int] | None:
    """None where the text has a word outside the vocabulary."""
    try:
        return tokenizer.encode_text(text)
    except ValueError:
        return None


def _failed(spec: ModelSpec, check: str, reason: str) -> ModelError:
    return ModelError(f"model '{spec.name}': self-check '{check}' failed: {reason}")
