"""Plain data between the candidate's process and the judge's.

Invariant: a decoded value consists of freshly made objects of exact built-in types, of references to the reader's own
objects, and of what the reader's `Others` makes of opaque ones. The writer's classes, and with them overridden comparisons,
never reach the reader.

Scalars stand for themselves in JSON; everything else is an array that starts with a tag. Mutable containers are numbered in
the order in which they are met, so aliases and cycles survive, and a reply can say what became of the arguments.
"""

from __future__ import annotations

import builtins
import sys
from _collections import OrderedDict, defaultdict, deque  # type: ignore[import-not-found]
from _operator import is_

TYPE_CHECKING = False
"""Stands for `typing.TYPE_CHECKING`: importing `typing` would double the start-up time of the programs."""
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any, Protocol

    class Others(Protocol):
        """How one side names and recognises what is not plain data."""

        def encode_other(self, value: Any, encoder: Encoder) -> list[Any]: ...

        def decode_other(self, data: list[Any], decoder: Decoder) -> Any: ...


class WireError(Exception):
    """The other side sent something that is not in this format."""


MALFORMED = (WireError, LookupError, TypeError, ValueError, ArithmeticError, RecursionError, AttributeError)
"""What decoding raises on data that no honest writer sends."""

SCALARS = frozenset({bool, int, float, str, type(None)})
_UNCONDITIONAL = frozenset({bool, float, type(None)})
_BIG = 1 << 62
"""Integers from here on travel as hexadecimal digits, whose conversion takes linear time and has no limit."""

_LAZY_CONTAINERS = {("collections", "Counter")}
_LAZY_VALUES: dict[tuple[str, str], Callable[[Any], list[Any]]] = {
    ("decimal", "Decimal"): lambda value: [str(value)],
    ("fractions", "Fraction"): lambda value: [*value.as_integer_ratio()],
    ("datetime", "date"): lambda value: [value.year, value.month, value.day],
    ("datetime", "timedelta"): lambda value: [value.days, value.seconds, value.microseconds],
    ("datetime", "datetime"): lambda value: [
        value.year, value.month, value.day, value.hour, value.minute, value.second, value.microsecond,
    ],
    ("datetime", "time"): lambda value: [value.hour, value.minute, value.second, value.microsecond],
}  # fmt: skip
"""Types of modules that cost start-up time, looked up only when the value's own module is loaded."""

_KEYED = (dict, OrderedDict, defaultdict)
_ITEMS = (list, set, deque)
_VIEWS = {type({}.keys()): "keys", type({}.values()): "values", type({}.items()): "items"}


def lazy_name(kind: type) -> tuple[str, str] | None:
    """The name of `kind` among the types that are looked up lazily, or None."""
    name = (str(kind.__module__), str(kind.__qualname__))
    if name in _LAZY_VALUES or name in _LAZY_CONTAINERS:
        return name if getattr(sys.modules.get(name[0]), name[1], None) is kind else None
    return None


def is_container(value: Any) -> bool:
    """Whether `value` is a mutable container of an exact known type."""
    kind = type(value)
    return kind in _KEYED or kind in _ITEMS or kind is bytearray or lazy_name(kind) in _LAZY_CONTAINERS


def parts_of(container: Any) -> list[Any]:
    """The elements that `container` holds now, in order, for `is_unchanged`."""
    if isinstance(container, dict):
        return [*container.keys(), *container.values()]
    return list(container)


def is_unchanged(container: Any, before: list[Any]) -> bool:
    """Whether `container` still holds the very objects `before`; no comparison of its elements is asked for."""
    after = parts_of(container)
    if len(after) != len(before):
        return False
    if isinstance(container, set):
        return {*map(id, after)} == {*map(id, before)}
    return all(map(is_, before, after))


class Encoder:
    """Writes values; `containers` are those that the reader already has, in its own numbering."""

    def __init__(self, others: Others, containers: list[Any]) -> None:
        self._others = others
        self.containers = containers
        self._index = {id(container): index for index, container in enumerate(containers)}

    def encode(self, value: Any) -> Any:
        """`value` as JSON data. Raises RecursionError for deep nesting and what `Others` raises."""
        kind = type(value)
        if kind in _UNCONDITIONAL:
            return value
        if kind is int:
            return value if -_BIG < value < _BIG else ["i", hex(value)]
        if kind is str:
            return value if value.isascii() or not _has_surrogates(value) else ["u", _surrogate_hex(value)]
        if kind is tuple:
            return ["t", self.items(list(value))]
        if is_container(value):
            return self._container(value)
        return self._immutable(value, kind)

    def items(self, values: list[Any]) -> list[Any]:
        """Each of `values` encoded; homogeneous scalars pass at the speed of C."""
        kinds = set(map(type, values))
        if kinds <= _UNCONDITIONAL:
            return values
        if kinds == {int} and min(values) > -_BIG and max(values) < _BIG:
            return values
        if kinds == {str} and "".join(values).isascii():
            return values
        return [self.encode(value) for value in values]

    def content(self, container: Any) -> list[Any]:
        """Tag and content of a mutable container, whether or not the reader has it."""
        kind = type(container)
        if kind is bytearray:
            return ["B", container.hex()]
        if kind is deque:
            return ["q", self.items(list(container)), container.maxlen]
        if kind in _ITEMS:
            return ["l" if kind is list else "s", self.items(list(container))]
        data = [self.items(list(container.keys())), self.items(list(container.values()))]
        if kind is defaultdict:
            return ["dd", *data, self.encode(container.default_factory)]
        return ["d" if kind is dict else "od" if kind is OrderedDict else "dc", *data]

    def _container(self, value: Any) -> list[Any]:
        index = self._index.get(id(value))
        if index is not None:
            return ["r", index]
        self._index[id(value)] = len(self.containers)
        self.containers.append(value)
        return self.content(value)

    def _immutable(self, value: Any, kind: type) -> list[Any]:
        if kind is frozenset:
            return ["f", self.items(list(value))]
        if kind is bytes:
            return ["b", value.hex()]
        if kind is complex:
            return ["c", value.real, value.imag]
        if kind is range or kind is slice:
            return ["R" if kind is range else "S", *self.items([value.start, value.stop, value.step])]
        if value is Ellipsis or value is NotImplemented:
            return ["E" if value is Ellipsis else "N"]
        if kind is type and _builtin_name(value):
            return ["n", _builtin_name(value)]
        if kind in _VIEWS:
            return ["V", _VIEWS[kind], self.items(list(value))]
        name = lazy_name(kind)
        if name and getattr(value, "tzinfo", None) is None:
            return ["z", *name, self.items(_LAZY_VALUES[name](value))]
        return self._others.encode_other(value, self)


class Decoder:
    """Rebuilds values; `containers` are this side's own mutable containers that references mean, in order."""

    def __init__(self, others: Others, containers: list[Any]) -> None:
        self._others = others
        self.containers = containers

    def decode(self, data: Any) -> Any:
        """The value that `data` says. Raises one of `MALFORMED`."""
        if type(data) in SCALARS:
            return data
        if type(data) is not list or not data or type(data[0]) is not str:
            raise WireError("neither a scalar nor a tagged array")
        tag = data[0]
        if tag in _EMPTY:
            return self.refill(self._new(_EMPTY[tag](self, data)), data)
        if tag in _READERS:
            return _READERS[tag](self, data)
        return self._others.decode_other(data, self)

    def items(self, data: Any) -> list[Any]:
        """A new list of decoded values."""
        if type(data) is not list:
            raise WireError("not an array of values")
        if SCALARS.issuperset(map(type, data)):
            return data
        return [self.decode(value) for value in data]

    def refill(self, container: Any, data: list[Any]) -> Any:
        """`container` with its content replaced by that of `data` (which `Encoder.content` wrote)."""
        kind: type = type(container)
        if kind is not _TYPES.get(data[0], kind):
            raise WireError("a container cannot change its type")
        if kind is bytearray:
            container[:] = bytes.fromhex(data[1])
            return container
        items = self.items(data[1])
        container.clear()
        if issubclass(kind, dict):
            for key, value in zip(items, self.items(data[2]), strict=True):
                container[key] = value
        elif kind is set:
            container.update(items)
        else:
            container.extend(items)
        return container

    def _new(self, container: Any) -> Any:
        self.containers.append(container)
        return container


def _builtin_name(kind: type) -> str:
    return kind.__name__ if getattr(builtins, kind.__name__, None) is kind else ""


def _has_surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _surrogate_hex(text: str) -> str:
    return text.encode("utf-8", "surrogatepass").hex()


def _builtin_type(name: Any) -> type:
    found = getattr(builtins, name, None)
    if type(found) is not type:
        raise WireError("not the name of a built-in type")
    return found


def _view(kind: str, items: list[Any]) -> Iterable[Any]:
    if kind == "values":
        return dict(enumerate(items)).values()
    return dict.fromkeys(items).keys() if kind == "keys" else dict(items).items()


def _lazy(decoder: Decoder, module: Any, name: Any, data: Any) -> Any:
    if (module, name) not in _LAZY_VALUES:
        raise WireError("not a type of this format")
    return getattr(__import__(module), name)(*decoder.items(data))


def _counter(decoder: Decoder, data: list[Any]) -> Any:
    return __import__("collections").Counter()


_TYPES: dict[str, type] = {
    "l": list, "s": set, "d": dict, "od": OrderedDict, "dd": defaultdict, "q": deque, "B": bytearray,
}  # fmt: skip
_EMPTY: dict[str, Callable[[Decoder, list[Any]], Any]] = {
    "l": lambda decoder, data: [],
    "s": lambda decoder, data: set(),
    "d": lambda decoder, data: {},
    "od": lambda decoder, data: OrderedDict(),
    "dd": lambda decoder, data: defaultdict(decoder.decode(data[3])),
    "dc": _counter,
    "q": lambda decoder, data: deque(maxlen=data[2]),
    "B": lambda decoder, data: bytearray(),
}
_READERS: dict[str, Callable[[Decoder, list[Any]], Any]] = {
    "r": lambda decoder, data: decoder.containers[range(len(decoder.containers))[data[1]]],
    "t": lambda decoder, data: tuple(decoder.items(data[1])),
    "f": lambda decoder, data: frozenset(decoder.items(data[1])),
    "i": lambda decoder, data: int(data[1], 16),
    "u": lambda decoder, data: bytes.fromhex(data[1]).decode("utf-8", "surrogatepass"),
    "b": lambda decoder, data: bytes.fromhex(data[1]),
    "c": lambda decoder, data: complex(data[1], data[2]),
    "R": lambda decoder, data: range(*decoder.items(data[1:])),
    "S": lambda decoder, data: slice(*decoder.items(data[1:])),
    "E": lambda decoder, data: Ellipsis,
    "N": lambda decoder, data: NotImplemented,
    "n": lambda decoder, data: _builtin_type(data[1]),
    "V": lambda decoder, data: _view(data[1], decoder.items(data[2])),
    "z": lambda decoder, data: _lazy(decoder, *data[1:]),
}
