"""A proxy that breaks one request of those that go through it, or all from one on."""

from __future__ import annotations

import contextlib
import http.client
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import IO, Literal, get_args

__all__ = ["FAULTS", "BrokenProxy", "Fault", "broken_proxy"]

Fault = Literal[
    # Nothing arrives.
    "refused",
    "reset before",
    "hang",
    "500",
    "503",
    # It arrives, and whoever sent it is not told so.
    "reset after",
    "504",
    "half",
    "cut",
    # It arrives when whoever sent it has given up.
    "late",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

_STATUS = {"500": "Internal Server Error", "503": "Service Unavailable", "504": "Gateway Timeout"}
_LATE_SECONDS = 4.0
_LONGEST = 600.0


class BrokenProxy:
    """Passes requests on, counts them and breaks some; `broken_proxy` starts one.

    Args:
        upstream: The address of the real server.
        own_host: Tell the server its own name as the host, not the proxy's.

    Attributes:
        uri: Its address.
        requests: What came, in order: method and path.
        broken: How many of them were broken.
    """

    def __init__(self, upstream: str, *, own_host: bool) -> None:
        host, _, port = upstream.rpartition("//")[2].partition(":")
        self._upstream = (host, int(port))
        self._own_host = own_host
        self._lock = threading.Lock()
        self._fault: Fault | None = None
        self._from = self._to = 0
        self._listener: socket.socket | None = None
        self._closed = threading.Event()
        self._open: set[socket.socket] = set()
        self._under_way: list[threading.Thread] = []
        self.requests: list[str] = []
        self.broken = 0
        self._port = 0
        self._listen()
        self.uri = f"http://127.0.0.1:{self._port}"

    def break_at(self, fault: Fault, first: int, last: int | None = None) -> None:
        """Break requests from now on, of which the next one is number 1.

        Args:
            fault: How.
            first: The first that is broken.
            last: The last that is; None for no end. Where connections are refused no request is
                seen: an end of that comes by time, a second later.
        """
        with self._lock:
            self.requests.clear()
            self.broken = 0
            self._fault, self._from = fault, first
            self._to = last or 2**60

    def heal(self) -> None:
        """Pass on everything, and count anew; what comes late has come after this."""
        with self._lock:
            self._fault = None
            self.requests.clear()
        self._listen()
        self.settle()

    def settle(self) -> None:
        """Wait until what was to come late has arrived."""
        for thread in list(self._under_way):
            thread.join(_LATE_SECONDS + 30)

    def close(self) -> None:
        """End it, with all connections."""
        self._closed.set()
        self._stop_listening()
        for connection in list(self._open):
            _end(connection)

    def _listen(self) -> None:
        with self._lock:
            if self._listener is not None or self._closed.is_set():
                return
            listener = socket.create_server(("127.0.0.1", self._port), backlog=128)
            self._port = listener.getsockname()[1]
            self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._open.add(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection.makefile("rb") as reader:
                while (request := _read_request(reader)) is not None:
                    if not self._answer(connection, request):
                        break
        except OSError:
            pass
        finally:
            self._open.discard(connection)
            _end(connection)

    def _answer(self, connection: socket.socket, request: _Request) -> bool:
        """Answer a request; returns whether the connection lives on."""
        with self._lock:
            self.requests.append(f"{request.method} {request.path.partition('?')[0]}")
            fault = self._fault if self._from <= len(self.requests) <= self._to else None
            self.broken += fault is not None
        if fault is None:
            connection.sendall(self._forward(request).all())
            return True
        match fault:
            case "refused":
                self._refuse()
            case "hang":
                _until_gone(connection, _LONGEST, self._closed)
            case "late":
                self._come_late(request)
                _until_gone(connection, _LONGEST, self._closed)
            case "500" | "503":
                connection.sendall(_refusal(fault, request.method))
                return True
            case "504":
                self._forward(request)
                connection.sendall(_refusal(fault, request.method))
                return True
            case "reset after":
                self._forward(request)
            case "half" | "cut":
                answer = self._forward(request)
                half = answer.body[: len(answer.body) // 2]
                # Without a length its end can't be told from a good one.
                head = answer.head() if fault == "half" else answer.head(length=False)
                connection.sendall(head + half)
                connection.shutdown(socket.SHUT_WR)
                return False
            case _:
                pass
        _reset(connection)
        return False

    def _refuse(self) -> None:
        """Take no connection: for good, or for a second where only some are to be broken."""
        self._stop_listening()
        for connection in list(self._open):
            _reset(connection)
        if self._to < 2**60:
            with self._lock:
                self._fault = None
            timer = threading.Timer(1.0, self._listen)
            timer.daemon = True
            self._under_way.append(timer)
            timer.start()

    def _come_late(self, request: _Request) -> None:
        def work() -> None:
            time.sleep(_LATE_SECONDS)
            with contextlib.suppress(OSError, http.client.HTTPException):
                self._forward(request)

        thread = threading.Thread(target=work, daemon=True)
        self._under_way.append(thread)
        thread.start()

    def _forward(self, request: _Request) -> _Answer:
        host, port = self._upstream
        with contextlib.closing(http.client.HTTPConnection(host, port, timeout=60)) as server:
            server.putrequest(
                request.method, request.path, skip_host=True, skip_accept_encoding=True
            )
            for name, text in request.headers:
                lower = name.lower()
                if lower == "host" and self._own_host:
                    server.putheader(name, f"{host}:{port}")
                elif lower not in ("connection", "transfer-encoding", "content-length", "expect"):
                    server.putheader(name, text)
            if request.body or request.method in ("PUT", "POST"):
                server.putheader("Content-Length", str(len(request.body)))
            server.putheader("Connection", "close")
            server.endheaders(request.body)
            answer = server.getresponse()
            return _Answer(
                answer.status, answer.reason, answer.getheaders(), answer.read(), request.method
            )


class _Request:
    def __init__(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body


class _Answer:
    def __init__(
        self, status: int, reason: str, headers: list[tuple[str, str]], body: bytes, method: str
    ) -> None:
        self._line = f"HTTP/1.1 {status} {reason}\r\n"
        self._headers = headers
        self.body = body
        self._bodiless = method == "HEAD" or status in (204, 304)

    def head(self, *, length: bool = True) -> bytes:
        dropped = {"connection", "transfer-encoding"}
        if not self._bodiless:
            dropped.add("content-length")
        lines = [f"{n}: {t}\r\n" for n, t in self._headers if n.lower() not in dropped]
        if not length:
            lines.append("Connection: close\r\n")
        elif not self._bodiless:
            lines.append(f"Content-Length: {len(self.body)}\r\n")
        return "".join([self._line, *lines, "\r\n"]).encode("latin-1")

    def all(self) -> bytes:
        return self.head() + self.body


def _read_request(reader: IO[bytes]) -> _Request | None:
    words = reader.readline().decode("latin-1").split()
    if len(words) != 3:
        return None
    headers: list[tuple[str, str]] = []
    while line := reader.readline().decode("latin-1").strip():
        name, _, text = line.partition(":")
        headers.append((name, text.strip()))
    known = {name.lower(): text for name, text in headers}
    if known.get("transfer-encoding") == "chunked":
        body = b""
        while size := int(reader.readline(), 16):
            body += reader.read(size)
            reader.readline()
        reader.readline()
    else:
        body = reader.read(int(known.get("content-length", 0)))
    return _Request(words[0], words[1], headers, body)


def _refusal(status: str, method: str) -> bytes:
    body = b"" if method == "HEAD" else b"<html>broken on purpose</html>"
    head = f"HTTP/1.1 {status} {_STATUS[status]}\r\nContent-Type: text/html\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def _until_gone(connection: socket.socket, seconds: float, closed: threading.Event) -> None:
    """Wait until the other side ends a connection."""
    connection.settimeout(0.1)
    end = time.monotonic() + seconds
    while time.monotonic() < end and not closed.is_set():
        try:
            if not connection.recv(1):
                return
        except TimeoutError:
            continue
        except OSError:
            return


def _reset(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    _end(connection)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def broken_proxy(upstream: str, *, own_host: bool) -> Iterator[BrokenProxy]:
    """Start a proxy; it ends with the block.

    Args:
        upstream: The address of the real server, ``http://host:port``.
        own_host: As for `BrokenProxy`.
    """
    proxy = BrokenProxy(upstream, own_host=own_host)
    try:
        yield proxy
    finally:
        proxy.close()
