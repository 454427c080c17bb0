"""From logits to predictions, a piece at a time: peak memory does not grow with B x L x V.

Probabilities are computed in float32 (float64 where the logits are), whatever the model computes in; the mask id takes no part.

Shapes: see `rollout_workers.models.base`; `S` = P + L tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from policy.transfer import to_device
from rollout_workers.models.base import ModelSpec, Prediction

LOGITS_BYTES = 256 * 2**20
"""Float32 logits that exist at one time; with temporaries the reduction needs about three times as much."""


@dataclass(frozen=True)
class Inputs:
    """Prompts and canvases as one batch; padding is masked as a key and not counted in positions."""

    tokens_BS: Tensor
    padding_B: NDArray[np.int64]
    """Padded slots at the left of each row, on the host."""

    @staticmethod
    def join(prompt_BP: Tensor, prompt_length_B: Tensor, canvas_BL: Tensor) -> Inputs:
        padding_B = prompt_BP.shape[1] - prompt_length_B.cpu().numpy()
        return Inputs(torch.cat([prompt_BP, canvas_BL], 1), padding_B)

    @functools.cached_property
    def mask_BS(self) -> Tensor:
        """int64: 1 where a token is real."""
        return (self._slot_BS >= 0).long()

    @functools.cached_property
    def position_BS(self) -> Tensor:
        """int64, from 0 at the first real token."""
        return self._slot_BS.clamp(min=0)

    @functools.cached_property
    def _slot_BS(self) -> Tensor:
        device = self.tokens_BS.device
        return torch.arange(self.tokens_BS.shape[1], device=device) - to_device(self.padding_B, device).unsqueeze(1)

    def rows(self, chunk: slice | NDArray[np.int64]) -> Inputs:
        """Some rows, or those with these numbers."""
        on_device = chunk if isinstance(chunk, slice) else to_device(chunk, self.tokens_BS.device)
        return Inputs(self.tokens_BS[on_device], self.padding_B[chunk])

    def sources(self, wanted_BL: Tensor, *, is_shifted: bool) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(row `[N]`, slot `[N]`) whose output predicts each wanted position, on the host.

        With a shift that is the slot to the left; a row's first real token has nothing there and is predicted from itself.
        """
        row_N, position_N = wanted_BL.cpu().numpy().nonzero()
        slot_N = position_N + (self.tokens_BS.shape[1] - wanted_BL.shape[1])
        if is_shifted:
            slot_N = np.maximum(slot_N - 1, self.padding_B[row_N])
        return row_N, slot_N


@dataclass(frozen=True, slots=True)
class Reduction:
    """What is wanted of each position; the arguments of `FrozenDLLM.predict`."""

    num_confidences: int = 1
    token_temperature: float = 0.0
    uniforms_N: Tensor | None = None
    with_entropy: bool = False
    with_margin: bool = False
    with_log_probs: bool = False
    banned_ids: tuple[int, ...] = ()

    def part(self, chunk: slice) -> Reduction:
        """The same for some of the positions."""
        uniforms_N = None if self.uniforms_N is None else self.uniforms_N[chunk]
        return replace(self, uniforms_N=uniforms_N)


def positions_at_once(vocabulary_size: int) -> int:
    """Positions whose logits make one piece."""
    return max(1, LOGITS_BYTES // (4 * vocabulary_size))


def reduce_in_pieces(
    logits_of: Callable[[slice], Tensor], num: int, spec: ModelSpec, reduction: Reduction
) -> Prediction:
    """The prediction for `num` positions; `logits_of` makes the logits of some of them, and its result is overwritten."""
    num_at_once = positions_at_once(spec.vocabulary_size)
    parts = []
    for start in range(0, max(1, num), num_at_once):
        chunk = slice(start, start + num_at_once)
        logits_NV = logits_of(chunk)
        if spec.num_tokens is not None:
            logits_NV[:, spec.num_tokens :] = -torch.inf
        parts.append(reduce_logits(logits_NV, spec.mask_id, reduction.part(chunk)))
    return concatenate(parts)


def reduce_logits(logits_NV: Tensor, mask_id: int, reduction: Reduction) -> Prediction:
    """The prediction from logits, which are overwritten."""
    if logits_NV.dtype != torch.float64:
        logits_NV = logits_NV.float()
    for never in (mask_id, *reduction.banned_ids):
        logits_NV[:, never] = -torch.inf
    K = reduction.num_confidences
    top_NK, top_ids_NK = logits_NV.topk(max(K, 2) if reduction.with_margin else K, dim=-1)
    total_N1 = logits_NV.logsumexp(-1, keepdim=True)
    confidences_NK = (top_NK - total_N1).exp()
    token_ids_N = top_ids_NK[:, 0].clone()
    if reduction.token_temperature > 0:
        token_ids_N = _sample(logits_NV, reduction)
    entropy_N = None
    if reduction.with_entropy:
        entropy_N = torch.special.entr((logits_NV - total_N1).exp_()).sum(-1)
    log_probs_NV = logits_NV - total_N1 if reduction.with_log_probs else None
    others_N = logits_NV.scatter_(1, top_ids_NK[:, :1], -torch.inf).logsumexp(-1)
    return Prediction(
        token_ids_N,
        confidences_NK[:, :K],
        top_NK[:, 0] - others_N,
        entropy_N=entropy_N,
        margin_N=confidences_NK[:, 0] - confidences_NK[:, 1] if reduction.with_margin else None,
        log_probs_NV=log_probs_NV,
    )


def _sample(logits_NV: Tensor, reduction: Reduction) -> Tensor:
    """Tokens of the tempered distribution, each by the inverse of its cumulative probability."""
    uniforms_N = reduction.uniforms_N
    assert uniforms_N is not None, "a token temperature needs uniform numbers"
    cumulative_NV = (logits_NV.double() / reduction.token_temperature).softmax(-1).cumsum(-1)
    target_N1 = (uniforms_N.double() * cumulative_NV[:, -1]).unsqueeze(1)
    return torch.searchsorted(cumulative_NV, target_N1).squeeze(1).clamp(max=logits_NV.shape[1] - 1)


def concatenate(parts: Sequence[Prediction]) -> Prediction:
    """Predictions for more positions, in order."""
    if len(parts) == 1:
        return parts[0]
    return Prediction(
        torch.cat([part.token_ids_N for part in parts]),
        torch.cat([part.confidences_NK for part in parts]),
        torch.cat([part.log_odds_N for part in parts]),
        entropy_N=_join([part.entropy_N for part in parts]),
        margin_N=_join([part.margin_N for part in parts]),
        hidden_ND=_join([part.hidden_ND for part in parts]),
        log_probs_NV=_join([part.log_probs_NV for part in parts]),
    )


def _join(columns: Sequence[Tensor | None]) -> Tensor | None:
    present = [column for column in columns if column is not None]
    assert len(present) in (0, len(columns)), "parts of one prediction hold the same fields"
    return torch.cat(present) if present else None


def wide(values: Tensor) -> Tensor:
    """float64 as it is, anything else in float32."""
    return values if values.dtype == torch.float64 else values.float()
