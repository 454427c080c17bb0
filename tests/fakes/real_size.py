"""A LLaDA checkpoint of random weights at the real vocabulary size and ids, and small data files.

`python -m tests.fakes.real_size DIR` makes everything that a run with the real weights needs, so that such a run can be tried
without them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerFast

from tests.fakes.checkpoints import LLADA_8B, LLADA_TEMPLATE, MERGES, byte_vocabulary
from tests.fakes.rows import write_rows

SPECIAL_IDS = {
    "<|startoftext|>": 126080, "<|endoftext|>": 126081, "<|mdm_mask|>": 126336, "<|start_header_id|>": 126346,
    "<|end_header_id|>": 126347, "<|eot_id|>": 126348,
}  # fmt: skip
WIDTH, FEED_FORWARD, HEADS = 16, 32, 2


def write_llada_of_real_vocabulary(folder: Path) -> None:
    """One layer of width 16 under the real embedding, head, tokenizer ids and config keys."""
    folder.mkdir(parents=True, exist_ok=True)
    _write_tokenizer(folder)
    small = {"d_model": WIDTH, "n_heads": HEADS, "n_kv_heads": HEADS, "n_layers": 1, "mlp_hidden_size": FEED_FORWARD}
    (folder / "config.json").write_text(json.dumps(LLADA_8B | small))
    make = torch.Generator().manual_seed(0)
    rows, outer = LLADA_8B["embedding_size"], "model.transformer"
    shapes = {"q_proj": (WIDTH, WIDTH), "k_proj": (WIDTH, WIDTH), "v_proj": (WIDTH, WIDTH), "attn_out": (WIDTH, WIDTH),
              "ff_proj": (FEED_FORWARD, WIDTH), "up_proj": (FEED_FORWARD, WIDTH), "ff_out": (WIDTH, FEED_FORWARD)}  # fmt: skip
    tensors = {f"{outer}.blocks.0.{name}.weight": torch.randn(*shape, generator=make) for name, shape in shapes.items()}
    tensors |= {f"{outer}.blocks.0.{name}.weight": torch.ones(WIDTH) for name in ("attn_norm", "ff_norm")}
    tensors[f"{outer}.ln_f.weight"] = torch.ones(WIDTH)
    for name in ("wte", "ff_out"):
        tensors[f"{outer}.{name}.weight"] = torch.randn(rows, WIDTH, generator=make)
    save_file(tensors, folder / "model.safetensors")


def _write_tokenizer(folder: Path) -> None:
    vocabulary = byte_vocabulary() | SPECIAL_IDS
    taken = set(vocabulary.values())
    vocabulary |= {f"<filler {i}>": i for i in range(max(taken)) if i not in taken}
    backend = Tokenizer(BPE(vocab=vocabulary, merges=MERGES))
    backend.pre_tokenizer, backend.decoder = ByteLevel(add_prefix_space=False), ByteLevelDecoder()
    backend.add_special_tokens([AddedToken(token, special=True) for token in SPECIAL_IDS])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )
    tokenizer.chat_template = LLADA_TEMPLATE
    tokenizer.save_pretrained(folder)


def write_data(folder: Path) -> dict[str, str]:
    """Rows in the columns of GSM8K and of KodCode; returns the path of each by task."""
    sums = [
        {
            "question": f"Ann has {i} pens and buys {i % 7} more. How many has she?",
            "answer": f"{i} + {i % 7}\n#### {i + i % 7}",
        }
        for i in range(48)
    ]
    functions = [
        {
            "question": f"Write a function that adds {i} to its argument.",
            "solution": f"def add_{i}(x):\n    return x + {i}\n",
            "test": f"from solution import add_{i}\n\ndef test_add():\n    assert add_{i}(1) == {i + 1}\n",
            "test_info": [{"function_name": f"add_{i}", "function_declaration": f"def add_{i}(x):"}],
        }
        for i in range(48)
    ]
    write_rows(folder / "gsm8k_test.jsonl", [{"question": "Two pens and two pens?", "answer": "#### 4"}])
    return {
        "gsm8k": write_rows(folder / "gsm8k.jsonl", sums),
        "kodcode": write_rows(folder / "kodcode.jsonl", functions),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    target = parser.parse_args().folder
    write_llada_of_real_vocabulary(target / "llada")
    write_data(target)
