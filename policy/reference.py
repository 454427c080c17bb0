"""Checkpoints of the reference release of arXiv 2512.09106: the `dit_confidence` policy as `model.safetensors`.

Its tensors have this project's names behind `base_policy.`, and each block holds its rotary frequencies too (`inv_freq`). Nothing
says what the architecture is: sizes are read off the shapes, and what shapes cannot tell takes the release's own settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from policy.config import PolicyConfig
from policy.networks.base import PolicyNetwork
from policy.networks.layers import ROPE_BASE
from policy.networks.registry import build_empty
from policy.scope import Scope
from policy.stored_config import stored_config
from policy.weights import WeightsError, check_tensors, sorted_header

PREFIX = "base_policy."
PARITY: Mapping[str, Any] = {
    "confidence_features": "raw",
    "time_embedding": "legacy",
    "scope": Scope.CANVAS,
    "distribution": "bernoulli",
}
"""The release's settings where they differ from this project's defaults."""
DEFAULT_HEADS = 2
_FREQUENCIES = re.compile(r"transformer_blocks\.\d+\.inv_freq")
_FREQUENCY_TOLERANCE = 5e-3
"""Relative; admits files in bfloat16."""


def from_reference(
    tensors: Mapping[str, Tensor], *, where: str, num_heads: int | None = None, **settings: Any
) -> PolicyNetwork:
    """The network of a reference checkpoint, in float32.

    Args:
        tensors: the checkpoint's tensors by its names.
        where: names the file in errors: `WeightsError`, which names the tensor and its shape too.
        num_heads: of attention; None reads it off `inv_freq`, or takes the published 2 where the file has none.
        settings: policy settings that no shape tells, over `PARITY`.
    """
    sizes = _sizes(tensors, num_heads, where)
    try:
        config = stored_config({**PARITY, **sizes, **settings})
    except ValueError as error:
        raise WeightsError(f"{where}: {error}") from error
    network = build_empty(config)
    expected = to_reference(network, config)
    if not any(_is_frequencies(name) for name in tensors):
        expected = {name: value for name, value in expected.items() if not _is_frequencies(name)}
    check_tensors({name: value.shape for name, value in expected.items()}, tensors, where=where)
    for name in filter(_is_frequencies, tensors):
        if not torch.allclose(tensors[name].float(), expected[name], rtol=_FREQUENCY_TOLERANCE, atol=0.0):
            raise WeightsError(
                f"{where}: tensor {name!r} holds other rotary frequencies than those of base {ROPE_BASE:g}"
            )
    weights = {name.removeprefix(PREFIX): value for name, value in tensors.items() if not _is_frequencies(name)}
    network.load_state_dict(weights)
    return network


def reference_bytes(network: PolicyNetwork, *, where: str) -> bytes:
    """`model.safetensors` of the network; `WeightsError` for one that the reference release cannot run."""
    config = network.config
    allowed: dict[str, tuple[Any, ...]] = {
        "network": ("dit_confidence",),
        "confidence_features": (PARITY["confidence_features"],),
        "time_embedding": (PARITY["time_embedding"],),
        "scope": (str(PARITY["scope"]),),
        "see_block": (False,),
        "see_mask": (True,),
        "see_time": (True,),
        "distribution": ("bernoulli", "bernoulli_argmax", "dpls"),
    }
    for name, values in allowed.items():
        value = getattr(config, name)
        if value not in values:
            raise WeightsError(
                f"{where}: policy setting '{name}' is {(str(value) if isinstance(value, str) else value)!r}; "
                f"allowed in a reference checkpoint: {', '.join(map(repr, values))}"
            )
    return sorted_header(save(to_reference(network, config), {"format": "pt"}))


def to_reference(network: PolicyNetwork, config: PolicyConfig) -> dict[str, Tensor]:
    """The network's weights and rotary frequencies under the reference's names."""
    tensors = {f"{PREFIX}{name}": value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
    size = config.hidden_size // config.num_heads
    # The release's own expression, whose float32 roundings its checkpoints hold.
    frequencies = 1.0 / (10_000 ** (torch.arange(0, size, 2).float() / size))
    return tensors | {
        f"{PREFIX}transformer_blocks.{block}.inv_freq": frequencies.clone() for block in range(config.num_blocks)
    }


def _is_frequencies(name: str) -> bool:
    return _FREQUENCIES.fullmatch(name.removeprefix(PREFIX)) is not None


def _sizes(tensors: Mapping[str, Tensor], num_heads: int | None, where: str) -> dict[str, int]:
    """What the shapes say about the architecture."""

    def shape(name: str) -> tuple[int, int]:
        full = f"{PREFIX}{name}"
        if full not in tensors:
            raise WeightsError(f"{where}: tensor {full!r} is missing")
        if tensors[full].ndim != 2:
            raise WeightsError(f"{where}: tensor {full!r} has shape {list(tensors[full].shape)}; expected a matrix")
        rows, columns = tensors[full].shape
        return rows, columns

    hidden_size, num_confidences = shape("confidence_proj.weight")
    frequencies = f"{PREFIX}transformer_blocks.0.inv_freq"
    if num_heads is None and frequencies in tensors:
        length = tensors[frequencies].numel()
        if length == 0 or hidden_size % (2 * length):
            raise WeightsError(
                f"{where}: tensor {frequencies!r} has shape {list(tensors[frequencies].shape)}; "
                f"expected a divisor of half the hidden size, {hidden_size // 2}"
            )
        num_heads = hidden_size // (2 * length)
    prefix = f"{PREFIX}transformer_blocks."
    blocks = {name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)}
    return {
        "hidden_size": hidden_size,
        "num_confidences": num_confidences,
        "time_embed_size": shape("time_mlp.0.weight")[1],
        "feed_forward_size": shape("transformer_blocks.0.linear1.weight")[0],
        "num_heads": num_heads or DEFAULT_HEADS,
        "num_blocks": len(blocks),
    }
