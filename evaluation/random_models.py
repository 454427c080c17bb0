"""Models of real sizes with random weights, made on their device without a checkpoint: for figures of memory and time.

Such a model is never sure of a token, so a threshold sampler commits one position per pass: the most passes that a canvas can take.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from transformers import LlamaConfig, Qwen2Config

from rollout_workers.models.backbone import Backbone, BackboneDLLM, bidirectional, make_buffers
from rollout_workers.models.base import ModelSpec

WEIGHT_STD = 0.02


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of a backbone."""

    vocabulary_size: int
    hidden_size: int
    feed_forward_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    is_dream: bool = False
    """Qwen2 with the logit shift, instead of Llama."""

    def config(self) -> LlamaConfig | Qwen2Config:
        kind = Qwen2Config if self.is_dream else LlamaConfig
        return kind(
            vocab_size=self.vocabulary_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.feed_forward_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            max_position_embeddings=4096,
            tie_word_embeddings=False,
        )


SHAPES = {
    "small": Shape(126464, 64, 128, 1, 2, 2),
    "llada-8b": Shape(126464, 4096, 12288, 32, 32, 32),
    "dream-7b": Shape(152064, 3584, 18944, 28, 28, 4, is_dream=True),
}
"""`small` is a head of LLaDA's vocabulary on next to nothing, so that the head's memory stands out on a CPU."""


def random_model(name: str, shape: Shape, *, dtype: torch.dtype, device: str, seed: int = 0) -> BackboneDLLM:
    """A model whose weights are drawn where they stay, so that nothing is held twice."""
    with torch.device("meta"):
        model = bidirectional(shape.config())
    nn.Module.to(model, dtype)
    model.to_empty(device=device)
    _draw(model, torch.Generator(device).manual_seed(seed))
    make_buffers(model, device)
    last = shape.vocabulary_size - 1
    spec = ModelSpec(
        name, mask_id=last, eos_id=last - 1, pad_id=last - 1, vocabulary_size=shape.vocabulary_size, can_cache=True
    )
    return BackboneDLLM(model, spec, is_shifted=shape.is_dream)


@torch.no_grad()
def _draw(model: Backbone, generator: torch.Generator) -> None:
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.fill_(1.0)
        elif name.endswith(".bias"):
            parameter.zero_()
        else:
            parameter.normal_(std=WEIGHT_STD, generator=generator)
