"""Dream-7B and DiffuCoder-7B on a bidirectional Qwen2. They kept the next-token head of the model they were adapted from: the
logits of a position stand one to its left, and nobody outside the adapter sees that."""

from __future__ import annotations

from transformers import Qwen2Config, Qwen2Tokenizer

from rollout_workers.models.checkpoint import Checkpoint
from rollout_workers.models.family import Family


def _make_config(checkpoint: Checkpoint) -> Qwen2Config:
    checkpoint.require(
        hidden_act=("silu",), use_sliding_window=(False, None), rope_scaling=(None,), use_mrope=(False, None)
    )
    return Qwen2Config(
        hidden_size=checkpoint.integer("hidden_size"),
        intermediate_size=checkpoint.integer("intermediate_size"),
        num_hidden_layers=checkpoint.integer("num_hidden_layers"),
        num_attention_heads=checkpoint.integer("num_attention_heads"),
        num_key_value_heads=checkpoint.integer("num_key_value_heads"),
        vocab_size=checkpoint.integer("vocab_size"),
        max_position_embeddings=checkpoint.integer("max_position_embeddings"),
        rms_norm_eps=checkpoint.number("rms_norm_eps", 1e-6),
        rope_parameters={"rope_type": "default", "rope_theta": checkpoint.number("rope_theta", 10000.0)},
        tie_word_embeddings=bool(checkpoint.config.get("tie_word_embeddings")),
    )


DREAM = Family(
    model_type="Dream",
    tokenizer_class=Qwen2Tokenizer,
    tokenizer_files=("vocab.json", "merges.txt", "tokenizer_config.json"),
    mask_token="<|mask|>",
    end_of_turn="<|im_end|>",
    make_config=_make_config,
    tensor_name=lambda name: name,
    rows_keys=("vocab_size",),
    positions_key="max_position_embeddings",
    is_shifted=True,
)
