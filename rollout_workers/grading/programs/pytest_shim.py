"""The part of pytest that tests of functions use: `raises`, `approx`, `fixture`, `fail`, `skip` and `mark`.

Invariant: what is missing here raises Unsupported, and what is here compares plain data only.
"""

from __future__ import annotations

from rollout_workers.grading.programs.collect import Skipped, parameters_of
from rollout_workers.grading.programs.remote import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any, NoReturn

FIXTURES: dict[str, Callable[..., Any]] = {}
_NUMBERS = ("int", "float", "complex", "bool", "Decimal", "Fraction")


class Failed(AssertionError):
    """A test that gave up."""


class ExceptionInfo:
    """What `raises` caught."""

    value: Any = None

    @property
    def type(self) -> Any:
        return type(self.value)

    def match(self, pattern: str) -> bool:
        import re

        if not re.search(pattern, str(self.value)):
            raise Failed(f"{pattern!r} does not match {str(self.value)[:200]!r}")
        return True


class _Raises:
    def __init__(self, expected: Any, match: str | None) -> None:
        self._expected, self._match = expected, match
        self._info = ExceptionInfo()

    def __enter__(self) -> ExceptionInfo:
        return self._info

    def __exit__(self, kind: Any, error: BaseException | None, traceback: TracebackType | None) -> bool:
        if error is None:
            raise Failed(f"did not raise {self._expected}")
        stopped = isinstance(error, RuntimeError) and isinstance(error.__cause__, StopIteration | StopAsyncIteration)
        self._info.value = error.__cause__ if stopped and isinstance(error.__cause__, self._expected) else error
        if not isinstance(self._info.value, self._expected):
            return False
        if self._match is not None:
            self._info.match(self._match)
        return True


def raises(
    expected: Any, function: Callable[..., Any] | None = None, *values: Any, match: str | None = None, **keywords: Any
) -> Any:
    """`pytest.raises`, as a context manager or with a function to call."""
    context = _Raises(expected, match)
    if function is None:
        return context
    with context as info:
        function(*values, **keywords)
    return info


class approx:
    """`pytest.approx` for numbers, sequences and mappings of exact built-in types."""

    def __init__(self, expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> None:
        self._expected, self._rel, self._abs, self._nan_ok = expected, rel, abs, nan_ok

    def __eq__(self, actual: object) -> bool:
        return self._agree(self._expected, actual)

    def __ne__(self, actual: object) -> bool:
        return not self == actual

    def __hash__(self) -> NoReturn:
        raise TypeError("unhashable type: 'approx'")

    def __repr__(self) -> str:
        return f"approx({self._expected!r})"

    def _agree(self, expected: Any, actual: Any) -> bool:
        if type(expected) is dict:
            same = type(actual) is dict and expected.keys() == actual.keys()
            return same and all(self._agree(expected[key], actual[key]) for key in expected)
        if type(expected) in (list, tuple):
            same = type(actual) in (list, tuple) and len(expected) == len(actual)
            return same and all(map(self._agree, expected, actual))
        if type(expected).__name__ not in _NUMBERS or type(expected) is bool:
            return type(actual) is type(expected) and bool(actual == expected)
        return type(actual).__name__ in _NUMBERS and _is_plain(actual) and self._near(expected, actual)

    def _near(self, expected: Any, actual: Any) -> bool:
        if expected == actual:
            return True
        if expected != expected or actual != actual:
            return self._nan_ok and expected != expected and actual != actual
        if abs(expected) == float("inf") or abs(actual) == float("inf"):
            return False
        absolute = 1e-12 if self._abs is None else self._abs
        relative = (1e-6 if self._abs is None else 0.0) if self._rel is None else self._rel
        return bool(abs(expected - actual) <= max(absolute, relative * abs(expected)))


def _is_plain(value: Any) -> bool:
    return type(value).__module__ in ("builtins", "decimal", "fractions")


def fail(reason: str = "", **_: Any) -> NoReturn:
    """`pytest.fail`."""
    raise Failed(reason)


def skip(reason: str = "", **_: Any) -> NoReturn:
    """`pytest.skip`."""
    raise Skipped(reason)


def fixture(function: Any = None, **options: Any) -> Any:
    """`pytest.fixture` without parameters; each test gets a fresh value, whatever the scope."""
    if options.get("params") or options.get("autouse"):
        raise Unsupported("the tests use a fixture with 'params' or 'autouse'")
    if function is None:
        return lambda inner: fixture(inner, name=options.get("name"))
    FIXTURES[options.get("name") or function.__name__] = function
    return function


class _CapSys:
    """`capsys`, for what goes through `sys.stdout`."""

    def __init__(self) -> None:
        import io
        import sys

        self._before, self._sys = sys.stdout, sys
        self._kept = sys.stdout = io.StringIO()

    def readouterr(self) -> Any:
        text = self._kept.getvalue()
        self._kept.seek(0)
        self._kept.truncate()
        return _Captured((text, ""))

    def close(self) -> None:
        self._sys.stdout = self._before


class _Captured(tuple[str, str]):
    out = property(lambda self: self[0])
    err = property(lambda self: self[1])


def _capsys() -> Iterator[_CapSys]:
    captured = _CapSys()
    yield captured
    captured.close()


FIXTURES["capsys"] = _capsys


class _Case:
    def __init__(self, *values: Any, **_: Any) -> None:
        self.values = values


param = _Case


def _parametrize(names: str | Iterable[str], cases: Iterable[Any], **options: Any) -> Callable[..., Any]:
    if options.get("indirect"):
        raise Unsupported("the tests use parametrize with 'indirect'")
    keys = [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)
    given = [_case_values(case, len(keys)) for case in cases]

    def decorate(function: Any) -> Any:
        def test(*positional: Any, **keywords: Any) -> None:
            for values in given:
                function(*positional, **keywords, **dict(zip(keys, values, strict=True)))

        test._needs = [name for name in parameters_of(function) if name not in ("self", *keys)]  # type: ignore[attr-defined]
        return test

    return decorate


def _case_values(case: Any, count: int) -> list[Any]:
    if isinstance(case, _Case):
        return list(case.values)
    return [case] if count == 1 else list(case)


def _never(function: Any) -> Any:
    def test(*_: Any, **__: Any) -> None:
        return

    test._needs = []  # type: ignore[attr-defined]
    return test


def _same(function: Any) -> Any:
    return function


class _Mark:
    parametrize = staticmethod(_parametrize)
    skip = staticmethod(lambda *reason, **_: _never(reason[0]) if reason and callable(reason[0]) else _never)
    xfail = skip

    @staticmethod
    def skipif(condition: Any, **_: Any) -> Callable[..., Any]:
        return _never if condition else _same

    def __getattr__(self, name: str) -> Any:
        """Any other mark only labels, with or without arguments."""
        return lambda *values, **_: values[0] if len(values) == 1 and callable(values[0]) else _same


mark = _Mark()


def __getattr__(name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(name)
    raise Unsupported(f"the tests use pytest.{name}")
