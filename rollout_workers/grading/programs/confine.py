"""The first act of every program in the sandbox: it gives up what it was started with, and only then says so.

Invariant: `enter` returns only when every limit holds; otherwise it raises, the program ends, and nothing untrusted has run.
"""

from __future__ import annotations

import resource
from posix import O_RDONLY, O_WRONLY, closerange, dup2, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid
from posix import open as open_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple

    class Policy(NamedTuple):
        """What holds inside; travels as a plain tuple."""

        user_id: int
        """User and group id to change to; -1 keeps the present ones."""
        cpu_s: int
        memory_bytes: int
        file_bytes: int
        num_tasks: int
        """Processes and threads of this user id; -1 where the kernel is told by other means."""
        readable: tuple[str, ...]
        """Files and folders that Landlock leaves readable; empty where namespaces hide the rest."""
        syscall_filter: bytes
        """A seccomp program to load; empty where the sandbox was started with one."""
        parent: int
        """The process to die with, when `syscall_filter` is given."""


_NUM_FILES = 64
_MAX_FD = 1 << 20


def enter(policy: Policy, keep_fds: tuple[int, ...]) -> None:
    """Drops files, identity, privileges and resources. Raises OSError, ValueError or RuntimeError when one would stay."""
    user_id, cpu_s, memory_bytes, file_bytes, num_tasks, readable, syscall_filter, parent = policy
    _close_all_but({0, 1, 2, *keep_fds})
    null = open_file("/dev/null", O_RDONLY), open_file("/dev/null", O_WRONLY)
    if user_id >= 0:
        _become(user_id)
    limits = [
        (resource.RLIMIT_CORE, 0), (resource.RLIMIT_CPU, cpu_s), (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_FSIZE, file_bytes), (resource.RLIMIT_NOFILE, _NUM_FILES), (resource.RLIMIT_MEMLOCK, 0),
    ]  # fmt: skip
    if num_tasks >= 0:
        limits.append((resource.RLIMIT_NPROC, num_tasks))
    for what, value in limits:
        # The processor limit warns (SIGXCPU) one second before it kills; the others have no second threshold.
        hard = value + 1 if what == resource.RLIMIT_CPU else value
        resource.setrlimit(what, (value, hard))
        if resource.getrlimit(what) != (value, hard):
            raise RuntimeError(f"resource limit {what} did not hold")
    if syscall_filter:
        from rollout_workers.grading.programs.unprivileged import restrict_process

        restrict_process(readable, syscall_filter, parent)
    dup2(null[0], 0)
    dup2(null[1], 1)
    dup2(null[1], 2)
    for fd in null:
        closerange(fd, fd + 1)


def _close_all_but(keep: set[int]) -> None:
    start = 0
    for fd in [*sorted(keep), _MAX_FD]:
        if start < fd:  # an empty range would close its first descriptor
            closerange(start, fd)
        start = fd + 1


def _become(user_id: int) -> None:
    setgroups([])
    setresgid(user_id, user_id, user_id)
    setresuid(user_id, user_id, user_id)
    if getresuid() != (user_id,) * 3 or getresgid() != (user_id,) * 3 or getgroups():
        raise RuntimeError("the user id did not change")
    try:
        setresuid(0, 0, 0)
    except PermissionError:
        return
    raise RuntimeError("privileges came back")
