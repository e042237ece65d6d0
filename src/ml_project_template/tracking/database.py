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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["KEY_LENGTH", "is_loggable", "write_rows"]

KEY_LENGTH = 250
"""How long a name may be, in characters."""

# Of MLflow 3.17; a test fails where the one that is installed has another.
_REVISIONS = frozenset({"dc11669786a5"})
_LOCK_SECONDS = 20.0  # as MLflow waits for another writer
# MLflow keeps it in the table of runs, too.
_NAME_TAG = "mlflow.runName"

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
    [revision] = database.execute("SELECT version_num FROM alembic_version").fetchall() or [None]
    stages = database.execute("SELECT lifecycle_stage FROM runs WHERE run_uuid = ?", (run_id,))
    return revision in {(known,) for known in _REVISIONS} and stages.fetchall() == [("active",)]


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
