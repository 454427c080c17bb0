"""transformers' own backbones made bidirectional, and their reduction over the vocabulary.

Every adapter runs on these, so attention, rotary and normalisation are the maintained code and no remote code is needed.

Shapes: see `rollout_workers.models.base`; `S` = P + L tokens, `D` hidden size.
"""

from __future__ import annotations

from typing import overload

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rollout_workers.models.base import ModelSpec, Prediction

LOGITS_BYTES = 256 * 2**20
"""Float32 logits that exist at one time: peak memory does not grow with B x L x V."""

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


class BackboneDLLM:
    """A bidirectional backbone as a frozen dLLM: hidden states of all tokens, logits of the wanted positions only.

    `is_shifted`: a position is predicted from the hidden state to its left, as Dream does.
    """

    def __init__(self, model: Backbone, spec: ModelSpec, *, is_shifted: bool = False) -> None:
        self.model = model.eval().requires_grad_(False)
        self.spec = spec
        self.device = next(model.parameters()).device
        self.is_shifted = is_shifted

    @torch.no_grad()
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
        hidden_BLD = self.hidden_states(prompt_BP, prompt_length_B, canvas_BL)
        hidden_ND = hidden_BLD[wanted_BL]
        num_at_once = max(1, LOGITS_BYTES // (4 * self.spec.vocabulary_size))
        parts = []
        for start in range(0, max(1, len(hidden_ND)), num_at_once):
            chunk = slice(start, start + num_at_once)
            logits_NV = self.model.lm_head(hidden_ND[chunk])
            if self.spec.num_tokens is not None:
                logits_NV[:, self.spec.num_tokens :] = -torch.inf
            uniforms_N = None if token_uniforms_N is None else token_uniforms_N[chunk]
            parts.append(reduce_logits(logits_NV, self.spec.mask_id, num_confidences, token_temperature, uniforms_N))
        if len(parts) == 1:
            return parts[0]
        return Prediction(
            torch.cat([part.token_ids_N for part in parts]),
            torch.cat([part.confidences_NK for part in parts]),
            torch.cat([part.log_odds_N for part in parts]),
        )

    def hidden_states(self, prompt_BP: Tensor, prompt_length_B: Tensor, canvas_BL: Tensor) -> Tensor:
        """`[B, L, D]` last hidden states that predict the canvas; padding is masked as a key and not counted in positions."""
        P, L = prompt_BP.shape[1], canvas_BL.shape[1]
        tokens_BS = torch.cat([prompt_BP, canvas_BL], 1)
        padding_B1 = (P - prompt_length_B).unsqueeze(1)
        slot_S = torch.arange(P + L, device=tokens_BS.device)
        mask_BS = position_BS = None
        if bool((padding_B1 > 0).any()):
            mask_BS = (slot_S >= padding_B1).long()
            position_BS = (slot_S - padding_B1).clamp(min=0)
        out = self.model.model(input_ids=tokens_BS, attention_mask=mask_BS, position_ids=position_BS)
        hidden_BSD: Tensor = out.last_hidden_state
        if not self.is_shifted:
            return hidden_BSD[:, P:]
        # The first real token of a row has nothing to its left and is predicted from itself.
        left_BL = torch.maximum(slot_S[P:] - 1, padding_B1)
        return hidden_BSD.gather(1, left_BL.unsqueeze(2).expand(-1, -1, hidden_BSD.shape[2]))


def reduce_logits(
    logits_NV: Tensor, mask_id: int, num_confidences: int, token_temperature: float, uniforms_N: Tensor | None
) -> Prediction:
    """Tokens, confidences and log-odds of each position; the mask id takes no part."""
    if logits_NV.dtype != torch.float64:
        logits_NV = logits_NV.float()
    logits_NV[:, mask_id] = -torch.inf
    top_NK, top_ids_NK = logits_NV.topk(num_confidences, dim=-1)
    total_N1 = logits_NV.logsumexp(-1, keepdim=True)
    confidences_NK = (top_NK - total_N1).exp()
    token_ids_N = top_ids_NK[:, 0].clone()
    if token_temperature > 0:
        assert uniforms_N is not None, "a token temperature needs uniform numbers"
        cumulative_NV = (logits_NV.double() / token_temperature).softmax(-1).cumsum(-1)
        target_N1 = (uniforms_N.double() * cumulative_NV[:, -1]).unsqueeze(1)
        token_ids_N = torch.searchsorted(cumulative_NV, target_N1).squeeze(1).clamp(max=logits_NV.shape[1] - 1)
    others_N = logits_NV.scatter_(1, top_ids_NK[:, :1], -torch.inf).logsumexp(-1)
    return Prediction(token_ids_N, confidences_NK, top_NK[:, 0] - others_N)
