"""A model folder in the Hugging Face format: its config, and its tensors one shard after the other.

Opening reads headers only, so a missing, torn or incomplete file is found before any weight is loaded, and named.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rollout_workers.models.base import ModelError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
TOKENIZER_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete model folder."""

    folder: Path
    config: dict[str, Any]
    shard_of: dict[str, str]
    """File name of every tensor."""

    @staticmethod
    def open(folder: Path) -> Checkpoint:
        """Raises ModelError for a folder that is missing, incomplete or torn."""
        config = read_object(folder, CONFIG)
        if not (folder / INDEX).is_file():
            return Checkpoint(folder, config, dict.fromkeys(_header(folder, WEIGHTS), WEIGHTS))
        index = read_object(folder, INDEX).get("weight_map")
        if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
            raise ModelError(f"model folder '{folder}': {INDEX} needs a weight_map from tensor names to file names")
        if outside := [file for file in index.values() if Path(file).name != file]:
            raise ModelError(f"model folder '{folder}': {INDEX} names {outside[0]!r}; needed: files of this folder")
        headers = {file: _header(folder, file) for file in sorted(set(index.values()))}
        for name, file in index.items():
            if name not in headers[file]:
                raise ModelError(f"model folder '{folder}': {INDEX} places {name!r} in {file}, which does not hold it")
        return Checkpoint(folder, config, index)

    def integer(self, key: str, default: int | None = None) -> int:
        """An integer of the config."""
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.error(f"{CONFIG} says {key} is {value!r}; needed: an integer")
        return value

    def number(self, key: str, default: float) -> float:
        """A number of the config."""
        value = self.config.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.error(f"{CONFIG} says {key} is {value!r}; needed: a number")
        return float(value)

    def require(self, **allowed: tuple[Any, ...]) -> None:
        """Refuses a config with a feature that the backbone does not have; an absent key counts as None."""
        for key, values in allowed.items():
            if self.config.get(key) not in values:
                names = " or ".join(repr(value) for value in values)
                raise self.error(f"{CONFIG} says {key} is {self.config.get(key)!r}; allowed: {names}")

    def error(self, problem: str) -> ModelError:
        return ModelError(f"model folder '{self.folder}': {problem}")

    @property
    def num_bytes(self) -> int:
        return sum((self.folder / file).stat().st_size for file in set(self.shard_of.values()))

    def tensors(self, dtype: torch.dtype, device: str) -> Iterator[tuple[str, Tensor, int]]:
        """Every tensor as (name, values in `dtype` on `device`, bytes in its file).

        One tensor is in host memory beside those that the caller keeps, and nothing of the files stays mapped: a checkpoint
        may be replaced while its model is in use.
        """
        for name, file in sorted(self.shard_of.items(), key=lambda item: (item[1], item[0])):
            # Reading touches pages of the mapped file, which count as ours until it is closed: so it is opened for each tensor.
            with safe_open(self.folder / file, framework="pt", device=device) as shard:
                stored = shard.get_tensor(name)
            if not stored.is_floating_point():
                raise self.error(f"{file} holds {name!r} as {stored.dtype}; needed: floating point")
            num_bytes = stored.numel() * stored.element_size()
            is_mapped = stored.dtype == dtype and stored.device.type == "cpu"
            tensor = stored.clone() if is_mapped else stored.to(dtype)
            del stored
            yield name, tensor, num_bytes
            del tensor


def read_object(folder: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((folder / name).read_text())
    except OSError as error:
        raise ModelError(f"model folder '{folder}': {name} cannot be read ({error.strerror})") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"model folder '{folder}': {name} is not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise ModelError(f"model folder '{folder}': {name} holds a {type(content).__name__}; needed: an object")
    return content


def _header(folder: Path, file: str) -> set[str]:
    """Tensor names of one file; its header also says how long the file must be."""
    if not (folder / file).is_file():
        raise ModelError(
            f"model folder '{folder}' has no {file}; needed: {WEIGHTS}, or {INDEX} and every file it names"
        )
    try:
        with safe_open(folder / file, framework="pt") as shard:
            names = set(shard.keys())
    except (SafetensorError, OSError) as error:
        raise ModelError(f"model folder '{folder}': {file} cannot be read ({one_line(error)})") from error
    if not names:
        raise ModelError(f"model folder '{folder}': {file} holds no tensors")
    return names


def one_line(error: BaseException) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())
