"""Small random checkpoints in the formats of LLaDA and Dream: real config keys, tensor names, tokenizer files and templates.

Their sizes keep what matters: a head with more rows than the tokenizer has tokens, and grouped key-value heads. The configs are
those of the releases with smaller numbers; `LLADA_8B` and `DREAM_7B` are the releases' own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

MERGES = [("Ġ", "t"), ("h", "e"), ("Ġt", "he")]
LLADA_SPECIAL = (
    "<|startoftext|>",
    "<|endoftext|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|mdm_mask|>",
)
LLADA_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim "
    "+ '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
DREAM_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>")
DREAM_TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WIDTH, FEED_FORWARD, LAYERS, HEADS, KV_HEADS, HEAD_ROWS = 32, 48, 2, 4, 2, 320


LLADA_8B: dict[str, Any] = {
    "activation_type": "silu",
    "alibi": False,
    "alibi_bias_max": 8.0,
    "architectures": ["LLaDAModelLM"],
    "attention_dropout": 0.0,
    "attention_layer_norm": False,
    "attention_layer_norm_with_affine": True,
    "auto_map": {
        "AutoConfig": "configuration_llada.LLaDAConfig",
        "AutoModel": "modeling_llada.LLaDAModelLM",
        "AutoModelForCausalLM": "modeling_llada.LLaDAModelLM",
    },
    "bias_for_layer_norm": False,
    "block_group_size": 1,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_dropout": 0.0,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "flash_attention": False,
    "include_bias": False,
    "include_qkv_bias": False,
    "init_cutoff_factor": None,
    "init_device": "meta",
    "init_fn": "mitchell",
    "init_std": 0.02,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "model_type": "llada",
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "precision": "amp_bf16",
    "residual_dropout": 0.0,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "transformers_version": "4.46.3",
    "use_cache": False,
    "vocab_size": 126464,
    "weight_tying": False,
}
DREAM_7B: dict[str, Any] = {
    "architectures": ["DreamModel"],
    "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "model_type": "Dream",
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.46.2",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}


def byte_vocabulary() -> dict[str, int]:
    """Every byte as a token, and the results of the merges."""
    tokens = [*sorted(ByteLevel.alphabet()), *(left + right for left, right in MERGES)]
    return {token: i for i, token in enumerate(tokens)}


def _random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64) * 0.3


def save_shards(folder: Path, tensors: dict[str, Tensor], num_shards: int) -> None:
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors")
        return
    names = list(tensors)
    weight_map: dict[str, str] = {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05d}-of-{num_shards:05d}.safetensors"
        mine = names[shard::num_shards]
        save_file({name: tensors[name] for name in mine}, folder / file)
        weight_map |= dict.fromkeys(mine, file)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_llada(
    folder: Path,
    *,
    num_shards: int = 2,
    chat: bool = True,
    seed: int = 0,
    kv_heads: int | None = KV_HEADS,
    tied: bool = False,
    **config: Any,
) -> dict[str, Tensor]:
    """A LLaDA folder; returns its tensors, float64. `kv_heads` None: as many as heads."""
    folder.mkdir(parents=True, exist_ok=True)
    ids = _write_llada_tokenizer(folder, chat=chat)
    small = {
        "d_model": WIDTH,
        "embedding_size": HEAD_ROWS,
        "eos_token_id": ids["<|endoftext|>"],
        "mask_token_id": ids["<|mdm_mask|>"],
        "max_sequence_length": 512,
        "mlp_hidden_size": FEED_FORWARD,
        "n_heads": HEADS,
        "n_kv_heads": kv_heads,
        "n_layers": LAYERS,
        "pad_token_id": ids["<|endoftext|>"],
        "vocab_size": HEAD_ROWS,
        "weight_tying": tied,
    }
    (folder / "config.json").write_text(json.dumps(LLADA_8B | small | config))
    make = torch.Generator().manual_seed(seed)
    outer = "model.transformer"
    tensors = {f"{outer}.wte.weight": _random(make, HEAD_ROWS, WIDTH), f"{outer}.ln_f.weight": 1 + _random(make, WIDTH)}
    if not tied:
        tensors[f"{outer}.ff_out.weight"] = _random(make, HEAD_ROWS, WIDTH)
    key_width = WIDTH * (kv_heads or HEADS) // HEADS
    for i in range(LAYERS):
        block = f"{outer}.blocks.{i}"
        tensors |= {
            f"{block}.attn_norm.weight": 1 + _random(make, WIDTH),
            f"{block}.q_proj.weight": _random(make, WIDTH, WIDTH),
            f"{block}.k_proj.weight": _random(make, key_width, WIDTH),
            f"{block}.v_proj.weight": _random(make, key_width, WIDTH),
            f"{block}.attn_out.weight": _random(make, WIDTH, WIDTH),
            f"{block}.ff_norm.weight": 1 + _random(make, WIDTH),
            f"{block}.ff_proj.weight": _random(make, FEED_FORWARD, WIDTH),
            f"{block}.up_proj.weight": _random(make, FEED_FORWARD, WIDTH),
            f"{block}.ff_out.weight": _random(make, WIDTH, FEED_FORWARD),
        }
    save_shards(folder, tensors, num_shards)
    return tensors


def _write_llada_tokenizer(folder: Path, *, chat: bool) -> dict[str, int]:
    """Returns the id of every token."""
    backend = Tokenizer(BPE(vocab=byte_vocabulary(), merges=MERGES))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    backend.add_special_tokens([AddedToken(token, special=True) for token in LLADA_SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=LLADA_SPECIAL[0], eos_token=LLADA_SPECIAL[1], pad_token=LLADA_SPECIAL[1]
    )
    tokenizer.chat_template = LLADA_TEMPLATE if chat else None
    tokenizer.save_pretrained(folder)
    return tokenizer.get_vocab()


def write_dream(
    folder: Path,
    *,
    num_shards: int = 2,
    chat: bool = True,
    seed: int = 0,
    tied: bool = False,
    eos_token: str = "<|endoftext|>",
    pad_token: str = "<|endoftext|>",
    **config: Any,
) -> dict[str, Tensor]:
    """A Dream folder, or with `pad_token` "<|dlm_pad|>" a DiffuCoder one; returns its tensors, float64."""
    folder.mkdir(parents=True, exist_ok=True)
    special = DREAM_SPECIAL if pad_token in DREAM_SPECIAL else (*DREAM_SPECIAL, pad_token)
    ids = _write_dream_tokenizer(folder, special, chat=chat, eos_token=eos_token, pad_token=pad_token)
    small = {
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|endoftext|>"],
        "hidden_size": WIDTH,
        "intermediate_size": FEED_FORWARD,
        "mask_token_id": ids["<|mask|>"],
        "max_position_embeddings": 1024,
        "max_window_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": tied,
        "vocab_size": HEAD_ROWS,
    }
    (folder / "config.json").write_text(json.dumps(DREAM_7B | small | config))
    make = torch.Generator().manual_seed(seed)
    tensors = {
        "model.embed_tokens.weight": _random(make, HEAD_ROWS, WIDTH),
        "model.norm.weight": 1 + _random(make, WIDTH),
    }
    if not tied:
        tensors["lm_head.weight"] = _random(make, HEAD_ROWS, WIDTH)
    key_width = WIDTH * KV_HEADS // HEADS
    for i in range(LAYERS):
        layer = f"model.layers.{i}"
        tensors |= {
            f"{layer}.input_layernorm.weight": 1 + _random(make, WIDTH),
            f"{layer}.post_attention_layernorm.weight": 1 + _random(make, WIDTH),
            f"{layer}.self_attn.q_proj.weight": _random(make, WIDTH, WIDTH),
            f"{layer}.self_attn.q_proj.bias": _random(make, WIDTH),
            f"{layer}.self_attn.k_proj.weight": _random(make, key_width, WIDTH),
            f"{layer}.self_attn.k_proj.bias": _random(make, key_width),
            f"{layer}.self_attn.v_proj.weight": _random(make, key_width, WIDTH),
            f"{layer}.self_attn.v_proj.bias": _random(make, key_width),
            f"{layer}.self_attn.o_proj.weight": _random(make, WIDTH, WIDTH),
            f"{layer}.mlp.gate_proj.weight": _random(make, FEED_FORWARD, WIDTH),
            f"{layer}.mlp.up_proj.weight": _random(make, FEED_FORWARD, WIDTH),
            f"{layer}.mlp.down_proj.weight": _random(make, WIDTH, FEED_FORWARD),
        }
    save_shards(folder, tensors, num_shards)
    return tensors


def _write_dream_tokenizer(
    folder: Path, special: tuple[str, ...], *, chat: bool, eos_token: str, pad_token: str
) -> dict[str, int]:
    """Returns the ids of the special tokens."""
    vocabulary = byte_vocabulary()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{left} {right}\n" for left, right in MERGES))
    ids = {token: len(vocabulary) + i for i, token in enumerate(special)}
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    settings = {
        "add_prefix_space": False,
        "added_tokens_decoder": {str(i): {"content": token, **flags} for token, i in ids.items()},
        "auto_map": {"AutoTokenizer": ["tokenization_dream.DreamTokenizer", None]},
        "bos_token": "<|beginoftext|>",
        "eos_token": eos_token,
        "mask_token": "<|mask|>",
        "pad_token": pad_token,
        "tokenizer_class": "DreamTokenizer",
        "unk_token": None,
    }
    if chat:
        settings["chat_template"] = DREAM_TEMPLATE
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return ids
