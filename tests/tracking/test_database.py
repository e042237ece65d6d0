"""What is written straight into MLflow's database is what MLflow would have written."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ml_project_template.tracking import MLflowTracker
from ml_project_template.tracking.database import is_loggable, write_inputs, write_rows

TABLES = ("params", "metrics", "latest_metrics", "tags")


@dataclass(frozen=True)
class Rows:
    params: Sequence[tuple[str, str]] = ()
    metrics: Sequence[tuple[str, float, int, int]] = ()
    tags: Sequence[tuple[str, str]] = ()

    def write(self, store: str, run_id: str) -> bool:
        path = Path(store.removeprefix("sqlite:///"))
        return write_rows(path, run_id, params=self.params, metrics=self.metrics, tags=self.tags)

    def log(self, store: str, run_id: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param, RunTag

        MlflowClient(store).log_batch(
            run_id,
            params=[Param(*row) for row in self.params],
            metrics=[Metric(*row) for row in self.metrics],
            tags=[RunTag(*row) for row in self.tags],
        )


def new_run(store: str) -> str:
    with MLflowTracker(store).start_run(experiment_name="x", run_name="one") as run:
        assert run.id is not None
    return run.id


def stored(store: str, run_id: str) -> dict[str, list[Any]]:
    """Read all that the tables hold of a run, with the types of the values."""
    found = {}
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        for table in TABLES:
            query = f"SELECT * FROM {table} WHERE run_uuid = ?"  # noqa: S608 - of the list above
            cursor = database.execute(query, (run_id,))
            names = [column[0] for column in cursor.description]
            rows = [dict(zip(names, row, strict=True)) for row in cursor]
            found[table] = sorted(
                str(sorted((k, type(v), v) for k, v in row.items() if k != "run_uuid"))
                for row in rows
            )
    return found


@pytest.mark.parametrize(
    "batches",
    [
        [Rows(params=[("a", "1"), ("model.b", "[4, null]")], tags=[("t", "é")])],
        [Rows(metrics=[("loss", 1 / step, 1700000000000 + step, step) for step in range(1, 50)])],
        # The latest is that of the last step, then time, then of the largest value.
        [Rows(metrics=[("a", 1.0, 5, 2), ("a", 2.0, 9, 1), ("a", 3.0, 4, 2), ("a", 0.5, 5, 2)])],
        [Rows(metrics=[("a", 1.0, 5, 2)]), Rows(metrics=[("a", 2.0, 9, 1)])],
        [Rows(metrics=[("a", 1.0, 5, 2)]), Rows(metrics=[("a", 2.0, 5, 2), ("b", 0.0, 1, 0)])],
        [Rows(metrics=[("a", -1.0, 5, 0)]), Rows(metrics=[("a", -2.0, 6, 0)])],
        # What was sent may be sent again.
        [Rows([("a", "1")], [("a", 1.0, 5, 2)], [("t", "1")])] * 2,
        [Rows(metrics=[("a", 1.0, 5, 2), ("a", 1.0, 5, 2)])],
        [Rows(metrics=[("a", math.nan, 5, 2), ("b", math.inf, 5, 2), ("c", -math.inf, 5, 2)])],
        [Rows(metrics=[("a", math.nan, 5, 2)]), Rows(metrics=[("a", 0.0, 5, 3)])],
        [
            Rows(tags=[("t", "1")]),
            Rows(tags=[("t", "2"), ("t", "3"), ("mlflow.note.content", "x")]),
        ],
        [Rows([("a", "1")]), Rows([("a", "1"), ("b", "2")])],
    ],
)
def test_it_is_the_same_as_mlflow_writes(batches: list[Rows], store: str) -> None:
    ours, theirs = new_run(store), new_run(store)
    for rows in batches:
        assert rows.write(store, ours)
        rows.log(store, theirs)
    assert stored(store, ours) == stored(store, theirs)
    assert any(stored(store, ours)[table] for table in TABLES[:3]) or batches[0].tags


DATASET: dict[str, Any] = {
    "name": "iris_train",
    "digest": "a" * 36,
    "source_type": "local",
    "source": '{"uri": "iris.csv"}',
    "schema": '{"features": []}',
    "profile": None,
}


def inputs_of(store: str, run_id: str) -> list[Any]:
    """Read all that the tables hold of a run's inputs, but for ids."""
    query = """
        SELECT name, digest, dataset_source_type, dataset_source, dataset_schema, dataset_profile,
               source_type, destination_type, step, tag, value, count(*) FROM
        (SELECT * FROM inputs WHERE destination_id = ?)
        JOIN (SELECT input_uuid AS i, name AS tag, value FROM input_tags) ON i = input_uuid
        LEFT JOIN datasets ON dataset_uuid = source_id GROUP BY 1, 2, 10, 11 ORDER BY 1, 2
    """
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        return database.execute(query, (run_id,)).fetchall()


def test_data_sets_are_the_same_as_mlflow_writes(store: str) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag

    path = Path(store.removeprefix("sqlite:///"))
    client = MlflowClient(store)
    # Each in an experiment of its own: a data set is there once for each experiment.
    experiments = [client.create_experiment(name) for name in ("ours", "theirs")]
    ours, theirs = (
        [client.create_run(experiment).info.run_id for _ in range(2)] for experiment in experiments
    )
    test = DATASET | {"name": "iris_test", "profile": "{}"}
    for pairs in (
        [(DATASET, "train"), (test, "test"), (DATASET, "again")],
        [(DATASET, "train")],
        [(DATASET | {"digest": "b"}, "train")],
    ):
        for our_run, their_run in zip(ours, theirs, strict=True):
            assert write_inputs(path, our_run, pairs)
            inputs: Any = [
                DatasetInput(Dataset(**dataset), [InputTag("mlflow.data.context", context)])
                for dataset, context in pairs
            ]
            client.log_inputs(their_run, inputs)
    assert inputs_of(store, ours[0]) == inputs_of(store, ours[1]) == inputs_of(store, theirs[0])
    assert len(inputs_of(store, ours[0])) == 3
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT count(*) FROM datasets").fetchone() == (6,)


@pytest.mark.parametrize("change", [{"name": "x" * 501}, {"digest": "x" * 37}])
def test_a_data_set_that_mlflow_refuses_is_left_to_it(change: dict[str, str], store: str) -> None:
    path = Path(store.removeprefix("sqlite:///"))
    run_id = new_run(store)
    assert not write_inputs(path, run_id, [(DATASET, "train"), (DATASET | change, "val")])
    assert inputs_of(store, run_id) == []


@pytest.mark.parametrize(
    "rows",
    [
        # MLflow says of all of these why not, or does more than to write a row.
        Rows([("b", "1"), ("a", "2")], [("m", 1.0, 1, 1)], [("t", "1")]),
        Rows([("b|", "1")]),
        Rows(metrics=[("../m", 1.0, 1, 1)]),
        Rows(tags=[("t" * 251, "1")]),
        Rows(tags=[("mlflow.runName", "two")]),
    ],
)
def test_what_is_not_plain_is_left_to_mlflow_whole(rows: Rows, store: str) -> None:
    run_id = new_run(store)
    assert Rows([("a", "1")]).write(store, run_id)
    before = stored(store, run_id)
    assert not rows.write(store, run_id)
    assert stored(store, run_id) == before


def test_a_run_that_is_gone_is_left_to_mlflow(store: str) -> None:
    from mlflow import MlflowClient

    run_id = new_run(store)
    assert not Rows([("a", "1")]).write(store, "0" * 32)
    MlflowClient(store).delete_run(run_id)
    assert not Rows([("a", "1")]).write(store, run_id)
    path = Path(store.removeprefix("sqlite:///"))
    assert not write_inputs(path, run_id, [(DATASET, "train")])


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE alembic_version SET version_num = 'another'",
        "DELETE FROM alembic_version",
        "ALTER TABLE metrics RENAME TO hidden",
    ],
)
def test_tables_that_are_not_known_are_left_to_mlflow(change: str, store: str) -> None:
    run_id = new_run(store)
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        database.execute(change)
        database.commit()
    assert not Rows([("a", "1")], [("m", 1.0, 1, 1)]).write(store, run_id)
    with closing(sqlite3.connect(store.removeprefix("sqlite:///"))) as database:
        assert database.execute("SELECT count(*) FROM params").fetchone() == (0,)


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "mlflow.db"
    path.parent.mkdir()
    rows: dict[str, Any] = {"params": [("a", "1")], "metrics": [], "tags": []}
    assert not write_rows(path, "0" * 32, **rows)
    assert [*path.parent.iterdir()] == []


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("epoch/val_loss", True),
        ("a b.c:d-e", True),
        ("x" * 250, True),
        ("x" * 251, False),
        ("", False),
        (".", False),
        ("..", False),
        ("/a", False),
        ("a//b", False),
        ("a/", False),
        ("a|b", False),
    ],
)
def test_which_names_are_plain(name: str, taken: bool) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.utils.validation import _validate_metric

    assert is_loggable(name) == taken
    check: Any = _validate_metric
    if taken:
        check(name, 1.0, 1, 1)
    else:
        with pytest.raises(MlflowException):
            check(name, 1.0, 1, 1)
