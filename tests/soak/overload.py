"""Ask a server for ten times what it can do, among a thousand clients that stand still.

    python -m tests.soak.overload

First the rate at which it answers a handful of clients is measured. Then requests come at ten times
that rate, over many connections, whatever becomes of those before; at the same time a thousand
clients hold connections open: a third never sends anything, a third sends its head byte by byte,
and a third its body. Meanwhile ``/health`` is asked from outside. It ends with status 1 if

- an answer was none of 200, 429 (with ``Retry-After``) and 503 (with ``Retry-After``);
- the 99th percentile of ``/health`` was above 100 ms;
- the memory of the server grew by more than 300 MB;
- a slow client was still connected 30 s after it had come;
- the server did not answer as fast as before at once after it.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from tests.servers import ROW, ServerProcess, train_model
from tests.soak.fuzzed_requests import memory

_MOST_GROWTH = 300 * 1024**2  # bytes
_SLOW_SECONDS = 30.0
_HEALTH_SECONDS = 0.1

_HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"


def _request(rows: int) -> bytes:
    body = json.dumps({"features": [list(ROW.values())] * rows}).encode()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


@dataclass
class Seen:
    """What was seen.

    Attributes:
        statuses: How often which status came.
        wrong: What must not be, a line each.
        health: Seconds that ``/health`` took.
        slow: Seconds after which slow clients were cut off.
        seconds: Of answers of 200.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)


async def _ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, bytes]:
    writer.write(request)
    await writer.drain()
    head = await reader.readuntil(b"\r\n\r\n")
    length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1]), head.lower()


async def _client(
    address: tuple[str, int], request: bytes, due: asyncio.Queue[None], seen: Seen
) -> None:
    """Send a request whenever one is due, over a connection that is kept."""
    connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
    while True:
        await due.get()
        started = time.monotonic()
        try:
            if connection is None:
                connection = await asyncio.open_connection(*address)
            status, head = await _ask(*connection, request)
        except (OSError, asyncio.IncompleteReadError) as error:
            seen.wrong.append(f"a request was dropped: {error!r}")
            connection = None
            continue
        seen.statuses[status] += 1
        if status == 200:
            seen.seconds.append(time.monotonic() - started)
        elif status not in (429, 503) or b"retry-after:" not in head:
            seen.wrong.append(f"{status}: {head!r}")
        if b"connection: close" in head:
            connection[1].close()
            connection = None


async def _slow(address: tuple[str, int], kind: int, seen: Seen) -> None:
    """Hold a connection open for as long as the server lets us."""
    reader, writer = await asyncio.open_connection(*address)
    started = time.monotonic()
    body = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{"
    begin = (b"", b"GET /health HTTP/1.1\r\nx: ", body)[kind]
    with contextlib.suppress(OSError):
        writer.write(begin)
        while time.monotonic() < started + 2 * _SLOW_SECONDS:
            if kind:
                writer.write(b" ")
            with contextlib.suppress(TimeoutError):
                # What comes before the end may be a 408.
                if not await asyncio.wait_for(reader.read(4_096), 1):
                    break
    seen.slow.append(time.monotonic() - started)
    writer.close()


async def _health(address: tuple[str, int], seen: Seen) -> None:
    """Ask for the health, twenty times a second, as an orchestrator does: by a new connection."""
    while True:
        started = time.monotonic()
        reader, writer = await asyncio.open_connection(*address)
        status, _ = await _ask(reader, writer, _HEALTH)
        seen.health.append(time.monotonic() - started)
        writer.close()
        if status != 200:
            seen.wrong.append(f"/health: {status}")
        await asyncio.sleep(0.05)


async def _rate(address: tuple[str, int], request: bytes, seconds: float) -> float:
    """Measure how many requests a second a handful of clients are answered."""
    seen = Seen()
    due: asyncio.Queue[None] = asyncio.Queue()
    clients = [asyncio.create_task(_client(address, request, due, seen)) for _ in range(8)]
    started = time.monotonic()
    while time.monotonic() < started + seconds:
        while due.qsize() < 16:
            due.put_nowait(None)
        await asyncio.sleep(0.001)
    for client in clients:
        client.cancel()
    return seen.statuses[200] / seconds


async def _overload(
    address: tuple[str, int], *, rows: int, seconds: float, times: float, clients: int, slow: int
) -> tuple[Seen, float, float, float]:
    request = _request(rows)
    before = await _rate(address, request, 3)
    seen = Seen()
    due: asyncio.Queue[None] = asyncio.Queue()
    slow_tasks = [asyncio.create_task(_slow(address, n % 3, seen)) for n in range(slow)]
    tasks = [asyncio.create_task(_client(address, request, due, seen)) for _ in range(clients)]
    tasks.append(asyncio.create_task(_health(address, seen)))
    started = time.monotonic()
    sent = 0
    while (now := time.monotonic()) < started + seconds:
        wanted = int((now - started) * before * times)
        # What no client could take is not put off: it would come when the overload is over.
        for _ in range(min(wanted - sent, clients - due.qsize())):
            due.put_nowait(None)
        sent = wanted
        await asyncio.sleep(0.005)
    offered = sum(seen.statuses.values()) / seconds
    while not due.empty():
        due.get_nowait()
    after = await _rate(address, request, 3)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*slow_tasks)
    return seen, before, offered, after


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2_000, help="in a request")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--times", type=float, default=10.0, help="what it can do")
    parser.add_argument("--clients", type=int, default=1_500)
    parser.add_argument("--slow", type=int, default=1_000)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        model = train_model(Path(scratch) / "model")
        settings = [f"model.path={model}", "server.access_log=false", "server.body_timeout=15"]
        server = ServerProcess(Path(scratch), settings, {})
        server.wait()
        parts = urlsplit(server.address)
        assert parts.hostname is not None
        assert parts.port is not None
        resident = memory(server)
        try:
            seen, before, offered, after = asyncio.run(
                _overload(
                    (parts.hostname, parts.port),
                    rows=options.rows,
                    seconds=options.seconds,
                    times=options.times,
                    clients=options.clients,
                    slow=options.slow,
                )
            )
            growth = memory(server) - resident
        finally:
            server.end(signal.SIGTERM)
    health = statistics.quantiles(seen.health, n=100)[98]
    slowest = max(seen.slow, default=0.0)
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(seen.statuses.items()))
    print(f"alone {before:.0f} requests a second, then {offered:.0f} were sent, then {after:.0f}")
    print(f"answers: {statuses}; the median of 200 took {statistics.median(seen.seconds):.2f} s")
    print(f"/health: {len(seen.health)} times, 99th percentile {1000 * health:.0f} ms")
    print(f"slow clients: {len(seen.slow)}, the last was cut off after {slowest:.1f} s")
    print(f"memory: {growth / 1e6:+.0f} MB")
    problems = [
        *seen.wrong,
        *(["/health is slow"] if health > _HEALTH_SECONDS else []),
        *(["a slow client was not cut off"] if slowest > _SLOW_SECONDS else []),
        *(["memory grew too much"] if growth > _MOST_GROWTH else []),
        *(["it has not recovered"] if after < before / 2 else []),
    ]
    for line in problems[:10]:
        print(f"  {line}")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
