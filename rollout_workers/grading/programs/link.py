"""Calls between the candidate's process and the judge's: framed JSON over two pipes, one request at a time.

Invariant: a reply counts only when it answers the very request that is open, and whatever else arrives ends the link for good:
`LinkLost` is raised now and at every later use, so no test can swallow it and go on to a pass.

A request is served while another is open (a callback), so the frames of both sides nest like calls of one process.
"""

from __future__ import annotations

from _json import encode_basestring_ascii, make_encoder, make_scanner
from posix import close, read, urandom, write

from rollout_workers.grading.programs.wire import MALFORMED, Decoder, Encoder, is_unchanged, parts_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType
    from typing import Any, NoReturn, Protocol

    class Handler(Protocol):
        """One side's own part: opaque values, what it does on request, and how exceptions travel."""

        def encode_other(self, value: Any, encoder: Encoder) -> list[Any]: ...

        def decode_other(self, data: list[Any], decoder: Decoder) -> Any: ...

        def handle(self, operation: str, values: list[Any]) -> Any: ...

        def encode_error(self, error: BaseException, encoder: Encoder) -> list[Any]: ...

        def decode_error(self, data: Any, decoder: Decoder) -> BaseException: ...


_HEADER = 8
_CHUNK = 1 << 16


class LinkLost(BaseException):
    """The other side is gone or broke the protocol; not an `Exception`, lest tests take it for the candidate's."""


class Outcome:
    """Runs a block of code that may raise anything, and keeps what it raised.

    The one place where everything is caught: the code under test may raise any class, and that must reach the verdict.
    """

    error: BaseException | None = None

    def __enter__(self) -> Outcome:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: TracebackType | None) -> bool:
        self.error = error
        return not isinstance(error, LinkLost)


class _JsonDialect:
    """What `make_scanner` reads its options from: those of `json.loads`, objects left out of use."""

    strict, object_hook, object_pairs_hook = True, None, None
    parse_float, parse_int, parse_constant = float, int, float


_scan = make_scanner(_JsonDialect)  # type: ignore[arg-type]
_pieces = make_encoder(None, None, encode_basestring_ascii, None, ":", ",", False, False, True)  # type: ignore[arg-type]


def to_json(data: Any) -> bytes:
    """`data` (lists and scalars) as one line of ASCII JSON."""
    return "".join(_pieces(data, 0)).encode("ascii")


def from_json(data: bytes) -> Any:
    """The value that `data` starts with. Raises ValueError, RecursionError, StopIteration or SystemError for other bytes."""
    value, _ = _scan(data.decode("ascii"), 0)
    return value


class Link:
    """One side of the conversation; `max_bytes` bounds a message in either direction."""

    def __init__(self, handler: Handler, *, read_fd: int, write_fd: int, max_bytes: int) -> None:
        self._handler = handler
        self._read_fd, self._write_fd, self._max_bytes = read_fd, write_fd, max_bytes
        self._pending = b""
        self.lost = ""
        """Why the link ended; empty while it works."""

    def request(self, operation: str, *values: Any) -> Any:
        """What the other side answers. Raises what it raised, or LinkLost."""
        token = urandom(8).hex()
        encoder = Encoder(self._handler, [])
        message = to_json(["request", token, operation, encoder.items(list(values))])
        if len(message) > self._max_bytes:
            raise OverflowError(f"a call of {len(message)} bytes; at most {self._max_bytes} can be passed")
        self._send(message)
        while True:
            reply = self.receive()
            if reply[0] == "request":
                self._serve(reply)
            elif reply[:2] == ["reply", token] and len(reply) == 5:
                return self._open_reply(reply, encoder.containers)
            else:
                self.break_off("it sent an answer that was not asked for")

    def serve_for_ever(self) -> None:
        """Answers requests until the other side leaves (LinkLost)."""
        while True:
            request = self.receive()
            if request[0] != "request":
                self.break_off("it sent an answer that was not asked for")
            self._serve(request)

    def send_hello(self) -> None:
        """Tells the other side that this one is confined and about to start."""
        self._send(to_json(["hello"]))

    def close(self) -> None:
        """Ends the conversation from this side."""
        close(self._read_fd)
        close(self._write_fd)

    def receive(self) -> list[Any]:
        """The next message. Raises LinkLost when there is none or it is malformed."""
        if self.lost:
            raise LinkLost(self.lost)
        length = self._read(_HEADER)
        if not length.isdigit() or int(length) > self._max_bytes:
            self.break_off(f"it sent garbage, or a message of more than {self._max_bytes} bytes")
        try:
            message = from_json(self._read(int(length)))
        except (ValueError, RecursionError, StopIteration, SystemError):  # SystemError: bad JSON, `json` not imported
            message = None
        if type(message) is not list or not message or type(message[0]) is not str:
            self.break_off("it sent garbage")
        return message

    def _open_reply(self, reply: list[Any], containers: list[Any]) -> Any:
        _, _, succeeded, data, changes = reply
        decoder = Decoder(self._handler, containers)
        try:
            result = decoder.decode(data) if succeeded is True else self._handler.decode_error(data, decoder)
            for index, content in changes:
                decoder.refill(decoder.containers[index], content)
        except MALFORMED as error:
            self.break_off(f"it sent a malformed answer ({type(error).__name__})")
        if succeeded is True:
            return result
        raise result

    def _serve(self, request: list[Any]) -> None:
        decoder = Decoder(self._handler, [])
        try:
            _, token, operation, data = request
            values = decoder.items(data)
        except MALFORMED as error:
            self.break_off(f"it sent a malformed request ({type(error).__name__})")
        before = [parts_of(container) for container in decoder.containers]
        num_given = len(before)
        encoder = Encoder(self._handler, decoder.containers)
        with Outcome() as outcome:
            data = encoder.encode(self._handler.handle(operation, values))
            changes = self._changes(encoder, before)
            message = to_json(["reply", token, True, data, changes])
            if len(message) > self._max_bytes:
                raise OverflowError(f"a result of {len(message)} bytes; at most {self._max_bytes} can be returned")
        if outcome.error is not None:
            encoder = Encoder(self._handler, decoder.containers[:num_given])
            data = self._handler.encode_error(outcome.error, encoder)
            message = to_json(["reply", token, False, data, self._changes(encoder, before)])
        self._send(message)

    def _changes(self, encoder: Encoder, before: list[list[Any]]) -> list[list[Any]]:
        given = list(zip(range(len(before)), encoder.containers, before, strict=False))
        return [[index, encoder.content(now)] for index, now, then in given if not is_unchanged(now, then)]

    def _send(self, message: bytes) -> None:
        if self.lost:
            raise LinkLost(self.lost)
        rest = memoryview(b"%08d" % len(message) + message)
        while rest:
            try:
                rest = rest[write(self._write_fd, rest) :]
            except OSError:
                self.break_off("its process ended or closed its channel")

    def _read(self, size: int) -> bytes:
        pieces, missing = [self._pending], size - len(self._pending)
        while missing > 0:
            piece = read(self._read_fd, max(missing, _CHUNK))
            if not piece:
                self.break_off("its process ended or closed its channel")
            pieces.append(piece)
            missing -= len(piece)
        data = b"".join(pieces)
        self._pending = data[size:]
        return data[:size]

    def break_off(self, why: str) -> NoReturn:
        """Ends the conversation for good."""
        self.lost = why
        raise LinkLost(why)
