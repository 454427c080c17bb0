"""Holds the model's code, and does with it what the judge asks.

Nothing here is trusted once the code is loaded: it may rewrite this module, and then it has only changed what it answers. What
counts is checked in the judge, on plain data.
"""

from __future__ import annotations

import builtins
import sys

from rollout_workers.grading.programs.confine import enter
from rollout_workers.grading.programs.link import Link, LinkLost, Outcome

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from rollout_workers.grading.programs.confine import Policy
    from rollout_workers.grading.programs.wire import Decoder, Encoder

MODULE = "solution"
_TEXT_LENGTH = 1000
_OWN_FRAMES = 32
"""Recursion depth that this program takes from the candidate's."""

PLAIN: dict[type, Callable[[Any], Any]] = {
    int: int.__pos__,
    float: float.__pos__,
    complex: complex.__pos__,
    str: lambda value: str.__add__(value, ""),
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
    tuple: lambda value: tuple(tuple.__iter__(value)),
    frozenset: lambda value: frozenset(frozenset.__iter__(value)),
}
"""How the content of an instance of a subclass is taken out, past anything that the subclass overrides."""
CONTENT: dict[type, Callable[[Any], Any]] = {
    list: lambda value: list(list.__iter__(value)),
    dict: lambda value: dict(dict.items(value)),
    set: lambda value: set(set.__iter__(value)),
    bytearray: lambda value: bytearray(bytearray.__iter__(value)),
}


def main(policy: Policy, result_fd: int, source: str, read_fd: int, write_fd: int, max_bytes: int) -> None:
    """Serves the judge until it hangs up."""
    enter(policy, (read_fd, write_fd))
    candidate = Candidate(source)
    candidate.link = link = Link(candidate, read_fd=read_fd, write_fd=write_fd, max_bytes=max_bytes)
    sys.setrecursionlimit(sys.getrecursionlimit() + _OWN_FRAMES)
    link.send_hello()
    try:
        link.serve_for_ever()
    except LinkLost:
        return


class Candidate:
    """The candidate's side of the link: a table of the objects that the judge holds handles of."""

    link: Link

    def __init__(self, source: str) -> None:
        self._source = source
        self._namespace: dict[str, Any] = {}
        self._objects: list[Any] = []
        self._index: dict[int, int] = {}
        self._callbacks: dict[int, Callable[..., Any]] = {}
        self._callback_ids: dict[int, int] = {}
        self._judge_errors: dict[int, tuple[BaseException, int]] = {}
        self._loop: Any = None

    def encode_other(self, value: Any, encoder: Encoder) -> list[Any]:
        """A handle; with the content, when the value is of a subclass of an immutable built-in type."""
        if id(value) in self._callback_ids:
            return ["k", self._callback_ids[id(value)]]
        kind = type(value)
        if isinstance(value, type):
            return ["y", self._number(value)]
        if isinstance(value, BaseException):
            return self.encode_error(value, encoder)
        handle = [self._number(value), self._number(kind)]
        for base in kind.__mro__:
            if base in PLAIN:
                return ["x", encoder.encode(PLAIN[base](value)), *handle]
        return ["h", *handle]

    def decode_other(self, data: list[Any], decoder: Decoder) -> Any:
        """What the judge passes beside plain data: handles, and its own functions and iterators."""
        tag, number = data[0], data[1]
        if tag == "h":
            return self._objects[number]
        if tag == "imp":
            __import__(number)
            return getattr(sys.modules[number], data[2])
        if tag == "k":
            return self._callback(number, data[2])
        return self._pull(number)

    def handle(self, operation: str, values: list[Any]) -> Any:
        """One request of the judge."""
        if operation == "call":
            target, arguments, keywords = values
            return target(*arguments, **keywords)
        if operation == "special":
            target, name, arguments = values
            return getattr(type(target), name)(target, *arguments)
        return getattr(self, "_do_" + operation)(*values)

    def encode_error(self, error: BaseException, encoder: Encoder) -> list[Any]:
        """A handle of the exception, its class, the built-in class it derives from, its arguments and its text."""
        if id(error) in self._judge_errors:
            return ["own", self._judge_errors[id(error)][1]]
        kind = type(error)
        known = [base for base in kind.__mro__ if getattr(builtins, base.__name__, None) is base]
        arguments, text = [], ""
        with Outcome():
            arguments = encoder.items(list(error.args))
        with Outcome():
            text = str.__add__(str(error), "")[:_TEXT_LENGTH]
        given = encoder.encode(text)
        return ["error", self._number(error), self._number(kind), known[0].__name__, kind is known[0], arguments, given]

    def decode_error(self, data: Any, decoder: Decoder) -> BaseException:
        """The judge's exception, remembered so that it stays the same one on its way back."""
        number, name, arguments, own = data
        if own >= 0:
            return self._objects[own]
        kind = getattr(builtins, name)
        error = kind.__new__(kind)
        error.args = tuple(decoder.items(arguments))
        self._judge_errors[id(error)] = (error, number)
        return error

    def _do_load(self) -> None:
        module = type(sys)(MODULE)
        sys.modules[MODULE] = module
        self._namespace = module.__dict__
        code = compile(self._source, f"<{MODULE}>", "exec", dont_inherit=True)
        exec(code, self._namespace)  # noqa: S102  (what this process is for)

    def _do_export(self, name: str) -> tuple[bool, Any]:
        return name in self._namespace, self._namespace.get(name)

    def _do_names(self) -> list[str]:
        return [name for name in self._namespace if not name.startswith("_")]

    def _do_attr(self, target: Any, name: str) -> Any:
        return getattr(target, name)

    def _do_set(self, target: Any, name: str, value: Any) -> None:
        setattr(target, name, value)

    def _do_del(self, target: Any, name: str) -> None:
        delattr(target, name)

    def _do_describe(self, kind: type) -> tuple[str, tuple[Any, ...], tuple[str, ...], bool]:
        traits = [
            name
            for name in dir(kind)
            if name.startswith("__") and getattr(kind, name, None) is not getattr(object, name, None)
        ]
        return kind.__name__, kind.__mro__[1:], tuple(traits), getattr(kind, "__hash__", None) is None

    def _do_content(self, target: Any) -> Any:
        return next(CONTENT[base](target) for base in type(target).__mro__ if base in CONTENT)

    def _do_printed(self) -> str:
        """What was printed since this was last asked for; the first time it starts to be kept."""
        import io

        kept = sys.stdout.getvalue() if isinstance(sys.stdout, io.StringIO) else ""
        sys.stdout = io.StringIO()
        return kept

    def _do_copy(self, target: Any, deep: bool) -> Any:
        import copy

        return copy.deepcopy(target) if deep else copy.copy(target)

    def _do_await(self, target: Any) -> Any:
        import asyncio

        if self._loop is None:
            self._loop = asyncio.new_event_loop()

        async def whole() -> Any:
            return await target

        return self._loop.run_until_complete(whole())

    def _number(self, value: Any) -> int:
        number = self._index.get(id(value))
        if number is None:
            number = self._index[id(value)] = len(self._objects)
            self._objects.append(value)
        return number

    def _callback(self, number: int, name: str) -> Callable[..., Any]:
        if number not in self._callbacks:

            def callback(*arguments: Any, **keywords: Any) -> Any:
                return self.link.request("callback", number, arguments, keywords)

            callback.__name__ = callback.__qualname__ = name
            self._callbacks[number] = callback
            self._callback_ids[id(callback)] = number
        return self._callbacks[number]

    def _pull(self, number: int) -> Iterator[Any]:
        while True:
            found, value = self.link.request("next", number)
            if not found:
                return
            yield value
