"""Policy files: safetensors with the architecture in their metadata, so that a file alone rebuilds its policy."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from enum import StrEnum
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from policy.config import BackboneShape, PolicyConfig
from policy.networks.base import PolicyNetwork
from policy.networks.registry import build_empty

FORMAT = "dllm-unmasking-policy/1"


class WeightsError(ValueError):
    """A policy file that cannot be used; the message says why in one line."""


def fingerprint(config: PolicyConfig) -> str:
    """Names the architecture: equal for two policies exactly when their settings are."""
    return hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:16]


def to_bytes(network: PolicyNetwork) -> bytes:
    """The network's weights and architecture."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return sorted_header(save(tensors, {"format": FORMAT, "policy": json.dumps(asdict(network.config))}))


def sorted_header(data: bytes) -> bytes:
    """The same file with its header in a fixed order: safetensors writes metadata in a random one, and checksums name weights."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def from_bytes(data: bytes, *, where: str, reuse: PolicyNetwork | None = None) -> PolicyNetwork:
    """The network that `to_bytes` wrote; `where` names the file in errors (`WeightsError`).

    `reuse` takes the weights where it is, which saves most of the time, if its architecture is that of the file.
    """
    tensors, metadata = _read(data, where)
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{where}: format is {metadata.get('format')!r}; allowed: {FORMAT!r}")
    try:
        settings = json.loads(metadata.get("policy", "null"))
    except json.JSONDecodeError as error:
        raise WeightsError(f"{where}: its policy settings are no JSON ({error})") from error
    config = _config(settings, where)
    network = reuse if reuse is not None and reuse.config == config else build_empty(config)
    load_strictly(network, tensors, where=where)
    return network


def _config(settings: Any, where: str) -> PolicyConfig:
    """The settings of a policy file; those that it does not have yet take their defaults."""
    values = _checked(PolicyConfig, settings, f"{where}: policy")
    if values.get("backbone") is not None:
        values["backbone"] = BackboneShape(**_checked(BackboneShape, values["backbone"], f"{where}: policy.backbone"))
    try:
        config = PolicyConfig(**values)
        config.validate("policy")
        if config.backbone is not None:
            config.backbone.validate("policy.backbone")
    except (TypeError, ValueError) as error:
        raise WeightsError(f"{where}: {error}") from error
    if config.reads_hidden and config.backbone is None:
        raise WeightsError(
            f"{where}: policy.backbone is null; needed: the shape of the dLLM with network {config.network!r}"
        )
    return config


def _checked(kind: type[PolicyConfig] | type[BackboneShape], settings: Any, where: str) -> dict[str, Any]:
    """The settings as keyword arguments; a `WeightsError` for one that `kind` does not have, or of another type or range."""
    if not isinstance(settings, dict):
        raise WeightsError(f"{where} settings are {settings!r}; needed: a mapping of names to values")
    hints, known = get_type_hints(kind), {field.name: field for field in fields(kind)}
    if unknown := sorted(set(settings) - set(known)):
        raise WeightsError(f"{where} settings {unknown} are unknown; it was written by another version")
    if missing := [name for name, field in known.items() if field.default is MISSING and name not in settings]:
        raise WeightsError(f"{where} settings {missing} are missing")
    for name, value in settings.items():
        if not _fits(value, hints[name]):
            raise WeightsError(f"{where}.{name} is {value!r}; allowed: {_described(hints[name])}")
        if isinstance(value, int | float) and not known[name].metadata.get("minimum", value) <= value:
            raise WeightsError(f"{where}.{name} is {value!r}; allowed: at least {known[name].metadata['minimum']}")
    return settings


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value out of JSON is one of the type of a setting."""
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if isinstance(hint, UnionType):
        return any(_fits(value, each) for each in get_args(hint))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return value in set(hint)
    if hint is BackboneShape:
        return isinstance(value, dict)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    return isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _described(hint: Any) -> str:
    if get_origin(hint) is Literal:
        return ", ".join(map(repr, get_args(hint)))
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ", ".join(repr(str(each)) for each in hint)
    return str(hint) if isinstance(hint, UnionType) else hint.__name__


def load_strictly(network: PolicyNetwork, tensors: dict[str, Tensor], *, where: str) -> None:
    """Copies `tensors` into the network; a missing, extra or misshapen tensor is a `WeightsError` that names it."""
    check_tensors({name: value.shape for name, value in network.state_dict().items()}, tensors, where=where)
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise WeightsError(f"{where}: tensor {name!r} is {value.dtype}; needed: floating point")
        if not bool(value.isfinite().all()):
            raise WeightsError(f"{where}: tensor {name!r} holds values that are not finite")
    network.load_state_dict(tensors)


def check_tensors(expected: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor], *, where: str) -> None:
    """A missing, extra or misshapen tensor is a `WeightsError` that names it; `expected` has the shapes."""
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise WeightsError(f"{where}: tensor {name!r} is missing")
        if name not in expected:
            raise WeightsError(f"{where}: tensor {name!r} does not belong to this architecture")
        if tuple(tensors[name].shape) != tuple(expected[name]):
            raise WeightsError(
                f"{where}: tensor {name!r} has shape {list(tensors[name].shape)}; expected {list(expected[name])}"
            )


def _read(data: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and string metadata of a safetensors file (the torch loader drops the latter)."""
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise WeightsError(f"{where}: not a readable safetensors file ({error})") from error
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    assert isinstance(metadata, dict)
    return tensors, metadata
