"""What a model runs on, in words."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch

_CPU_INFO = Path("/proc/cpuinfo")


@lru_cache(maxsize=8)
def device_name(device: str) -> str:
    """The GPU's name, or the processor's; the device as it is called where neither is known."""
    kind = torch.device(device).type
    if kind == "cuda" and torch.cuda.is_available():
        return torch.cuda.get_device_name(device)
    return cpu_name() if kind == "cpu" else device


def cpu_name() -> str:
    """`cpu` with the processor's name, where the system tells it."""
    try:
        lines = _CPU_INFO.read_text().splitlines()
    except OSError:
        return "cpu"
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"cpu ({name})" if name else "cpu"
