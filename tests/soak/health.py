"""Ask a server for its health from a process of its own, which imports next to nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from multiprocessing.connection import Connection
from pathlib import Path

HEALTH = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n"

_NICE = -10  # where this user may set it


def set_apart(pid: int, core: int) -> None:
    """Give a process a core, before the other programs of the machine where that is allowed."""
    for thread in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, int(thread.name), _NICE)


def ask_for_health(address: tuple[str, int], core: int | None, pipe: Connection) -> None:
    """Ask for the health, twenty times a second, until told to end; a process of its own."""
    if core is not None:
        set_apart(os.getpid(), core)
    took: list[float] = []
    late: list[float] = []
    problems: list[str] = []
    pipe.send(None)
    while not pipe.poll():
        started = time.monotonic()
        try:
            with socket.create_connection(address, 10) as connection:
                connection.sendall(HEALTH)
                answer = connection.recv(4_096)
            if not answer.startswith(b"HTTP/1.1 200"):
                problems.append(f"/health: {answer[:200]!r}")
        except OSError as error:
            problems.append(f"/health: {error!r}")
        asleep = time.monotonic()
        took.append(asleep - started)
        time.sleep(0.05)
        late.append(time.monotonic() - asleep - 0.05)
    pipe.send((took, late, problems))
