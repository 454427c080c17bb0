"""The judge's side of the link: which stand-in means which object of the candidate, and what may be passed to it.

Invariant: the candidate reaches nothing of the judge but copies of plain data and calls of the very functions that the tests pass.
"""

from __future__ import annotations

import builtins
import sys

from rollout_workers.grading.programs.remote import Remote, RemoteType, Unsupported, expect_instances, special_methods
from rollout_workers.grading.programs.wire import WireError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from rollout_workers.grading.programs.link import Link
    from rollout_workers.grading.programs.wire import Decoder, Encoder

_PLAIN = (int, float, complex, str, bytes, tuple, frozenset)
_CONTENT = (list, dict, set, bytearray)
_USES = {"call", "attr", "special", "await", "content"}
_STOPS = (StopIteration, StopAsyncIteration, GeneratorExit)
_STOPPING = {"__next__", "__anext__", "send", "throw"}


class _Number:
    """Names one of the candidate's objects in a message."""

    def __init__(self, number: int) -> None:
        self.number = number


class CandidateError:
    """Mixed into the stand-ins of the candidate's exception classes."""

    _remote_handle: Any = None
    _remote_text = ""

    def __str__(self) -> str:
        return self._remote_text or BaseException.__str__(self)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        if self._remote_handle is None or name.startswith("_remote"):
            raise AttributeError(name)
        return getattr(self._remote_handle, name)


class Desk:
    """What the judge knows of the candidate."""

    link: Link

    def __init__(self) -> None:
        self._classes: dict[int, type] = {}
        self._numbers: dict[int, int] = {}
        """id(class or plain stand-in) -> number."""
        self._objects: dict[int, Any] = {}
        self._answers: dict[tuple[Any, ...], Any] = {}
        self._callbacks: list[Any] = []
        self._errors: list[BaseException] = []
        """Exceptions of the tests' own functions, given to the candidate."""
        self._remote_errors: dict[int, tuple[BaseException, int]] = {}
        self.unsupported = ""
        """Why the tests cannot be graded, whatever they make of it afterwards."""
        self.num_uses = 0
        """What the tests asked of the candidate's objects, and plain values of its own that they have by name."""
        self.echo = False
        """Whether the tests look at what is printed, so that the candidate's prints must arrive here."""
        self.reached = False
        """Whether an exception in the tests may come from what the candidate defines."""

    def call(self, target: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Calls a function or class of the candidate."""
        try:
            return self.ask("call", target, arguments, keywords)
        finally:
            if self.echo:
                sys.stdout.write(str(self.ask("printed")))

    def export(self, name: str, value: Any) -> None:
        """Notes that the tests got `value` by `name`; only what is asked of objects can be noticed later."""
        self.num_uses += not isinstance(value, Remote | RemoteType)
        if isinstance(value, RemoteType) and name[:1].isupper():
            expect_instances(value)

    def ask(self, operation: str, *values: Any) -> Any:
        """One request. A StopIteration (or the like) that nothing asked for becomes a RuntimeError, as in generators."""
        if operation in _USES:
            self.num_uses += 1
            self.reached = True
        try:
            return self.link.request(operation, *values)
        except _STOPS as stop:
            if operation == "await" or (operation == "special" and values[1] in _STOPPING):
                raise
            error = RuntimeError(f"the candidate raised {type(stop).__name__}")
            if self.is_remote_error(stop):
                self._remote_errors[id(error)] = (error, self._remote_errors[id(stop)][1])
            raise error from stop
        except Unsupported as error:
            self.unsupported = str(error)
            raise

    def ask_once(self, operation: str, target: Remote, *values: Any) -> Any:
        """The answer to the first such request."""
        key = (id(target), *values)
        if key not in self._answers:
            self._answers[key] = self.ask(operation, target, *values)
        return self._answers[key]

    def is_remote_error(self, error: BaseException) -> bool:
        """Whether the candidate raised `error`."""
        return id(error) in self._remote_errors

    def error_arguments(self, error: BaseException) -> tuple[Any, Any]:
        """Class and instance of `error` as the candidate can be told: its own, or the built-in class alone."""
        if self.is_remote_error(error):
            handle = _Number(self._remote_errors[id(error)][1])
            return self.ask("attr", handle, "__class__"), handle
        return _builtin_base(type(error)), None

    def handle(self, operation: str, values: list[Any]) -> Any:
        """What the candidate may ask for: a call of a function that it was given, or the next item of an iterator."""
        if operation == "callback":
            number, arguments, keywords = values
            return self._callbacks[number](*arguments, **keywords)
        if operation == "next":
            for item in self._callbacks[values[0]]:
                return True, item
            return False, None
        raise WireError("the candidate may not ask for that")

    def encode_other(self, value: Any, encoder: Encoder) -> list[Any]:
        """Raises Unsupported for an object that only exists in the judge."""
        if isinstance(value, Remote):
            return ["h", object.__getattribute__(value, "_remote_number")]
        if isinstance(value, _Number):
            return ["h", value.number]
        if id(value) in self._numbers:
            return ["h", self._numbers[id(value)]]
        if id(value) in self._remote_errors:
            return ["h", self._remote_errors[id(value)][1]]
        module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
        if module in sys.stdlib_module_names and getattr(sys.modules.get(str(module)), str(name), None) is value:
            return ["imp", module, name]
        if isinstance(value, type) or not (callable(value) or hasattr(value, "__next__")):
            raise Unsupported(f"the tests pass a {type(value).__name__} of their own to the candidate")
        self._callbacks.append(value)
        return ["k" if callable(value) else "it", len(self._callbacks) - 1, str(name or "callback")]

    def decode_other(self, data: list[Any], decoder: Decoder) -> Any:
        """The stand-in of one of the candidate's objects, the same one every time."""
        tag, rest = data[0], data[1:]
        if tag == "k":
            return self._callbacks[_checked(rest[0])]
        if tag == "y":
            return self._class(_checked(rest[0]))
        if tag in ("error", "own"):
            return self.decode_error(data, decoder)
        if tag not in ("h", "x"):
            raise WireError("an unknown tag")
        number, class_number = _checked(rest[-2]), _checked(rest[-1])
        if number not in self._objects:
            content = decoder.decode(rest[0]) if tag == "x" else None
            self._objects[number] = self._stand_in(number, class_number, content)
        elif tag == "x":
            decoder.decode(rest[0])
        return self._objects[number]

    def encode_error(self, error: BaseException, encoder: Encoder) -> list[Any]:
        """An exception of a function that the tests passed to the candidate."""
        self._errors.append(error)
        own = self._remote_errors[id(error)][1] if self.is_remote_error(error) else -1
        try:
            arguments = encoder.items(list(error.args))
        except Unsupported:
            arguments = [str(error)]
        return [len(self._errors) - 1, _builtin_base(type(error)).__name__, arguments, own]

    def decode_error(self, data: Any, decoder: Decoder) -> BaseException:
        """The exception to raise for one of the candidate's."""
        if data[0] == "own":
            return self._errors[_checked(data[1])]
        _, number, class_number, name, is_builtin, arguments, text = data
        base = getattr(builtins, name, None)
        if not (isinstance(base, type) and issubclass(base, BaseException)):
            raise WireError("not the name of an exception")
        kind = base if is_builtin is True else self._class(_checked(class_number))
        if not issubclass(kind, BaseException):
            raise WireError("not an exception")
        values, said = tuple(decoder.items(arguments)), decoder.decode(text)
        error = _make_error(kind, values, str(said))
        if isinstance(error, CandidateError):
            error._remote_handle = self._stand_in(_checked(number), None, None)
            error._remote_text = str(said)
        self._remote_errors[id(error)] = (error, _checked(number))
        return error

    def _stand_in(self, number: int, class_number: int | None, content: Any) -> Any:
        kind = self._opaque() if class_number is None else self._class(class_number)
        if issubclass(kind, Remote):
            value = object.__new__(kind)
            object.__setattr__(value, "_remote_number", number)
            return value
        bases = [base for base in _PLAIN if issubclass(kind, base)]
        if not bases or type(content) is not bases[0]:
            raise WireError("content of another type than its class")
        make: Any = bases[0].__new__
        plain = make(kind, content)
        self._numbers[id(plain)] = number
        return plain

    def _opaque(self) -> type:
        return type.__new__(
            RemoteType, "object", (Remote,), {"__slots__": (), "_remote_desk": self, "_remote_traits": frozenset()}
        )

    def _class(self, number: int) -> type:
        if number not in self._classes:
            name, ancestors, traits, unhashable = self.link.request("describe", _Number(number))
            kind = self._make_class(str(name), tuple(ancestors), set(traits), bool(unhashable))
            self._classes[number] = kind
            self._numbers[id(kind)] = number
        return self._classes[number]

    def _make_class(self, name: str, ancestors: tuple[Any, ...], traits: set[str], unhashable: bool) -> type:
        builtin = [base for base in ancestors if getattr(base, "__module__", "") == "builtins" and base is not object]
        if any(issubclass(base, BaseException) for base in builtin):
            return _error_class(name, [base for base in ancestors if issubclass(base, BaseException)])
        plain = [base for base in _PLAIN if base in builtin]
        if plain:
            return _plain_class(name, plain[0], ancestors, self)
        own: dict[str, Any] = {
            "__slots__": (), "_remote_desk": self, "_remote_traits": frozenset(traits), "_remote_compares": "__eq__" in traits,
            "_remote_content": any(base in builtin for base in _CONTENT), **special_methods(traits),
        }  # fmt: skip
        if unhashable:
            own["__hash__"] = None
        remote = tuple(base for base in ancestors if isinstance(base, RemoteType) and issubclass(base, Remote))
        kind = type.__new__(RemoteType, name, remote or (Remote,), own)
        if "send" in own:
            __import__("_collections_abc").Coroutine.register(kind)
        return kind


def _checked(number: Any) -> int:
    if type(number) is not int or number < 0:
        raise WireError("not the number of an object")
    return number


def _builtin_base(kind: type) -> type:
    return next(base for base in kind.__mro__ if base.__module__ == "builtins")


def _make_error(kind: type, arguments: tuple[Any, ...], text: str) -> BaseException:
    try:
        error = kind(*arguments)
    except (TypeError, ValueError, AttributeError):
        error = Exception(text)
        if kind not in (BaseExceptionGroup, ExceptionGroup):
            make: Any = kind.__new__
            error = make(kind)
            error.args = arguments
    assert isinstance(error, BaseException)
    return error


def _error_class(name: str, ancestors: list[type]) -> type:
    bases = (
        tuple(ancestors)
        if any(issubclass(base, CandidateError) for base in ancestors)
        else (CandidateError, *ancestors)
    )
    try:
        return type(name, bases, {})
    except TypeError:  # two built-in exceptions whose memory layouts exclude each other
        return type(name, (CandidateError, _builtin_base(ancestors[0])), {})


def _plain_class(name: str, base: type, ancestors: tuple[Any, ...], desk: Desk) -> type:
    """A subclass with the real content, so that comparisons are the built-in ones; other attributes are the candidate's."""

    def attribute(self: Any, attribute_name: str) -> Any:
        return desk.ask("attr", self, attribute_name)

    def text(self: Any) -> Any:
        return desk.ask("special", self, "__str__", ())

    def representation(self: Any) -> Any:
        return desk.ask("special", self, "__repr__", ())

    bases = tuple(kind for kind in ancestors if isinstance(kind, RemoteType) and issubclass(kind, base)) or (base,)
    own = {
        "_remote_desk": desk,
        "_remote_traits": frozenset(),
        "__getattr__": attribute,
        "__str__": text,
        "__repr__": representation,
    }
    return type.__new__(RemoteType, name, bases, own)
