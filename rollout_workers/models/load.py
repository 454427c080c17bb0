"""Loads a frozen dLLM and its tokenizer by name; a model that cannot be used is one clear line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import PreTrainedTokenizerBase

from cluster.logs import get_logger
from policy.config import BackboneShape
from rollout_workers.models.backbone import BackboneDLLM
from rollout_workers.models.base import FrozenDLLM, ModelError, ModelSpec
from rollout_workers.models.checkpoint import CONFIG, Checkpoint, one_line
from rollout_workers.models.compiled import compiled
from rollout_workers.models.dream import DREAM
from rollout_workers.models.family import Family
from rollout_workers.models.hub import model_folder
from rollout_workers.models.llada import LLADA
from rollout_workers.models.llama import LLAMA
from rollout_workers.models.options import NO_OPTIONS, LoadOptions
from rollout_workers.models.remote_code import RemoteCodeDLLM, load_remote_model, load_remote_tokenizer, remote_spec
from rollout_workers.models.selfcheck import check_shift, check_sight, check_vocabulary, self_check
from rollout_workers.models.weights import PROGRESS_BYTES, load_backbone
from rollout_workers.tokenizer import DllmTokenizer

logger = get_logger(__name__)

FAMILIES = {family.model_type: family for family in (LLAMA, LLADA, DREAM)}
BLOCK_CAUSAL = "its attention is block-causal: a canvas whose later blocks are visible is not what it was trained on"
UNSUPPORTED = {
    "llada2_moe": BLOCK_CAUSAL,
    "sdar": BLOCK_CAUSAL,
    "sdar_moe": BLOCK_CAUSAL,
    "Fast_dLLM_Qwen": BLOCK_CAUSAL,
    "diffusion_gemma": "it renoises from a uniform distribution and has no mask token",
}
"""model_type -> why no adapter fits, the checkpoint's own code included."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
SELF_CHECK_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float64": 1e-9}
"""How far padding may move a confidence: rounding only."""
REMOTE_TOLERANCE = 1e-4
"""The same, where code may compute parts of a float64 model in float32."""
CONFIG_ERRORS = (OSError, RuntimeError, KeyError, ValueError, AssertionError, StrictDataclassError)
"""All the ways in which transformers and torch report a config that does not fit."""
CODE_ERRORS = (*CONFIG_ERRORS, TypeError, LookupError, AttributeError, ImportError)
"""Those, and what modelling code written for other versions of them fails with."""


@dataclass(frozen=True, slots=True)
class _Opened:
    """A model that is there and whole, with nothing of its weights read."""

    checkpoint: Checkpoint
    family: Family | None
    """None: it runs its own code."""
    tokenizer: DllmTokenizer
    spec: ModelSpec


def load_tokenizer(name: str, options: LoadOptions = NO_OPTIONS) -> DllmTokenizer:
    """The tokenizer of a model; its mask and end ids are those of the checkpoint."""
    return _open(name, options).tokenizer


def check_model(name: str, options: LoadOptions = NO_OPTIONS) -> ModelSpec:
    """What decoding depends on; `ModelError` for a model that is missing, incomplete, torn or unfit. Loads no weights."""
    return _open(name, options).spec


def load_model(
    name: str, *, dtype: str = "float32", device: str = "cpu", options: LoadOptions = NO_OPTIONS
) -> FrozenDLLM:
    """The frozen model of a name; `ModelError` when it is missing, torn, of another kind or fails a self-check."""
    opened = _open(name, options)
    started = time.perf_counter()
    if opened.family is None:
        model = _load_remote(opened, options, dtype, device)
    else:
        model = _load_family(opened, opened.family, options, dtype, device)
    if opened.checkpoint.num_bytes >= PROGRESS_BYTES:
        seconds, size = time.perf_counter() - started, opened.checkpoint.num_bytes / 2**30
        logger.info("loaded %s: %.1f GiB to %s in %s, %.0f s", name, size, device, dtype, seconds)
    return model


def _load_family(opened: _Opened, family: Family, options: LoadOptions, dtype: str, device: str) -> FrozenDLLM:
    with _config_errors(opened.checkpoint):
        backbone = load_backbone(opened.checkpoint, family, DTYPES[dtype], device, title=opened.spec.name)
    model = BackboneDLLM(backbone, opened.spec, is_shifted=family.is_shifted)
    if options.compile:
        started = time.perf_counter()
        model = compiled(model)
        logger.info("compiled the blocks of %s in %.0f s", opened.spec.name, time.perf_counter() - started)
    _check_loaded(model, opened.tokenizer, SELF_CHECK_TOLERANCE[dtype])
    return model


@contextmanager
def _config_errors(checkpoint: Checkpoint) -> Iterator[None]:
    """Turns what transformers and torch raise about a config that does not fit into a ModelError."""
    try:
        yield
    except CONFIG_ERRORS as error:
        if isinstance(error, ModelError):
            raise
        raise checkpoint.error(f"cannot be loaded: {one_line(error)}") from error


def _backbone_shape(checkpoint: Checkpoint, family: Family) -> BackboneShape:
    with _config_errors(checkpoint):
        config = family.make_config(checkpoint)
        return BackboneShape(config.hidden_size, config.num_attention_heads, config.intermediate_size)


def _load_remote(opened: _Opened, options: LoadOptions, dtype: str, device: str) -> FrozenDLLM:
    try:
        model = load_remote_model(
            opened.checkpoint, opened.spec, dtype=DTYPES[dtype], device=device, is_shifted=options.logit_shift
        )
        _check_loaded(model, opened.tokenizer, max(SELF_CHECK_TOLERANCE[dtype], REMOTE_TOLERANCE))
    except CODE_ERRORS as error:
        if isinstance(error, ModelError):
            raise
        raise opened.checkpoint.error(f"its own code fails: {type(error).__name__}: {one_line(error)}") from error
    return model


def _check_loaded(model: BackboneDLLM | RemoteCodeDLLM, tokenizer: DllmTokenizer, tolerance: float) -> None:
    self_check(model, tolerance=tolerance)
    check_sight(model)
    check_shift(model, tokenizer)


def _open(name: str, options: LoadOptions) -> _Opened:
    checkpoint = Checkpoint.open(model_folder(name, options))
    family = _family(checkpoint, options)
    if family is None:
        tokenizer = load_remote_tokenizer(checkpoint, options)
        spec = remote_spec(name, checkpoint, tokenizer)
    else:
        tokenizer = _load_tokenizer(checkpoint, family)
        rows = checkpoint.integer(family.rows_key(checkpoint))
        spec = ModelSpec(
            name=name,
            mask_id=tokenizer.mask_id,
            eos_id=tokenizer.eos_id,
            pad_id=checkpoint.integer("pad_token_id"),
            vocabulary_size=rows,
            num_tokens=tokenizer.num_tokens if tokenizer.num_tokens < rows else None,
            end_of_turn_id=tokenizer.end_of_turn_id,
            num_positions=checkpoint.integer(family.positions_key)
            if family.positions_key in checkpoint.config
            else None,
            can_cache=True,
            can_shadow=not family.is_shifted,
            backbone=_backbone_shape(checkpoint, family),
        )
    check_vocabulary(spec, tokenizer)
    return _Opened(checkpoint, family, tokenizer, spec)


def _family(checkpoint: Checkpoint, options: LoadOptions) -> Family | None:
    """The adapter for a checkpoint, None for its own code; `ModelError` where there is neither or a setting contradicts it."""
    config = checkpoint.config
    model_type = config.get("model_type")
    if reason := UNSUPPORTED.get(str(model_type)):
        raise checkpoint.error(f"{CONFIG} says model_type is {model_type!r}: {reason}")
    if options.remote_code:
        return None
    own_code = "; its own code runs with model.remote_code=true" if "auto_map" in config else ""
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        allowed = ", ".join(repr(known) for known in FAMILIES)
        raise checkpoint.error(f"{CONFIG} says model_type is {model_type!r}; allowed: {allowed}{own_code}")
    if "num_experts" in config:
        raise checkpoint.error(
            f"{CONFIG} says num_experts is {config['num_experts']!r}: there is no adapter for mixtures of experts{own_code}"
        )
    family = FAMILIES[model_type]
    if options.logit_shift and not family.is_shifted:
        raise checkpoint.error(f"model.logit_shift is true, but the logits of {model_type!r} models stand in place")
    size = checkpoint.integer("vocab_size")
    for key in ("mask_token_id", "eos_token_id", "pad_token_id"):
        if not 0 <= checkpoint.integer(key) < size:
            raise checkpoint.error(f"{CONFIG} says {key} is {config[key]}; needed: an id below vocab_size = {size}")
    if options.mask_token_id not in (None, config["mask_token_id"]):
        raise checkpoint.error(
            f"model.mask_token_id is {options.mask_token_id}, {CONFIG} says mask_token_id is {config['mask_token_id']}"
        )
    return family


def _load_tokenizer(checkpoint: Checkpoint, family: Family) -> DllmTokenizer:
    folder, config = checkpoint.folder, checkpoint.config
    if missing := [name for name in family.tokenizer_files if not (folder / name).is_file()]:
        raise ModelError(
            f"model folder '{folder}' has no {', '.join(missing)}; needed: {', '.join(family.tokenizer_files)}"
        )
    try:
        tokenizer: PreTrainedTokenizerBase = family.tokenizer_class.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise checkpoint.error(f"its tokenizer cannot be loaded ({one_line(error)})") from error
    vocabulary = tokenizer.get_vocab()
    end_of_turn_id = None if family.end_of_turn is None else vocabulary.get(family.end_of_turn)
    mask, eos = tokenizer.mask_token or family.mask_token, tokenizer.eos_token
    # Chat models may call the end of a turn their end of text; both end an answer.
    ends = {config["eos_token_id"]} | ({end_of_turn_id} - {None})
    for key, token, allowed in (("mask_token_id", mask, {config["mask_token_id"]}), ("eos_token_id", eos, ends)):
        if vocabulary.get(token) not in allowed:
            raise checkpoint.error(
                f"{CONFIG} says {key} is {config[key]}, its tokenizer gives {token!r} {vocabulary.get(token)}"
            )
    return DllmTokenizer(
        tokenizer, mask_id=config["mask_token_id"], eos_id=config["eos_token_id"], end_of_turn_id=end_of_turn_id
    )
