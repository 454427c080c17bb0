"""Each self-check fails by its name on a model that is wrong in its way, and passes an honest one."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import ModelError, Prediction
from rollout_workers.models.checkpoint import Checkpoint
from rollout_workers.models.dream import DREAM
from rollout_workers.models.family import Family
from rollout_workers.models.llada import LLADA
from rollout_workers.models.load import check_model, load_tokenizer
from rollout_workers.models.selfcheck import TEXT, check_shift, check_sight, check_vocabulary, self_check
from rollout_workers.models.weights import load_backbone
from rollout_workers.tokenizer import DllmTokenizer
from tests.fakes.checkpoints import HEAD_ROWS, WIDTH, write_dream, write_llada
from tests.fakes.models import MASK_ID, HashModel, PaddingLeaker, random_llama


def test_honest_models_pass() -> None:
    self_check(HashModel(), tolerance=1e-3)
    self_check(random_llama(seed=0), tolerance=1e-3)
    check_sight(HashModel())
    check_vocabulary(check_model("tiny"), load_tokenizer("tiny"))


def test_a_model_that_sees_padding_is_refused() -> None:
    with pytest.raises(ModelError, match="'padding' failed"):
        self_check(PaddingLeaker(), tolerance=1e-3)


def test_a_model_that_predicts_its_mask_id_is_refused() -> None:
    class MaskWriter(HashModel):
        def predict(self, *inputs: Any, **options: Any) -> Prediction:
            got = super().predict(*inputs, **options)
            return Prediction(torch.full_like(got.token_ids_N, MASK_ID), got.confidences_NK, got.log_odds_N)

    with pytest.raises(ModelError, match=f"'mask id' failed.* {MASK_ID}"):
        self_check(MaskWriter(), tolerance=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_whose_confidences_are_no_numbers_is_refused(dtype: torch.dtype) -> None:
    model = random_llama(seed=0, dtype=dtype)
    model.model.lm_head.weight.data.fill_(float("nan"))
    with pytest.raises(ModelError, match="'numbers' failed"):
        self_check(model, tolerance=1e-3)


def test_a_causal_model_is_refused() -> None:
    model = random_llama(seed=0)
    check_sight(model)
    model.model.config.is_causal = True
    with pytest.raises(ModelError, match="'sight' failed"):
        check_sight(model)


def bigram_weights(tokenizer: DllmTokenizer, tensors: dict[str, Tensor], names: tuple[str, str, str]) -> None:
    """Makes a model without layers that predicts, at each token, the one that follows it in the self-check's text."""
    ids = tokenizer.encode_text(TEXT)
    known = sorted(set(ids))
    assert len(known) <= WIDTH
    signs = torch.randint(0, 2, (HEAD_ROWS, WIDTH), generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    counts = torch.full((len(known), HEAD_ROWS), 1e-4, dtype=torch.float64)
    for left, right in pairwise(ids):
        counts[known.index(left), right] += 1
    for name in tensors:
        if name.endswith(("o_proj.weight", "down_proj.weight", "attn_out.weight")) or ".ff_out" in name:
            tensors[name] = torch.zeros_like(tensors[name])
    embed, last, head = names
    tensors[embed], tensors[last] = signs, torch.ones(WIDTH, dtype=torch.float64)
    tensors[head] = torch.linalg.lstsq(signs[known], counts.log()).solution.T.contiguous()


def test_a_trained_model_with_the_wrong_alignment_is_refused(tmp_path: Path) -> None:
    """Weights that predict the next token are right in a Dream folder, and wrong by one in a LLaDA folder."""
    dream, llada = tmp_path / "dream", tmp_path / "llada"
    tensors = write_dream(dream, num_shards=1)
    bigram_weights(
        load_tokenizer(str(dream)), tensors, ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")
    )
    save_file(tensors, dream / "model.safetensors")
    check_shift(load_unchecked(dream, DREAM), load_tokenizer(str(dream)))
    tensors = write_llada(llada, num_shards=1)
    outer = "model.transformer"
    bigram_weights(
        load_tokenizer(str(llada)), tensors, (f"{outer}.wte.weight", f"{outer}.ln_f.weight", f"{outer}.ff_out.weight")
    )
    save_file(tensors, llada / "model.safetensors")
    with pytest.raises(ModelError, match="self-check 'shift' failed"):
        check_shift(load_unchecked(llada, LLADA), load_tokenizer(str(llada)))


def load_unchecked(folder: Path, family: Family) -> BackboneDLLM:
    backbone = load_backbone(Checkpoint.open(folder), family, torch.float64, "cpu")
    return BackboneDLLM(backbone, check_model(str(folder)), is_shifted=family.is_shifted)


def test_a_tokenizer_of_other_weights_is_refused(tmp_path: Path) -> None:
    write_llada(tmp_path)
    spec, tokenizer = check_model(str(tmp_path)), load_tokenizer(str(tmp_path))
    check_vocabulary(spec, tokenizer)
    for wrong, pattern in (
        (replace(spec, vocabulary_size=200), "its head 200 rows"),
        (replace(spec, eos_id=tokenizer.num_tokens), "end-of-text id"),
        (replace(spec, end_of_turn_id=tokenizer.encode_text("Ā")[0]), "end-of-turn id .* reads back as"),
    ):
        with pytest.raises(ModelError, match=f"self-check 'vocabulary' failed: .*{pattern}"):
            check_vocabulary(wrong, tokenizer)


def test_a_tokenizer_that_changes_digits_is_refused(tmp_path: Path) -> None:
    write_llada(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    document["normalizer"] = {"type": "Replace", "pattern": {"String": "7"}, "content": "1"}
    path.write_text(json.dumps(document))
    with pytest.raises(ModelError, match="self-check 'vocabulary' failed: its tokenizer turns '1 2 3 4 5 6 7 8 9'"):
        check_model(str(tmp_path))
