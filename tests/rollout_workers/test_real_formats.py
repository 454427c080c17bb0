"""LLaDA and Dream folders against an independent forward pass, written here from the models' papers in plain PyTorch.

Shapes: `S` tokens of one row, `D` hidden size, `V` vocabulary.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from rollout_workers.models.base import ModelError
from rollout_workers.models.load import check_model, load_model, load_tokenizer
from tests.fakes.checkpoints import HEAD_ROWS, HEADS, KV_HEADS, LAYERS, WIDTH, write_dream, write_llada

LLADA_BLOCK = ("attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj", "up_proj", "ff_out")
DREAM_LAYER = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def norm(x_SD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    return x_SD / (x_SD.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight_D


def rotate(x_SHD: Tensor, theta: float) -> Tensor:
    S, half = len(x_SHD), x_SHD.shape[-1] // 2
    frequency = theta ** -(torch.arange(half, dtype=torch.float64) / half)
    angle_S1D = (torch.arange(S, dtype=torch.float64)[:, None] * frequency)[:, None, :]
    left, right = x_SHD[..., :half], x_SHD[..., half:]
    return torch.cat(
        [left * angle_S1D.cos() - right * angle_S1D.sin(), right * angle_S1D.cos() + left * angle_S1D.sin()], -1
    )


def plain_logits(ids: list[int], family: str, tensors: dict[str, Tensor]) -> Tensor:
    """`[S, V]` raw logits of one row, every token seeing every other."""
    is_llada = family == "llada"
    theta, eps = (500000.0, 1e-5) if is_llada else (1000000.0, 1e-6)
    embed, last, head = (
        ("model.transformer.wte", "model.transformer.ln_f", "model.transformer.ff_out")
        if is_llada
        else ("model.embed_tokens", "model.norm", "lm_head")
    )
    x_SD = tensors[f"{embed}.weight"][torch.tensor(ids)]
    for i in range(LAYERS):
        prefix, names = (
            (f"model.transformer.blocks.{i}", LLADA_BLOCK) if is_llada else (f"model.layers.{i}", DREAM_LAYER)
        )
        weights = [tensors[f"{prefix}.{name}.weight"] for name in names]
        norm1, q_w, k_w, v_w, out_w, norm2, gate_w, up_w, down_w = weights
        q_b, k_b, v_b = (tensors.get(f"{prefix}.{name}.bias", torch.zeros(1)) for name in names[1:4])
        h = norm(x_SD, norm1, eps)
        q = rotate((h @ q_w.T + q_b).view(len(ids), HEADS, -1), theta)
        k = rotate((h @ k_w.T + k_b).view(len(ids), KV_HEADS, -1), theta).repeat_interleave(HEADS // KV_HEADS, 1)
        v = (h @ v_w.T + v_b).view(len(ids), KV_HEADS, -1).repeat_interleave(HEADS // KV_HEADS, 1)
        scores = torch.einsum("shd,thd->hst", q, k) / (WIDTH // HEADS) ** 0.5
        mixed = torch.einsum("hst,thd->shd", scores.softmax(-1), v).reshape(len(ids), WIDTH)
        x_SD = x_SD + mixed @ out_w.T
        h = norm(x_SD, norm2, eps)
        gate = h @ gate_w.T
        x_SD = x_SD + (gate * gate.sigmoid() * (h @ up_w.T)) @ down_w.T
    return norm(x_SD, tensors[f"{last}.weight"], eps) @ tensors[f"{head}.weight"].T


WRITERS: dict[str, Callable[..., dict[str, Tensor]]] = {"llada": write_llada, "dream": write_dream}


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("padding", [0, 7])
def test_predictions_are_those_of_a_plain_forward(
    tmp_path: Path, family: str, num_shards: int, chat: bool, padding: int
) -> None:
    tensors = WRITERS[family](tmp_path, num_shards=num_shards, chat=chat)
    model, tokenizer = load_model(str(tmp_path), dtype="float64"), load_tokenizer(str(tmp_path))
    assert tokenizer.uses_chat_template == chat
    prompt = tokenizer.encode_prompt("How many of the cats are grey?")
    canvas = [model.spec.mask_id] * 6 + tokenizer.encode_text("the cat") + [model.spec.mask_id] * 5
    canvas_BL = torch.tensor([canvas])
    wanted_BL = canvas_BL == model.spec.mask_id
    got = model.predict(
        torch.tensor([[3] * padding + prompt]), torch.tensor([len(prompt)]), canvas_BL, wanted_BL, num_confidences=2
    )
    logits_SV = plain_logits(prompt + canvas, family, tensors)
    if family == "dream":
        logits_SV = torch.cat([logits_SV[:1], logits_SV[:-1]])
    logits_NV = logits_SV[len(prompt) :][wanted_BL[0]]
    logits_NV[:, model.spec.mask_id] = -torch.inf
    logits_NV[:, tokenizer.num_tokens :] = -torch.inf
    p_NV = logits_NV.softmax(-1)
    top_NK, ids_NK = p_NV.topk(2)
    assert torch.equal(got.token_ids_N, ids_NK[:, 0])
    torch.testing.assert_close(got.confidences_NK, top_NK, atol=1e-6, rtol=0)
    torch.testing.assert_close(got.log_odds_N, torch.logit(top_NK[:, 0]), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", WRITERS)
def test_rows_of_different_lengths_share_a_batch(tmp_path: Path, family: str) -> None:
    WRITERS[family](tmp_path)
    model, tokenizer = load_model(str(tmp_path), dtype="float64"), load_tokenizer(str(tmp_path))
    prompts = [tokenizer.encode_prompt(text) for text in ("a", "the the", "much longer than the others")]
    width = max(map(len, prompts))
    padded = torch.tensor([[9] * (width - len(prompt)) + prompt for prompt in prompts])
    canvas = torch.full((3, 8), model.spec.mask_id)
    wanted = torch.ones(3, 8, dtype=torch.bool)
    together = model.predict(padded, torch.tensor([len(prompt) for prompt in prompts]), canvas, wanted)
    for i, prompt in enumerate(prompts):
        lone = model.predict(torch.tensor([prompt]), torch.tensor([len(prompt)]), canvas[:1], wanted[:1])
        torch.testing.assert_close(together.log_odds_N[8 * i : 8 * i + 8], lone.log_odds_N, atol=1e-5, rtol=1e-5)


def test_chat_templates_wrap_prompts(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    write_dream(tmp_path / "dream")
    llada, dream = load_tokenizer(str(tmp_path / "llada")), load_tokenizer(str(tmp_path / "dream"))
    assert "".join(llada.tokens(llada.encode_prompt("hi"))) == (
        "<|start_header_id|>user<|end_header_id|>ĊĊhi<|eot_id|><|start_header_id|>assistant<|end_header_id|>ĊĊ"
    )
    assert "".join(dream.tokens(dream.encode_prompt("hi"))) == "<|im_start|>userĊhi<|im_end|>Ċ<|im_start|>assistantĊ"


@pytest.mark.parametrize("family", WRITERS)
def test_answers_end_with_the_turn_or_the_text(tmp_path: Path, family: str) -> None:
    WRITERS[family](tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    text = tokenizer.encode_text("the end")
    assert tokenizer.end_of_turn_id is not None
    for end in (tokenizer.end_of_turn_id, tokenizer.eos_id):
        assert tokenizer.decode_canvas([*text, end, *text]) == "the end"
    assert tokenizer.decode_canvas([tokenizer.mask_id, *text]) == "the end"


@pytest.mark.parametrize("family", WRITERS)
def test_padding_rows_of_the_head_are_never_predicted(tmp_path: Path, family: str) -> None:
    tensors = WRITERS[family](tmp_path, num_shards=1)
    tokenizer = load_tokenizer(str(tmp_path))
    head = "model.transformer.ff_out.weight" if family == "llada" else "lm_head.weight"
    tensors[head][tokenizer.num_tokens :] *= 100
    save_file(tensors, tmp_path / "model.safetensors")
    model = load_model(str(tmp_path))
    assert tokenizer.num_tokens < HEAD_ROWS == model.spec.vocabulary_size
    canvas = torch.full((4, 16), model.spec.mask_id)
    got = model.predict(
        torch.arange(20).view(4, 5), torch.full((4,), 5), canvas, canvas == model.spec.mask_id, token_temperature=5.0,
        token_uniforms_N=torch.rand(64, generator=torch.Generator().manual_seed(0)),
    )  # fmt: skip
    assert int(got.token_ids_N.max()) < tokenizer.num_tokens


def set_config(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | values))

    return change


def drop_shard(folder: Path) -> None:
    next(folder.glob("model-00002*")).unlink()


def cut_shard(folder: Path) -> None:
    path = next(folder.glob("model-00001*"))
    path.write_bytes(path.read_bytes()[:-100])


def lose_tensor(folder: Path) -> None:
    path = next(folder.glob("model-00001*"))
    tensors = load_file(path)
    tensors.pop(next(iter(tensors)))
    save_file(tensors, path)


def rename_tensor(folder: Path) -> None:
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    name, file = next(iter(index["weight_map"].items()))
    tensors = load_file(folder / file)
    tensors["transformer.h.0.weight"] = tensors.pop(name)
    save_file(tensors, folder / file)
    index["weight_map"]["transformer.h.0.weight"] = index["weight_map"].pop(name)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "missing shard": (drop_shard, "model-00002-of-00002"),
    "torn shard": (cut_shard, "model-00001-of-00002.safetensors cannot be read"),
    "tensor not in its shard": (lose_tensor, "does not hold it"),
    "tensor of another architecture": (
        rename_tensor,
        "'transformer.h.0.weight', which this architecture does not have",
    ),
    "index without a map": (
        lambda folder: (folder / "model.safetensors.index.json").write_text("{}"),  # type: ignore[dict-item,return-value]
        "weight_map",
    ),
    "mask id of another model": (set_config(mask_token_id=5), "mask_token_id is 5, its tokenizer gives"),
    "vocabulary size": (set_config(vocab_size=128, embedding_size=128), "128"),
    "block-causal": (set_config(model_type="llada2_moe"), "block-causal"),
    "unknown architecture": (set_config(model_type="gpt2"), "model_type is 'gpt2'; allowed: 'llama', 'llada', 'Dream'"),
}


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("problem", BAD)
def test_a_bad_folder_is_one_line(tmp_path: Path, family: str, problem: str) -> None:
    WRITERS[family](tmp_path)
    spoil, pattern = BAD[problem]
    spoil(tmp_path)
    with pytest.raises(ModelError, match=pattern) as caught:
        load_model(str(tmp_path))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"), [("alibi", True), ("layer_norm_type", "default"), ("include_qkv_bias", True), ("rope", False)]
)
def test_a_llada_feature_that_llama_lacks_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    write_llada(tmp_path, **{key: value})
    with pytest.raises(ModelError, match=f"{key} is {value!r}; allowed:"):
        load_model(str(tmp_path))


def test_a_missing_tokenizer_file_is_named(tmp_path: Path) -> None:
    write_dream(tmp_path)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ModelError, match=r"has no merges.txt"):
        check_model(str(tmp_path))


def test_a_trained_model_with_the_wrong_alignment_is_refused(tmp_path: Path) -> None:
    """Embeddings that copy their own token stand for a model that predicts in place: as a Dream folder it is wrong by one."""
    tensors = write_dream(tmp_path, num_shards=1)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] * 20
    tensors["model.norm.weight"] = torch.ones(WIDTH, dtype=torch.float64)
    for name in tensors:
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            tensors[name] = torch.zeros_like(tensors[name])
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ModelError, match="self-check 'shift' failed"):
        load_model(str(tmp_path))
    shutil.rmtree(tmp_path)
