"""The verdict on a model's code: tests run in one sandbox, the code in another, and only plain data passes between them.

Invariant: nothing the code does in its own process turns into a pass. The judge compares built-in values that it rebuilt
itself, reports on a pipe that the candidate's process does not have, and names a nonce that the candidate never saw. What goes
wrong in the grader is a `GRADER_ERROR` and says nothing about the code.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum

from cluster.errors import DeadlineExceeded
from rollout_workers.grading.answers import Grade, GradeKind
from rollout_workers.grading.confined import START_DEADLINE_S, Confined, StartFailure
from rollout_workers.grading.sandbox import Sandbox

_SHARED = ("wire", "link", "confine")
_CANDIDATE = (*_SHARED, "candidate")
_JUDGE = (*_SHARED, "remote", "desk", "names", "collect")
_EXIT_WAIT_S = 1.0
_CPU_SIGNAL_STATUS = 128 + signal.SIGXCPU
_DETAIL_LENGTH = 1000


class _Verdict(StrEnum):
    """What the judge reports; `programs/judge.py` writes these."""

    CORRECT = "correct"
    WRONG = "wrong"
    BROKEN = "broken"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class CodeCheck:
    """A candidate and what to hold it against; see docs/sandbox.md for what tests may do."""

    candidate: str
    """The model's whole code, as `extract_code` gives it."""
    tests: str
    """Runs to its end for a right candidate. Functions and classes named `test*` are run even if nothing calls them."""
    context: str = ""
    """Trusted definitions that the tests use beside the candidate's; `exports` win over them."""
    exports: tuple[str, ...] = ()
    """Names that the tests take from the candidate; empty: those that nothing else can give them."""
    timeout_s: float | None = None
    """Seconds for loading and testing; None is the sandbox's `wall_s`."""


def run_check(check: CodeCheck, *, sandbox: Sandbox) -> Grade:
    """The verdict on one candidate: `CORRECT` (score 1), `WRONG`, `TIMED_OUT` or `GRADER_ERROR` (score 0 each)."""
    try:
        kind, detail = _judge(check, sandbox)
    except StartFailure as error:
        kind, detail = GradeKind.GRADER_ERROR, f"the sandbox did not start: {error}"
    except DeadlineExceeded as error:
        kind, detail = GradeKind.GRADER_ERROR, str(error)
    except OSError as error:
        kind, detail = GradeKind.GRADER_ERROR, f"the machine is short of something: {error}"
    detail = detail.encode("utf-8", "replace").decode()[:_DETAIL_LENGTH]
    return Grade(kind, float(kind is GradeKind.CORRECT), check.candidate, detail)


def run_checks(checks: Sequence[CodeCheck], *, sandbox: Sandbox, num_parallel: int = 0) -> list[Grade]:
    """The verdicts in the order of `checks`, `num_parallel` at a time (0: one for each processor)."""
    with ThreadPoolExecutor(num_parallel or len(os.sched_getaffinity(0)), thread_name_prefix="code-check") as pool:
        return list(pool.map(lambda check: run_check(check, sandbox=sandbox), checks))


def _judge(check: CodeCheck, sandbox: Sandbox) -> tuple[GradeKind, str]:
    nonce = secrets.token_hex(16)
    with _both_running(check, sandbox, nonce) as (judge, candidate):
        deadline = time.monotonic() + START_DEADLINE_S
        try:
            ready = judge.read_line(deadline=deadline)
        except TimeoutError:
            what = "judge and candidate to be confined"
            raise DeadlineExceeded.waiting_for(what, seconds=START_DEADLINE_S, missing="the judge's word") from None
        if ready is None or _parsed(ready) != ["ready"]:
            who = judge if ready is None else candidate
            status = who.wait(_EXIT_WAIT_S)
            raise StartFailure(who.complaint() or f"its process ended with status {status}")
        seconds = sandbox.limits.wall_s if check.timeout_s is None else check.timeout_s
        try:
            line = judge.read_line(deadline=time.monotonic() + seconds)
        except TimeoutError:
            return GradeKind.TIMED_OUT, f"killed after {seconds:g} s"
        return _grade(line, nonce, judge, candidate)


def _grade(line: bytes | None, nonce: str, judge: Confined, candidate: Confined) -> tuple[GradeKind, str]:
    """Reads the judge's report; only that and exit statuses of the kernel's making are believed."""
    if line is None:
        status = judge.wait(_EXIT_WAIT_S)
        if status == _CPU_SIGNAL_STATUS:
            return GradeKind.TIMED_OUT, "the tests used up their processor time"
        return GradeKind.GRADER_ERROR, f"the tests' process ended without a verdict (status {status})"
    report = _parsed(line)
    if len(report) != 3 or report[0] != nonce:
        return GradeKind.GRADER_ERROR, "the tests' process reported something without the nonce"
    detail = str(report[2])
    match _Verdict(str(report[1])):
        case _Verdict.CORRECT:
            return GradeKind.CORRECT, ""
        case _Verdict.WRONG:
            return GradeKind.WRONG, detail
        case _Verdict.BROKEN:
            return GradeKind.GRADER_ERROR, f"the tests cannot be graded: {detail}"
    status = candidate.wait(_EXIT_WAIT_S)
    if status == _CPU_SIGNAL_STATUS:
        return GradeKind.TIMED_OUT, "the candidate used up its processor time"
    return (
        GradeKind.WRONG,
        f"the candidate was lost: {detail} (status {'none, it still runs' if status is None else status})",
    )


def _parsed(line: bytes) -> list[object]:
    """The JSON list in `line`, or an empty one: tests may write to any descriptor of their process."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return []
    return message if isinstance(message, list) else []


@contextmanager
def _both_running(check: CodeCheck, sandbox: Sandbox, nonce: str) -> Iterator[tuple[Confined, Confined]]:
    """Judge and candidate, linked by two pipes of which nobody else has an end."""
    fds = candidate_reads, judge_writes, judge_reads, candidate_writes = (*os.pipe(), *os.pipe())
    open_fds = set(fds)
    max_bytes = sandbox.limits.output_bytes
    shim = ("pytest_shim",) if "pytest" in check.tests or "capsys" in check.tests else ()
    given = (nonce, (check.tests, check.context), check.exports, judge_reads, judge_writes, max_bytes)
    try:
        with (
            sandbox.run((*_JUDGE, *shim, "judge"), given, fds=(judge_reads, judge_writes)) as judge,
            sandbox.run(
                _CANDIDATE, (check.candidate, candidate_reads, candidate_writes, max_bytes),
                fds=(candidate_reads, candidate_writes),
            ) as candidate,
        ):  # fmt: skip
            while open_fds:
                os.close(open_fds.pop())
            yield judge, candidate
    finally:
        for fd in open_fds:
            os.close(fd)
