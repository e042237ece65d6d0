"""MLflow's client: imported late, with our settings, and its errors in one line."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import random
import re
import sys
import threading
import warnings
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.tracking_address import (
    UnreachableError,
    build_once,
    check_reachable,
    sqlite_path,
    tracking_uri,
)
from ml_project_template.utils.collecting import import_large, importing
from ml_project_template.utils.secrets import find_secrets, public_url, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

__all__ = [
    "OutageError",
    "UnreachableError",
    "asked_once",
    "find_experiment",
    "import_mlflow",
    "log_level",
    "one_line",
    "open_client",
    "own_randomness",
    "own_timeout",
    "quiet",
    "reached",
    "transfer_timeout",
    "warm_up",
]

_TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"
_RETRIES = "MLFLOW_HTTP_REQUEST_MAX_RETRIES"

_ENVIRONMENT = {
    # A server that went away is noticed after 2 seconds where it refuses connections and after 12
    # where it takes them and does not answer; by MLflow's own settings after 4 and 20 minutes.
    _TIMEOUT: "3",
    _RETRIES: "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # Jitter is drawn from the generator that trainings seed.
    "MLFLOW_HTTP_REQUEST_BACKOFF_JITTER": "0",
    # The console shows our lines only.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A model holds what loading it needs, not the lock file of the folder it was trained in.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # A training sends nothing to anybody but the tracking server.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

# A file is answered when it is stored whole, by a server that may have to pass it on first.
_TRANSFER_SECONDS = 60
_TRANSFER_BYTES_PER_SECOND = 1_000_000

# What a server refuses for good; everything else may be otherwise later.
_REFUSALS = frozenset(
    {"INVALID_PARAMETER_VALUE", "RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"}
)

_DATABASE_STORE = "mlflow.store.tracking.sqlalchemy_store"

_import_lock = threading.Lock()
_settings_lock = threading.Lock()
_blocks: list[int] = []  # seconds that each of those under way waits for an answer
_outside: dict[str, str | None] = {}  # what is set but for them


class OutageError(UnreachableError):
    """A server does not answer, or fails; it does not deny anything."""


def warm_up() -> None:
    """Import what a run on a database needs, without opening one."""
    import_mlflow()
    importlib.import_module(_DATABASE_STORE)


def import_mlflow() -> None:
    """Import MLflow with our settings, and without its own warnings about its type hints."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "mlflow.pyfunc" in sys.modules:
        return
    with _import_lock, importing(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # The client alone, which a server fetches models with, comes without pandas.
        alone = importlib.util.find_spec("pandas") is None
        importlib.import_module("mlflow" if alone else "mlflow.pyfunc")


def open_client(uri: str) -> MlflowClient:
    """Make the database where it is missing, and give a client."""
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is not None:
        import_large(_DATABASE_STORE)
        build_once(path, _build_tables)
    return MlflowClient(uri, registry_uri=uri)


def _build_tables(path: Path) -> None:
    """Make MLflow's tables in a fresh SQLite file."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import Connection, Engine, event

    def wait_for_no_disk(connection: Connection) -> None:
        # Hundreds of small changes, each waited for, take seconds; and a file that is not complete
        # is never used. It is on the disk with the last change, which is made to it without this.
        if connection.engine.url.database == str(path):
            cursor = connection.connection.cursor()
            cursor.execute("PRAGMA synchronous=OFF")
            cursor.execute("PRAGMA journal_mode=MEMORY")
            cursor.close()

    # Artifacts stand beside the database, wherever it is moved to when it is complete.
    make: Any = SqlAlchemyStore
    event.listen(Engine, "engine_connect", wait_for_no_disk)
    try:
        make(f"sqlite:///{path}", str(path.parent.parent / "mlruns")).engine.dispose()
    finally:
        event.remove(Engine, "engine_connect", wait_for_no_disk)


def find_experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Find or make an experiment and give its id."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        path = sqlite_path(uri)
        location = None
        if path is not None:
            # Beside the database, not in whatever folder the first run was started in.
            folder = re.sub(r"[^\w\-.]+", "_", name).strip(".") or "default"
            location = str(path.parent / "mlruns" / folder)
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            # Another process was faster, or there is a real reason, which the next lines show.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error from None
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"Experiment '{name}' was deleted. Choose another experiment_name, or bring it back "
            f"with: mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(found.experiment_id)


@contextlib.contextmanager
def reached(uri: str | None = None) -> Iterator[tuple[MlflowClient, str]]:
    """Reach the store of an address for the time of a block: a client, and the address in full.

    Args:
        uri: The address; None as for `tracking_uri`.

    Raises:
        TrackingError: It can't be reached, or something in the block is refused; in one line.
    """
    address = tracking_uri(uri)
    check_reachable(address)
    with one_line(address), quiet():
        yield open_client(address), address


def own_timeout() -> int | None:
    """Seconds that the user has set for a request to the server; None where it is our own."""
    with _settings_lock:
        text = _set_outside(_TIMEOUT) or ""
    return int(text) if text.isdigit() and text != _ENVIRONMENT[_TIMEOUT] else None


@contextlib.contextmanager
def transfer_timeout(size: int = 0) -> Iterator[None]:
    """Wait longer for the server for the time of a block that sends or fetches files.

    A file that was not taken whole is not sent again at once, as small requests are: its sender
    knows when. What the user has set for requests is left alone.

    Args:
        size: How many bytes are sent or fetched.
    """
    if own_timeout() is not None:
        yield
        return
    with _settings(_TRANSFER_SECONDS + size // _TRANSFER_BYTES_PER_SECOND):
        yield


@contextlib.contextmanager
def asked_once() -> Iterator[None]:
    """Send each request once for the time of a block that makes something on the server.

    One that was not answered may have been done: whoever sent it looks before it is sent again.
    """
    with _settings(0):
        yield


@contextlib.contextmanager
def _settings(seconds: int) -> Iterator[None]:
    """Have requests sent once, and wait for their answers for some seconds; 0 for as usual.

    MLflow reads both from the environment alone, for all threads: of several blocks at once the
    longest counts, and what was set before comes back after the last one.
    """
    with _settings_lock:
        if not _blocks:
            _outside.update({name: os.environ.get(name) for name in (_TIMEOUT, _RETRIES)})
        _blocks.append(seconds)
        _apply_settings()
    try:
        yield
    finally:
        with _settings_lock:
            _blocks.remove(seconds)
            _apply_settings()


def _apply_settings() -> None:
    wanted = dict(_outside)
    if _blocks:
        wanted[_RETRIES] = "0"
        if max(_blocks):
            wanted[_TIMEOUT] = str(max(_blocks))
    for name, text in wanted.items():
        if text is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = text


def _set_outside(name: str) -> str | None:
    """What a setting is but for blocks that have their own."""
    return _outside[name] if _blocks else os.environ.get(name)


@contextlib.contextmanager
def one_line(uri: str) -> Iterator[None]:
    """Turn what MLflow and the databases below it raise into one line for the user.

    Raises:
        OutageError: The server does not answer, or fails.
        UnreachableError: It may work later.
        TrackingError: It is refused.
    """
    import_mlflow()
    from mlflow.exceptions import MlflowException

    errors: tuple[type[Exception], ...] = (MlflowException, OSError, *_database_errors())
    try:
        yield
    except TrackingError:
        raise
    except errors as error:
        text = redact(_reason(error), find_secrets({"uri": uri}))
        kind: type[TrackingError] = UnreachableError
        if _is_refusal(error, text):
            kind = TrackingError
        elif _is_outage(error, uri):
            kind = OutageError
        raise kind(f"Tracking at '{public_url(uri)}' failed: {text}") from error


def _database_errors() -> tuple[type[Exception], ...]:
    """What a database raises; none where only servers can be talked to."""
    try:
        from sqlalchemy.exc import SQLAlchemyError
    except ModuleNotFoundError:
        return ()
    return (SQLAlchemyError,)


def _reason(error: Exception) -> str:
    """What went wrong, in the words of whoever saw it first."""
    # What the database itself said is plainer than the statement it said it about.
    cause = getattr(error.__cause__ or error, "orig", None) or error
    for failed in (error, error.__context__):
        # MLflow puts the whole request around what the network said.
        refused = getattr(next(iter(getattr(failed, "args", ())), None), "reason", None)
        if isinstance(refused, Exception):
            return str(refused).rpartition("): ")[2]
    lines = str(cause).strip().splitlines()
    return lines[0] if lines else type(cause).__name__


def _is_refusal(error: Exception, text: str) -> bool:
    code = getattr(error, "error_code", None)
    status = getattr(getattr(error, "response", None), "status_code", None)
    # MLflow calls all errors of its database bad requests, lost connections among them.
    collides = re.search("unique|duplicate", text, re.IGNORECASE) is not None
    return code in _REFUSALS or collides or (status == HTTPStatus.BAD_REQUEST)


def _is_outage(error: Exception, uri: str) -> bool:
    """Whether a server is the reason, not who asks it, and not a database of this machine."""
    status = getattr(error, "get_http_status_code", lambda: HTTPStatus.INTERNAL_SERVER_ERROR)()
    patient = status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
    failed = patient or status >= HTTPStatus.INTERNAL_SERVER_ERROR
    return uri.startswith(("http://", "https://")) and failed


@contextlib.contextmanager
def own_randomness() -> Iterator[None]:
    """Draw from fresh randomness for the time of a block, and leave Python's generator as it was.

    MLflow draws the names of runs from the generator that trainings seed: without this, all runs of
    one seed would have the same name.
    """
    state = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep to our own lines for the time of a block: one for what MLflow tells in twenty."""
    with (
        log_level("mlflow", logging.WARNING),
        log_level("mlflow.store.db.utils", logging.CRITICAL),
        log_level("urllib3.connectionpool", logging.ERROR),
    ):
        yield


@contextlib.contextmanager
def log_level(name: str, least: int) -> Iterator[None]:
    """Silence a logger below a level, for the time of a block."""
    logger = logging.getLogger(name)
    level = logger.level
    if level >= least:
        # Each change has all loggers of the program forget what they know of their levels.
        yield
        return
    logger.setLevel(least)
    try:
        yield
    finally:
        logger.setLevel(level)
