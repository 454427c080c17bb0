"""What a figure was measured with: library versions, device and driver."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
from pathlib import Path

import torch

from rollout_workers.hardware import device_name

_KERNEL_MODULE = Path("/proc/driver/nvidia/version")
_LIBRARIES = ("dllm-unmasking", "torch", "transformers", "ray", "numpy")


def environment_record(device: str | None = None) -> dict[str, str | int]:
    """Versions of the libraries that matter, and the machine; `device` is what was computed on, None the best that there is."""
    record: dict[str, str | int] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _LIBRARIES:
        record[name] = importlib.metadata.version(name) if _is_installed(name) else "not installed"
    record["num_cpus"] = os.cpu_count() or 0
    record["device"] = device_name(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if torch.cuda.is_available():
        record["cuda"] = str(torch.version.cuda)
        record["driver"] = _driver_version()
    return record


def _is_installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


def _driver_version() -> str:
    """The NVIDIA driver's version, from the extra `gpu` or from the kernel."""
    if importlib.util.find_spec("pynvml") is None:
        found = re.search(r"\d+\.\d+(\.\d+)?", _KERNEL_MODULE.read_text()) if _KERNEL_MODULE.is_file() else None
        return found[0] if found is not None else "unknown (install the extra 'gpu')"
    import pynvml

    pynvml.nvmlInit()
    version = pynvml.nvmlSystemGetDriverVersion()
    pynvml.nvmlShutdown()
    return version.decode() if isinstance(version, bytes) else str(version)
