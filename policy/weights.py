"""Policy files: safetensors with the architecture in their metadata, so that a file alone rebuilds its policy."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from policy.config import PolicyConfig
from policy.networks.base import PolicyNetwork
from policy.networks.registry import build_empty
from policy.stored_config import stored_config

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
    try:
        config = stored_config(settings)
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from error
    network = reuse if reuse is not None and reuse.config == config else build_empty(config)
    load_strictly(network, tensors, where=where)
    return network


def load_strictly(network: PolicyNetwork, tensors: dict[str, Tensor], *, where: str) -> None:
    """Copies `tensors` into the network; a `WeightsError` as of `check_tensors`."""
    check_tensors({name: value.shape for name, value in network.state_dict().items()}, tensors, where=where)
    network.load_state_dict(tensors)


def check_tensors(expected: Mapping[str, Sequence[int]], tensors: Mapping[str, Tensor], *, where: str) -> None:
    """A missing, extra, misshapen or damaged tensor is a `WeightsError` that names it; `expected` has the shapes."""
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise WeightsError(f"{where}: tensor {name!r} is missing")
        if name not in expected:
            raise WeightsError(f"{where}: tensor {name!r} does not belong to this architecture")
        if tuple(tensors[name].shape) != tuple(expected[name]):
            raise WeightsError(
                f"{where}: tensor {name!r} has shape {list(tensors[name].shape)}; expected {list(expected[name])}"
            )
    for name, value in tensors.items():
        if not value.is_floating_point():
            raise WeightsError(f"{where}: tensor {name!r} is {value.dtype}; needed: floating point")
        if not bool(value.isfinite().all()):
            raise WeightsError(f"{where}: tensor {name!r} holds values that are not finite")


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
