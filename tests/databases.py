"""Databases for runs that are ready at once: MLflow takes a second to make the tables of one."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from pathlib import Path

import pytest

from ml_project_template.tracking import client
from tests.services import Services


@pytest.fixture(scope="session")
def empty_database(services: Services) -> Path:
    """A database as a first run makes it, with nothing in it; no test may change it."""

    def make(folder: Path) -> str:
        client.import_mlflow()
        path = folder / "mlflow.db"
        client.open_client(f"sqlite:///{path}")
        return str(path)

    return Path(services.share("database", make))


@pytest.fixture(autouse=True)
def _ready_tables(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have new databases begin as copies of one that was made; `tests.tracking` makes them all."""
    making = client._build_tables

    def copy(path: Path) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(client, "_build_tables", making)
            shutil.copy(request.getfixturevalue("empty_database"), path)
        artifacts = path.parent.parent / "mlruns"
        with contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute(
                "UPDATE experiments SET artifact_location = ? || '/' || experiment_id",
                (str(artifacts),),
            )

    monkeypatch.setattr(client, "_build_tables", copy)
