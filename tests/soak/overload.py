"""Ask a server for ten times what it can do, among a thousand clients that stand still.

    python -m tests.soak.overload

First the rate at which it answers a handful of clients is measured. Then requests come at ten times
that rate, over many connections, whatever becomes of those before; at the same time a thousand
clients hold connections open: a third never sends anything, a third sends its head byte by byte,
and a third its body. Meanwhile another process asks for ``/health``, each time by a new connection.
The server has a core of its own, and all else another one (with two cores or more), as far as other
programs of the machine leave them alone; how late the process that asks for ``/health`` was woken
is told beside it, and taken off from nothing. It ends with status 1 if

- an answer was none of 200, 429 (with ``Retry-After``) and 503 (with ``Retry-After``), or missing;
- the 99th percentile of ``/health`` was above 100 ms;
- the memory of the server grew by more than 300 MB at any time;
- a slow client was still connected 30 s after it had come;
- the load was less than three times what the server can do: this would say nothing;
- less than half of what it can do was answered meanwhile, or it took longer than 3 s after it until
  a handful of clients were answered as fast as before.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import uvloop

from tests.servers import ROW, ServerProcess, train_model
from tests.soak.fuzzed_requests import memory
from tests.soak.health import ask_for_health, set_apart

_MOST_GROWTH = 300 * 1024**2  # bytes
_SLOW_SECONDS = 30.0
_HEALTH_SECONDS = 0.1
_RECOVERY_SECONDS = 3.0
_LEAST_TIMES = 3.0


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
        slow: Seconds after which slow clients were cut off.
        seconds: Of answers of 200.
        health: Seconds that ``/health`` took.
        late: Seconds by which whoever asks for it was woken too late.
        before: Requests that a handful of clients are answered in a second.
        offered: Requests that were sent in a second.
        answered: Answers of 200 in a second meanwhile.
        recovery: Seconds after it until a handful of clients were answered as fast again.
        growth: Bytes that the server has grown by at most.
    """

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    health: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    before: float = 0.0
    offered: float = 0.0
    answered: float = 0.0
    recovery: float = 0.0
    growth: int = 0


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
    async with contextlib.AsyncExitStack() as stack:
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while True:
            await due.get()
            started = time.monotonic()
            try:
                if connection is None:
                    connection = await asyncio.open_connection(*address)
                    stack.callback(connection[1].close)
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
    await asyncio.gather(*clients, return_exceptions=True)
    return seen.statuses[200] / (time.monotonic() - started)


async def _overload(
    server: ServerProcess, options: argparse.Namespace, seen: Seen, measured: float
) -> None:
    address = _address(server)
    request = _request(options.rows)
    await _rate(address, request, measured / 3)
    seen.before = await _rate(address, request, measured)
    resident = memory(server)
    due: asyncio.Queue[None] = asyncio.Queue()
    slow_tasks = [asyncio.create_task(_slow(address, n % 3, seen)) for n in range(options.slow)]
    clients = [
        asyncio.create_task(_client(address, request, due, seen)) for _ in range(options.clients)
    ]
    started = looked = time.monotonic()
    sent = 0
    while (now := time.monotonic()) < started + options.seconds:
        wanted = int((now - started) * seen.before * options.times)
        # What no client could take is not put off: it would come when the overload is over.
        for _ in range(min(wanted - sent, options.clients - due.qsize())):
            due.put_nowait(None)
        sent = wanted
        if now > looked + 0.2:
            looked = now
            seen.growth = max(seen.growth, memory(server) - resident)
        await asyncio.sleep(0.005)
    seen.offered = sum(seen.statuses.values()) / options.seconds
    seen.answered = seen.statuses[200] / options.seconds
    while not due.empty():
        due.get_nowait()
    ended = time.monotonic()
    while (
        await _rate(address, request, 0.5) < seen.before / 2
        and time.monotonic() < ended + 5 * _RECOVERY_SECONDS
    ):
        pass
    seen.recovery = time.monotonic() - ended
    for client in clients:
        client.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    for failure in await asyncio.gather(*slow_tasks, return_exceptions=True):
        if failure is not None:
            seen.wrong.append(f"a slow client: {failure!r}")
    seen.growth = max(seen.growth, memory(server) - resident)


def _address(server: ServerProcess) -> tuple[str, int]:
    parts = urlsplit(server.address)
    assert parts.hostname is not None
    assert parts.port is not None
    return parts.hostname, parts.port


def attack(
    server: ServerProcess,
    options: argparse.Namespace,
    *,
    measured: float = 3.0,
    apart: bool = True,
) -> Seen:
    """Overload a server that is ready.

    Args:
        server: The server.
        options: As of the command line.
        measured: Seconds in which to find out what it can do.
        apart: Part the cores of the machine between the server and those who ask.
    """
    core = _part_cores(server) if apart else None
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    probe = spawn.Process(target=ask_for_health, args=(_address(server), core, theirs))
    probe.start()
    seen = Seen()
    try:
        ours.recv()  # it has begun
        uvloop.run(_overload(server, options, seen, measured))
        ours.send(None)
        seen.health, seen.late, problems = ours.recv()
        seen.wrong += problems
    finally:
        ours.close()
        probe.join(20)
    return seen


def _part_cores(server: ServerProcess) -> int:
    """Give the server a core and this process another one, which is returned."""
    cores = sorted(os.sched_getaffinity(0))
    set_apart(server.process.pid, cores[0])
    set_apart(os.getpid(), cores[-1])
    return cores[-1]


def problems_of(seen: Seen, options: argparse.Namespace) -> list[str]:
    """Say what must not be."""
    rules = {
        "/health was slow": _percentile(seen.health) > _HEALTH_SECONDS,
        "a slow client was not cut off": max(seen.slow, default=0.0) > _SLOW_SECONDS,
        "memory grew too much": seen.growth > _MOST_GROWTH,
        "this was no overload": seen.offered < min(_LEAST_TIMES, options.times) * seen.before,
        "it has done less than half of what it can": seen.answered < seen.before / 2,
        "it has not recovered": seen.recovery > _RECOVERY_SECONDS,
    }
    return [*seen.wrong, *(rule for rule, broken in rules.items() if broken)]


def _percentile(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=100)[98]


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
        try:
            seen = attack(server, options)
        finally:
            server.end(signal.SIGTERM)
    statuses = ", ".join(f"{count} x {status}" for status, count in sorted(seen.statuses.items()))
    print(
        f"alone {seen.before:.0f} requests a second, then {seen.offered:.0f} were sent and "
        f"{seen.answered:.0f} answered with 200; as fast again after {seen.recovery:.1f} s"
    )
    print(f"answers: {statuses}; the median of 200 took {statistics.median(seen.seconds):.2f} s")
    print(
        f"/health: {len(seen.health)} times, median {1000 * statistics.median(seen.health):.0f} ms,"
        f" 99th percentile {1000 * _percentile(seen.health):.0f} ms (who asks was late by "
        f"{1000 * _percentile(seen.late):.0f} ms)"
    )
    slowest = max(seen.slow, default=0.0)
    print(f"slow clients: {len(seen.slow)}, the last was cut off after {slowest:.1f} s")
    print(f"memory: {seen.growth / 1e6:+.0f} MB at most")
    problems = problems_of(seen, options)
    for line in problems[:10]:
        print(f"  {line}")
    print(f"{sum(seen.statuses.values())} requests, {len(problems)} wrong")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
