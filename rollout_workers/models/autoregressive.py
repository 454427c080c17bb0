"""A causal language model beside the dLLM, over the same tokens: the verifier of APD.

Shapes: `B` texts, `S` tokens, `V` vocabulary of the dLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from rollout_workers.models.base import ModelError, ModelSpec
from rollout_workers.models.checkpoint import one_line
from rollout_workers.tokenizer import DllmTokenizer


class CausalModel:
    """Log-probabilities of texts; rows are padded at the end, which no token before sees."""

    def __init__(self, model: PreTrainedModel, spec: ModelSpec) -> None:
        self._model = model.eval().requires_grad_(False)
        self._spec = spec

    @torch.inference_mode()
    def log_probs(self, texts: Sequence[Sequence[int]], first: Sequence[int]) -> list[Tensor]:
        """See `policy.heuristics.resources.SecondModel`; the dLLM's mask id and further ids have no probability."""
        width = max(map(len, texts))
        device = next(self._model.parameters()).device
        rows = [[*text, *[self._spec.pad_id] * (width - len(text))] for text in texts]
        mask = [[1] * len(text) + [0] * (width - len(text)) for text in texts]
        logits_BSV = self._model(
            input_ids=torch.tensor(rows, device=device),
            attention_mask=torch.tensor(mask, device=device),
            use_cache=False,
        ).logits
        found = []
        for row, (text, start) in enumerate(zip(texts, first, strict=True)):
            logits_nV = logits_BSV[row, start - 1 : len(text) - 1].double()
            size = self._spec.vocabulary_size
            full_nV = logits_nV.new_full((len(logits_nV), size), -torch.inf)
            shared = min(size, logits_nV.shape[1])
            full_nV[:, :shared] = logits_nV[:, :shared]
            full_nV[:, self._spec.mask_id] = -torch.inf
            found.append(full_nV.log_softmax(1))
        return found


def load_causal(
    name: str, spec: ModelSpec, tokenizer: DllmTokenizer, *, dtype: torch.dtype, device: str
) -> CausalModel:
    """The causal model of a folder or hub id; `ModelError` where it cannot be loaded or writes with other tokens."""
    check_causal(name, tokenizer)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(name, dtype=dtype)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"causal model '{name}' cannot be loaded: {one_line(error)}") from error
    return CausalModel(loaded.to(device), spec)


def check_causal(name: str, tokenizer: DllmTokenizer) -> None:
    """`ModelError` for a model that is not there, is not causal or writes with other tokens. Loads no weights."""
    if not name:
        raise ModelError("parameter 'model' of heuristic 'apd' is ''; allowed: the folder or hub id of a causal model")
    try:
        config = AutoConfig.from_pretrained(name)
        other = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"causal model '{name}' cannot be loaded: {one_line(error)}") from error
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ModelError(f"'{name}' is a {config.model_type!r} model; allowed: a causal language model")
    theirs, special = other.get_vocab(), set(other.all_special_tokens)
    if differing := [
        (token, number) for token, number in tokenizer.vocabulary().items()
        if token not in special and number not in tokenizer.special_ids() and theirs.get(token, number) != number
    ]:  # fmt: skip
        token, number = differing[0]
        raise ModelError(
            f"causal model '{name}': token {token!r} has id {theirs[token]}, the dLLM's is {number}; needed: one vocabulary"
        )
    shared = sum(token in theirs for token in tokenizer.vocabulary())
    if shared < len(tokenizer.vocabulary()) // 2:
        raise ModelError(
            f"causal model '{Path(name).name}' knows {shared} of the dLLM's {len(tokenizer.vocabulary())} tokens; "
            "needed: one vocabulary"
        )
