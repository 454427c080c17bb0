"""Runs one program of this project's, and with it what a model wrote, under a policy.

Invariant: a program starts under the whole policy or not at all. `open_sandbox` tries the forbidden acts inside first and raises
one clear line when any of them succeeds; there is no fallback from one mode to another, and none to a plain subprocess.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cache

from cluster.errors import UserError
from rollout_workers.grading.bundle import BOOT, INTERPRETER_FLAGS, bundle, request_bytes
from rollout_workers.grading.confined import (
    KILL_DEADLINE_S,
    START_DEADLINE_S,
    Confined,
    Pipes,
    StartFailure,
    launch,
    memory_file,
)
from rollout_workers.grading.interpreter import find_interpreter, readable_pieces
from rollout_workers.grading.limits import SandboxLimits
from rollout_workers.grading.namespaces import NamespacesRefused, user_ids_of_root, wrap_command
from rollout_workers.grading.seccomp import UnsupportedArchitecture, build_filter

_ENVIRONMENT = {"PYTHONHASHSEED": "0", "LANG": "C.UTF-8", "HOME": "/tmp"}


class SandboxMode(StrEnum):
    """How programs are isolated."""

    NAMESPACES = "namespaces"
    """bubblewrap: nothing of the host is visible."""
    PROCESS = "process"
    """Landlock and seccomp in one process of the host, for kernels that refuse namespaces; weaker, and only when asked for."""


class SandboxError(UserError):
    """This machine cannot isolate programs as asked; the line says what is missing."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A tried isolation; `open_sandbox` makes it."""

    mode: SandboxMode
    limits: SandboxLimits

    @contextmanager
    def run(
        self, names: tuple[str, ...], arguments: tuple[object, ...], *, fds: Sequence[int] = ()
    ) -> Iterator[Confined]:
        """Starts the bundled program `names` as `main(policy, result_fd, *arguments)`; on leaving, its whole tree is gone.

        `fds` are descriptors that it inherits under the same numbers. Raises StartFailure.
        """
        confined = self._start(names, arguments, tuple(fds))
        try:
            yield confined
        finally:
            confined.close()

    def _start(self, names: tuple[str, ...], arguments: tuple[object, ...], fds: tuple[int, ...]) -> Confined:
        alone = self.mode is SandboxMode.PROCESS
        syscalls = _syscall_filter(self.limits.num_processes > 1, alone)
        modules = bundle(*(("unprivileged",) if alone else ()), *names)
        pipes = Pipes.make()
        handed = [memory_file(request_bytes(modules, (self._policy(syscalls), pipes.result_end, *arguments)))]
        command = [find_interpreter().executable, *INTERPRETER_FLAGS, "-c", BOOT, str(handed[0])]
        inherited = [*fds, pipes.result_end]
        if not alone:
            handed.append(memory_file(syscalls))
            user_ids = user_ids_of_root()
            wrapping = wrap_command(
                find_interpreter(), filter_fd=handed[-1], info_fd=pipes.info_end, tmp_bytes=self.limits.file_bytes,
                user_ids=user_ids, environment=_ENVIRONMENT,
            )  # fmt: skip
            command = [*wrapping, *command]
            inherited += [pipes.info_end, *([user_ids.namespace_fd] if user_ids else [])]
        try:
            return launch(
                command, inherited=[*inherited, *handed], environment=_ENVIRONMENT, namespaces=not alone, pipes=pipes
            )
        finally:
            for fd in handed:
                os.close(fd)

    def _policy(self, syscalls: bytes) -> tuple[object, ...]:
        """The `Policy` of the programs package."""
        limits = self.limits
        if self.mode is SandboxMode.PROCESS:
            rest = (-1, readable_pieces(find_interpreter()), syscalls, os.getpid())
            return (-1, limits.cpu_s, limits.memory_bytes, limits.file_bytes, *rest)
        user_ids = user_ids_of_root()
        # Without ids of its own, the first process inside is bubblewrap's and counts too.
        num_tasks = limits.num_processes + limits.num_threads + (user_ids is None)
        user_id = user_ids.pick() if user_ids else -1
        return (user_id, limits.cpu_s, limits.memory_bytes, limits.file_bytes, num_tasks, (), b"", 0)


def open_sandbox(mode: SandboxMode = SandboxMode.NAMESPACES, limits: SandboxLimits | None = None) -> Sandbox:
    """A sandbox that has been tried in this process. Raises SandboxError when this machine cannot isolate as asked."""
    limits = limits or SandboxLimits()
    if mode is SandboxMode.PROCESS and limits.num_processes != 1:
        raise SandboxError(f"sandbox mode 'process' allows num_processes = 1 only, not {limits.num_processes}")
    sandbox = Sandbox(mode, limits)
    check_sandbox(sandbox)
    return sandbox


@cache
def check_sandbox(sandbox: Sandbox) -> None:
    """Tries the forbidden acts inside `sandbox`, once per process. Raises SandboxError when one succeeds."""
    where = f"sandbox mode '{sandbox.mode}'"
    try:
        report = _probe(sandbox)
    except (StartFailure, NamespacesRefused, UnsupportedArchitecture) as error:
        hint = "docs/sandbox.md says what it needs, and what the weaker mode 'process' is"
        raise SandboxError(f"{where} cannot start here: {' '.join(str(error).split())}; {hint}") from error
    except TimeoutError as error:
        raise SandboxError(f"{where} cannot start here: its probe said nothing for {START_DEADLINE_S:g} s") from error
    if report:
        raise SandboxError(f"{where} does not hold here, so nothing will be run in it: {'; '.join(report)}")


def _probe(sandbox: Sandbox) -> list[str]:
    limits, interpreter = sandbox.limits, find_interpreter()
    wanted = [__file__, "/etc/passwd", "/etc/shadow", "/etc/hostname", f"/proc/{os.getpid()}/environ"]
    host_files = tuple(path for path in map(os.path.realpath, wanted) if os.path.exists(path))
    bounds = (limits.memory_bytes, limits.file_bytes, limits.num_processes, limits.num_threads)
    has_namespaces = sandbox.mode is SandboxMode.NAMESPACES
    arguments = (has_namespaces, host_files, interpreter.hidden, ("PWD", *_ENVIRONMENT), bounds, os.getpid())
    with sandbox.run(("wire", "link", "confine", "probe"), arguments) as probe:
        line = probe.read_line(deadline=time.monotonic() + START_DEADLINE_S)
        if line is None:
            status = probe.wait(KILL_DEADLINE_S)
            raise StartFailure(probe.complaint() or f"the probe ended without a word (exit status {status})")
    succeeded = json.loads(line)
    assert isinstance(succeeded, list)
    return [str(act) for act in succeeded]


@cache
def _syscall_filter(allow_processes: bool, alone: bool) -> bytes:
    return build_filter(allow_processes=allow_processes, alone=alone)
