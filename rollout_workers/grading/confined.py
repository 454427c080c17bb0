"""A running sandboxed program as the host sees it: how it is started, heard and killed.

Invariant: whoever starts one ends it; `close` returns only when no process of the tree is left.
"""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cluster.errors import DeadlineExceeded

START_DEADLINE_S = 60.0
"""For a program to be confined; machines that grade are busy."""
KILL_DEADLINE_S = 30.0
_MESSAGE_BYTES = 64 * 1024
_CHILD_PID = re.compile(rb'"child-pid"\s*:\s*(\d+)\s*[,}]')


class StartFailure(Exception):
    """A program did not come up; nothing untrusted has run."""


@dataclass(slots=True)
class Pipes:
    """The host's and the program's ends of what they share; `close` may be called at any time."""

    result_fd: int
    result_end: int
    error_fd: int
    error_end: int
    info_fd: int
    """Where bubblewrap reports the process ids."""
    info_end: int
    _closed: set[int] = field(default_factory=set)

    @classmethod
    def make(cls) -> Pipes:
        """Six fresh descriptors, none of which a child inherits unless told so."""
        return cls(*os.pipe(), *os.pipe(), *os.pipe())

    def close(self, *fds: int) -> None:
        """Closes `fds`, or everything that is still open."""
        mine = (self.result_fd, self.result_end, self.error_fd, self.error_end, self.info_fd, self.info_end)
        for fd in fds or mine:
            if fd not in self._closed:
                os.close(fd)
                self._closed.add(fd)


@dataclass(slots=True)
class Confined:
    """A running program: the process that we started, and (with namespaces) the first one inside."""

    outer: subprocess.Popen[bytes]
    tree_fd: int
    """A pidfd of the process whose end is the end of the whole tree."""
    pipes: Pipes
    _received: bytearray = field(default_factory=bytearray)

    def read_line(self, *, deadline: float) -> bytes | None:
        """The next line that the program reports; None when it ended without one. Raises TimeoutError at `deadline`."""
        while b"\n" not in self._received:
            wait_readable(self.pipes.result_fd, deadline)
            piece = os.read(self.pipes.result_fd, _MESSAGE_BYTES)
            if not piece or len(self._received) + len(piece) > _MESSAGE_BYTES:
                return None
            self._received += piece
        line, _, rest = bytes(self._received).partition(b"\n")
        self._received[:] = rest
        return line

    def wait(self, seconds: float) -> int | None:
        """The exit status of the program (128 + signal, as a shell has it), or None while it runs."""
        try:
            status = self.outer.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            return None
        return status if status >= 0 else 128 - status

    def complaint(self) -> str:
        """The last line that the program said on stderr; only what is not yet confined can say anything."""
        return read_complaint(self.pipes.error_fd)

    def close(self) -> None:
        """Kills the whole tree and waits until it is gone. Raises DeadlineExceeded when it is not."""
        try:
            _end(self.outer, self.tree_fd)
        finally:
            os.close(self.tree_fd)
            self.pipes.close()


def launch(
    command: Sequence[str], *, inherited: Sequence[int], environment: dict[str, str], namespaces: bool, pipes: Pipes
) -> Confined:
    """Starts `command` and takes hold of its tree. Raises StartFailure, and then nothing is left running.

    With `namespaces` the command is bubblewrap's, and the tree is what starts with the first process inside.
    """
    try:
        outer = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=pipes.error_end, env=environment, cwd="/",
            pass_fds=inherited, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        pipes.close()
        raise StartFailure(f"{command[0]}: {error.strerror}") from error
    pipes.close(pipes.result_end, pipes.error_end, pipes.info_end)
    try:
        tree_fd = os.pidfd_open(_first_inside(pipes.info_fd) if namespaces else outer.pid)
    except (StartFailure, TimeoutError, ProcessLookupError) as error:
        outer.kill()
        outer.wait(timeout=KILL_DEADLINE_S)
        complaint = read_complaint(pipes.error_fd)
        pipes.close()
        raise StartFailure(complaint or str(error)) from error
    return Confined(outer, tree_fd, pipes)


def wait_readable(fd: int, deadline: float) -> None:
    """Waits until `fd` has something to read or is at its end. Raises TimeoutError at `deadline` (monotonic seconds)."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
        raise TimeoutError(f"nothing came from descriptor {fd}")


def memory_file(data: bytes) -> int:
    """A descriptor from which `data` can be read once."""
    fd = os.memfd_create("request", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def read_complaint(error_fd: int) -> str:
    """The last line waiting in `error_fd`, cut to 500 characters."""
    os.set_blocking(error_fd, False)
    try:
        text = os.read(error_fd, _MESSAGE_BYTES).decode(errors="replace")
    except BlockingIOError:
        return ""
    return text.strip().rpartition("\n")[2][:500]


def _first_inside(info_fd: int) -> int:
    """The process id, on the host, of the first process inside, as bubblewrap reports it."""
    report = b""
    deadline = time.monotonic() + START_DEADLINE_S
    while not (found := _CHILD_PID.search(report)):
        wait_readable(info_fd, deadline)
        piece = os.read(info_fd, _MESSAGE_BYTES)
        if not piece:
            raise StartFailure("bubblewrap ended before it made the namespaces")
        report += piece
    return int(found[1])


def _end(outer: subprocess.Popen[bytes], tree_fd: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(tree_fd, signal.SIGKILL)
    deadline = time.monotonic() + KILL_DEADLINE_S
    try:
        wait_readable(tree_fd, deadline)
        outer.wait(timeout=max(deadline - time.monotonic(), 0.0))
    except (TimeoutError, subprocess.TimeoutExpired):
        what, missing = "a killed sandbox to end", f"the exit of process {outer.pid}"
        raise DeadlineExceeded.waiting_for(what, seconds=KILL_DEADLINE_S, missing=missing) from None
