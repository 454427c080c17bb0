"""Processes of the Ray cluster that this process is part of, and of no other; and those that a test started."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ray._private.state


def living_actors(class_name: str) -> list[int]:
    """Process ids of the living actors of a class, in the order of their ids."""
    table = ray._private.state.actors()
    found = [each for each in table.values() if each["ActorClassName"].split(".")[-1] == class_name]
    return [each["Pid"] for each in found if each["State"] == "ALIVE" and each["Pid"]]


def processes_with(mark: Mapping[str, str]) -> list[str]:
    """Names of the living processes whose environment has `mark`: children inherit it, and theirs too."""
    wanted = {f"{name}={value}".encode() for name, value in mark.items()}
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            has_mark = wanted <= set((folder / "environ").read_bytes().split(b"\0"))
            name = (folder / "comm").read_text().strip()
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
        if has_mark:
            found.append(f"{folder.name} {name}")
    return found
