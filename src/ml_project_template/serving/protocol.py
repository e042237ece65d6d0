"""HTTP/1.1 as uvicorn speaks it, with an end to what a client may make the server remember.

Uvicorn bounds a body by reading on only when the application asks for more. It keeps in memory,
however long they are, the head of a request, what comes after a body in chunks, and the requests
that are sent one after another without waiting for the answers: one connection was seen to take a
gigabyte in some seconds.
"""

from __future__ import annotations

from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from ml_project_template.serving.http import PIPELINE

__all__ = ["BoundedProtocol"]

_LONGEST_HEAD = 65_536  # bytes; what comes in one read may be a little more
_MOST_WAITING = 64  # requests on one connection


class BoundedProtocol(HttpToolsProtocol):
    """One connection of a client."""

    _beside = 0  # bytes of this request, or since its last chunk, that are no body

    def data_received(self, data: bytes) -> None:
        """Take what was read."""
        self._beside += len(data)
        super().data_received(data)
        if self._beside > _LONGEST_HEAD and not self.transport.is_closing():
            self._refuse()

    def on_message_begin(self) -> None:
        """Begin a request."""
        if len(self.pipeline) >= _MOST_WAITING:
            # Answered with 400, as all that the parser does not take.
            raise ValueError("too many requests wait on one connection")
        self._beside = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Have a request answered."""
        super().on_headers_complete()
        self._beside = 0
        extended: dict[str, Any] = self.cycle.scope  # type: ignore[assignment]
        extended[PIPELINE] = self.pipeline

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._beside -= len(body)
        super().on_body(body)

    def on_chunk_header(self) -> None:
        """Begin a chunk, of which the last one is empty."""
        self._beside = 0

    def on_message_complete(self) -> None:
        """End a request."""
        self._beside = 0
        super().on_message_complete()

    def _refuse(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # Another answer is on its way.
            self.transport.abort()
            return
        self.transport.write(STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n")
        self.transport.close()
