"""Policy files: safetensors with the architecture in their metadata, so that a file alone rebuilds its policy."""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import asdict, fields

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from policy.config import PolicyConfig
from policy.networks.dit_confidence import ConfidenceDiT

FORMAT = "dllm-unmasking-policy/1"


class WeightsError(ValueError):
    """A policy file that cannot be used; the message says why in one line."""


def fingerprint(config: PolicyConfig) -> str:
    """Names the architecture: equal for two policies exactly when their settings are."""
    return hashlib.sha256(json.dumps(asdict(config), sort_keys=True).encode()).hexdigest()[:16]


def to_bytes(network: ConfidenceDiT) -> bytes:
    """The network's weights and architecture."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    return _sorted_header(save(tensors, {"format": FORMAT, "policy": json.dumps(asdict(network.config))}))


def _sorted_header(data: bytes) -> bytes:
    """The same file with its header in a fixed order: safetensors writes metadata in a random one, and checksums name weights."""
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def from_bytes(data: bytes, *, where: str) -> ConfidenceDiT:
    """The network that `to_bytes` wrote; `where` names the file in errors (`WeightsError`)."""
    metadata = _metadata(data, where)
    if metadata.get("format") != FORMAT:
        raise WeightsError(f"{where}: format is {metadata.get('format')!r}; allowed: {FORMAT!r}")
    settings = json.loads(metadata["policy"])
    known = {field.name for field in fields(PolicyConfig)}
    if unknown := sorted(set(settings) - known):
        raise WeightsError(f"{where}: unknown policy settings {unknown}; it was written by another version")
    network = ConfidenceDiT(PolicyConfig(**settings))
    load_strictly(network, load(data), where=where)
    return network


def load_strictly(network: ConfidenceDiT, tensors: dict[str, Tensor], *, where: str) -> None:
    """Copies `tensors` into the network; a missing, extra or misshapen tensor is a `WeightsError` that names it."""
    expected = network.state_dict()
    for name in sorted(expected.keys() | tensors.keys()):
        if name not in tensors:
            raise WeightsError(f"{where}: tensor {name!r} is missing")
        if name not in expected:
            raise WeightsError(f"{where}: tensor {name!r} does not belong to this architecture")
        if tensors[name].shape != expected[name].shape:
            raise WeightsError(
                f"{where}: tensor {name!r} has shape {list(tensors[name].shape)}; expected {list(expected[name].shape)}"
            )
    network.load_state_dict(tensors)


def _metadata(data: bytes, where: str) -> dict[str, str]:
    """The string metadata of a safetensors header (the torch loader drops it)."""
    try:
        load(data)
    except SafetensorError as error:
        raise WeightsError(f"{where}: not a readable safetensors file ({error})") from error
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length]).get("__metadata__", {})
    assert isinstance(metadata, dict)
    return metadata
