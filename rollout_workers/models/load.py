"""Loads a frozen dLLM and its tokenizer from a folder in the Hugging Face format; a bad folder is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from rollout_workers.models.backbone import LlamaDLLM, bidirectional_llama
from rollout_workers.models.base import FrozenDLLM, ModelError, ModelSpec
from rollout_workers.models.tiny import CHECKPOINT_DIR
from rollout_workers.tokenizer import DllmTokenizer

TINY = "tiny"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
SELF_CHECK_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2, "float64": 1e-9}
"""How far padding may move a confidence: rounding only."""
_REQUIRED = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def model_folder(name: str) -> Path:
    """The folder that a model name stands for: `tiny` is the shipped one, anything else is a path."""
    return CHECKPOINT_DIR if name == TINY else Path(name)


def load_tokenizer(name: str) -> DllmTokenizer:
    """The tokenizer of a model folder; its mask and end-of-text ids must be those of the config."""
    folder = model_folder(name)
    config = _check_folder(folder)
    try:
        tokenizer = DllmTokenizer.from_folder(folder)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"model folder '{folder}': its tokenizer cannot be loaded ({_one_line(error)})") from error
    for key, found in (("mask_token_id", tokenizer.mask_id), ("eos_token_id", tokenizer.eos_id)):
        if config[key] != found:
            raise ModelError(f"model folder '{folder}': config.json says {key} is {config[key]}, its tokenizer {found}")
    return tokenizer


def load_model(name: str, *, dtype: str = "float32", device: str = "cpu") -> FrozenDLLM:
    """The frozen model of a folder; `ModelError` when it is missing, torn, of another kind or fails its self-check."""
    folder = model_folder(name)
    config = _check_folder(folder)
    _check_weights(folder)
    try:
        model = _load_llama(folder, config, DTYPES[dtype], device)
    except (
        SafetensorError,
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        AssertionError,
        StrictDataclassError,
    ) as error:
        # transformers and torch report a config or tensors that do not fit in all these ways.
        raise ModelError(f"model folder '{folder}' cannot be loaded: {_one_line(error)}") from error
    spec = ModelSpec(
        name=name,
        mask_id=config["mask_token_id"],
        eos_id=config["eos_token_id"],
        pad_id=config["pad_token_id"],
        vocabulary_size=config["vocab_size"],
    )
    adapter = LlamaDLLM(model, spec)
    self_check(adapter, tolerance=SELF_CHECK_TOLERANCE[dtype])
    return adapter


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def check_model(name: str) -> None:
    """Refuses (`ModelError`) a folder that is missing, incomplete or torn, without loading any weights."""
    load_tokenizer(name)
    _check_weights(model_folder(name))


def _check_weights(folder: Path) -> None:
    """Reads the header of the weights, which also says how long the file must be."""
    try:
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            num_tensors = len(file.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"model folder '{folder}': model.safetensors cannot be read ({_one_line(error)})") from error
    if num_tensors == 0:
        raise ModelError(f"model folder '{folder}': model.safetensors holds no tensors")


def _check_folder(folder: Path) -> dict[str, int]:
    """The parsed config of a complete model folder."""
    if not folder.is_dir():
        raise ModelError(
            f"model folder '{folder}' does not exist; allowed: '{TINY}' or a folder with {', '.join(_REQUIRED)}"
        )
    missing = [name for name in _REQUIRED if not (folder / name).is_file()]
    if missing:
        raise ModelError(f"model folder '{folder}' has no {', '.join(missing)}; needed: {', '.join(_REQUIRED)}")
    try:
        config = json.loads((folder / "config.json").read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"model folder '{folder}': config.json is not valid JSON ({error})") from error
    if not isinstance(config, dict):
        raise ModelError(f"model folder '{folder}': config.json holds a {type(config).__name__}; needed: an object")
    if config.get("model_type") != "llama":
        raise ModelError(f"model folder '{folder}': model_type is {config.get('model_type')!r}; allowed: 'llama'")
    for key in ("vocab_size", "mask_token_id", "eos_token_id", "pad_token_id"):
        if isinstance(config.get(key), bool) or not isinstance(config.get(key), int):
            raise ModelError(
                f"model folder '{folder}': config.json says {key} is {config.get(key)!r}; needed: an integer"
            )
        if key != "vocab_size" and not 0 <= config[key] < config["vocab_size"]:
            raise ModelError(
                f"model folder '{folder}': config.json says {key} is {config[key]}; "
                f"needed: an id below vocab_size = {config['vocab_size']}"
            )
    return config


def _load_llama(folder: Path, config: dict[str, int], dtype: torch.dtype, device: str) -> LlamaForCausalLM:
    with torch.device("meta"):
        model = bidirectional_llama(LlamaConfig.from_dict(config))
    tensors = {name: value.to(dtype) for name, value in load_file(folder / "model.safetensors", device=device).items()}
    # Strict and by assignment: an absent, extra or misshapen tensor raises and names itself.
    model.load_state_dict(tensors, strict=True, assign=True)
    # Buffers are not in the file; rotary frequencies are made again on a real device.
    model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(device)
    return model


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
