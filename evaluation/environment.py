"""What a figure was measured with: library versions, device and driver."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform

import torch

_LIBRARIES = ("dllm-unmasking", "torch", "transformers", "ray", "numpy")


def environment_record() -> dict[str, str | int]:
    """Versions of the libraries that matter, and the machine."""
    record: dict[str, str | int] = {"python": platform.python_version(), "platform": platform.platform()}
    for name in _LIBRARIES:
        record[name] = importlib.metadata.version(name) if _is_installed(name) else "not installed"
    record["num_cpus"] = os.cpu_count() or 0
    record["device"] = "cpu"
    if torch.cuda.is_available():
        record["device"] = torch.cuda.get_device_name()
        record["cuda"] = str(torch.version.cuda)
        record["driver"] = _driver_version()
    return record


def _is_installed(name: str) -> bool:
    return any(importlib.metadata.distributions(name=name))


def _driver_version() -> str:
    """The NVIDIA driver's version; needs the extra `gpu`."""
    if importlib.util.find_spec("pynvml") is None:
        return "unknown (install the extra 'gpu')"
    import pynvml

    pynvml.nvmlInit()
    version = pynvml.nvmlSystemGetDriverVersion()
    pynvml.nvmlShutdown()
    return version.decode() if isinstance(version, bytes) else str(version)
