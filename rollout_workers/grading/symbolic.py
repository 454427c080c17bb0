"""Symbolic equality of MATH answers by math-verify, in processes of its own.

    compare ──► an idle process ──► request, one JSON line ──► symbolic_child.py: parse both, verify
                                ◄── reply, one JSON line   ◄──
    Each wait and who ends it: for an idle process (another thread's deadline), for a start (`START_DEADLINE_S`), for a reply
    (`deadline_s`). A process that misses its deadline or ends is killed, reaped and, when next needed, replaced.

Invariant: a comparison ends at its deadline whatever the expressions are, from any thread, and a process that fails says nothing
about the answer. math-verify keeps its defaults, so that scores compare with published ones: floats are rounded to 6 decimals, and
what it cannot parse or evaluate is different.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import queue
import selectors
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import IO, Protocol

MAX_FORMULA_CHARS = 2_000
"""Longer formulas are not compared symbolically."""
MEMORY_BYTES = 4 * 2**30
"""Address space of one process."""
START_DEADLINE_S = 120.0
IDLE_DEADLINE_S = 300.0
CLOSE_DEADLINE_S = 2.0
MAX_COMPARISONS = 5_000
"""After these a process is replaced: the caches of its libraries only grow."""

_SHARED_LOCK = threading.Lock()
_PROGRAM = Path(__file__).with_name("symbolic_child.py")


class Verdict(StrEnum):
    """What a symbolic comparison found."""

    EQUAL = "equal"
    DIFFERENT = "different"
    TIMED_OUT = "timed_out"
    FAILED = "failed"
    """Nothing: the process could not start, or ended by itself."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The outcome of one comparison."""

    verdict: Verdict
    detail: str = ""


class SymbolicChecker(Protocol):
    """Compares formulas in LaTeX."""

    def compare(self, reference: str, answer: str, *, deadline_s: float) -> Comparison:
        """Whether `answer` equals `reference`, found within `deadline_s` seconds."""
        ...


class MathVerify:
    """Up to `num_processes` math-verify processes, started when first needed; safe to use from any number of threads."""

    def __init__(self, *, num_processes: int = 2, program: Path = _PROGRAM) -> None:
        if num_processes < 1:
            raise ValueError(f"num_processes must be >= 1, got {num_processes}")
        self._processes = [_Process(program) for _ in range(num_processes)]
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        for process in reversed(self._processes):
            self._idle.put(process)
        atexit.register(self.close)

    def compare(self, reference: str, answer: str, *, deadline_s: float) -> Comparison:
        """Whether `answer` equals `reference`; the deadline does not count the wait for a process that is busy or starting."""
        if not deadline_s > 0:
            raise ValueError(f"deadline_s must be > 0, got {deadline_s}")
        longest = max(len(reference), len(answer))
        if longest > MAX_FORMULA_CHARS:
            detail = f"{longest} characters; at most {MAX_FORMULA_CHARS} are compared symbolically"
            return Comparison(Verdict.DIFFERENT, detail)
        try:
            process = self._idle.get(timeout=IDLE_DEADLINE_S)
        except queue.Empty:
            return Comparison(Verdict.FAILED, f"no math-verify process became free within {IDLE_DEADLINE_S:g} s")
        try:
            return process.compare(reference, answer, deadline_s)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """Ends the processes, those of comparisons under way too; a later comparison starts new ones."""
        idle: list[_Process] = []
        while not self._idle.empty():
            with contextlib.suppress(queue.Empty):
                idle.append(self._idle.get_nowait())
        for process in self._processes:
            if process in idle:
                process.stop()
                self._idle.put(process)
            else:
                process.kill()


def shared_math_verify() -> MathVerify:
    """The math-verify processes that all graders of this process share."""
    with _SHARED_LOCK:  # a cache alone lets the first callers make one each
        return _shared()


@cache
def _shared() -> MathVerify:
    return MathVerify()


class _Process:
    """One math-verify process and its pipes; used by one thread at a time, but for `kill`."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None
        self._errors: IO[bytes] | None = None
        self._owner = 0
        self._num_comparisons = 0
        self._missing = ""
        """Why math-verify cannot be imported: trying again would not help."""

    def compare(self, reference: str, answer: str, deadline_s: float) -> Comparison:
        failure = self._start()
        if failure:
            return Comparison(Verdict.FAILED, failure)
        self._num_comparisons += 1
        request = json.dumps({"reference": reference, "answer": answer, "deadline_s": deadline_s}) + "\n"
        reply = None
        try:
            reply = self._exchange(request.encode(), deadline_s)
        except (OSError, EOFError):
            return Comparison(Verdict.FAILED, self._last_words())
        finally:
            # Also when this thread is interrupted: a reply that comes later would be taken for the next one.
            if reply is None:
                self.stop()
        if reply is None:
            return Comparison(Verdict.TIMED_OUT, f"no symbolic comparison within {deadline_s:g} s")
        return Comparison(Verdict(reply["status"]), reply["detail"])

    def kill(self) -> None:
        """Ends and reaps the process; whoever waits for its reply sees the end of its output."""
        if self._process is not None and self._owner == os.getpid():
            self._process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(CLOSE_DEADLINE_S)

    def stop(self) -> None:
        """Ends the process and forgets it. One that a forked parent started is forgotten only."""
        self.kill()
        streams = [self._errors]
        if self._process is not None:
            streams += [self._process.stdin, self._process.stdout]
        self._process = self._errors = None
        for stream in streams:
            if stream is not None:
                stream.close()

    def _start(self) -> str:
        """Makes a process ready; returns why there is none, or nothing."""
        if self._missing:
            return self._missing
        if self._process is not None:
            is_usable = self._owner == os.getpid() and self._process.poll() is None
            if is_usable and self._num_comparisons < MAX_COMPARISONS:
                return ""
            self.stop()
        # -P: the folder of the program is not searched for modules, which would hide the standard library's `numbers`.
        command = [sys.executable, "-P", str(self._program), str(MEMORY_BYTES)]
        reply = None
        try:
            self._errors = tempfile.TemporaryFile()  # noqa: SIM115
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the run, which closes its processes itself
            )
            self._owner, self._num_comparisons = os.getpid(), 0
            reply = self._exchange(b"", START_DEADLINE_S)
        except EOFError:
            return self._last_words()
        except OSError as error:
            return f"the math-verify process could not start: {error}"
        finally:
            if reply is None or reply["status"] != "ready":
                self.stop()
        if reply is None:
            return f"the math-verify process was not ready within {START_DEADLINE_S:g} s"
        if reply["status"] != "ready":
            self._missing = f"math-verify is not usable here: {reply['detail']}"
        return self._missing

    def _exchange(self, request: bytes, deadline_s: float) -> dict[str, str] | None:
        """Sends `request` and reads one reply; None at the deadline, EOFError or OSError when the process ends."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        stdin, stdout = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(stdin, False)
        deadline, reply = time.monotonic() + deadline_s, b""
        with selectors.DefaultSelector() as selector:
            selector.register(stdout, selectors.EVENT_READ)
            if request:
                selector.register(stdin, selectors.EVENT_WRITE)
            while not reply.endswith(b"\n"):
                ready = selector.select(max(deadline - time.monotonic(), 0.0))
                if not ready and time.monotonic() >= deadline:
                    return None
                for key, _ in ready:
                    if key.fd == stdout:
                        chunk = os.read(stdout, 2**16)
                        if not chunk:
                            raise EOFError
                        reply += chunk
                    else:
                        request = request[os.write(stdin, request) :]
                        if not request:
                            selector.unregister(stdin)
        message: dict[str, str] = json.loads(reply)
        return message

    def _last_words(self) -> str:
        """How the process ended, and the last line of what it wrote to standard error."""
        assert self._process is not None
        assert self._errors is not None
        self.kill()
        self._errors.seek(0)
        lines = self._errors.read()[-2000:].decode(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        return f"the math-verify process ended with exit code {self._process.returncode}{last and ': ' + last}"
