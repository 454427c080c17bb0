"""Any other dLLM of the Hugging Face hub, run by the modelling code that its checkpoint brings along.

That code runs only where the user asks for it, from a folder or at one full commit of a hub id, and only out of that snapshot: a
checkpoint that points to code of another repository is refused. What comes out is held to the self-checks of every model.

Such a model returns logits of all positions. Rows are therefore computed some at a time, so that no more than `FORWARD_BYTES` of
logits exist; a model that returns hidden states and shows its head needs none of that.

Shapes: see `rollout_workers.models.base`; `S` = P + L tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from cluster.logs import get_logger
from policy.config import BackboneShape
from policy.used_positions import UsedPositions
from rollout_workers.models.base import ModelError, ModelSpec, Prediction
from rollout_workers.models.cache import CachedPass
from rollout_workers.models.checkpoint import CONFIG, TOKENIZER_CONFIG, Checkpoint, one_line, read_object
from rollout_workers.models.options import LoadOptions
from rollout_workers.models.reduction import Inputs, Reduction, concatenate, reduce_in_pieces, wide
from rollout_workers.tokenizer import DllmTokenizer

logger = get_logger(__name__)

FORWARD_BYTES = 2**30
"""Float32 logits of one forward pass."""
AUTO_CLASSES = ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel")
"""In order of preference: those with a head come first."""
ENDS_OF_TURN = ("<|eot_id|>", "<|im_end|>", "<|role_end|>")
POSITION_KEYS = ("max_position_embeddings", "max_sequence_length")


def check_code(checkpoint: Checkpoint) -> str:
    """The auto class that the checkpoint has code for; `ModelError` where it has none or it lies in another repository."""
    references = checkpoint.config.get("auto_map")
    names = [name for name in AUTO_CLASSES if isinstance(references, dict) and name in references]
    if not names:
        raise checkpoint.error(
            f"{CONFIG} says auto_map is {references!r}; needed for model.remote_code: {' or '.join(AUTO_CLASSES)}"
        )
    for file in (CONFIG, TOKENIZER_CONFIG):
        content = read_object(checkpoint.folder, file) if (checkpoint.folder / file).is_file() else {}
        for reference in _flat(content.get("auto_map")):
            if "--" in reference:
                raise checkpoint.error(
                    f"{file} takes its code from another repository, {reference!r}; allowed: its own"
                )
    return names[0]


def _flat(value: Any) -> Iterator[str]:
    """The texts in a nest of lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _flat(each)


def load_remote_tokenizer(checkpoint: Checkpoint, options: LoadOptions) -> DllmTokenizer:
    """The checkpoint's tokenizer with its mask and end ids; `ModelError` where these are missing or contradict each other."""
    check_code(checkpoint)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            checkpoint.folder, trust_remote_code=True, local_files_only=True
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise checkpoint.error(f"its tokenizer cannot be loaded ({one_line(error)})") from error
    config_eos = checkpoint.config.get("eos_token_id")
    eos_ids = [*(config_eos if isinstance(config_eos, list) else [config_eos]), tokenizer.eos_token_id]
    ends = [tokenizer.get_vocab().get(token) for token in ENDS_OF_TURN if token in str(tokenizer.chat_template or "")]
    known = [end for end in (*eos_ids, *ends) if end is not None]
    if not known or not all(isinstance(end, int) for end in known):
        raise checkpoint.error(f"{CONFIG} and its tokenizer say eos_token_id is {eos_ids}; needed: an integer")
    return DllmTokenizer(
        tokenizer,
        mask_id=_mask_id(checkpoint, tokenizer, options),
        eos_id=known[0],
        end_of_turn_id=next((end for end in known if end != known[0]), None),
    )


def _mask_id(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase, options: LoadOptions) -> int:
    """The id that all who know one give."""
    said = {
        "config.json": checkpoint.config.get("mask_token_id"),
        "its tokenizer": tokenizer.mask_token_id,
        "model.mask_token_id": options.mask_token_id,
    }
    known = {who: value for who, value in said.items() if value is not None}
    if not known:
        raise checkpoint.error(f"neither {CONFIG} nor its tokenizer says mask_token_id; needed: model.mask_token_id=ID")
    if len({repr(value) for value in known.values()}) > 1:
        raise checkpoint.error(
            "mask_token_id is " + " and ".join(f"{value!r} in {who}" for who, value in known.items())
        )
    who, value = next(iter(known.items()))
    if isinstance(value, bool) or not isinstance(value, int):
        raise checkpoint.error(f"mask_token_id is {value!r} in {who}; needed: an integer")
    return value


def remote_spec(name: str, checkpoint: Checkpoint, tokenizer: DllmTokenizer) -> ModelSpec:
    """What the config says; the loaded model is held to it."""
    rows = checkpoint.integer("vocab_size")
    pad = checkpoint.config.get("pad_token_id")
    positions = [checkpoint.config.get(key) for key in POSITION_KEYS]
    return ModelSpec(
        name=name,
        mask_id=tokenizer.mask_id,
        eos_id=tokenizer.eos_id,
        pad_id=pad if isinstance(pad, int) and 0 <= pad < rows else tokenizer.eos_id,
        vocabulary_size=rows,
        num_tokens=tokenizer.num_tokens if tokenizer.num_tokens < rows else None,
        end_of_turn_id=tokenizer.end_of_turn_id,
        num_positions=next((value for value in positions if isinstance(value, int)), None),
        backbone=_backbone_shape(checkpoint),
    )


def _backbone_shape(checkpoint: Checkpoint) -> BackboneShape | None:
    """What a config says of the blocks in transformers' own words; None where it says less, or blocks that no policy can have."""
    keys = ("hidden_size", "num_attention_heads", "intermediate_size")
    values = [value for key in keys if type(value := checkpoint.config.get(key)) is int and value > 0]
    if len(values) < len(keys):
        return None
    try:
        shape = BackboneShape(*values)
        shape.validate("backbone")
    except ValueError:
        return None
    return shape


def load_remote_model(
    checkpoint: Checkpoint, spec: ModelSpec, *, dtype: torch.dtype, device: str, is_shifted: bool
) -> RemoteCodeDLLM:
    """The model, loaded on the host by transformers and then moved as a whole: peak host memory is the model's size."""
    model, info = getattr(transformers, check_code(checkpoint)).from_pretrained(
        checkpoint.folder, trust_remote_code=True, local_files_only=True, use_safetensors=True, dtype=dtype,
        output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    # Tensors that are missing or misshapen were made up at random, so such a model must not be used.
    for name, stored, needed in info["mismatched_keys"]:
        file = checkpoint.shard_of.get(name, CONFIG)
        raise checkpoint.error(f"{file} holds {name!r} as {list(stored)}; its code and config need {list(needed)}")
    if missing := sorted(info["missing_keys"]):
        raise checkpoint.error(
            f"its weights lack {len(missing)} tensors that its code needs, the first: {missing[0]!r}"
        )
    adapter = RemoteCodeDLLM(model.to(device), spec, is_shifted=is_shifted)
    num_rows = adapter.raw_logits(torch.tensor([spec.eos_id, spec.mask_id], device=device)).shape[-1]
    if num_rows < spec.vocabulary_size:
        raise checkpoint.error(
            f"{CONFIG} says vocab_size is {spec.vocabulary_size}, and its code gives {num_rows} logits"
        )
    if num_rows > spec.vocabulary_size:
        num_tokens = spec.num_tokens or spec.vocabulary_size
        adapter.spec = replace(spec, vocabulary_size=num_rows, num_tokens=num_tokens)
    if info["unexpected_keys"]:
        logger.warning("%s: its code leaves %d weights unused", checkpoint.folder, len(info["unexpected_keys"]))
    return adapter


class RemoteCodeDLLM:
    """A model whose forward pass is its checkpoint's own code, called with an attention mask."""

    def __init__(self, model: PreTrainedModel, spec: ModelSpec, *, is_shifted: bool) -> None:
        self.model = model.eval().requires_grad_(False)
        self.spec = spec
        self.device = next(model.parameters()).device
        self.is_shifted = is_shifted
        self._takes_positions = "position_ids" in inspect.signature(model.forward).parameters
        self._is_headless = False
        """Whether it returns hidden states, and the head is ours to call."""

    @torch.inference_mode()
    def predict(
        self,
        prompt_BP: Tensor,
        prompt_length_B: Tensor,
        canvas_BL: Tensor,
        wanted_BL: Tensor,
        *,
        num_confidences: int = 1,
        token_temperature: float = 0.0,
        token_uniforms_N: Tensor | None = None,
        with_entropy: bool = False,
        with_margin: bool = False,
        with_hidden: bool = False,
        with_log_probs: bool = False,
        banned_ids: tuple[int, ...] = (),
        shadow_BL: Tensor | None = None,
        cached: CachedPass | None = None,
    ) -> Prediction:
        if cached is not None:
            raise ModelError(f"model '{self.spec.name}': its own code keeps no keys and values (cache)")
        if shadow_BL is not None:
            raise ModelError(
                f"model '{self.spec.name}': its own code takes no attention between chosen tokens (sampler wino)"
            )
        inputs = Inputs.join(prompt_BP, prompt_length_B, canvas_BL)
        reduction = Reduction(
            num_confidences, token_temperature, token_uniforms_N, with_entropy, with_margin, with_log_probs, banned_ids
        )
        B, S = inputs.tokens_BS.shape
        rows_at_once = max(1, B if self._is_headless else FORWARD_BYTES // (4 * S * self.spec.vocabulary_size))
        parts: list[Prediction] = []
        num_done = 0
        for first in range(0, max(1, B), rows_at_once):
            rows = slice(first, first + rows_at_once)
            num_wanted = int(wanted_BL[rows].sum())
            part = reduction.part(slice(num_done, num_done + num_wanted))
            parts.append(self._predict_rows(inputs.rows(rows), wanted_BL[rows], part, with_hidden=with_hidden))
            num_done += num_wanted
        return concatenate(parts)

    def _predict_rows(
        self, inputs: Inputs, wanted_BL: Tensor, reduction: Reduction, *, with_hidden: bool
    ) -> Prediction:
        sources = inputs.sources(wanted_BL, is_shifted=self.is_shifted)
        flat_N = UsedPositions.at(*sources, inputs.tokens_BS.shape, self.device).flat_N
        states_BSX, head = self._forward(inputs)
        states_FX = states_BSX.flatten(0, 1)

        def logits_of(chunk: slice) -> Tensor:
            # Indexing copies, so the overwriting reduction never reaches the model's own output.
            states_NX = states_FX[flat_N[chunk]]
            return states_NX if head is None else head(states_NX)

        prediction = reduce_in_pieces(logits_of, len(flat_N), self.spec, reduction)
        if not with_hidden:
            return prediction
        if head is None:
            raise ModelError(f"model '{self.spec.name}': its code returns logits only, no hidden states")
        return replace(prediction, hidden_ND=wide(states_FX[flat_N]))

    def _forward(self, inputs: Inputs) -> tuple[Tensor, Callable[[Tensor], Tensor] | None]:
        """(logits `[B, S, V]`, None), or (last hidden states `[B, S, D]`, the head)."""
        arguments = {"input_ids": inputs.tokens_BS, "attention_mask": inputs.mask_BS}
        if self._takes_positions:
            arguments["position_ids"] = inputs.position_BS
        out = self.model(**arguments)
        if (logits_BSV := getattr(out, "logits", None)) is not None:
            return logits_BSV, None
        hidden_BSD, head = getattr(out, "last_hidden_state", None), self.model.get_output_embeddings()
        if hidden_BSD is None or head is None:
            raise ModelError(
                f"model '{self.spec.name}': its code returns neither logits nor last_hidden_state with get_output_embeddings()"
            )
        self._is_headless = True
        return hidden_BSD, head

    @torch.inference_mode()
    def raw_logits(self, ids_S: Tensor) -> Tensor:
        """`[S, V]` logits of one row as the model gives them: not shifted, nothing excluded."""
        no_prompt_BP = ids_S.new_zeros(1, 0)
        states_BSX, head = self._forward(Inputs.join(no_prompt_BP, ids_S.new_zeros(1), ids_S.unsqueeze(0)))
        return wide((states_BSX if head is None else head(states_BSX))[0])
