"""Loads a frozen dLLM and its tokenizer from a folder in the Hugging Face format; a bad folder is one clear line."""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from rich.progress import Progress
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from cluster.logs import console
from rollout_workers.models.backbone import Backbone, BackboneDLLM, bidirectional
from rollout_workers.models.base import FrozenDLLM, ModelError, ModelSpec
from rollout_workers.models.checkpoint import CONFIG, Checkpoint, one_line
from rollout_workers.models.dream import DREAM
from rollout_workers.models.family import Family
from rollout_workers.models.llada import LLADA
from rollout_workers.models.llama import LLAMA
from rollout_workers.models.tiny import CHECKPOINT_DIR
from rollout_workers.tokenizer import DllmTokenizer

TINY = "tiny"
FAMILIES = {family.model_type: family for family in (LLAMA, LLADA, DREAM)}
BLOCK_CAUSAL = "its attention is block-causal: a canvas whose later blocks are visible is not what it was trained on"
UNSUPPORTED = {
    "llada2_moe": BLOCK_CAUSAL,
    "sdar": BLOCK_CAUSAL,
    "sdar_moe": BLOCK_CAUSAL,
    "llada_moe": "transformers has no backbone of its mixture of experts",
    "diffusion_gemma": "it renoises from a uniform distribution and has no mask token",
}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
SELF_CHECK_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float64": 1e-9}
"""How far padding may move a confidence: rounding only."""
PROGRESS_BYTES = 2**30


def model_folder(name: str) -> Path:
    """The folder that a model name stands for: `tiny` is the shipped one, anything else is a path."""
    return CHECKPOINT_DIR if name == TINY else Path(name)


def load_tokenizer(name: str) -> DllmTokenizer:
    """The tokenizer of a model folder; its mask and end-of-text ids are those of the config."""
    checkpoint, family = _open(name)
    return _load_tokenizer(checkpoint, family)


def check_model(name: str) -> None:
    """Refuses (`ModelError`) a folder that is missing, incomplete or torn, without loading any weights."""
    load_tokenizer(name)


def load_model(name: str, *, dtype: str = "float32", device: str = "cpu") -> FrozenDLLM:
    """The frozen model of a folder; `ModelError` when it is missing, torn, of another kind or fails its self-check."""
    checkpoint, family = _open(name)
    tokenizer = _load_tokenizer(checkpoint, family)
    try:
        model = load_backbone(checkpoint, family, DTYPES[dtype], device)
    except (OSError, RuntimeError, KeyError, ValueError, AssertionError, StrictDataclassError) as error:
        # transformers and torch report a config that does not fit in all these ways.
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"model folder '{checkpoint.folder}' cannot be loaded: {one_line(error)}") from error
    vocabulary_size = model.lm_head.weight.shape[0]
    if tokenizer.num_tokens > vocabulary_size:
        raise checkpoint.error(f"its tokenizer has {tokenizer.num_tokens} tokens and its head {vocabulary_size} rows")
    spec = ModelSpec(
        name=name,
        mask_id=tokenizer.mask_id,
        eos_id=tokenizer.eos_id,
        pad_id=checkpoint.integer("pad_token_id"),
        vocabulary_size=vocabulary_size,
        num_tokens=tokenizer.num_tokens if tokenizer.num_tokens < vocabulary_size else None,
        end_of_turn_id=tokenizer.end_of_turn_id,
    )
    adapter = BackboneDLLM(model, spec, is_shifted=family.is_shifted)
    self_check(adapter, tolerance=SELF_CHECK_TOLERANCE[dtype])
    check_shift(adapter, tokenizer)
    return adapter


def _open(name: str) -> tuple[Checkpoint, Family]:
    folder = model_folder(name)
    if not folder.is_dir():
        raise ModelError(
            f"model folder '{folder}' does not exist; allowed: '{TINY}' or a folder in the Hugging Face format"
        )
    checkpoint = Checkpoint.open(folder)
    model_type = checkpoint.config.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        reason = UNSUPPORTED.get(str(model_type))
        allowed = ", ".join(repr(known) for known in FAMILIES)
        raise checkpoint.error(f"model_type is {model_type!r}{f' ({reason})' if reason else ''}; allowed: {allowed}")
    family = FAMILIES[model_type]
    size = checkpoint.integer("vocab_size")
    for key in ("mask_token_id", "eos_token_id", "pad_token_id"):
        if not 0 <= checkpoint.integer(key) < size:
            raise checkpoint.error(
                f"{CONFIG} says {key} is {checkpoint.config[key]}; needed: an id below vocab_size = {size}"
            )
    return checkpoint, family


def _load_tokenizer(checkpoint: Checkpoint, family: Family) -> DllmTokenizer:
    folder = checkpoint.folder
    if missing := [name for name in family.tokenizer_files if not (folder / name).is_file()]:
        raise ModelError(
            f"model folder '{folder}' has no {', '.join(missing)}; needed: {', '.join(family.tokenizer_files)}"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = family.tokenizer_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise checkpoint.error(f"its tokenizer cannot be loaded ({one_line(error)})") from error
    vocabulary = tokenizer.get_vocab()
    mask, eos = tokenizer.mask_token or family.mask_token, tokenizer.eos_token
    for key, token in (("mask_token_id", mask), ("eos_token_id", eos)):
        if vocabulary.get(token) != checkpoint.config[key]:
            raise checkpoint.error(
                f"{CONFIG} says {key} is {checkpoint.config[key]}, its tokenizer gives {token!r} {vocabulary.get(token)}"
            )
    return DllmTokenizer(
        tokenizer,
        mask_id=checkpoint.integer("mask_token_id"),
        eos_id=checkpoint.integer("eos_token_id"),
        end_of_turn_id=None if family.end_of_turn is None else vocabulary.get(family.end_of_turn),
    )


def load_backbone(checkpoint: Checkpoint, family: Family, dtype: torch.dtype, device: str) -> Backbone:
    """The backbone with the checkpoint's tensors, each brought to its device and dtype as it is read."""
    with torch.device("meta"):
        model = bidirectional(family.make_config(checkpoint))
    needed = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del needed["lm_head.weight"]
    origin: dict[str, str] = {}
    with Progress(console=console(), transient=True, disable=checkpoint.num_bytes < PROGRESS_BYTES) as progress:
        bar = progress.add_task(f"loading {checkpoint.folder.name}", total=len(needed))
        for name, tensor in checkpoint.tensors(dtype, device):
            target = family.tensor_name(name)
            _check_tensor(checkpoint, name, tensor, needed.get(target), origin.get(target))
            origin[target] = name
            model.load_state_dict({target: tensor}, strict=False, assign=True)
            progress.advance(bar)
    if missing := sorted(needed.keys() - origin.keys()):
        raise checkpoint.error(f"its weights lack {len(missing)} tensors, the first: {missing[0]!r}")
    model.tie_weights()
    # Buffers are not in the files; rotary frequencies are made again on a real device.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    return model


def _check_tensor(
    checkpoint: Checkpoint, name: str, tensor: Tensor, needed: tuple[int, ...] | None, before: str | None
) -> None:
    file = checkpoint.shard_of[name]
    if needed is None:
        raise checkpoint.error(f"{file} holds {name!r}, which this architecture does not have")
    if before is not None:
        raise checkpoint.error(f"{file} holds {name!r} besides {before!r}, and both are the same tensor")
    if tuple(tensor.shape) != needed:
        raise checkpoint.error(f"{file} holds {name!r} as {list(tensor.shape)}; its config needs {list(needed)}")


@torch.no_grad()
def self_check(model: FrozenDLLM, *, tolerance: float) -> None:
    """Fails by name when a row's prediction depends on padding or the mask id can be predicted."""
    spec, device = model.spec, model.device
    canvas_BL = torch.full((1, 8), spec.mask_id, device=device)
    wanted_BL = torch.ones(1, 8, dtype=torch.bool, device=device)
    prompt_BP = (torch.arange(6, device=device) % spec.vocabulary_size).unsqueeze(0)
    length_B = torch.tensor([6], device=device)
    lone = model.predict(prompt_BP, length_B, canvas_BL, wanted_BL)
    padded_BP = torch.cat([torch.full((1, 5), spec.pad_id, device=device), prompt_BP], 1)
    padded = model.predict(padded_BP, length_B, canvas_BL, wanted_BL)
    if bool((lone.token_ids_N == spec.mask_id).any()):
        raise ModelError(
            f"model '{spec.name}': self-check 'mask id' failed: it predicts its own mask id {spec.mask_id}"
        )
    gap = float((lone.confidences_NK - padded.confidences_NK).abs().max())
    if not gap <= tolerance:
        raise ModelError(f"model '{spec.name}': self-check 'padding' failed: padding moves confidences by {gap:.2g}")


SHIFT_TEXT = "One, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve."
SHIFT_MARGIN_NATS = 1.0


@torch.no_grad()
def check_shift(model: BackboneDLLM, tokenizer: DllmTokenizer) -> None:
    """Fails by name when plain text is clearly likelier under the other alignment of logits and positions.

    Weights that were never trained prefer neither, so only a trained model of the wrong kind can fail.
    """
    try:
        ids = torch.tensor([tokenizer.encode_text(SHIFT_TEXT)], device=model.device)
    except ValueError:
        return  # A vocabulary without plain text cannot tell.
    logits_SV = model.model(input_ids=ids).logits[0].float()
    scores_SV = logits_SV.log_softmax(-1)
    aligned = float(scores_SV[1:].gather(1, ids[0, 1:, None]).mean())
    shifted = float(scores_SV[:-1].gather(1, ids[0, 1:, None]).mean())
    ours, other = (shifted, aligned) if model.is_shifted else (aligned, shifted)
    if other > ours + SHIFT_MARGIN_NATS:
        raise ModelError(
            f"model '{model.spec.name}': self-check 'shift' failed: plain text has {ours:.1f} nats per token as configured "
            f"and {other:.1f} with logits {'in place' if model.is_shifted else 'shifted by one'}"
        )
