"""LLaDA and Dream folders against an independent forward pass, written here from the models' papers in plain PyTorch.

Shapes: `S` tokens of one row, `D` hidden size, `V` vocabulary.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rollout_workers.models.backbone import BackboneDLLM, bidirectional
from rollout_workers.models.checkpoint import Checkpoint
from rollout_workers.models.dream import DREAM
from rollout_workers.models.family import Family
from rollout_workers.models.llada import LLADA
from rollout_workers.models.load import check_model, load_model, load_tokenizer
from tests.fakes.checkpoints import DREAM_7B, HEAD_ROWS, LLADA_8B, write_dream, write_llada

TOLERANCE = 1e-6
LLADA_BLOCK = ("attn_norm", "q_proj", "k_proj", "v_proj", "attn_out", "ff_norm", "ff_proj", "up_proj", "ff_out")
DREAM_LAYER = ("input_layernorm", "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
               "post_attention_layernorm", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")  # fmt: skip


def norm(x_SD: Tensor, weight_D: Tensor, eps: float) -> Tensor:
    """Normalises in float32, as the releases' own code does whatever the weights are."""
    x_SD = x_SD.float()
    return weight_D * (x_SD * torch.rsqrt(x_SD.pow(2).mean(-1, keepdim=True) + eps)).double()


def rotate(x_SHD: Tensor, theta: float) -> Tensor:
    """Turns by float32 angles, as the releases' own code does too."""
    S, D = len(x_SHD), x_SHD.shape[-1]
    frequency_D = 1.0 / theta ** (torch.arange(0, D, 2, dtype=torch.float32) / D)
    angle_S1D = (torch.arange(S, dtype=torch.float32)[:, None] * frequency_D)[:, None, :]
    cos_S1D, sin_S1D = angle_S1D.cos().double(), angle_S1D.sin().double()
    left, right = x_SHD[..., : D // 2], x_SHD[..., D // 2 :]
    return torch.cat([left * cos_S1D - right * sin_S1D, right * cos_S1D + left * sin_S1D], -1)


def plain_logits(ids: list[int], folder: Path, tensors: dict[str, Tensor]) -> Tensor:
    """`[S, V]` raw logits of one row, every token seeing every other; sizes and constants are those of the folder's config."""
    config = json.loads((folder / "config.json").read_text())
    is_llada = config["model_type"] == "llada"
    theta, eps = config["rope_theta"], config["rms_norm_eps"]
    heads = config["n_heads" if is_llada else "num_attention_heads"]
    kv_heads = config["n_kv_heads" if is_llada else "num_key_value_heads"] or heads
    embed, last, head = (
        ("model.transformer.wte", "model.transformer.ln_f", "model.transformer.ff_out")
        if is_llada
        else ("model.embed_tokens", "model.norm", "lm_head")
    )
    x_SD = tensors[f"{embed}.weight"][torch.tensor(ids)]
    for i in range(config["n_layers" if is_llada else "num_hidden_layers"]):
        prefix, names = (
            (f"model.transformer.blocks.{i}", LLADA_BLOCK) if is_llada else (f"model.layers.{i}", DREAM_LAYER)
        )
        weights = [tensors[f"{prefix}.{name}.weight"] for name in names]
        norm1, q_w, k_w, v_w, out_w, norm2, gate_w, up_w, down_w = weights
        q_b, k_b, v_b = (tensors.get(f"{prefix}.{name}.bias", torch.zeros(1)) for name in names[1:4])
        h = norm(x_SD, norm1, eps)
        q = rotate((h @ q_w.T + q_b).view(len(ids), heads, -1), theta)
        k = rotate((h @ k_w.T + k_b).view(len(ids), kv_heads, -1), theta).repeat_interleave(heads // kv_heads, 1)
        v = (h @ v_w.T + v_b).view(len(ids), kv_heads, -1).repeat_interleave(heads // kv_heads, 1)
        scores = torch.einsum("shd,thd->hst", q, k) / q.shape[-1] ** 0.5
        mixed = torch.einsum("hst,thd->shd", scores.softmax(-1), v).reshape(len(ids), -1)
        x_SD = x_SD + mixed @ out_w.T
        h = norm(x_SD, norm2, eps)
        gate = h @ gate_w.T
        x_SD = x_SD + (gate * gate.sigmoid() * (h @ up_w.T)) @ down_w.T
    return norm(x_SD, tensors[f"{last}.weight"], eps) @ tensors.get(f"{head}.weight", tensors[f"{embed}.weight"]).T


Writer = Callable[..., dict[str, Tensor]]
WRITERS: dict[str, Writer] = {"llada": write_llada, "dream": write_dream}
SHAPES: dict[str, Writer] = {
    "llada": write_llada,
    "llada without groups": partial(write_llada, kv_heads=None),
    "llada with one key head": partial(write_llada, kv_heads=1),
    "llada with tied weights": partial(write_llada, tied=True),
    "llada with few token ids": partial(write_llada, vocab_size=HEAD_ROWS - 20),
    "llada with other constants": partial(write_llada, rms_norm_eps=1e-3, rope_theta=10000.0),
    "dream": write_dream,
    "dream with tied weights": partial(write_dream, tied=True),
    "dream-chat": partial(write_dream, eos_token="<|im_end|>"),
    "diffucoder": partial(write_dream, pad_token="<|dlm_pad|>"),
}


def check_parity(folder: Path, tensors: dict[str, Tensor], *, padding: int) -> None:
    """Everything that leaves the adapter against the plain forward pass."""
    model, tokenizer = load_model(str(folder), dtype="float64"), load_tokenizer(str(folder))
    assert isinstance(model, BackboneDLLM)
    prompt = tokenizer.encode_prompt("How many of the cats are grey?")
    canvas = [model.spec.mask_id] * 6 + tokenizer.encode_text("the cat") + [model.spec.mask_id] * 5
    canvas_BL = torch.tensor([canvas])
    wanted_BL = canvas_BL == model.spec.mask_id
    got = model.predict(
        torch.tensor([[3] * padding + prompt]), torch.tensor([len(prompt)]), canvas_BL, wanted_BL,
        num_confidences=2, with_entropy=True, with_margin=True,
    )  # fmt: skip
    logits_SV = plain_logits(prompt + canvas, folder, tensors)
    torch.testing.assert_close(model.raw_logits(torch.tensor(prompt + canvas)), logits_SV, atol=TOLERANCE, rtol=0)
    if model.is_shifted:
        logits_SV = torch.cat([logits_SV[:1], logits_SV[:-1]])
    logits_NV = logits_SV[len(prompt) :][wanted_BL[0]]
    logits_NV[:, model.spec.mask_id] = -torch.inf
    logits_NV[:, tokenizer.num_tokens :] = -torch.inf
    p_NV = logits_NV.softmax(-1)
    top_NK, ids_NK = p_NV.topk(2)
    assert torch.equal(got.token_ids_N, ids_NK[:, 0])
    torch.testing.assert_close(got.confidences_NK, top_NK, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(got.log_odds_N, torch.logit(top_NK[:, 0]), atol=TOLERANCE, rtol=TOLERANCE)
    torch.testing.assert_close(got.entropy_N, -torch.xlogy(p_NV, p_NV).sum(-1), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(got.margin_N, top_NK[:, 0] - top_NK[:, 1], atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("family", WRITERS)
@pytest.mark.parametrize("num_shards", [1, 3])
@pytest.mark.parametrize("chat", [True, False])
@pytest.mark.parametrize("padding", [0, 7])
def test_predictions_are_those_of_a_plain_forward(
    tmp_path: Path, family: str, num_shards: int, chat: bool, padding: int
) -> None:
    tensors = WRITERS[family](tmp_path, num_shards=num_shards, chat=chat)
    assert load_tokenizer(str(tmp_path)).uses_chat_template == chat
    check_parity(tmp_path, tensors, padding=padding)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_a_family_is_read_as_it_says(tmp_path: Path, shape: str) -> None:
    check_parity(tmp_path, SHAPES[shape](tmp_path), padding=2)


@pytest.mark.parametrize(
    ("config", "family", "num_parameters"), [(LLADA_8B, LLADA, 8_015_581_184), (DREAM_7B, DREAM, 7_615_616_512)]
)
def test_the_config_of_a_release_makes_a_backbone_of_its_size(
    tmp_path: Path, config: dict[str, Any], family: Family, num_parameters: int
) -> None:
    with torch.device("meta"):
        model = bidirectional(family.make_config(Checkpoint(tmp_path, config, {})))
    assert sum(parameter.numel() for parameter in model.parameters()) == num_parameters
    assert model.config.rope_parameters["rope_theta"] == config["rope_theta"]
    assert model.config.rms_norm_eps == config["rms_norm_eps"]


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
        torch.testing.assert_close(
            together.log_odds_N[8 * i : 8 * i + 8], lone.log_odds_N, atol=TOLERANCE, rtol=TOLERANCE
        )


def test_a_canvas_without_a_prompt_is_predicted_too(tmp_path: Path) -> None:
    """The first token of a shifted row has nothing to its left: it is predicted from itself, as the releases do."""
    tensors = write_dream(tmp_path)
    model = load_model(str(tmp_path), dtype="float64")
    canvas = [model.spec.mask_id] * 4
    got = model.predict(
        torch.zeros(1, 3, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), torch.tensor([canvas]),
        torch.ones(1, 4, dtype=torch.bool), with_hidden=True,
    )  # fmt: skip
    logits_SV = plain_logits(canvas, tmp_path, tensors)[[0, 0, 1, 2]]
    assert got.hidden_ND is not None
    torch.testing.assert_close(got.hidden_ND @ tensors["lm_head.weight"].T, logits_SV, atol=TOLERANCE, rtol=0)


def test_chat_templates_wrap_prompts(tmp_path: Path) -> None:
    write_llada(tmp_path / "llada")
    write_dream(tmp_path / "dream")
    llada, dream = load_tokenizer(str(tmp_path / "llada")), load_tokenizer(str(tmp_path / "dream"))
    assert "".join(llada.tokens(llada.encode_prompt("hi"))) == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>ĊĊhi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>ĊĊ"
    )
    assert "".join(dream.tokens(dream.encode_prompt("hi"))) == (
        "<|im_start|>systemĊYouĠareĠaĠhelpfulĠassistant.<|im_end|>Ċ<|im_start|>userĊhi<|im_end|>Ċ<|im_start|>assistantĊ"
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_spec_is_the_checkpoints_own(tmp_path: Path, shape: str) -> None:
    SHAPES[shape](tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    spec, tokenizer = check_model(str(tmp_path)), load_tokenizer(str(tmp_path))
    assert (spec.mask_id, spec.eos_id, spec.pad_id) == tuple(
        config[f"{name}_token_id"] for name in ("mask", "eos", "pad")
    )
    assert spec.end_of_turn_id is not None
    end_of_turn = "<|eot_id|>" if config["model_type"] == "llada" else "<|im_end|>"
    assert tokenizer.tokens([spec.end_of_turn_id]) == [end_of_turn]
    assert spec.vocabulary_size == HEAD_ROWS
    assert spec.num_tokens == tokenizer.num_tokens < HEAD_ROWS
    assert spec.num_positions in (512, 1024)


@pytest.mark.parametrize("shape", SHAPES)
def test_answers_end_with_the_turn_or_the_text(tmp_path: Path, shape: str) -> None:
    SHAPES[shape](tmp_path)
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


@pytest.mark.gpu
@pytest.mark.parametrize("family", WRITERS)
def test_a_checkpoint_loads_straight_to_a_gpu(tmp_path: Path, family: str) -> None:
    WRITERS[family](tmp_path)
    canvas_BL = torch.full((3, 12), check_model(str(tmp_path)).mask_id)
    predictions = []
    for device in ("cpu", "cuda"):
        model = load_model(str(tmp_path), device=device)
        assert isinstance(model, BackboneDLLM)
        assert {parameter.device.type for parameter in model.model.parameters()} == {device}
        inputs = (torch.arange(15).view(3, 5), torch.tensor([5, 2, 4]), canvas_BL, canvas_BL == model.spec.mask_id)
        predictions.append(model.predict(*(tensor.to(device) for tensor in inputs)))
    torch.testing.assert_close(predictions[1].confidences_NK.cpu(), predictions[0].confidences_NK, atol=1e-4, rtol=0)
