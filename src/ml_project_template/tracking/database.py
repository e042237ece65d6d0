"""Rows of a run, written straight into the tables of MLflow's SQLite database.

MLflow's own way makes an object for each row and a transaction for each kind of rows: for 500
metrics it takes ten times the CPU time, and waits for the disk three times. What is there at the
end is the same, row for row.

The revision of their schema says whether the tables are those that are known here. Where they are
not, as after an update of MLflow, and wherever a row is anything but plain, MLflow writes.
"""

from __future__ import annotations

import contextlib
import functools
import math
import posixpath
import re
import sqlite3
import sys
import uuid
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = [
    "KEY_LENGTH",
    "PROCESS_TAG",
    "is_loggable",
    "running_runs",
    "write_inputs",
    "write_rows",
]

KEY_LENGTH = 250
"""How long a name may be, in characters."""

PROCESS_TAG = "mlflow.process"
"""The tag that tells which process a run is of; MLflow's page shows no tags of its own kind."""

# Of MLflow 3.17; a test fails where the one that is installed has another.
_REVISIONS = frozenset({"dc11669786a5"})
_LOCK_SECONDS = 20.0  # as MLflow waits for another writer
# MLflow keeps it in the table of runs, too.
_NAME_TAG = "mlflow.runName"
# Of what describes a data set, in characters: MLflow's own, and less than any other of them.
_DATASET_LENGTHS = {"name": 500, "digest": 36}
_TEXT_LENGTH = 10_000

_PARAM = 'INSERT INTO params ("key", value, run_uuid) VALUES (?, ?, ?) ON CONFLICT DO NOTHING'
_METRIC = """
    INSERT INTO metrics ("key", value, timestamp, step, is_nan, run_uuid)
    VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING
"""
_LATEST_METRIC = """
    INSERT INTO latest_metrics ("key", value, timestamp, step, is_nan, run_uuid)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT ("key", run_uuid) DO UPDATE SET
        value = excluded.value, timestamp = excluded.timestamp,
        step = excluded.step, is_nan = excluded.is_nan
    WHERE (excluded.step, excluded.timestamp, excluded.value) > (step, timestamp, value)
"""
_TAG = """
    INSERT INTO tags ("key", value, run_uuid) VALUES (?, ?, ?)
    ON CONFLICT ("key", run_uuid) DO UPDATE SET value = excluded.value
"""

_EXPERIMENT = "SELECT experiment_id FROM runs WHERE run_uuid = ?"
_RUNNING = """
    SELECT runs.run_uuid, tags.value FROM runs JOIN tags ON tags.run_uuid = runs.run_uuid
    WHERE runs.status = 'RUNNING' AND runs.lifecycle_stage = 'active' AND tags."key" = ?
"""
_FIND_DATASET = (
    "SELECT dataset_uuid FROM datasets WHERE experiment_id = ? AND name = ? AND digest = ?"
)
_DATASET = """
    INSERT INTO datasets (
        dataset_uuid, experiment_id, name, digest,
        dataset_source_type, dataset_source, dataset_schema, dataset_profile
    ) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""
_FIND_INPUT = """
    SELECT input_uuid FROM inputs
    WHERE source_type = ? AND source_id = ? AND destination_type = ? AND destination_id = ?
"""
_INPUT = """
    INSERT INTO inputs (input_uuid, source_type, source_id, destination_type, destination_id)
    VALUES (?, ?, ?, ?, ?)
"""
_INPUT_TAG = "INSERT INTO input_tags (input_uuid, name, value) VALUES (?, ?, ?)"


def write_rows(
    path: Path,
    run_id: str,
    *,
    params: Sequence[tuple[str, str]],
    metrics: Sequence[Sequence[Any]],
    tags: Sequence[tuple[str, str]],
) -> bool:
    """Write rows of a run in one transaction, if all of them can be.

    Args:
        path: The database.
        run_id: The run.
        params: Name and value of each.
        metrics: Name, value, milliseconds since 1970 and step of each.
        tags: Name and value of each.

    Returns:
        Whether they are written. If not, nothing is, and MLflow has to do it or to say why not.
    """
    names = {row[0] for rows in (params, metrics, tags) for row in rows}
    if _NAME_TAG in names or not all(map(is_loggable, names)):
        return False
    try:
        with _transaction(path) as database:
            if not _is_known(database, run_id):
                return False
            database.executemany(_PARAM, [(*row, run_id) for row in params])
            if _other_values(database, run_id, params):
                database.rollback()
                return False
            rows = [(*_plain(*row), run_id) for row in metrics]
            database.executemany(_METRIC, rows)
            database.executemany(_LATEST_METRIC, _latest(rows))
            database.executemany(_TAG, [(*row, run_id) for row in tags])
            database.commit()
    except sqlite3.Error:
        return False
    return True


def write_inputs(path: Path, run_id: str, inputs: Sequence[tuple[Mapping[str, Any], str]]) -> bool:
    """Record data sets as inputs of a run in one transaction, if all of them can be.

    Args:
        path: The database.
        run_id: The run.
        inputs: What describes each, by the names of ``mlflow.entities.Dataset``, and what it was
            used for.

    Returns:
        As `write_rows`.
    """
    if any(not _is_short(dataset) for dataset, _ in inputs):
        return False
    try:
        with _transaction(path) as database:
            if not _is_known(database, run_id):
                return False
            for dataset, context in inputs:
                dataset_id = _dataset_id(database, run_id, dataset)
                edge = ("DATASET", dataset_id, "RUN", run_id)
                if database.execute(_FIND_INPUT, edge).fetchone() is None:
                    input_id = uuid.uuid4().hex
                    database.execute(_INPUT, (input_id, *edge))
                    database.execute(_INPUT_TAG, (input_id, "mlflow.data.context", context))
            database.commit()
    except sqlite3.Error:
        return False
    return True


def running_runs(path: Path) -> dict[str, str] | None:
    """Find the runs that have not ended and say which process they are of.

    Args:
        path: The database.

    Returns:
        Run id to the tag; None if the tables are not known, or can't be read.
    """
    try:
        with contextlib.closing(
            sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=_LOCK_SECONDS)
        ) as database:
            if not _has_known_tables(database):
                return None
            return dict(database.execute(_RUNNING, (PROCESS_TAG,)).fetchall())
    except sqlite3.Error:
        return None


@functools.lru_cache(maxsize=10_000)
def is_loggable(name: str) -> bool:
    """Say whether MLflow takes a name of a parameter, a metric or a tag."""
    return (
        len(name) <= KEY_LENGTH
        and re.fullmatch(r"[/\w.\- :]+", name) is not None
        and posixpath.normpath(name) == name
        and not name.startswith(("/", ".."))
        and name != "."
    )


@contextlib.contextmanager
def _transaction(path: Path) -> Iterator[sqlite3.Connection]:
    """Have the database, and be the only one to write to it; what is not committed is undone."""
    # Without the mode a database that is not there would be made.
    address = f"{path.as_uri()}?mode=rw"
    with contextlib.closing(
        sqlite3.connect(address, uri=True, timeout=_LOCK_SECONDS, isolation_level=None)
    ) as database:
        # The lock at once: with a shared one first, two writers could wait for each other.
        database.execute("BEGIN IMMEDIATE")
        yield database


def _is_known(database: sqlite3.Connection, run_id: str) -> bool:
    """Whether the tables are known, and the run is one that can be written to."""
    stages = database.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,))
    return _has_known_tables(database) and stages.fetchall() == [("active",)]


def _has_known_tables(database: sqlite3.Connection) -> bool:
    revisions = database.execute("SELECT version_num FROM alembic_version").fetchall()
    return len(revisions) == 1 and revisions[0][0] in _REVISIONS


def _is_short(dataset: Mapping[str, Any]) -> bool:
    """Whether MLflow takes what describes a data set as it is."""
    return all(
        len(text or "") <= _DATASET_LENGTHS.get(name, _TEXT_LENGTH)
        for name, text in dataset.items()
    )


def _dataset_id(database: sqlite3.Connection, run_id: str, dataset: Mapping[str, Any]) -> str:
    """Find a data set of the run's experiment, or put it there."""
    [experiment_id] = database.execute(_EXPERIMENT, (run_id,)).fetchone()
    key = (experiment_id, dataset["name"], dataset["digest"])
    found = database.execute(_FIND_DATASET, key).fetchone()
    if found is not None:
        return str(found[0])
    dataset_id = uuid.uuid4().hex
    rest = (dataset["source_type"], dataset["source"], dataset["schema"], dataset["profile"])
    database.execute(_DATASET, (dataset_id, *key, *rest))
    return dataset_id


def _other_values(
    database: sqlite3.Connection, run_id: str, params: Sequence[tuple[str, str]]
) -> bool:
    """Whether one of these parameters was there before, with another value."""
    if not params:
        return False
    stored = dict(
        database.execute('SELECT "key", value FROM params WHERE run_uuid = ?', (run_id,)).fetchall()
    )
    return any(stored[name] != value for name, value in params)


def _plain(name: str, value: float, timestamp: int, step: int) -> tuple[Any, ...]:
    """Put a metric in numbers that a database has, as MLflow does."""
    if math.isnan(value):
        return name, 0.0, timestamp, step, True
    limit = sys.float_info.max
    return name, min(max(value, -limit), limit), timestamp, step, False


def _latest(rows: Sequence[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Choose the latest of each metric: of the last step, then time, then the largest value."""
    latest: dict[str, tuple[Any, ...]] = {}
    for row in rows:
        name, value, timestamp, step, *_ = row
        known = latest.get(name)
        if known is None or (step, timestamp, value) > (known[3], known[2], known[1]):
            latest[name] = row
    return [*latest.values()]
