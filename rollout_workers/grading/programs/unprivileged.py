"""Isolation without namespaces: no new privileges, no capabilities, Landlock, seccomp, and death with the parent.

Invariant: any refusal of the kernel raises, so a program never goes on half confined.
"""

from __future__ import annotations

import ctypes
import struct
from posix import O_CLOEXEC, O_RDONLY, close, getpid, getppid
from posix import open as open_file

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 4, 22, 38
_SIGKILL = 9
_SECCOMP_MODE_FILTER = 2
_O_PATH = 0o10000000
_CAPABILITY_VERSION_3 = 0x20080522

_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
"""The same numbers on every architecture."""
_LANDLOCK_VERSION = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_NUM_FS_RIGHTS = (0, 13, 14, 15, 15, 16)
"""Access rights to files that each version of the interface knows; later versions know as many as the last."""

PID_PLACEHOLDER = 0x1F2E3D4C
"""Stands in the seccomp program for the process's own id."""


def restrict_process(readable: tuple[str, ...], syscall_filter: bytes, parent: int) -> None:
    """Confines the calling process for good. Raises OSError where the kernel refuses, RuntimeError without Landlock."""
    _prctl(_PR_SET_PDEATHSIG, _SIGKILL)
    if parent != getppid():
        raise RuntimeError("the process that started this one is gone")
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _drop_capabilities()
    _restrict_files(readable)
    own = struct.pack("=I", getpid())
    program = ctypes.create_string_buffer(syscall_filter.replace(struct.pack("=I", PID_PLACEHOLDER), own))
    header = struct.pack("HxxxxxxP", len(syscall_filter) // 8, ctypes.addressof(program))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(header))


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"the kernel refuses {what}")
    return result


def _prctl(option: int, *arguments: int | ctypes.c_char_p) -> None:
    padded = [*arguments, 0, 0, 0, 0][:4]
    words = [ctypes.c_ulong(word) if isinstance(word, int) else word for word in padded]
    _checked(_libc().prctl(option, *words), f"prctl {option}")


def _drop_capabilities() -> None:
    header = ctypes.c_char_p(struct.pack("=Ii", _CAPABILITY_VERSION_3, 0))
    _checked(_libc().capset(header, ctypes.c_char_p(bytes(24))), "to drop capabilities")


def _restrict_files(readable: tuple[str, ...]) -> None:
    version = _libc().syscall(_LANDLOCK_CREATE_RULESET, None, ctypes.c_size_t(0), _LANDLOCK_VERSION)
    if version < 1:
        raise RuntimeError("this kernel has no Landlock")
    every = (1 << _NUM_FS_RIGHTS[min(version, len(_NUM_FS_RIGHTS) - 1)]) - 1
    ruleset = _libc().syscall(
        _LANDLOCK_CREATE_RULESET, ctypes.c_char_p(struct.pack("=Q", every)), ctypes.c_size_t(8), 0
    )
    _checked(ruleset, "a Landlock ruleset")
    for path in readable:
        fd = open_file(path, _O_PATH | O_CLOEXEC)
        rights = _READ_FILE | _READ_DIR if _is_folder(path) else _READ_FILE
        rule = ctypes.c_char_p(struct.pack("=Qi", rights, fd))
        _checked(_libc().syscall(_LANDLOCK_ADD_RULE, ruleset, 1, rule, 0), f"a Landlock rule for {path}")
        close(fd)
    _checked(_libc().syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0), "Landlock")
    close(ruleset)


def _is_folder(path: str) -> bool:
    try:
        close(open_file(path + "/.", O_RDONLY | O_CLOEXEC))
    except NotADirectoryError:
        return False
    return True
