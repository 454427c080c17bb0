"""Runs the tests against stand-ins of the candidate's functions and reports one verdict; never runs the candidate's code.

Invariant: "correct" is written once, with the nonce, after the last test has returned, and only if the link to the candidate never
broke, something of the candidate's was used, and the tests asked for nothing that this grader lacks.
"""

from __future__ import annotations

import sys
from posix import write

from rollout_workers.grading.programs.collect import run_tests
from rollout_workers.grading.programs.confine import enter
from rollout_workers.grading.programs.desk import Desk
from rollout_workers.grading.programs.link import Link, LinkLost, Outcome, to_json
from rollout_workers.grading.programs.names import TestSource
from rollout_workers.grading.programs.remote import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any

    from rollout_workers.grading.programs.confine import Policy

CORRECT, WRONG, BROKEN, LOST = "correct", "wrong", "broken", "lost"
_SHIM = "rollout_workers.grading.programs.pytest_shim"
_DETAIL_LENGTH = 500
_TESTS = "<tests>"


def main(
    policy: Policy,
    result_fd: int,
    nonce: str,
    sources: tuple[str, str],
    exports: tuple[str, ...],
    read_fd: int,
    write_fd: int,
    max_bytes: int,
) -> None:
    """Reports "ready" when both processes are confined, then [nonce, verdict, detail], each a line of JSON."""
    enter(policy, (result_fd, read_fd, write_fd))
    judge = Judge(sources, exports)
    judge.desk.link = Link(judge.desk, read_fd=read_fd, write_fd=write_fd, max_bytes=max_bytes)
    try:
        ready = judge.desk.link.receive() == ["hello"]
    except LinkLost:
        ready = False
    _report(result_fd, ["ready" if ready else "alone"])
    if ready:
        reserve = bytearray(1 << 20)  # memory to report with, should the tests have used up the rest
        verdict, detail = judge.verdict()
        del reserve
        _report(result_fd, [nonce, verdict, " ".join(detail.split())[:_DETAIL_LENGTH]])


class Judge:
    """One check."""

    def __init__(self, sources: tuple[str, str], exports: tuple[str, ...]) -> None:
        self._tests_source, self._context_source = sources
        self._exports = exports
        self._missing: set[str] = set()
        self._tests: TestSource | None = None
        self.desk = Desk()

    def verdict(self) -> tuple[str, str]:
        """(verdict, why)."""
        try:
            return self._verdict()
        except LinkLost as lost:
            return LOST, str(lost)

    def _verdict(self) -> tuple[str, str]:
        with Outcome() as run:
            self._run()
        if self.desk.link.lost:
            return LOST, self.desk.link.lost
        if self.desk.unsupported:
            return BROKEN, self.desk.unsupported
        if run.error is not None:
            return self._blame(run.error)
        if self.desk.num_uses == 0:
            return BROKEN, "the tests never used anything of the candidate"
        return CORRECT, ""

    def _run(self) -> None:
        tests = self._tests = TestSource(self._tests_source, _TESTS)
        if tests.imports("unittest.mock") or tests.imports("mock"):
            raise Unsupported("the tests use unittest.mock, which cannot reach into the candidate's process")
        self.desk.echo = "stdout" in self._tests_source or "capsys" in self._tests_source
        namespace = self._namespace(tests)
        code = tests.compile()
        exec(code, namespace)  # noqa: S102  (the tests, in a process of their own)
        run_tests(namespace, tests.test_names())

    def _namespace(self, tests: TestSource) -> dict[str, Any]:
        """Where the tests run: the context's names, the candidate's, and modules that the tests take for granted."""
        module = type(sys)("tests")
        sys.modules["tests"] = module
        namespace: dict[str, Any] = module.__dict__
        exports = set(self._exports)
        if self._context_source:
            context = TestSource(self._context_source, "<context>")
            if tests.needed & (context.defined - exports):
                exec(context.compile(), namespace)  # noqa: S102  (trusted definitions that come with the problem)
        modules = {name: module for name, module in tests.standard_modules().items() if name not in exports}
        namespace.update({name: module for name, module in modules.items() if name not in namespace})
        exports = exports or {name for name in tests.needed if name not in namespace}
        self.desk.reached = True
        if self.desk.echo:
            self.desk.ask("printed")
        self.desk.ask("load")
        found = {name: value for name in sorted(exports) for there, value in [self._export(name)] if there}
        namespace.update(found)
        self.desk.reached = not all(map(callable, found.values()))
        if tests.imports("solution"):
            sys.modules["solution"] = self._solution()
        if _SHIM in sys.modules:
            sys.modules["pytest"] = sys.modules[_SHIM]
        return namespace

    def _export(self, name: str) -> tuple[bool, Any]:
        answer = self.desk.ask("export", name)
        if type(answer) is not tuple or len(answer) != 2:
            self.desk.link.break_off("it sent a malformed answer")
        found, value = answer
        if found is not True:
            self._missing.add(name)
            return False, None
        self.desk.export(name, value)
        return True, value

    def _solution(self) -> ModuleType:
        """The module that tests import the candidate's names from."""
        module = type(sys)("solution")

        def attribute(name: str) -> Any:
            if name == "__all__":
                self.desk.reached = True
                return list(self.desk.ask("names"))
            found, value = (False, None) if name.startswith("__") else self._export(name)
            if not found:
                raise AttributeError(name)
            return value

        module.__getattr__ = attribute  # type: ignore[method-assign]
        return module

    def _blame(self, error: BaseException) -> tuple[str, str]:
        """Whose fault an exception is that ended the tests."""
        text = ""
        with Outcome() as speech:  # the text may hold what cannot be written out, and stand-ins ask the candidate
            text = str(error)[:_DETAIL_LENGTH]
        said = f"{type(error).__name__}: {text}" if speech.error is None else type(error).__name__
        where = self._where(error)
        if isinstance(error, AssertionError):
            return WRONG, f"{where}: {said}" if text else f"{where}: assertion failed"
        if self.desk.is_remote_error(error):
            return WRONG, f"the candidate raised {said} ({where})"
        if isinstance(error, NameError) and error.name in self._missing:
            return WRONG, f"the candidate does not define '{error.name}'"
        if isinstance(error, ImportError) and error.name == "solution" and self._missing:
            return WRONG, f"the candidate does not define {sorted(self._missing)}"
        if self._is_of_tests(error) or not self.desk.reached:
            return BROKEN, f"{said} ({where})"
        return WRONG, f"{said} ({where})"

    def _is_of_tests(self, error: BaseException) -> bool:
        """Whether the tests would raise `error` with any candidate."""
        if isinstance(error, NameError):
            return self._tests is not None and error.name in self._tests.used
        if isinstance(error, ImportError):
            return (error.name or "").partition(".")[0] in self._tests_source
        return isinstance(error, Unsupported | SystemExit)

    def _where(self, error: BaseException) -> str:
        """The innermost line of the tests that `error` went through."""
        line, traceback = 0, error.__traceback__
        while traceback is not None:
            if traceback.tb_frame.f_code.co_filename == _TESTS:
                line = traceback.tb_lineno
            traceback = traceback.tb_next
        if self._tests is None or not 0 < line <= len(self._tests.lines):
            return "before the tests"
        return f"tests line {line}, '{self._tests.lines[line - 1].strip()[:200]}'"


def _report(result_fd: int, message: list[Any]) -> None:
    data = to_json(message) + b"\n"
    while data:
        data = data[write(result_fd, data) :]
