"""transformers' own backbones made bidirectional, as frozen dLLMs.

Every family runs on these, so attention, rotary and normalisation are the maintained code and no remote code is needed.

Shapes: see `rollout_workers.models.base`; `S` = P + L tokens, `D` hidden size.
"""

from __future__ import annotations

from dataclasses import replace
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from policy.transfer import to_device
from policy.used_positions import UsedPositions
from rollout_workers.models.base import ModelError, ModelSpec, Prediction
from rollout_workers.models.cache import CachedPass, PassKeys
from rollout_workers.models.last_block import make_last_block
from rollout_workers.models.reduction import LOGITS_BYTES, Inputs, Reduction, reduce_in_pieces, wide
from rollout_workers.models.shadows import Shadows

Backbone = LlamaForCausalLM | Qwen2ForCausalLM


@overload
def bidirectional(config: LlamaConfig) -> LlamaForCausalLM: ...
@overload
def bidirectional(config: Qwen2Config) -> Qwen2ForCausalLM: ...
def bidirectional(config: LlamaConfig | Qwen2Config) -> Backbone:
    """A backbone whose every token attends to every real token; `config` is changed to say so and to keep no cache."""
    config.is_causal = False
    config.use_cache = False
    return Qwen2ForCausalLM(config) if isinstance(config, Qwen2Config) else LlamaForCausalLM(config)


def make_buffers(model: Backbone, device: str) -> None:
    """Makes what no file holds: the rotary frequencies of a model that was built without memory."""
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)


def _seen(mask_BS: Tensor, num_queries: int) -> Tensor:
    """`[B, 1, Q, S]` bool: every query attends to every real token. Made here, for transformers asks the device whether all are."""
    return mask_BS.bool()[:, None, None, :].expand(-1, 1, num_queries, -1)


class BackboneDLLM:
    """A bidirectional backbone as a frozen dLLM: the last block and the head are computed for the wanted positions only.

    `is_shifted`: a position is predicted from the hidden state to its left, as Dream does.
    """

    def __init__(self, model: Backbone, spec: ModelSpec, *, is_shifted: bool = False) -> None:
        self.model = model.eval().requires_grad_(False)
        self.spec = spec
        self.device = next(model.parameters()).device
        self.is_shifted = is_shifted
        layers = model.model.layers
        if len(layers):
            make_last_block(layers[-1])

    @torch.inference_mode()
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
        inputs = Inputs.join(prompt_BP, prompt_length_B, canvas_BL)
        row_N, slot_N = inputs.sources(wanted_BL, is_shifted=self.is_shifted)
        shadows = None if shadow_BL is None else self._shadows(inputs, shadow_BL)
        hidden_MD = None
        if cached is not None:
            hidden_ND = self._hidden_states_cached(inputs, row_N, slot_N, cached)
        elif shadows is not None:
            hidden_BXD = self._hidden_states_beside(inputs, shadows)
            hidden_ND = UsedPositions.at(row_N, slot_N, hidden_BXD.shape, self.device).of(hidden_BXD)
            hidden_MD = shadows.real.of(hidden_BXD[:, inputs.tokens_BS.shape[1] :])
        else:
            hidden_ND = self._hidden_states(inputs, row_N, slot_N)

        def logits_of(chunk: slice) -> Tensor:
            logits_NV: Tensor = self.model.lm_head(hidden_ND[chunk])
            return logits_NV

        reduction = Reduction(
            num_confidences, token_temperature, token_uniforms_N, with_entropy, with_margin, with_log_probs, banned_ids
        )
        prediction = reduce_in_pieces(logits_of, len(row_N), self.spec, reduction)
        if with_hidden:
            prediction = replace(prediction, hidden_ND=wide(hidden_ND))
        if hidden_MD is not None and shadow_BL is not None:
            token_M = UsedPositions.where(shadow_BL, self.device).of(canvas_BL)
            prediction = replace(prediction, shadow_M=self._token_probabilities(hidden_MD, token_M))
        return prediction

    def _hidden_states(
        self, inputs: Inputs, row_N: NDArray[np.int64], slot_N: NDArray[np.int64], keys: PassKeys | None = None
    ) -> Tensor:
        """`[N, D]` last hidden states after the final norm of the tokens at these rows and slots, rows in order.

        Without padding there is no mask, which is the faster attention.
        """
        used = UsedPositions.at(row_N, slot_N, inputs.tokens_BS.shape, self.device)
        if not len(self.model.model.layers):
            hidden_BSD: Tensor = self.model.model(input_ids=inputs.tokens_BS).last_hidden_state
            return used.of(hidden_BSD)
        mask_BQS = position_BS = None
        if inputs.padding_B.any():
            mask_BQS, position_BS = _seen(inputs.mask_BS, inputs.tokens_BS.shape[1]), inputs.position_BS
        out = self.model.model(
            input_ids=inputs.tokens_BS,
            attention_mask=mask_BQS,
            position_ids=position_BS,
            past_key_values=keys,
            used=used,
        )
        hidden_ND: Tensor = out.last_hidden_state[0]
        return hidden_ND

    def _hidden_states_cached(
        self, inputs: Inputs, row_N: NDArray[np.int64], slot_N: NDArray[np.int64], cached: CachedPass
    ) -> Tensor:
        """`[N, D]` hidden states of tokens that are all computed in this pass."""
        B, S = inputs.tokens_BS.shape
        full_B, fresh_BL = cached.full_B.numpy(), cached.fresh_BL.numpy()
        num_slots = cached.cache.reserve(S)
        hidden_ND: Tensor = next(self.model.parameters()).new_empty(len(row_N), self.model.config.hidden_size)
        full_b, part_b = np.flatnonzero(full_B), np.flatnonzero(~full_B)
        number_B = np.where(full_B, full_B.cumsum(), (~full_B).cumsum()) - 1
        is_full_N = full_B[row_N]
        if len(full_b):
            hidden_ND[to_device(np.flatnonzero(is_full_N), self.device)] = self._hidden_states(
                inputs.rows(full_b),
                number_B[row_N[is_full_N]],
                slot_N[is_full_N],
                PassKeys(cached.cache, to_device(full_b, self.device), None),
            )
        if len(part_b):
            is_fresh_BS = np.zeros((B, S), bool)
            is_fresh_BS[:, S - fresh_BL.shape[1] :] = fresh_BL
            is_fresh_BS[row_N, slot_N] = True
            is_fresh_bS = is_fresh_BS[part_b]
            slot_bQ, mine = UsedPositions.where(is_fresh_bS, self.device).positions(), inputs.rows(part_b)
            # All real tokens of the row are attended to; slots beyond the longest prompt were never written.
            mask_bT = F.pad(mine.mask_BS, (num_slots - S, 0))
            out = self.model.model(
                input_ids=mine.tokens_BS.gather(1, slot_bQ),
                attention_mask=_seen(mask_bT, slot_bQ.shape[1]),
                position_ids=mine.position_BS.gather(1, slot_bQ),
                past_key_values=PassKeys(cached.cache, to_device(part_b, self.device), slot_bQ + (num_slots - S)),
            )
            place_bS = is_fresh_bS.cumsum(1) - 1
            row_n, slot_n = number_B[row_N[~is_full_N]], slot_N[~is_full_N]
            part = UsedPositions.at(row_n, place_bS[row_n, slot_n], slot_bQ.shape, self.device)
            hidden_ND[to_device(np.flatnonzero(~is_full_N), self.device)] = part.of(out.last_hidden_state)
        return hidden_ND

    def _shadows(self, inputs: Inputs, shadow_BL: Tensor) -> Shadows:
        if self.is_shifted:
            raise ModelError(
                f"model '{self.spec.name}' predicts each token from the place to its left; allowed: sampler wino with others"
            )
        return Shadows.join(inputs, shadow_BL)

    def _hidden_states_beside(self, inputs: Inputs, shadows: Shadows) -> Tensor:
        """`[B, S + W, D]` with the shadows' hidden states at the end; no other token sees them."""
        mask_id_BW = torch.full_like(shadows.slot_BW, self.spec.mask_id)
        out = self.model.model(
            input_ids=torch.cat([inputs.tokens_BS, mask_id_BW], 1),
            attention_mask=shadows.attention(inputs),
            position_ids=torch.cat([inputs.position_BS, inputs.position_BS.gather(1, shadows.slot_BW)], 1),
        )
        hidden_BXD: Tensor = out.last_hidden_state
        return hidden_BXD

    def _token_probabilities(self, hidden_MD: Tensor, token_M: Tensor) -> Tensor:
        """`[M]` probabilities of the tokens, the mask id excluded as everywhere."""
        parts = []
        num_at_once = max(1, LOGITS_BYTES // (4 * self.spec.vocabulary_size))
        for hidden_nD, token_n in zip(hidden_MD.split(num_at_once), token_M.split(num_at_once), strict=True):
            logits_nV = wide(self.model.lm_head(hidden_nD))
            if self.spec.num_tokens is not None:
                logits_nV[:, self.spec.num_tokens :] = -torch.inf
            logits_nV[:, self.spec.mask_id] = -torch.inf
            parts.append((logits_nV.gather(1, token_n.unsqueeze(1)).squeeze(1) - logits_nV.logsumexp(1)).exp())
        return torch.cat(parts) if parts else wide(hidden_MD.new_zeros(0))

    @torch.inference_mode()
    def raw_logits(self, ids_S: Tensor) -> Tensor:
        """`[S, V]` logits of one row as the head gives them: not shifted, nothing excluded."""
        logits_BSV: Tensor = self.model(input_ids=ids_S.unsqueeze(0)).logits
        return wide(logits_BSV[0])
