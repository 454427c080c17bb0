from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evaluation.decoder import Decoder
from rollout_workers.models.autoregressive import CausalModel, load_causal
from rollout_workers.models.base import ModelError
from rollout_workers.models.load import load_tokenizer
from rollout_workers.models.tiny.vocabulary import build_tokenizer
from rollout_workers.tasks import Split, make_task
from tests.fakes.models import MASK_ID, small_spec


def causal_llama(vocabulary_size: int, *, seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary_size,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            initializer_range=0.5,
        )
    ).double()


def test_each_place_is_scored_given_what_stands_before_it_whatever_stands_beside() -> None:
    llama = causal_llama(24)
    model = CausalModel(llama, small_spec(24))
    texts = [[5, 6, 7, 8, 9], [4, 3], [11, 12, 13, 14]]
    first = [2, 1, 1]
    found = model.log_probs(texts, first)
    for text, start, log_probs in zip(texts, first, found, strict=True):
        assert log_probs.shape == (len(text) - start, 24)
        for number, place in enumerate(range(start, len(text))):
            logits = llama(input_ids=torch.tensor([text[:place]])).logits[0, -1]
            logits[MASK_ID] = -torch.inf
            assert torch.allclose(log_probs[number].exp(), logits.softmax(0), atol=1e-12)


def saved(folder: Path, *, tokens_differ: bool = False) -> str:
    tokenizer = build_tokenizer()
    if tokens_differ:
        tokenizer.add_tokens(["more-words"])
        tokenizer.backend_tokenizer.model = type(tokenizer.backend_tokenizer.model)(
            {token: (number + 3) % 100 for token, number in build_tokenizer().get_vocab().items()}, unk_token="<unk>"
        )
    causal_llama(len(tokenizer) + 1).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_dllm_and_a_causal_model_decode_together(tmp_path: Path) -> None:
    prompt = make_task("arithmetic").example(Split.TEST, 0).prompt
    sampler = f"apd(ratio=0.9,lookahead=8,model={saved(tmp_path)})"
    answer = Decoder("tiny", sampler=sampler, block_length=16, dtype="float64")([prompt])[0]
    assert answer.status == "clean"
    # A pass that commits more than one token was verified, so it made two passes.
    assert len(set(answer.order)) < answer.nfe <= 2 * 48


def test_a_model_with_other_tokens_or_none_is_one_line(tmp_path: Path) -> None:
    tokenizer = load_tokenizer("tiny")
    for name, message in (
        (saved(tmp_path / "other", tokens_differ=True), "needed: one vocabulary"),
        (str(tmp_path / "nothing"), "cannot be loaded"),
        ("", "parameter 'model' of heuristic 'apd' is ''; allowed"),
    ):
        with pytest.raises(ModelError, match=message) as caught:
            load_causal(name, small_spec(120), tokenizer, dtype=torch.float32, device="cpu")
        assert "\n" not in str(caught.value)
