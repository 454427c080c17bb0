"""A model folder in the Hugging Face format: its config, and its tensors one shard after the other.

Opening reads headers only, so a missing, torn or incomplete file is found before any weight is loaded, and named.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rollout_workers.models.base import ModelError

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"


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
        config = _read_object(folder, CONFIG)
        if not (folder / INDEX).is_file():
            return Checkpoint(folder, config, dict.fromkeys(_header(folder, WEIGHTS), WEIGHTS))
        index = _read_object(folder, INDEX).get("weight_map")
        if not isinstance(index, dict) or not index or not all(isinstance(file, str) for file in index.values()):
            raise ModelError(f"model folder '{folder}': {INDEX} needs a weight_map from tensor names to file names")
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

    def tensors(
        self, dtype: torch.dtype, device: str, on_shard: Callable[[str], None] = lambda file: None
    ) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, in `dtype` and on `device`; one is in host memory at a time. `on_shard` hears of each finished file."""
        names_of: dict[str, list[str]] = {}
        for name, file in self.shard_of.items():
            names_of.setdefault(file, []).append(name)
        for file in sorted(names_of):
            with safe_open(self.folder / file, framework="pt", device=device) as shard:
                for name in names_of[file]:
                    tensor = shard.get_tensor(name)
                    if not tensor.is_floating_point():
                        raise self.error(f"{file} holds {name!r} as {tensor.dtype}; needed: floating point")
                    yield name, tensor.to(dtype)
            on_shard(file)


def _read_object(folder: Path, name: str) -> dict[str, Any]:
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
