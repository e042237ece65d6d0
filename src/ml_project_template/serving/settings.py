"""What can be set of a server."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from ml_project_template.errors import ConfigError

__all__ = ["ServerSettings"]


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """Limits and options of a server.

    Attributes:
        max_body_bytes: The largest body of a request; larger ones get 413.
        max_rows: The most rows of a request; more get 422.
        max_queue: The most requests that wait for a model; more get 429.
        max_wait: Seconds that a request may have to wait for its turn, as far as the server can
            tell; it gets 429 otherwise, before its body is read.
        max_held_bytes: The most bytes of large bodies that are there at a time; more get 429.
        body_timeout: Seconds that a body may take to come; a slower one gets 408.
        client_timeout: Seconds that the head of a request may take, and that a client may leave an
            answer unread; then its connection is ended.
        drain_seconds: How long, after SIGTERM, requests are still taken while ``/ready`` says 503:
            long enough for whoever sends them to look elsewhere.
        watch_seconds: How often to look for a new version at the models' places; None never looks.
        token: The bearer token that is asked for; None asks for none.
        access_log: Write a line of JSON for each request to the standard error.
        telemetry: Let FastAPI send OpenTelemetry's traces and metrics.

    Raises:
        ConfigError: A number is not positive, or the token is none that a client could send.
    """

    max_body_bytes: int = 16 * 2**20
    max_rows: int = 100_000
    max_queue: int = 1_024
    max_wait: float = 2.0
    max_held_bytes: int = 256 * 2**20
    body_timeout: float = 30.0
    client_timeout: float = 15.0
    drain_seconds: float = 3.0
    watch_seconds: float | None = None
    token: str | None = field(default=None, repr=False)
    access_log: bool = False
    telemetry: bool = False

    def __post_init__(self) -> None:
        for name in ("max_body_bytes", "max_rows", "max_queue", "max_held_bytes"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
                raise ConfigError(f"server.{name}: must be a whole number above 0, got {value!r}")
        for name in ("max_wait", "body_timeout", "client_timeout", "watch_seconds"):
            value = getattr(self, name)
            if name == "watch_seconds" and value is None:
                continue
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:
                raise ConfigError(f"server.{name}: must be a number greater than 0, got {value!r}")
        drain = self.drain_seconds
        if isinstance(drain, bool) or not isinstance(drain, int | float) or not 0 <= drain <= 3600:
            raise ConfigError(f"server.drain_seconds: must be 0 to 3600 seconds, got {drain!r}")
        if self.token is not None and not _is_token(self.token):
            raise ConfigError(
                "server.token: must be some visible ASCII characters without spaces, or null for "
                "none"
            )


def _is_token(token: object) -> bool:
    """Say whether a client could send it: a header ends at its last visible character."""
    return isinstance(token, str) and bool(token) and all("!" <= mark <= "~" for mark in token)
