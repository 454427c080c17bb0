"""A frozen dLLM whose predictions are made the way public samplers make them, for baselines.

Logits of every position of prompt and canvas in the model's dtype, a softmax over the whole of them, then top-k over the canvas;
what was not asked for is thrown away. Confidences carry the rounding of that dtype.

Shapes: see `rollout_workers.models.base`; `S` = P + L tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from policy.used_positions import UsedPositions
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import ModelError, Prediction
from rollout_workers.models.reduction import Inputs


class PublicReduction:
    """`model` with the full-vocabulary softmax in place of its own reduction."""

    def __init__(self, model: BackboneDLLM) -> None:
        self._model = model
        self.spec = model.spec
        self.device = model.device

    @torch.no_grad()
    def predict(
        self,
        prompt_BP: Tensor,
        prompt_length_B: Tensor,
        canvas_BL: Tensor,
        wanted_BL: Tensor,
        *,
        num_confidences: int = 1,
        with_margin: bool = False,
        **unsupported: Any,
    ) -> Prediction:
        """As the model's own `predict`, without sampled tokens, entropies and hidden states."""
        asked = sorted(name for name, value in unsupported.items() if value)
        if asked:
            raise ModelError(f"the full-vocabulary baseline cannot give {', '.join(asked)}")
        inputs = Inputs.join(prompt_BP, prompt_length_B, canvas_BL)
        logits_BSV = self._model.model(
            input_ids=inputs.tokens_BS, attention_mask=inputs.mask_BS, position_ids=inputs.position_BS
        ).logits
        logits_BSV[:, :, self.spec.mask_id] = -torch.inf
        if self.spec.num_tokens is not None:
            logits_BSV[:, :, self.spec.num_tokens :] = -torch.inf
        p_BSV = torch.softmax(logits_BSV, -1)
        p_BSK, ids_BSK = p_BSV.topk(max(num_confidences, 2) if with_margin else num_confidences, dim=-1)
        sources = inputs.sources(wanted_BL, is_shifted=self._model.is_shifted)
        used = UsedPositions.at(*sources, inputs.tokens_BS.shape, self.device)
        p_NK = used.of(p_BSK).float()
        return Prediction(
            used.of(ids_BSK)[:, 0],
            p_NK[:, :num_confidences],
            torch.logit(p_NK[:, 0].double()).float(),
            margin_N=p_NK[:, 0] - p_NK[:, 1] if with_margin else None,
        )
