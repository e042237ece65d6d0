"""One line of JSON for each request, written in the background."""

from __future__ import annotations

import asyncio
import secrets
import sys
import time
from datetime import UTC, datetime

import msgspec

__all__ = ["AccessLog", "request_ids"]

_MAX_LINES = 20_000  # that wait to be written; a reader who is slower loses lines, not the server
_MAX_PATHS = 1_000  # whose JSON is remembered


class AccessLog:
    """Gathers lines and writes them to the standard error a few times a second.

    Writing each by itself, through ``logging``, would cost as much as the answer of a small model.
    A line is made at once, and only the writing is left to a thread, which needs no interpreter.

    Args:
        interval: Seconds between two writes.
    """

    def __init__(self, interval: float = 0.25) -> None:
        self._interval = interval
        self._lines: list[str] = []
        self._lost = 0
        self._timer: asyncio.TimerHandle | None = None
        self._writing = False
        self._second = 0
        self._moment = ""
        self._places: dict[tuple[str, str], str] = {}

    def add(
        self, request_id: str, method: str, path: str, status: int, seconds: float, size: int
    ) -> None:
        """Note a request.

        Args:
            request_id: Its id, of letters, digits, ``-`` and ``_``.
            method: The HTTP method.
            path: The path without the query, which may hold what is nobody's business.
            status: The HTTP status of the answer.
            seconds: How long the answer took.
            size: The bytes of the request's body.
        """
        if len(self._lines) >= _MAX_LINES:
            self._lost += 1
            return
        now = time.time()
        second = int(now)
        if second != self._second:
            self._second = second
            self._moment = datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")
        place = self._places.get((method, path)) or self._place(method, path)
        self._lines.append(
            f'{{"time":"{self._moment}.{int((now - second) * 1000):03d}Z",'
            f'"request_id":"{request_id}",{place},"status":{status},'
            f'"seconds":{seconds:.6f},"bytes":{size}}}\n'
        )
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._interval, self._write_soon)

    def _place(self, method: str, path: str) -> str:
        """Write method and path as JSON; both are the client's words."""
        # A lone surrogate is no text that could be written.
        shown = path[:200].encode("utf-8", "replace").decode()
        text = msgspec.json.encode({"method": method[:20], "path": shown}).decode()[1:-1]
        if len(self._places) < _MAX_PATHS and len(path) <= 200:
            self._places[method, path] = text
        return text

    def _write_soon(self) -> None:
        loop = asyncio.get_running_loop()
        if self._writing:
            # The reader is slow: no second writer.
            self._timer = loop.call_later(self._interval, self._write_soon)
            return
        self._timer = None
        self._writing = True
        loop.run_in_executor(None, self.flush)

    def flush(self) -> None:
        """Write what has gathered."""
        lines, self._lines = self._lines, []
        if self._lost:
            lines.append(f'{{"lost_lines":{self._lost}}}\n')
            self._lost = 0
        try:
            sys.stderr.write("".join(lines))
            sys.stderr.flush()
        except (OSError, ValueError):
            # Nobody reads any more; the service goes on.
            pass
        finally:
            self._writing = False


class request_ids:  # noqa: N801 - used like a function
    """Makes ids of requests: one random part for the process, and a number."""

    def __init__(self) -> None:
        self._prefix = secrets.token_hex(6)
        self._count = 0

    def __call__(self, given: bytes) -> str:
        """Take the id that a proxy has given, if it is one, or make one.

        Args:
            given: The header ``x-request-id``; empty if it was not sent.
        """
        if given and len(given) <= 64 and given.replace(b"-", b"").replace(b"_", b"").isalnum():
            return given.decode("ascii")
        self._count += 1
        return f"{self._prefix}-{self._count:x}"
