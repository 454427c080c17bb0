"""LLaDA (8B Base, Instruct, 1.5; arXiv 2502.09992) on a bidirectional Llama: original config keys and tensor names.

LLaDA's block is Llama's under OLMo's names; its features that Llama lacks (biases, ALiBi, other norms) are refused, not ignored.
"""

from __future__ import annotations

import re

from transformers import LlamaConfig, PreTrainedTokenizerFast

from rollout_workers.models.checkpoint import Checkpoint
from rollout_workers.models.family import Family

_OUTER = {
    "model.transformer.wte.weight": "model.embed_tokens.weight",
    "model.transformer.ln_f.weight": "model.norm.weight",
    "model.transformer.ff_out.weight": "lm_head.weight",
}
_BLOCK = re.compile(r"model\.transformer\.blocks\.(\d+)\.(\w+)\.weight")
_INNER = {
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
}
_OFF = (False, None)


def _tensor_name(name: str) -> str:
    block = _BLOCK.fullmatch(name)
    if block is None or block[2] not in _INNER:
        return _OUTER.get(name, name)
    return f"model.layers.{block[1]}.{_INNER[block[2]]}.weight"


def _make_config(checkpoint: Checkpoint) -> LlamaConfig:
    checkpoint.require(
        block_type=("llama",),
        layer_norm_type=("rms",),
        activation_type=("silu",),
        rope=(True,),
        alibi=_OFF,
        include_bias=_OFF,
        include_qkv_bias=_OFF,
        attention_layer_norm=_OFF,
        input_emb_norm=_OFF,
        scale_logits=_OFF,
        multi_query_attention=_OFF,
        clip_qkv=_OFF,
    )
    has_groups = checkpoint.config.get("n_kv_heads") is not None
    return LlamaConfig(
        hidden_size=checkpoint.integer("d_model"),
        intermediate_size=checkpoint.integer("mlp_hidden_size"),
        num_hidden_layers=checkpoint.integer("n_layers"),
        num_attention_heads=checkpoint.integer("n_heads"),
        num_key_value_heads=checkpoint.integer("n_kv_heads" if has_groups else "n_heads"),
        vocab_size=checkpoint.integer(LLADA.rows_key(checkpoint)),
        max_position_embeddings=checkpoint.integer("max_sequence_length"),
        rms_norm_eps=checkpoint.number("rms_norm_eps", 1e-5),
        rope_parameters={"rope_type": "default", "rope_theta": checkpoint.number("rope_theta", 10000.0)},
        tie_word_embeddings=bool(checkpoint.config.get("weight_tying")),
        attention_bias=False,
        mlp_bias=False,
    )


LLADA = Family(
    model_type="llada",
    tokenizer_class=PreTrainedTokenizerFast,
    tokenizer_files=("tokenizer.json", "tokenizer_config.json"),
    mask_token="<|mdm_mask|>",
    end_of_turn="<|eot_id|>",
    make_config=_make_config,
    tensor_name=_tensor_name,
    # The embedding is padded beyond the vocabulary where embedding_size says so.
    rows_keys=("embedding_size", "vocab_size"),
    positions_key="max_sequence_length",
    is_shifted=False,
)
