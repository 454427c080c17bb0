"""This project's own format: transformers' Llama with a mask id in its config, as `models/tiny` ships it."""

from __future__ import annotations

from transformers import LlamaConfig, PreTrainedTokenizerFast

from rollout_workers.models.checkpoint import Checkpoint
from rollout_workers.models.family import Family


def _make_config(checkpoint: Checkpoint) -> LlamaConfig:
    checkpoint.integer("vocab_size")
    return LlamaConfig.from_dict(checkpoint.config)


LLAMA = Family(
    model_type="llama",
    tokenizer_class=PreTrainedTokenizerFast,
    tokenizer_files=("tokenizer.json", "tokenizer_config.json"),
    mask_token="<mask>",
    end_of_turn=None,
    make_config=_make_config,
    tensor_name=lambda name: name,
    rows_keys=("vocab_size",),
    positions_key="max_position_embeddings",
    is_shifted=False,
)
