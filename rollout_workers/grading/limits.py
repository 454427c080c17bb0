"""How much one sandboxed program may use; imports neither torch nor Ray."""

from __future__ import annotations

from dataclasses import dataclass, fields

from cluster.errors import UserError

_MIB = 1 << 20

_RANGES: dict[str, tuple[float, float]] = {
    "wall_s": (0.1, 3600.0), "cpu_s": (1, 3600), "memory_bytes": (64 * _MIB, 1 << 40), "file_bytes": (4096, 1 << 32),
    "num_processes": (1, 1024), "num_threads": (0, 1024), "output_bytes": (4096, 99_999_999),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """Limits of each sandboxed program. Raises UserError for a value out of range."""

    wall_s: float = 10.0
    """Seconds from the moment the programs are confined until their whole trees are killed."""
    cpu_s: int = 10
    """Processor seconds of each process."""
    memory_bytes: int = 512 * _MIB
    """Address space of each process; with one process, of the whole tree."""
    file_bytes: int = 16 * _MIB
    """The largest file, and all of /tmp together."""
    num_processes: int = 1
    """Processes of one tree. 1 denies fork, so that the other limits bound the tree exactly."""
    num_threads: int = 16
    """Threads beyond the first of each process, together."""
    output_bytes: int = 16 * _MIB
    """The largest message out of the sandbox."""

    def __post_init__(self) -> None:
        for field in fields(self):
            low, high = _RANGES[field.name]
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise UserError(f"sandbox limit '{field.name}' is {value!r}; allowed: {low:g} to {high:g}")
