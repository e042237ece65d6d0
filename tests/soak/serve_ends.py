"""End a server under load again and again, and count what was dropped: there shall be nothing.

    python -m tests.soak.serve_ends --ends 100

Half of the clients send one request after the other over a connection that is kept, the others five
at a time without waiting for the answers. Each server gets SIGTERM at a random moment. A line tells
of each end; the exit status is 1 if a request was dropped or answered with anything but 200, if
``/ready`` did not say 503 before the server was gone, or if the end took longer than 25 s.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import socket
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit

import httpx2

from tests.servers import BODY, Crowd, Load, ServerProcess, train_model

_MOST_SECONDS = 25.0
_AT_A_TIME = 5

_BODY = json.dumps(BODY).encode()
_REQUEST = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(_BODY) + _BODY


class Pipelines(Crowd):
    """Clients that send several requests at a time, each over a connection that is kept."""

    def __init__(self, address: str, clients: int) -> None:
        self.answers: Counter[int] = Counter()
        self.dropped: list[str] = []
        parts = urlsplit(address)
        self._address = (parts.hostname, parts.port)
        super().__init__(clients)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                connection = socket.create_connection(self._address, 20)
            except ConnectionRefusedError:
                # It was never let in: nothing is lost.
                time.sleep(0.02)
                continue
            with connection, connection.makefile("rb") as answers:
                keeps = True
                while keeps and not self._stop.is_set():
                    keeps = self._ask(connection, answers)

    def _ask(self, connection: socket.socket, answers: BinaryIO) -> bool:
        """Send some requests and read their answers; says whether the connection is kept."""
        keeps = True
        came = 0
        try:
            connection.sendall(_REQUEST * _AT_A_TIME)
            while came < _AT_A_TIME:
                status = int(answers.readline().split(b" ", 2)[1])
                length = 0
                while (line := answers.readline().strip().lower()) != b"":
                    name, _, value = line.partition(b": ")
                    length = int(value) if name == b"content-length" else length
                    keeps = keeps and (name, value) != (b"connection", b"close")
                answers.read(length)
                came += 1
                with self._lock:
                    self.answers[status] += 1
        except (OSError, IndexError) as error:
            with self._lock:
                self.dropped.append(f"{_AT_A_TIME - came} of {_AT_A_TIME}: {error!r}")
            return False
        return keeps


@dataclass
class Seen:
    """What was seen of one end.

    Attributes:
        status: The exit status.
        seconds: How long it took.
        answered: Requests that were answered with 200.
        wrong: What must not be, a line each.
    """

    status: int = 0
    seconds: float = 0.0
    answered: int = 0
    wrong: list[str] = field(default_factory=list)


def end_under_load(server: ServerProcess, clients: int) -> Seen:
    """Put a server that is ready under load and end it at a random moment.

    Args:
        server: The server.
        clients: How many ask it at the same time.
    """
    load = Load(server.address, clients - clients // 2)
    pipelines = Pipelines(server.address, clients // 2)
    seen = Seen()
    try:
        time.sleep(random.uniform(0.2, 1.0))
        with httpx2.Client(timeout=20) as orchestrator:
            # By a connection that is there: a new one may come too late on a busy machine.
            is_ready = orchestrator.get(f"{server.address}/ready").status_code == 200
            started = time.monotonic()
            server.tell(signal.SIGTERM)
            while is_ready and server.process.poll() is None:
                with contextlib.suppress(httpx2.TransportError):
                    answer = orchestrator.get(f"{server.address}/ready")
                    is_ready = answer.status_code != 503
        seen.status = server.process.wait(2 * _MOST_SECONDS)
        seen.seconds = time.monotonic() - started
    finally:
        load.end()
        pipelines.end()
    answers = load.answers + pipelines.answers
    seen.answered = answers.pop(200, 0)
    seen.wrong = [*load.dropped, *pipelines.dropped]
    seen.wrong += [f"{count} x {status}" for status, count in answers.items()]
    if is_ready:
        seen.wrong.append("/ready never said 503")
    if seen.status or seen.seconds > _MOST_SECONDS:
        seen.wrong.append(f"status {seen.status} after {seen.seconds:.1f} s")
    return seen


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ends", type=int, default=100)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--drain", type=float, default=1.0)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args(arguments)
    answered = wrong = 0
    slowest = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        settings = [
            f"model.path={train_model(folder / 'model')}",
            f"server.drain_seconds={options.drain}",
            f"server.workers={options.workers}",
            "server.access_log=false",
        ]
        for number in range(1, options.ends + 1):
            server = ServerProcess(folder, settings, {})
            server.wait()
            seen = end_under_load(server, options.clients)
            print(f"end {number}: {seen}", flush=True)
            answered += seen.answered
            wrong += len(seen.wrong)
            slowest = max(slowest, seen.seconds)
    print(
        f"{options.ends} ends, {answered} requests answered, {wrong} wrong, "
        f"slowest end {slowest:.1f} s"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
