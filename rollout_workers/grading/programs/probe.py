"""Tries what the sandbox must forbid, and reports what succeeded.

Invariant: an act that fails for any reason but the sandbox's refusal counts as having succeeded, so a broken probe never passes.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import platform
import socket
import threading
import time

from rollout_workers.grading.programs.confine import enter
from rollout_workers.grading.programs.link import Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from rollout_workers.grading.programs.confine import Policy

_REFUSALS = (errno.EPERM, errno.ENOSYS, errno.EAGAIN)

_CALLS = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "unshare": (272, 97),
    "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "chroot": (161, 51), "bpf": (321, 280),
    "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217), "userfaultfd": (323, 282),
    "io_uring_setup": (425, 425), "memfd_create": (319, 279), "shmget": (29, 194), "personality": (135, 92),
    "pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "clone3": (435, 435), "open_by_handle_at": (304, 265),
    "init_module": (175, 105), "reboot": (169, 142), "mq_open": (240, 180), "fsopen": (430, 430), "kcmp": (312, 272),
}  # fmt: skip
"""Numbers on x86_64 and on aarch64."""
_CLONE, _NEW_USER, _SIGCHLD = (56, 220), 0x10000000, 17


def main(
    policy: Policy,
    result_fd: int,
    has_namespaces: bool,
    host_files: tuple[str, ...],
    hidden: tuple[str, ...],
    environment: tuple[str, ...],
    bounds: tuple[int, int, int, int],
    host_pid: int,
) -> None:
    """Writes one line: the JSON list of forbidden acts that succeeded."""
    enter(policy, (result_fd,))
    succeeded: list[str] = []
    with Outcome() as outcome:
        __import__("unittest.mock")  # half the standard library must be there
        for acts in (
            _files(host_files, hidden, has_namespaces), _system_calls(), _descriptors(result_fd),
            _resources(bounds, has_namespaces), _identity(environment, has_namespaces, host_pid),
        ):  # fmt: skip
            succeeded.extend(acts)
    if outcome.error is not None:
        succeeded.append(f"cannot be tried to the end ({type(outcome.error).__name__}: {outcome.error})")
    os.write(result_fd, json.dumps(succeeded).encode() + b"\n")


def _files(host_files: tuple[str, ...], hidden: tuple[str, ...], has_namespaces: bool) -> Iterator[str]:
    for path in host_files:
        if _can_open(path, os.O_RDONLY):
            yield f"reads {path}"
        if _can_touch(path):
            yield f"changes mode or times of {path}"
    for path in hidden:
        try:
            if os.listdir(path):
                yield f"lists {path}"
        except PermissionError:
            continue
    for folder in (
        "/",
        "/usr/lib",
        "/dev",
        "/etc",
        os.path.dirname(os.__file__),
        *(() if has_namespaces else ("/tmp",)),
    ):
        if _can_open(f"{folder}/sandbox-probe", os.O_CREAT | os.O_WRONLY):
            yield f"writes to {folder}"
    if _can_open("/dev/tty", os.O_RDWR):
        yield "opens the terminal"


def _can_touch(path: str) -> bool:
    """Whether mode or times of `path` can be set (to what they are)."""
    try:
        present = os.stat(path)
    except OSError:
        return False
    for act in (
        lambda: os.chmod(path, present.st_mode & 0o7777),
        lambda: os.utime(path, ns=(present.st_atime_ns, present.st_mtime_ns)),
    ):
        try:
            act()
        except OSError:
            continue
        return True
    return False


def _can_open(path: str, flags: int) -> bool:
    try:
        os.close(os.open(path, flags, 0o600))
    except OSError:
        return False
    return True


def _system_calls() -> Iterator[str]:
    column = ("x86_64", "aarch64").index(platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    for name, numbers in _CALLS.items():
        # With these arguments no call does anything even where it is allowed.
        if libc.syscall(numbers[column], -1, -1, -1, -1, -1) != -1 or ctypes.get_errno() not in _REFUSALS:
            yield f"calls {name}"
    answer = libc.syscall(_CLONE[column], _NEW_USER | _SIGCHLD, 0, 0, 0, 0)
    if answer == 0:
        os._exit(0)
    if answer != -1:
        yield "makes a user namespace"
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX, socket.AF_NETLINK, socket.AF_PACKET):
        try:
            socket.socket(family, socket.SOCK_DGRAM).close()
        except OSError:
            continue
        yield f"opens a socket ({family.name})"


def _descriptors(result_fd: int) -> Iterator[str]:
    for fd in range(3, 1024):
        try:
            os.fstat(fd)
        except OSError:
            continue
        if fd != result_fd:
            yield f"has inherited descriptor {fd}"
    if os.read(0, 1):
        yield "reads standard input"


def _resources(bounds: tuple[int, int, int, int], has_namespaces: bool) -> Iterator[str]:
    memory_bytes, file_bytes, num_processes, num_threads = bounds
    if num_processes == 1 and _can_fork():
        yield "forks"
    started = _count_threads(num_threads + num_processes + 1)
    if started > (num_threads + num_processes - 1 if has_namespaces else 0):
        yield f"starts {started} threads"
    if has_namespaces and started < min(2, num_threads):
        yield f"cannot start {min(2, num_threads)} threads (kernels before 5.14 count those of all sandboxes together)"
    try:
        bytearray(memory_bytes)
    except MemoryError:
        pass
    else:
        yield f"allocates {memory_bytes} bytes"
    if has_namespaces and _fill_tmp(file_bytes) > file_bytes:
        yield f"writes more than {file_bytes} bytes to /tmp"


def _can_fork() -> bool:
    try:
        child = os.fork()
    except OSError:
        return False
    if child == 0:
        os._exit(0)
    return True


def _count_threads(most: int) -> int:
    done = threading.Event()
    started = 0
    try:
        while started < most:
            threading.Thread(target=done.wait, args=(10.0,), daemon=True).start()
            started += 1
    except (RuntimeError, MemoryError):
        pass
    done.set()
    deadline = time.monotonic() + 10.0
    while threading.active_count() > 1 and time.monotonic() < deadline:
        time.sleep(0.001)
    return started


def _fill_tmp(file_bytes: int) -> int:
    """Bytes that two files could take, each at most of the allowed size."""
    written = 0
    block = bytes(1 << 16)
    for name in ("/tmp/probe-1", "/tmp/probe-2"):
        try:
            with open(name, "wb", buffering=0) as file:
                while written <= 2 * file_bytes:
                    written += file.write(block) or 0
        except OSError:
            continue
    for name in ("/tmp/probe-1", "/tmp/probe-2"):
        os.unlink(name)  # both exist wherever /tmp is writable, as it must be
    return written


def _identity(environment: tuple[str, ...], has_namespaces: bool, host_pid: int) -> Iterator[str]:
    if set(os.environ) - set(environment):
        yield "sees environment variables of the host"
    if _can_open("/proc/self/status", os.O_RDONLY):
        yield "sees /proc"
    if has_namespaces:
        if os.getpid() > 9:
            yield "shares the host's process ids"
        if _can_become_root():
            yield "becomes root"
    if not has_namespaces or host_pid > 9:
        try:
            os.kill(host_pid, 0)
        except OSError:
            return
        yield "signals processes of the host"


def _can_become_root() -> bool:
    try:
        os.setresuid(0, 0, 0)
    except OSError:
        return False
    return True
