"""A model folder with its own modelling code, as the hub has them: one attention layer, right or wrong as its config chooses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from rollout_workers.models.tiny.vocabulary import build_tokenizer

CONFIG_CODE = """
from transformers import PretrainedConfig


class ToyConfig(PretrainedConfig):
    model_type = "toy_dllm"

    def __init__(self, width=16, sees="all", returns="logits", honours_mask=True, **others):
        self.width, self.sees, self.returns, self.honours_mask = width, sees, returns, honours_mask
        super().__init__(**others)
"""

MODEL_CODE = """
import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, MaskedLMOutput

from .configuration_toy import ToyConfig


class ToyModel(PreTrainedModel):
    config_class = ToyConfig

    def __init__(self, config):
        super().__init__(config)
        self.embed = nn.Embedding(config.vocab_size, config.width)
        self.key, self.value, self.mix = (nn.Linear(config.width, config.width, bias=False) for _ in range(3))
        self.head = nn.Linear(config.width, config.vocab_size, bias=False)
        self.post_init()

    def get_output_embeddings(self):
        return self.head if self.config.returns != "nothing" else None

    def forward(self, input_ids, attention_mask=None):
        if self.config.sees == "nothing":
            raise TypeError("this needs transformers 4.38")
        x = self.embed(input_ids)
        scores = x @ self.key(x).transpose(1, 2)
        slot = torch.arange(x.shape[1])
        block = {"all": x.shape[1], "left": 1, "blocks": 32}[self.config.sees]
        scores = scores.masked_fill(slot // block > slot[:, None] // block, -torch.inf)
        if self.config.honours_mask and attention_mask is not None:
            scores = scores.masked_fill(attention_mask[:, None, :] == 0, torch.finfo(scores.dtype).min)
        hidden = x + self.mix(torch.tanh(scores.softmax(-1) @ self.value(x)))
        if self.config.returns == "logits":
            return MaskedLMOutput(logits=self.head(hidden))
        return BaseModelOutput(last_hidden_state=hidden)
"""


def write_toy(folder: Path, **config: Any) -> dict[str, Tensor]:
    """Writes the folder and returns its tensors, float64; a config value of `...` leaves the key out."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(folder)
    rows = len(tokenizer) + 7
    document = {
        "architectures": ["ToyModel"],
        "auto_map": {"AutoConfig": "configuration_toy.ToyConfig", "AutoModel": "modeling_toy.ToyModel"},
        "eos_token_id": tokenizer.eos_token_id,
        "honours_mask": True,
        "mask_token_id": tokenizer.mask_token_id,
        "max_position_embeddings": 512,
        "model_type": "toy_dllm",
        "pad_token_id": tokenizer.pad_token_id,
        "returns": "logits",
        "sees": "all",
        "vocab_size": rows,
        "width": 16,
    } | config
    (folder / "config.json").write_text(json.dumps({k: v for k, v in document.items() if v is not ...}))
    (folder / "configuration_toy.py").write_text(CONFIG_CODE)
    (folder / "modeling_toy.py").write_text(MODEL_CODE)
    make = torch.Generator().manual_seed(0)
    shapes = {"embed": (rows, 16), "key": (16, 16), "value": (16, 16), "mix": (16, 16), "head": (rows, 16)}
    tensors = {
        f"{name}.weight": torch.randn(shape, generator=make, dtype=torch.float64) * 0.6
        for name, shape in shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return tensors


def toy_logits(ids: list[int], tensors: dict[str, Tensor]) -> Tensor:
    """`[S, V]` logits of one row that sees all of itself."""
    x_SD = tensors["embed.weight"][torch.tensor(ids)]
    scores_SS = x_SD @ (x_SD @ tensors["key.weight"].T).T
    mixed_SD = torch.tanh(scores_SS.softmax(-1) @ (x_SD @ tensors["value.weight"].T))
    return (x_SD + mixed_SD @ tensors["mix.weight"].T) @ tensors["head.weight"].T
