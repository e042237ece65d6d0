"""What an endpoint of the hot path gets and gives: a body in, a body out.

Starlette's request and response objects cost more than the answer of a small model, so the
endpoints that predict are plain functions of a `Request`; everything else of the server is an
ordinary FastAPI application.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from types import MappingProxyType
from typing import Any

import msgspec

__all__ = [
    "JSON",
    "PIPELINE",
    "Answer",
    "BodyLimits",
    "ClientGoneError",
    "Endpoint",
    "RefusalError",
    "Request",
    "cut",
    "problem",
    "read_body",
]

JSON = b"application/json"

PIPELINE = "ml_project_template.pipeline"
"""The key in the scope of a request to those that have come after it by the same connection."""

_LONGEST_PROBLEM = 1_900  # bytes
_SMALL_BODY = 65_536  # bytes

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class Request:
    """A request with its whole body.

    Attributes:
        body: The bytes that were sent.
        headers: Pairs of name, in small letters, and value.
        path_params: What stands in the path for its ``{...}``, where it has some.
    """

    __slots__ = ("body", "headers", "path_params")

    def __init__(
        self,
        body: bytes,
        headers: list[tuple[bytes, bytes]],
        path_params: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.body = body
        self.headers = headers
        self.path_params = path_params

    def header(self, name: bytes) -> bytes:
        """Find a header; empty if it was not sent.

        Args:
            name: The name, in small letters.
        """
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    @property
    def content_type(self) -> str:
        """The media type without its parameters, in small letters."""
        return self.header(b"content-type").split(b";")[0].strip().lower().decode("latin-1")


class Answer:
    """What a request is answered with.

    Attributes:
        body: The bytes to send.
        content_type: Their media type.
        status: The HTTP status.
        headers: Further headers.
    """

    __slots__ = ("body", "content_type", "headers", "status")

    def __init__(
        self,
        body: bytes,
        content_type: bytes = JSON,
        status: int = 200,
        headers: list[tuple[bytes, bytes]] | None = None,
    ) -> None:
        self.body = body
        self.content_type = content_type
        self.status = status
        self.headers = headers


Endpoint = Callable[[Request], Awaitable[Answer]]


class RefusalError(Exception):
    """A request that is not answered, and why.

    Args:
        status: The HTTP status.
        detail: One line for the client, which never repeats what it sent at length.
        retry_after: Seconds after which to try again, for 429 and 503.
    """

    def __init__(self, status: int, detail: str, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.retry_after = retry_after


class ClientGoneError(Exception):
    """The client has closed its connection before its request was read."""


def cut(text: str, length: int = 60) -> str:
    """Cut a text that was sent, so that an answer stays short.

    Args:
        text: The text.
        length: How many of its characters to keep.
    """
    return text if len(text) <= length else text[:length] + "..."


def problem(refusal: RefusalError, key: str = "detail") -> Answer:
    """Make the answer of a refused request.

    Args:
        refusal: Why it is refused.
        key: What the protocol calls the message.

    Returns:
        ``{"detail": "..."}``, under 2 KB.
    """
    detail = refusal.detail
    # A lone surrogate is no text that could be sent.
    detail = detail.encode("utf-8", "replace").decode("utf-8")
    body = msgspec.json.encode({key: detail})
    while len(body) > _LONGEST_PROBLEM:
        detail = detail[: len(detail) * 2 // 3]
        body = msgspec.json.encode({key: f"{detail}..."})
    headers = None
    if refusal.retry_after is not None:
        headers = [(b"retry-after", str(refusal.retry_after).encode())]
    elif refusal.status == 401:
        headers = [(b"www-authenticate", b"Bearer")]
    return Answer(body, JSON, refusal.status, headers)


class BodyLimits:
    """How large a body may be, how long it may take to come, and how large all may be together.

    Args:
        max_bytes: The largest body.
        timeout: Seconds from the first to the last byte of a body.
        max_held: Bytes of all the bodies that have come, in part or whole, and are not answered
            yet. Small ones are not counted: whoever holds back the end of a few large ones keeps
            nobody from being answered but others with large ones.
    """

    __slots__ = ("_held", "max_bytes", "max_held", "timeout")

    def __init__(self, max_bytes: int, timeout: float, max_held: int = 2**40) -> None:
        self.max_bytes = max_bytes
        self.timeout = timeout
        self.max_held = max_held
        self._held = 0

    def check(self, size: int) -> None:
        """Refuse a body that is too large.

        Raises:
            RefusalError: 413.
        """
        if size > self.max_bytes:
            raise RefusalError(413, f"The body is larger than {self.max_bytes} bytes.")

    def hold(self, size: int, before: int = 0) -> None:
        """Count a body that has grown.

        Args:
            size: Its bytes.
            before: What was counted of it already.

        Raises:
            RefusalError: 413 if it is too large, 429 if all are too large together.
        """
        self.check(size)
        if size > _SMALL_BODY:
            more = size - before if before > _SMALL_BODY else size
            if self._held + more > self.max_held:
                raise RefusalError(
                    429, "The server is busy: too many large bodies wait.", retry_after=1
                )
            self._held += more

    def release(self, size: int) -> None:
        """Stop counting a body of so many bytes, which was counted or was too small for it."""
        if size > _SMALL_BODY:
            self._held -= size


async def read_body(
    receive: Receive, headers: list[tuple[bytes, bytes]], limits: BodyLimits
) -> bytes:
    """Read the body of a request.

    Args:
        receive: ASGI's own.
        headers: The headers of the request.
        limits: What is read at most. They hold the body until it is released.

    Raises:
        RefusalError: 413 if the body is too large, 408 if it takes too long, 400 if its length is
            given as no number, 429 if too many large ones are there.
        ClientGoneError: The client has gone.
    """
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit():
                raise RefusalError(400, "The header content-length must be a whole number.")
            limits.check(int(value) if len(value) <= 18 else 10**18)
    loop = asyncio.get_running_loop()
    # Cheaper than `asyncio.timeout`, on the way of every request.
    task = asyncio.current_task()
    assert task is not None
    expired = False

    def expire() -> None:
        nonlocal expired
        expired = True
        task.cancel()

    timer = loop.call_later(limits.timeout, expire)
    size = 0
    is_whole = False
    try:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        body: bytes = message.get("body", b"")
        limits.hold(len(body))
        size = len(body)
        if not message.get("more_body", False):
            is_whole = True
            return body
        chunks = [body]
        while message.get("more_body", False):
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            chunk = message.get("body", b"")
            limits.hold(size + len(chunk), before=size)
            size += len(chunk)
            chunks.append(chunk)
        is_whole = True
        return b"".join(chunks)
    except asyncio.CancelledError:
        # Somebody else may have cancelled it as well.
        if not expired or task.uncancel():
            raise
        raise RefusalError(
            408, f"The body did not come within {limits.timeout:g} seconds."
        ) from None
    finally:
        timer.cancel()
        if not is_whole:
            limits.release(size)
