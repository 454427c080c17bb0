"""Between host and device without waiting for what the device is doing."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def to_device(values: Tensor | NDArray[Any], device: torch.device) -> Tensor:
    """Values of the host on the device; they are there before anything that is asked of it afterwards."""
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    if tensor.device == device:
        return tensor
    return (tensor.pin_memory() if device.type == "cuda" else tensor).to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """The tensor on the host, where its values are not there until the device has been waited for."""
    if tensor.device.type != "cuda":
        return tensor.to("cpu", non_blocking=True)
    held = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return held.copy_(tensor, non_blocking=True)


def wait_for(device: torch.device) -> None:
    """Until it has done all that it was asked for, and what comes `to_host` is there."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
