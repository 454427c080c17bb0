"""What a model runs on, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from evaluation import environment
from rollout_workers import hardware


def test_a_processor_is_named_where_the_system_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    info = tmp_path / "cpuinfo"
    monkeypatch.setattr(hardware, "_CPU_INFO", info)
    assert hardware.cpu_name() == "cpu"
    info.write_text("processor\t: 0\nmodel name\t: A Fast One @ 3 GHz\n")
    assert hardware.cpu_name() == "cpu (A Fast One @ 3 GHz)"
    info.write_text("processor\t: 0\n")
    assert hardware.cpu_name() == "cpu"
    assert hardware.device_name("meta") == "meta"


def test_the_driver_s_version_is_read_from_the_kernel_without_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    module = tmp_path / "version"
    monkeypatch.setattr(environment, "_KERNEL_MODULE", module)
    assert environment._driver_version().startswith("unknown")
    module.write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\n")
    assert environment._driver_version() == "550.54.15"
