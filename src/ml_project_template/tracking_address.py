"""Where runs are kept, and whether it can be used; without MLflow, so that it is known at once."""

from __future__ import annotations

import contextlib
import http.client
import os
import sqlite3
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from ml_project_template.errors import TrackingError
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DEFAULT_URI",
    "UNSENT_RUNS",
    "UnreachableError",
    "build_once",
    "check_reachable",
    "sqlite_path",
    "tracking_uri",
]

DEFAULT_URI = "sqlite:///mlflow.db"

UNSENT_RUNS = Path(".unsent", "runs")
"""Where what runs could not send is kept, below the present working directory."""

_LOCK_SECONDS = 120.0
_REACH_SECONDS = 3.0
_ASK_PAUSE = 0.5  # seconds


class UnreachableError(TrackingError):
    """What could not be done now, and may be done later."""


def tracking_uri(uri: str | None = None) -> str:
    """Say where runs are kept; a database file is named by its absolute path.

    Args:
        uri: The address; None takes ``MLFLOW_TRACKING_URI``, then ``sqlite:///mlflow.db``.

    Raises:
        TrackingError: The address names a folder, where MLflow keeps no runs any more.
    """
    found = uri or os.environ.get("MLFLOW_TRACKING_URI") or DEFAULT_URI
    scheme = urllib.parse.urlsplit(found).scheme
    if scheme in ("", "file") and found not in ("databricks", "databricks-uc", "uc"):
        raise TrackingError(
            f"tracking uri '{found}' is a folder, where MLflow keeps no runs any more. "
            f"Use a database ({DEFAULT_URI}) or a server (http://host:5000)."
        )
    path = sqlite_path(found)
    # A process that changes its directory later must still find the same file.
    return found if path is None else f"sqlite:///{path}"


def check_reachable(uri: str | None = None, *, timeout: float = _REACH_SECONDS) -> None:
    """See that the tracking server answers, or that the database can be written.

    Imports no MLflow for the usual addresses, so that a wrong one is noticed at once.

    Args:
        uri: The address; None as for `tracking_uri`.
        timeout: Seconds to wait for a server.

    Raises:
        UnreachableError: The server does not answer.
        TrackingError: The database is none, or can't be written.
    """
    uri = tracking_uri(uri)
    path = sqlite_path(uri)
    if path is not None:
        _check_sqlite(path)
    elif uri.startswith(("http://", "https://")):
        parts = urllib.parse.urlsplit(uri)
        # Credentials in the address are for MLflow's own requests; this one asks nothing secret.
        host = parts.netloc.rpartition("@")[2]
        health = parts._replace(netloc=host, path=f"{parts.path.rstrip('/')}/health").geturl()
        reason = _ask(health, timeout)
        if reason is not None:
            # One connection that broke off is not an outage.
            time.sleep(_ASK_PAUSE)
            reason = _ask(health, timeout)
        if reason is not None:
            raise UnreachableError(
                f"The tracking server '{public_url(uri)}' can't be reached ({reason}). Start it, "
                "set MLFLOW_TRACKING_URI to another, or switch it off with tracking=disabled."
            )


def _ask(url: str, timeout: float) -> object:
    """Ask for a page: None if anybody answers, else why not."""
    try:
        with urllib.request.urlopen(url, timeout=timeout):  # noqa: S310 - http(s) only
            return None
    except urllib.error.HTTPError as error:
        # Whoever answers is there; a proxy may hide the path or ask for a name first.
        error.close()
        return None
    except (OSError, ValueError, http.client.HTTPException) as error:
        return getattr(error, "reason", error)


def sqlite_path(uri: str) -> Path | None:
    """The absolute path of a SQLite address's file, None for every other address."""
    prefix, _, rest = uri.partition(":///")
    path = rest.partition("?")[0]
    return Path(path).absolute() if prefix == "sqlite" and path not in ("", ":memory:") else None


def _check_sqlite(path: Path) -> None:
    """See that a SQLite file is one, or can be made."""
    if path.is_dir():
        raise TrackingError(f"The tracking database '{path}' is a folder.")
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(16)
        if head and head != b"SQLite format 3\0":
            raise TrackingError(f"The tracking database '{path}' is no SQLite file.")
    existing = next(folder for folder in path.parents if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise TrackingError(f"The tracking database '{path}' can't be written: see '{existing}'.")


def build_once(path: Path, build: Callable[[Path], None]) -> None:
    """Make a database, once, however many processes start at the same time.

    MLflow's migrations race one another on a fresh file and lose runs. So the database is built
    under another name, under a file lock, and put in place whole: whoever finds the file finds it
    complete, and needs no lock.

    Args:
        path: The database.
        build: Makes its tables in the file that it is given, and closes it.

    Raises:
        TrackingError: Another process holds the lock for too long.
    """
    if _has_content(path):
        return
    from filelock import FileLock, Timeout

    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(f"{path}.lock", timeout=_LOCK_SECONDS):
            if _has_content(path):
                return
            with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as staging:
                fresh = Path(staging, path.name)
                build(fresh)
                with contextlib.closing(sqlite3.connect(fresh)) as connection:
                    # Readers and a writer at the same time: 2.5 times faster with many processes.
                    connection.execute("PRAGMA journal_mode=WAL")
                fresh.replace(path)
    except Timeout:
        raise TrackingError(
            f"The tracking database '{path}' has been in the making by another process for "
            f"{_LOCK_SECONDS:.0f} seconds. If there is none, delete '{path}.lock'."
        ) from None


def _has_content(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0
