"""A proxy between a client and an HTTP server that does to requests what networks and servers do."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_CHUNK = 65536
_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request.

    Kinds: `status` answers with `status` and asks nobody; `reset` cuts the connection before the server hears of the request;
    `lost` cuts it after the server got half of the body; `deaf` cuts it once the server has answered, so that the request was done
    and nobody knows; `short` cuts it in the middle of the answer's body; `silent` never answers.
    """

    kind: str
    status: int = 503


@dataclass(frozen=True, slots=True)
class Request:
    """The head of a request: `body_length` in bytes."""

    method: str
    path: str
    head: bytes
    body_length: int


class FaultProxy:
    """Forwards to `target`, one request a connection; `choose` names the fault of a request, or None."""

    def __init__(
        self, target: tuple[str, int], choose: Callable[[Request], Fault | None] = lambda request: None
    ) -> None:
        self.choose = choose
        self.num_faults = 0
        self._lock = threading.Lock()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                # Either side may hang up at any time; that is what this is for.
                with contextlib.suppress(OSError):
                    proxy._handle(self.request, target)

        self._server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        self._ended = threading.Event()

    @property
    def endpoint(self) -> str:
        return "http://{}:{}".format(*self._server.server_address[:2])

    def heal(self) -> None:
        """From now on every request passes, and faults are counted from 0."""
        with self._lock:
            self.choose = lambda request: None
            self.num_faults = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()

    def _handle(self, client: socket.socket, target: tuple[str, int]) -> None:
        client.settimeout(_TIMEOUT_S)
        request, rest = _read_head(client)
        with self._lock:
            fault = self.choose(request)
            self.num_faults += fault is not None
        kind = fault.kind if fault is not None else ""
        if kind == "reset":
            _reset(client)
        elif kind == "silent":
            self._ended.wait(_TIMEOUT_S)
        elif fault is not None and kind == "status":
            _receive(client, request.body_length, rest)
            body = f"<Error><Code>Injected</Code><Message>status {fault.status}</Message></Error>".encode()
            head = f"HTTP/1.1 {fault.status} Injected\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
            client.sendall(head.encode() + body)
        else:
            self._forward(client, request, rest, target, kind)

    def _forward(
        self, client: socket.socket, request: Request, rest: bytes, target: tuple[str, int], kind: str
    ) -> None:
        with socket.create_connection(target, timeout=_TIMEOUT_S) as server:
            server.sendall(request.head)
            body = _receive(client, request.body_length, rest)
            if kind == "lost":
                server.sendall(body[: len(body) // 2])
                _reset(server)
                _reset(client)
                return
            server.sendall(body)
            answer = b"".join(iter(lambda: server.recv(_CHUNK), b""))
            if kind == "deaf":
                _reset(client)
                return
            head, blank, content = answer.partition(b"\r\n\r\n")
            client.sendall(head + blank + (content[: len(content) // 2] if kind == "short" else content))


def _read_head(client: socket.socket) -> tuple[Request, bytes]:
    """The head as it is forwarded (the server closes after its answer), and what came of the body already."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = client.recv(_CHUNK)
        if not chunk:
            raise ConnectionError("hung up before a request")
        data += chunk
    head, _, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
    dropped = (b"connection", b"expect")
    lines = [line for line in lines if line.partition(b":")[0].strip().lower() not in dropped]
    if fields.get(b"expect", b"").lower() == b"100-continue":
        client.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    method, path, _ = first.decode().split(" ")
    forwarded = b"\r\n".join([first, *lines, b"Connection: close", b"", b""])
    return Request(method, path, forwarded, int(fields.get(b"content-length", b"0"))), rest


def _receive(client: socket.socket, length: int, begun: bytes) -> bytes:
    parts, missing = [begun], length - len(begun)
    while missing > 0:
        chunk = client.recv(min(_CHUNK, missing))
        if not chunk:
            raise ConnectionError("hung up in the middle of a body")
        parts.append(chunk)
        missing -= len(chunk)
    return b"".join(parts)


def _reset(connection: socket.socket) -> None:
    """Close with a TCP reset instead of an orderly end."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
