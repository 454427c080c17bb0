"""Runs the test functions of a module the way pytest would, as far as the judge can.

Invariant: what it cannot run is Unsupported, which no verdict about the candidate follows from.
"""

from __future__ import annotations

import sys

from rollout_workers.grading.programs.remote import Unsupported

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SHIM = "rollout_workers.grading.programs.pytest_shim"


class Skipped(BaseException):
    """A test that does not want to run."""


def run_tests(namespace: dict[str, Any], names: list[str]) -> None:
    """Runs the test functions and classes `names` of `namespace` in order; what they raise goes through."""
    for name in names:
        test = namespace.get(name)
        if not isinstance(test, type):
            _run(test)
        elif any(base.__name__ == "TestCase" for base in test.__mro__):
            _run_unittest(test)
        else:
            for method in _methods(test):
                instance = test()
                _call_if_there(instance, "setup_method")
                _run(getattr(instance, method))
                _call_if_there(instance, "teardown_method")


def _methods(test: type) -> list[str]:
    return [name for name in dir(test) if name.startswith("test")]


def _call_if_there(instance: Any, name: str) -> None:
    method = getattr(instance, name, None)
    if method is not None:
        method(*[None][: len(parameters_of(method))])


def _run_unittest(test: Any) -> None:
    test.setUpClass()
    for name in _methods(test):
        case = test(name)
        case.setUp()
        _finish(getattr(case, name)())
        case.tearDown()


def _run(test: Any) -> None:
    shim = sys.modules.get(_SHIM)
    fixtures = _Fixtures({} if shim is None else shim.FIXTURES)
    try:
        _finish(test(**{name: fixtures.value(name) for name in parameters_of(test)}))
    except Skipped:
        return
    fixtures.close()


def _finish(result: Any) -> None:
    """Awaits the coroutine of an async test."""
    if hasattr(result, "__await__"):
        import asyncio

        asyncio.run(result)


def parameters_of(function: Any) -> list[str]:
    """Names of the parameters without defaults, `self` left out."""
    needed = getattr(function, "_needs", None)
    if needed is not None:
        return list(needed)
    plain = getattr(function, "__func__", function)
    code = getattr(plain, "__code__", None)
    if code is None:
        raise Unsupported(f"a test is a {type(plain).__name__}, not a function")
    names = list(code.co_varnames[: code.co_argcount])[plain is not function :]
    return names[: len(names) - len(plain.__defaults__ or ())]


class _Fixtures:
    """The fixtures of one test."""

    def __init__(self, makers: dict[str, Callable[..., Any]]) -> None:
        self._makers = makers
        self._values: dict[str, Any] = {}
        self._open: list[Any] = []

    def value(self, name: str) -> Any:
        if name not in self._values:
            maker = self._maker(name)
            value = maker(**{needed: self.value(needed) for needed in parameters_of(maker)})
            if hasattr(value, "__next__") and type(value).__name__ == "generator":
                self._open.append(value)
                value = next(value)
            self._values[name] = value
        return self._values[name]

    def close(self) -> None:
        for generator in reversed(self._open):
            next(generator, None)

    def _maker(self, name: str) -> Callable[..., Any]:
        if name not in self._makers:
            raise Unsupported(f"the tests need the fixture '{name}', which they do not define")
        return self._makers[name]
