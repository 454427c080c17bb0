"""Policy files: safetensors with the architecture in their metadata, so that a file alone rebuilds its policy."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from policy.config import BackboneShape, PolicyConfig
from policy.networks.base import PolicyNetwork
from policy.networks.registry import NETWORKS, build_empty

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
    config = _config(json.loads(metadata["policy"]), where)
    network = reuse if reuse is not None and reuse.config == config else build_empty(config)
    load_strictly(network, tensors, where=where)
    return network


def _config(settings: dict[str, Any], where: str) -> PolicyConfig:
    """The settings of a policy file; those that it does not have yet take their defaults."""
    known = {field.name for field in fields(PolicyConfig)}
    if unknown := sorted(set(settings) - known):
        raise WeightsError(f"{where}: unknown policy settings {unknown}; it was written by another version")
    if settings.get("backbone") is not None:
        settings["backbone"] = BackboneShape(**settings["backbone"])
    config = PolicyConfig(**settings)
    if config.network not in NETWORKS:
        raise WeightsError(f"{where}: network is {config.network!r}; allowed: {', '.join(map(repr, NETWORKS))}")
    return config


def load_strictly(network: PolicyNetwork, tensors: dict[str, Tensor], *, where: str) -> None:
    """Copies `tensors` into the network; a missing, extra or misshapen tensor is a `WeightsError` that names it."""
    check_tensors({name: value.shape for name, value in network.state_dict().items()}, tensors, where=where)
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
