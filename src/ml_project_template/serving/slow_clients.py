"""Connections that are held open without use: a head without an end, an answer that nobody takes.

Uvicorn bounds how long a connection may be idle between two requests, and `read_body` how long a
body may take. What is left is what a client does that wants to hold as many connections as it can:
it never sends its request, sends a byte of the head now and then, or does not read the answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

__all__ = ["SlowClients"]


class _Connection(Protocol):
    """What is used of uvicorn's ``HttpToolsProtocol``."""

    transport: asyncio.Transport
    timeout_keep_alive_task: asyncio.TimerHandle | None
    cycle: Any


class SlowClients:
    """Ends connections that stand still.

    Args:
        timeout: Seconds that the head of a request may take, the first from when the connection
            was made, and that an answer may lie there without a byte of it being taken.
    """

    def __init__(self, timeout: float) -> None:
        self._timeout = timeout
        # A connection to what it waited for when it was seen first, and when that was.
        self._waiting: dict[_Connection, tuple[object, float]] = {}

    def look(self, connections: Iterable[_Connection], now: float) -> int:
        """Look at all connections, and end those that have stood still for too long.

        Args:
            connections: Those that are open.
            now: Seconds of a clock that only goes forward.

        Returns:
            How many were ended.
        """
        waiting: dict[_Connection, tuple[object, float]] = {}
        ended = 0
        for connection in connections:
            state = _waits_for(connection)
            if state is None:
                continue
            before, since = self._waiting.get(connection, (None, now))
            since = since if before == state else now
            if now - since >= self._timeout:
                # Not closed: that would wait until the client has read what is left.
                connection.transport.abort()
                ended += 1
            else:
                waiting[connection] = (state, since)
        self._waiting = waiting
        return ended


def _waits_for(connection: _Connection) -> object:
    """Say what a connection waits for, another value after each progress; None if for nothing."""
    unread = connection.transport.get_write_buffer_size()
    if unread:
        return "reader", unread
    cycle = connection.cycle
    if cycle is None:
        return "head", None
    # Between two requests it is uvicorn's timer that runs.
    if cycle.response_complete and connection.timeout_keep_alive_task is None:
        return "head", id(cycle)
    return None
