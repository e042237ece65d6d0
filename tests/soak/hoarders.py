"""Have a server remember as much as it can be made to, by requests that never end.

    python -m tests.soak.hoarders --connections 200 --megabytes 20

Each connection sends one thing without an end: a header, headers, an address, what comes after a
body in chunks, requests without waiting for an answer, or large bodies of which the end is kept
back. The exit status is 1 if the server took all of one of them, grew by more than 600 MB, or did
not answer a good request afterwards.
"""

from __future__ import annotations

import argparse
import contextlib
import selectors
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2

from tests.servers import BODY, ServerProcess, train_model
from tests.soak.fuzzed_requests import memory

_MOST_GROWTH = 600 * 10**6  # bytes; twice what large bodies may hold
_PATIENCE = 60.0  # seconds

_POST = b"POST /predict HTTP/1.1\r\nhost: x\r\n"
# How it begins, and what is then sent for as long as it is taken.
KINDS: dict[str, tuple[bytes, bytes]] = {
    "a header": (b"GET /health HTTP/1.1\r\nhost: x\r\na: ", b"x" * 65_536),
    "headers": (b"GET /health HTTP/1.1\r\n", b"a: bcdefgh\r\n" * 5_000),
    "an address": (b"GET /", b"x" * 65_536),
    "trailers": (_POST + b"transfer-encoding: chunked\r\n\r\n0\r\na: ", b"x" * 65_536),
    "requests": (b"", b"GET /health HTTP/1.1\r\n\r\n" * 3_000),
    "requests in small parts": (b"", b"GET /health HTTP/1.1\r\n\r\n" * 40),
    "chunks": (
        _POST + b"transfer-encoding: chunked\r\n\r\n",
        b"8000\r\n" + b" " * 32_768 + b"\r\n",
    ),
    "a body": (_POST + b"content-length: 30000000\r\n\r\n", b" " * 65_536),
}
# Whoever sends these has said nothing wrong until the server has lost its patience.
_BODIES = {"chunks", "a body"}


@dataclass
class Seen:
    """What became of the connections.

    Attributes:
        ended: How many of each kind the server has ended.
        growth: Bytes that it has grown by at most.
        wrong: What must not be, a line each.
    """

    ended: Counter[str] = field(default_factory=Counter)
    growth: int = 0
    wrong: list[str] = field(default_factory=list)


@dataclass
class _Hoarder:
    kind: str
    connection: socket.socket
    waiting: bytes
    more: bytes
    sent: int = 0


def attack(server: ServerProcess, connections: int, size: int) -> Seen:
    """Send without an end by many connections at once.

    Args:
        server: A server that is ready.
        connections: How many, shared among the kinds.
        size: Bytes that each sends at most.
    """
    seen = Seen()
    before = memory(server)
    parts = urlsplit(server.address)
    with contextlib.ExitStack() as open_ones, selectors.DefaultSelector() as selector:
        hoarders = list(_connect(open_ones, (parts.hostname, parts.port), connections))
        for one in hoarders:
            selector.register(one.connection, selectors.EVENT_READ | selectors.EVENT_WRITE, one)
        deadline = time.monotonic() + _PATIENCE
        while selector.get_map() and time.monotonic() < deadline:
            for key, events in selector.select(1):
                one = key.data
                if not _go_on(one, events, size):
                    selector.unregister(one.connection)
                    if one.sent < size or one.kind in _BODIES:
                        seen.ended[one.kind] += 1
                    else:
                        seen.wrong.append(f"{one.kind}: all {one.sent} bytes were taken")
                elif one.sent >= size:
                    selector.modify(one.connection, selectors.EVENT_READ, one)
            seen.growth = max(seen.growth, memory(server) - before)
        seen.wrong += [
            f"{key.data.kind}: neither taken nor ended" for key in list(selector.get_map().values())
        ]
    if seen.growth > _MOST_GROWTH:
        seen.wrong.append(f"the server grew by {seen.growth / 1e6:.0f} MB")
    status = httpx2.post(f"{server.address}/predict", json=BODY, timeout=30).status_code
    if status != 200:
        seen.wrong.append(f"a good request afterwards: {status}")
    return seen


def _connect(
    stack: contextlib.ExitStack, address: tuple[str | None, int | None], count: int
) -> Iterable[_Hoarder]:
    for number in range(count):
        kind = list(KINDS)[number % len(KINDS)]
        connection = stack.enter_context(socket.create_connection(address, 30))
        connection.setblocking(False)
        yield _Hoarder(kind, connection, *KINDS[kind])


def _go_on(one: _Hoarder, events: int, size: int) -> bool:
    """Read what there is and send what is taken; False when it is over."""
    try:
        if events & selectors.EVENT_READ and not one.connection.recv(65_536):
            return False
        if events & selectors.EVENT_WRITE:
            if not one.waiting:
                one.waiting = one.more
            left = size - one.sent
            if left <= 0:
                return one.kind in _BODIES
            taken = one.connection.send(one.waiting[:left])
            one.waiting = one.waiting[taken:]
            one.sent += taken
    except BlockingIOError:
        pass
    except OSError:
        return False
    return True


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=20, help="that each sends at most")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        model = train_model(Path(scratch) / "model")
        settings = [f"model.path={model}", "server.access_log=false", "server.body_timeout=10"]
        server = ServerProcess(Path(scratch), [*settings, "server.max_body_bytes=33554432"], {})
        server.wait()
        try:
            seen = attack(server, options.connections, options.megabytes * 2**20)
        finally:
            server.end(signal.SIGTERM)
    print(f"ended: {', '.join(f'{count} x {kind}' for kind, count in seen.ended.items())}")
    print(f"memory: {seen.growth / 1e6:+.0f} MB at most")
    for line in seen.wrong[:10]:
        print(f"  {line}")
    print(f"{options.connections} connections, {len(seen.wrong)} wrong")
    return int(bool(seen.wrong))


if __name__ == "__main__":
    sys.exit(main())
