"""The lines of a program's log, kept in a file beside what the console shows."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ml_project_template.utils.secrets import redact

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["captured_log"]


@contextlib.contextmanager
def captured_log(secrets: set[str]) -> Iterator[Path]:
    """Write every log record of the block into a file, without secrets."""
    with tempfile.TemporaryDirectory() as staging:
        path = Path(staging, "console.log")
        handler = logging.FileHandler(path, encoding="utf-8")
        handler.setFormatter(_RedactingFormatter(secrets))
        root = logging.getLogger()
        root.addHandler(handler)
        try:
            yield path
        finally:
            root.removeHandler(handler)
            handler.close()


class _RedactingFormatter(logging.Formatter):
    """Hides secrets in the whole line, traceback included.

    It keeps the very set it was given, which grows as a run learns of its configuration.
    """

    def __init__(self, secrets: set[str]) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s")
        self._secrets = secrets

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record), self._secrets)
