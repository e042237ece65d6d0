"""MLflow's client: imported late, with our settings, and its errors in one line."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import random
import re
import sys
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.tracking_address import build_once, sqlite_path
from ml_project_template.utils.secrets import find_secrets, public_url, redact

if TYPE_CHECKING:
    from collections.abc import Iterator

    from mlflow import MlflowClient

__all__ = [
    "find_experiment",
    "import_mlflow",
    "log_level",
    "one_line",
    "open_client",
    "own_randomness",
    "warm_up",
]

_ENVIRONMENT = {
    # A server that went away is noticed within a minute, not after MLflow's own quarter of an hour.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
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

_import_lock = threading.Lock()


def warm_up() -> None:
    """Import what a run on a database needs, without opening one."""
    import_mlflow()
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")


def import_mlflow() -> None:
    """Import MLflow with our settings, and without its own warnings about its type hints."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "mlflow.pyfunc" in sys.modules:
        return
    with _import_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("mlflow.pyfunc")


def open_client(uri: str) -> MlflowClient:
    """Make the database where it is missing, and give a client."""
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is not None:
        build_once(path, _build_tables)
    return MlflowClient(uri, registry_uri=uri)


def _build_tables(path: Path) -> None:
    """Make MLflow's tables in a fresh SQLite file."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # Artifacts stand beside the database, wherever it is moved to when it is complete.
    make: Any = SqlAlchemyStore
    make(f"sqlite:///{path}", str(path.parent.parent / "mlruns")).engine.dispose()


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
def one_line(uri: str) -> Iterator[None]:
    """Turn what MLflow and the databases below it raise into one line for the user."""
    import_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        # What the database itself said is plainer than the statement it said it about.
        cause = getattr(error.__cause__ or error, "orig", None) or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        text = redact(lines[0], find_secrets({"uri": uri}))
        raise TrackingError(f"Tracking at '{public_url(uri)}' failed: {text}") from error


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
def log_level(name: str, least: int) -> Iterator[None]:
    """Silence a logger below a level, for the time of a block."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(max(level, least))
    try:
        yield
    finally:
        logger.setLevel(level)
