"""Stand-ins, in the judge, for what lives in the candidate's process.

Invariant: a stand-in never equals plain data, is never ordered against it, and never answers arithmetic with it by plain data. An
answer that may decide a test (the expected value on one side) is thus computed here, on real built-in values, or not at all.

A stand-in does have what can be asked without telling the expected value: attributes, calls, items, length, truth, iteration,
conversions (`str`, `float`, ...). Two stand-ins are compared by the candidate's own classes.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType
    from typing import Any

    from rollout_workers.grading.programs.desk import Desk


class Unsupported(Exception):
    """The tests do what this grader cannot carry over to the candidate's process."""


_ASKED = (
    "len", "iter", "next", "reversed", "getitem", "setitem", "delitem", "bool", "str", "repr", "format", "bytes", "hash", "enter",
    "aiter", "anext", "aenter",
)  # fmt: skip
_NUMERIC = ("int", "float", "index", "complex", "round", "trunc", "floor", "ceil", "abs", "neg", "pos", "invert")
_ARITHMETIC = (
    "add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "divmod", "pow", "lshift", "rshift", "and", "xor", "or",
)  # fmt: skip
_ORDER = ("lt", "le", "gt", "ge")


class RemoteType(type):
    """Class of the stand-ins of the candidate's classes."""

    _remote_desk: Desk
    _remote_traits: frozenset[str]

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> RemoteType:
        raise Unsupported(f"the tests derive class {name} from one of the candidate's")

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        return cls._remote_desk.call(cls, arguments, keywords)

    def __getattr__(cls, name: str) -> Any:
        return cls._remote_desk.ask("attr", cls, name)

    def __setattr__(cls, name: str, value: Any) -> None:
        cls._remote_desk.ask("set", cls, name, value)

    def __iter__(cls) -> Any:
        return cls._remote_desk.ask("special", cls, "__iter__", ())

    def __len__(cls) -> Any:
        return cls._remote_desk.ask("special", cls, "__len__", ())

    def __bool__(cls) -> bool:
        return True

    def __getitem__(cls, key: Any) -> Any:
        return cls._remote_desk.ask("special", cls, "__getitem__", (key,))


class Remote:
    """Base of all stand-ins of objects."""

    __slots__ = ("_remote_number",)
    _remote_desk: Desk
    _remote_number: int
    _remote_content = False
    """Whether the object is of a subclass of list, dict, set or bytearray, whose content can be had as plain data."""
    _remote_expected = False
    """Whether the tests take the object's class from the candidate by a name that is a class's, and thus expect its instances."""
    _remote_compares = False
    """Whether the class has its own `==`."""

    def __getattr__(self, name: str) -> Any:
        return self._remote_desk.ask("attr", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        self._remote_desk.ask("set", self, name, value)

    def __delattr__(self, name: str) -> None:
        self._remote_desk.ask("del", self, name)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if isinstance(other, Remote):
            either = self._remote_compares or other._remote_compares
            return either and self._remote_desk.ask("special", self, "__eq__", (other,)) is True
        return bool(self._remote_content and self._remote_desk.ask("content", self) == other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return object.__hash__(self)

    def __copy__(self) -> Any:
        return self._remote_desk.ask("copy", self, False)

    def __deepcopy__(self, memo: object) -> Any:
        return self._remote_desk.ask("copy", self, True)

    def __reduce_ex__(self, protocol: object) -> Any:
        raise TypeError("an object of the candidate cannot be pickled")


def special_methods(traits: set[str]) -> dict[str, Any]:
    """The methods with double underscores of a stand-in whose class has those `traits`."""
    asked, numeric = [f"__{name}__" for name in _ASKED], [f"__{name}__" for name in _NUMERIC]
    methods: dict[str, Any] = {name: _asking(name) for name in asked if name in traits}
    methods |= {name: _converting(name) for name in numeric if name in traits}
    both = [f"__{prefix}{name}__" for name in _ARITHMETIC for prefix in ("", "r", "i")]
    methods |= {name: _arithmetic(name) for name in both if name in traits}
    methods |= {name: _ordering(name) for name in (f"__{name}__" for name in _ORDER) if name in traits}
    extra = {"__call__": _call, "__exit__": _exit, "__await__": _await, "__aexit__": _aexit}
    methods |= {name: method for name, method in extra.items() if name in traits}
    if "__await__" in traits:
        methods |= {"send": _send, "throw": _throw, "close": _close}
    return methods


def expect_instances(kind: RemoteType) -> None:
    """Lets instances of `kind` say themselves what they contain; otherwise only their items tell."""
    type.__setattr__(kind, "_remote_expected", True)
    if "__contains__" in kind._remote_traits:
        type.__setattr__(kind, "__contains__", _asking("__contains__"))


def _asking(name: str) -> Callable[..., Any]:
    def method(self: Remote, *arguments: Any) -> Any:
        return self._remote_desk.ask("special", self, name, arguments)

    return method


def _converting(name: str) -> Callable[..., Any]:
    """A number that stays the same for one object, unless the tests expect objects that change."""

    def method(self: Remote, *arguments: Any) -> Any:
        if self._remote_expected:
            return self._remote_desk.ask("special", self, name, arguments)
        return self._remote_desk.ask_once("special", self, name, arguments)

    return method


def _arithmetic(name: str) -> Callable[..., Any]:
    def method(self: Remote, *operands: Any) -> Any:
        result = self._remote_desk.ask("special", self, name, operands)
        all_remote = all(isinstance(operand, Remote) for operand in operands)
        if all_remote or result is NotImplemented or isinstance(result, Remote):
            return result
        raise TypeError(f"{name} of an object of the candidate with plain data may not give plain data")

    return method


def _ordering(name: str) -> Callable[..., Any]:
    def method(self: Remote, other: Any) -> Any:
        if not isinstance(other, Remote):
            return NotImplemented
        return self._remote_desk.ask("special", self, name, (other,))

    return method


def _call(self: Remote, *arguments: Any, **keywords: Any) -> Any:
    return self._remote_desk.call(self, arguments, keywords)


def _exit(self: Remote, kind: Any, error: BaseException | None, traceback: TracebackType | None) -> bool:
    """Leaves the candidate's context; an exception of the tests themselves is never swallowed."""
    desk = self._remote_desk
    given = (None, None, None) if error is None else (*desk.error_arguments(error), None)
    swallowed = desk.ask("special", self, "__exit__", given)
    return bool(swallowed) and error is not None and desk.is_remote_error(error)


async def _aexit(self: Remote, kind: Any, error: BaseException | None, traceback: TracebackType | None) -> bool:
    desk = self._remote_desk
    given = (None, None, None) if error is None else (*desk.error_arguments(error), None)
    swallowed = desk.ask("await", desk.ask("special", self, "__aexit__", given))
    return bool(swallowed) and error is not None and desk.is_remote_error(error)


def _await(self: Remote) -> Iterator[Any]:
    """Runs the coroutine to its end in the candidate's process, in one piece."""
    return self._remote_desk.ask("await", self)
    yield


def _send(self: Remote, value: Any) -> Any:
    raise StopIteration(self._remote_desk.ask("await", self))


def _throw(self: Remote, error: BaseException, *rest: Any) -> Any:
    raise error


def _close(self: Remote) -> None:
    return
