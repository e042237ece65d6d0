"""Send a server whatever comes to mind, and see that each request is answered or refused in order.

    python -m tests.soak.fuzzed_requests --requests 100000

A real server is sent requests made of good ones: bodies with values, keys and bytes changed, wrong
lengths and headers, and bytes that are no HTTP at all. A line for each kind tells what was seen.
The exit status is 1 if there was an answer of 5xx, one that holds NaN or an infinite number, a
refusal that is large (it must not send the request back), a request that was neither answered nor
cut off in 10 s, a server that ended or no longer answers a good request, or one whose memory grew
by more than 200 MB.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import re
import signal
import socket
import string
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.servers import ROW, ServerProcess, train_model

_HANG_SECONDS = 10.0
_MOST_GROWTH = 200 * 1024**2  # bytes
_MOST_REFUSAL = 4_096  # bytes of an answer that refuses
_NO_NUMBER = re.compile(rb"(?<![A-Za-z\"_])(NaN|-?Infinity|-?inf|nan)(?![A-Za-z\"_])")

_V2_INPUT = {"name": "X", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}
GOOD: dict[str, list[Any]] = {
    "/predict": [
        {"features": [list(ROW.values())]},
        {"features": [ROW, ROW]},
        {"features": {name: [value, value] for name, value in ROW.items()}},
    ],
    "/invocations": [
        {"dataframe_split": {"columns": list(ROW), "data": [list(ROW.values())]}},
        {"dataframe_records": [ROW]},
        {"inputs": [list(ROW.values())]},
        {"instances": [ROW]},
    ],
    "/v2/models/model/infer": [{"inputs": [_V2_INPUT]}, {"id": "1", "inputs": [_V2_INPUT]}],
    "/v2/repository/index": [{}],
}
VALUES: list[Any] = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**60, 0.1, -0.0, 1e308, 5e-324),
    *(
        "",
        "x",
        "5.1",
        "NaN",
        "setosa",
        "\x00",
        "\ud800",
        "é" * 100,
        "a" * 100_000,
        "${oc.env:HOME}",
    ),
    *([], [[]], [None], [1] * 50, [[1.0] * 4] * 3, {}, {"a": 1}, {"_target_": "os.system"}),
]
TEXTS = [
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "01",
        "1.",
        ".5",
        "+1",
        "0x10",
        "1e",
        "tru",
    ),
    *(
        '"\\ud800"',
        '"\\u0000"',
        "'a'",
        "/**/1",
        "9" * 10_000,
        "[" * 5_000,
        '{"a":' * 3_000,
        "\ufeff1",
    ),
]
HEADERS = [
    "Content-Type: text/csv",
    "Content-Type: application/json; charset=utf-16",
    "Content-Type: multipart/form-data; boundary=x",
    "Content-Type: application/octet-stream",
    "Content-Encoding: gzip",
    "Accept-Encoding: gzip",
    "Expect: 100-continue",
    "Transfer-Encoding: chunked",
    "Transfer-Encoding: gzip, chunked",
    "Inference-Header-Content-Length: 10",
    "Inference-Header-Content-Length: -1",
    "Inference-Header-Content-Length: 99999999999999999999",
    "Content-Length: -1",
    "Content-Length: 99999999999999999999",
    "Connection: upgrade",
    "Upgrade: websocket",
    "Authorization: Bearer \xff",
    "X-Request-ID: " + "a" * 5_000,
    "Cookie: " + "a=b; " * 3_000,
]


@dataclass
class Seen:
    """What came of the requests.

    Attributes:
        statuses: How often each was answered; 0 for a connection that was closed.
        wrong: What must not be, a line each.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


class Client:
    """A connection that is made anew where the server closes it."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        assert parts.hostname is not None
        assert parts.port is not None
        self._address = (parts.hostname, parts.port)
        self._socket: socket.socket | None = None

    def send(self, request: bytes, *, last: bool) -> tuple[int, bytes]:
        """Send bytes; returns status and body of the answer, 0 where there is none.

        Args:
            request: What is sent.
            last: Nothing more is sent on this connection: the server may close it.

        Raises:
            TimeoutError: There was neither an answer nor an end.
        """
        if self._socket is None:
            self._socket = socket.create_connection(self._address, _HANG_SECONDS)
        try:
            self._socket.sendall(request)
            if last:
                self._socket.shutdown(socket.SHUT_WR)
            status, body, kept = _read(self._socket)
        except (ConnectionError, BrokenPipeError):
            status, body, kept = 0, b"", False
        except OSError as error:
            self.close()
            if isinstance(error, TimeoutError):
                raise
            return 0, b""
        if last or not kept:
            self.close()
        return status, body

    def close(self) -> None:
        """Close it."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _read(connection: socket.socket) -> tuple[int, bytes, bool]:
    """Read an answer: its status, its body, and whether the connection is kept."""
    content = b""
    while True:
        while b"\r\n\r\n" not in content:
            more = connection.recv(65_536)
            if not more:
                return 0, content, False
            content += more
        head, _, content = content.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status != 100:
            break
    lines = [line.lower() for line in head.split(b"\r\n")]
    lengths = [int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")]
    chunked = any(line.startswith(b"transfer-encoding:") for line in lines)
    wanted = lengths[0] if lengths else None
    while chunked or wanted is None or len(content) < wanted:
        if chunked and content.endswith(b"0\r\n\r\n"):
            break
        more = connection.recv(65_536)
        if not more:
            return status, content, False
        content += more
    return status, content, b"connection: close" not in lines


# ---- requests


def _changed(value: Any, chance: random.Random) -> Any:
    value = copy.deepcopy(value)
    for _ in range(chance.randint(1, 3)):
        places: list[tuple[Any, Any]] = []
        waiting = [value]
        while waiting:
            container = waiting.pop()
            items = container.items() if isinstance(container, dict) else enumerate(container)
            for key, inner in items:
                places.append((container, key))
                if isinstance(inner, dict | list):
                    waiting.append(inner)
        if not places:
            return chance.choice(VALUES)
        container, key = chance.choice(places)
        way = chance.randrange(5)
        if way == 0:
            del container[key]
        elif way == 1 and isinstance(container, dict):
            container[chance.choice(["", "more", "features", "é", "__proto__"])] = container.pop(
                key
            )
        elif way == 2 and isinstance(container, list):
            container.extend(container[: chance.randint(1, 5)])
        else:
            container[key] = copy.deepcopy(chance.choice(VALUES))
    return value


def _text(value: Any) -> bytes:
    # Half of a surrogate pair is written as an escape, as JSON allows.
    return json.dumps(value).encode()


def _values(path: str, chance: random.Random) -> bytes:
    return _text(_changed(chance.choice(GOOD[path]), chance))


def _texts(path: str, chance: random.Random) -> bytes:
    text = _text(chance.choice(GOOD[path])).decode()
    numbers = list(re.finditer(r"-?[0-9.]+", text)) or list(re.finditer(r"$", text))
    place = chance.choice(numbers)
    return (text[: place.start()] + chance.choice(TEXTS) + text[place.end() :]).encode("utf-8")


def _scrambled(path: str, chance: random.Random) -> bytes:
    body = bytearray(_text(chance.choice(GOOD[path])))
    for _ in range(chance.randint(1, 6)):
        place = chance.randrange(len(body) + 1)
        way = chance.randrange(4)
        if way == 0:
            body[place:place] = chance.randbytes(chance.randint(1, 8))
        elif way == 1:
            del body[place : place + chance.randint(1, 8)]
        elif way == 2:
            body[place:place] = body[: chance.randint(1, 40)]
        else:
            body[place : place + 1] = chance.choice(b'{}[]",:\\0e-.\xff\x00 ').to_bytes()
    return bytes(body)


def _post(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: localhost", *headers]
    if not any(line.startswith("Content-Type") for line in headers):
        lines.append("Content-Type: application/json")
    if not any(line.startswith(("Content-Length", "Transfer-Encoding")) for line in headers):
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def make_request(kind: str, chance: random.Random) -> tuple[bytes, bool]:
    """Make a request of a kind; says, too, whether its connection is of no use after it."""
    path = chance.choice(list(GOOD))
    if kind == "values":
        return _post(path, _values(path, chance)), False
    if kind == "numbers":
        return _post(path, _texts(path, chance)), False
    if kind == "scrambled":
        return _post(path, _scrambled(path, chance)), False
    body = chance.choice([_values, _scrambled])(path, chance)
    if kind == "headers":
        return _post(path, body, *chance.sample(HEADERS, chance.randint(1, 3))), True
    if kind == "paths":
        letters = string.ascii_letters + "/.%?#{}&=;:@\\~*+ 0123456789"
        more = "".join(chance.choices(letters, k=chance.randint(0, 30)))
        method = chance.choice(
            ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE"]
        )
        target = chance.choice([path, "/", "/models/", "/v2/models/", "/info", "/docs"]) + more
        head = (
            f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        return head.encode("latin-1") + body, True
    request = bytearray(_post(path, body))
    for _ in range(chance.randint(1, 10)):
        place = chance.randrange(min(len(request), 150))
        request[place : place + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 4))
    return bytes(request[: chance.choice([None, chance.randrange(len(request) + 1)])]), True


KINDS = ("values", "numbers", "scrambled", "headers", "paths", "bytes")


def check(request: bytes, status: int, body: bytes) -> str | None:
    """Say what is wrong with an answer; None if nothing is."""
    if status >= 500:
        return f"{status}: {body[:200]!r}"
    if _NO_NUMBER.search(body) and status == 200:
        return f"an answer with what is no number: {body[:200]!r}"
    if status >= 400 and len(body) > _MOST_REFUSAL:
        return f"{status} with {len(body)} bytes for a request of {len(request)}"
    return None


def attack(server: ServerProcess, requests: int, *, seed: int = 0) -> dict[str, Seen]:
    """Send requests of all kinds to a server that is ready.

    Args:
        server: The server.
        requests: How many.
        seed: Of what is sent.

    Returns:
        What was seen, by kind.
    """
    chance = random.Random(seed)
    found = {kind: Seen() for kind in KINDS}
    client = Client(server.address)
    before = memory(server)
    for number in range(requests):
        kind = KINDS[number % len(KINDS)]
        seen = found[kind]
        request, last = make_request(kind, chance)
        try:
            status, body = client.send(request, last=last)
        except TimeoutError:
            seen.wrong.append(f"request {number}: neither answered nor cut off: {request[:200]!r}")
            continue
        except ConnectionRefusedError:
            seen.wrong.append(f"request {number}: the server is gone: {server.output[-500:]}")
            return found
        seen.statuses[status] += 1
        problem = check(request, status, body)
        if problem is not None:
            seen.wrong.append(f"request {number}: {problem}\n    {request[:300]!r}")
        if number % 500 == 0:
            path = chance.choice(list(GOOD))
            status, body = client.send(_post(path, _text(GOOD[path][0])), last=False)
            if status != 200:
                # The connection may have been closed meanwhile, as any may be between requests.
                status, body = client.send(_post(path, _text(GOOD[path][0])), last=True)
            if status != 200:
                seen.wrong.append(f"a good request to {path}: {status} {body[:200]!r}")
    client.close()
    growth = memory(server) - before
    if growth > _MOST_GROWTH:
        found[KINDS[0]].wrong.append(f"the server grew by {growth / 1e6:.0f} MB")
    return found


def memory(server: ServerProcess) -> int:
    """Tell the resident memory of a server, in bytes."""
    status = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        model = train_model(Path(scratch) / "model")
        settings = [
            f"models.model.path={model}",
            "server.access_log=false",
            "server.body_timeout=3",
        ]
        server = ServerProcess(Path(scratch), settings, {})
        server.wait()
        try:
            found = attack(server, options.requests, seed=options.seed)
        finally:
            server.end(signal.SIGTERM)
        traceback = server.output.find("Traceback")
        if traceback >= 0:
            found[KINDS[0]].wrong.append(server.output[traceback : traceback + 2_000])
    for kind, seen in found.items():
        statuses = ", ".join(
            f"{n} x {status or 'cut off'}" for status, n in sorted(seen.statuses.items())
        )
        print(f"{kind}: {statuses}; {len(seen.wrong)} wrong")
        for line in seen.wrong[:5]:
            print(f"  {line}")
    wrong = sum(len(seen.wrong) for seen in found.values())
    print(f"{sum(sum(seen.statuses.values()) for seen in found.values())} requests, {wrong} wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
