"""Frozen dLLMs for tests: one that is exact and fast, real random Llamas, and wrappers that watch or misbehave.

Shapes: as in `rollout_workers.models.base`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import LlamaConfig

from rollout_workers.models.backbone import BackboneDLLM, bidirectional
from rollout_workers.models.base import FrozenDLLM, ModelSpec, Prediction
from rollout_workers.models.cache import CachedPass
from rollout_workers.models.reduction import Reduction, reduce_logits

PAD_ID, EOS_ID, MASK_ID = 0, 1, 2
_MULTIPLIERS = (0x5851F42D4C957F2D, 0x2545F4914F6CDD1D, 0x369DEA0F31A53F85)


def small_spec(vocabulary_size: int = 24) -> ModelSpec:
    return ModelSpec("fake", mask_id=MASK_ID, eos_id=EOS_ID, pad_id=PAD_ID, vocabulary_size=vocabulary_size)


def _scramble(x: Tensor) -> Tensor:
    """Wrapping integer arithmetic: the same in every batch."""
    for multiplier in _MULTIPLIERS:
        x = (x ^ ((x >> 29) & ((1 << 35) - 1))) * multiplier
    return x


class HashModel:
    """Logits are a hash of (prompt, canvas, position, token) in float64: exact in every batch, and any token matters.

    `sharpness` above 1 makes confidences spread towards 1; `eos_bonus` raises the end-of-text's logit.
    """

    def __init__(self, spec: ModelSpec | None = None, *, sharpness: float = 2.0, eos_bonus: float = 1.5) -> None:
        self.spec = spec or small_spec()
        self.device = torch.device("cpu")
        self._sharpness = sharpness
        self._eos_bonus = eos_bonus

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
        assert cached is None, "a hash of everything keeps nothing"
        assert not with_hidden, "a hash has no hidden states"
        logits_BLV = self._logits(prompt_BP, prompt_length_B, canvas_BL)
        reduction = Reduction(
            num_confidences, token_temperature, token_uniforms_N, with_entropy, with_margin, with_log_probs, banned_ids
        )
        prediction = reduce_logits(logits_BLV[wanted_BL], self.spec.mask_id, reduction)
        if shadow_BL is None:
            return prediction
        return replace(prediction, shadow_M=self._shadows(prompt_BP, prompt_length_B, canvas_BL, shadow_BL))

    def _shadows(self, prompt_BP: Tensor, prompt_length_B: Tensor, canvas_BL: Tensor, shadow_BL: Tensor) -> Tensor:
        """Each token as the model sees it in a canvas where it alone is masked."""
        row_M, position_M = shadow_BL.nonzero(as_tuple=True)
        number_M = torch.arange(len(row_M))
        canvas_ML = canvas_BL[row_M]
        canvas_ML[number_M, position_M] = self.spec.mask_id
        logits_MLV = self._logits(prompt_BP[row_M], prompt_length_B[row_M], canvas_ML)
        logits_MV = logits_MLV[number_M, position_M]
        logits_MV[:, self.spec.mask_id] = -torch.inf
        return logits_MV.softmax(1)[number_M, canvas_BL[row_M, position_M]]

    def _logits(self, prompt_BP: Tensor, prompt_length_B: Tensor, canvas_BL: Tensor) -> Tensor:
        P, L = prompt_BP.shape[1], canvas_BL.shape[1]
        distance_P = torch.arange(P, 0, -1)
        is_real_BP = distance_P <= prompt_length_B.unsqueeze(1)
        prompt_B = (_scramble(distance_P * 1009 + prompt_BP + 7) * is_real_BP).sum(1)
        canvas_B = _scramble(torch.arange(L) * 2003 + canvas_BL + 1_000_003).sum(1)
        state_B = _scramble(prompt_B * 31 + canvas_B)
        cell_LV = torch.arange(L).unsqueeze(1) * 4001 + torch.arange(self.spec.vocabulary_size)
        bits_BLV = (_scramble(state_B[:, None, None] + cell_LV) >> 20) & 0xFFFFFFFF
        uniform_BLV = (bits_BLV.double() + 0.5) / 2**32
        logits_BLV = -(-uniform_BLV.log()).log() * self._sharpness
        logits_BLV[:, :, self.spec.eos_id] += self._eos_bonus
        return logits_BLV


class FixedTextModel:
    """Always predicts the same ids, with one probability everywhere."""

    def __init__(self, ids: list[int], spec: ModelSpec, *, probability: float = 0.8) -> None:
        self.spec = spec
        self.device = torch.device("cpu")
        self._ids_L = torch.tensor(ids)
        self._probability = probability

    def predict(
        self, prompt_BP: Tensor, prompt_length_B: Tensor, canvas_BL: Tensor, wanted_BL: Tensor, **options: object
    ) -> Prediction:
        ids_N = self._ids_L.expand_as(canvas_BL)[wanted_BL]
        p = torch.full((len(ids_N), 1), self._probability)
        return Prediction(ids_N, p, torch.logit(p[:, 0]))


@dataclass
class Call:
    """What one forward pass was given."""

    prompt_BP: Tensor
    prompt_length_B: Tensor
    canvas_BL: Tensor
    wanted_BL: Tensor


class SpyModel:
    """Another model, with every call kept."""

    def __init__(self, model: FrozenDLLM) -> None:
        self._model = model
        self.spec = model.spec
        self.device = model.device
        self.calls: list[Call] = []

    def predict(
        self, prompt_BP: Tensor, prompt_length_B: Tensor, canvas_BL: Tensor, wanted_BL: Tensor, **options: object
    ) -> Prediction:
        self.calls.append(Call(prompt_BP.clone(), prompt_length_B.clone(), canvas_BL.clone(), wanted_BL.clone()))
        return self._model.predict(prompt_BP, prompt_length_B, canvas_BL, wanted_BL, **options)


class PaddingLeaker(HashModel):
    """A model whose predictions depend on how far the prompts of its batch are padded."""

    def predict(
        self, prompt_BP: Tensor, prompt_length_B: Tensor, canvas_BL: Tensor, wanted_BL: Tensor, **options: object
    ) -> Prediction:
        everything_B = torch.full_like(prompt_length_B, prompt_BP.shape[1])
        return super().predict(prompt_BP, everything_B, canvas_BL, wanted_BL, **options)


def random_llama(
    *,
    seed: int,
    dtype: torch.dtype = torch.float64,
    vocabulary_size: int = 24,
    num_layers: int = 2,
    is_shifted: bool = False,
) -> BackboneDLLM:
    """A tiny untrained bidirectional Llama whose output layer is sharpened so that confidences differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary_size,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
        initializer_range=0.5,
        pad_token_id=PAD_ID,
        eos_token_id=EOS_ID,
        bos_token_id=None,
    )
    model = bidirectional(config)
    model.lm_head.weight.data.mul_(2.0)
    spec = replace(small_spec(vocabulary_size), can_cache=True)
    return BackboneDLLM(model.to(dtype), spec, is_shifted=is_shifted)
