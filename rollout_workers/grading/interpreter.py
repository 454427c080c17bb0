"""What of the host a bare Python interpreter needs in order to run, and nothing else.

Invariant: no installed package is among it: their folders inside the standard library's are hidden.
"""

from __future__ import annotations

import glob
import os
import sys
import sysconfig
from dataclasses import dataclass
from functools import cache

_SYSTEM_LIBRARIES = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")
_LINKER_CACHE = "/etc/ld.so.cache"
DEVICES = ("/dev/null", "/dev/urandom")


@dataclass(frozen=True, slots=True)
class Interpreter:
    """Paths on the host; inside they have the same names."""

    executable: str
    readable: tuple[str, ...]
    """Files and folders to show read-only; no folder lies in another."""
    links: tuple[tuple[str, str], ...]
    """(path, target) of symbolic links such as `/lib`."""
    hidden: tuple[str, ...]
    """Folders inside `readable` that must look empty: installed packages."""


@cache
def find_interpreter() -> Interpreter:
    """The interpreter that this process runs on, without its virtual environment."""
    executable = os.path.realpath(vars(sys)["_base_executable"])
    links = [(path, os.readlink(path)) for path in _SYSTEM_LIBRARIES if os.path.islink(path)]
    stdlib = sysconfig.get_path("stdlib")
    wanted = [path for path in _SYSTEM_LIBRARIES if os.path.isdir(path) and not os.path.islink(path)]
    wanted += [os.path.join(prefix, name) for prefix in _prefixes() for name in ("lib", "lib64")]
    wanted += [stdlib, executable, _LINKER_CACHE]
    existing = list(dict.fromkeys(os.path.realpath(path) for path in wanted if os.path.exists(path)))
    readable = tuple(
        path for path in existing if not any(is_inside(path, other) for other in existing if other != path)
    )
    packages = [
        path
        for top in readable
        for pattern in ("", "python*/", "lib/python*/")
        for name in ("site-packages", "dist-packages")
        for path in sorted(glob.glob(f"{glob.escape(top)}/{pattern}{name}"))
    ]
    hidden = tuple(dict.fromkeys(path for path in packages if os.path.isdir(path) and not os.path.islink(path)))
    return Interpreter(executable, readable, tuple(links), hidden)


def readable_pieces(interpreter: Interpreter) -> tuple[str, ...]:
    """`readable` cut up so that it leaves out `hidden`, for a rule that can only add."""
    pieces = list(interpreter.readable)
    for hidden in interpreter.hidden:
        pieces = [piece for path in pieces for piece in _without(path, hidden)]
    return (*pieces, *DEVICES)


def is_inside(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it."""
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def _prefixes() -> list[str]:
    return list(dict.fromkeys(os.path.realpath(prefix) for prefix in (sys.base_prefix, sys.base_exec_prefix)))


def _without(path: str, hidden: str) -> list[str]:
    if path == hidden:
        return []
    if not is_inside(hidden, path):
        return [path]
    children = sorted(os.path.join(path, name) for name in os.listdir(path))
    return [piece for child in children if not os.path.islink(child) for piece in _without(child, hidden)]
