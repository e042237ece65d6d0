"""Sending from the command line what could not be sent before."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_project_template.artifacts import open_model_directory
from ml_project_template.tracking import MLflowTracker
from ml_project_template.tracking_address import UNSENT_RUNS
from ml_project_template.unsent import keep_model
from ml_project_template.utils.io import get_storage_options
from tests.object_store import ObjectStore

InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_id(workspace: Path) -> str:
    """A run in the working folder's database that could not tell its metrics."""

    def rename_table(old: str, new: str) -> None:
        connection = sqlite3.connect("mlflow.db")
        connection.execute(f"ALTER TABLE {old} RENAME TO {new}")
        connection.close()

    with MLflowTracker().start_run(experiment_name="x") as run:
        rename_table("metrics", "hidden")
        run.log_metrics({"loss": 0.5})
    rename_table("hidden", "metrics")
    return str(run.id)


def _waiting(run_id: str) -> int:
    """How much waits: the metrics, the end, and the log if it was not sent beside them."""
    lines = (UNSENT_RUNS / run_id / "journal.jsonl").read_text().splitlines()[1:]
    sent = sum("sent" in json.loads(line) for line in lines)
    return len(lines) - 2 * sent


def test_what_waits_is_listed_and_sent_once(
    run_id: str, workspace: Path, in_process: InProcess
) -> None:
    left = _waiting(run_id)
    assert left >= 2
    status, listed, _ = in_process("sync", "dry_run=true")
    assert status == 0
    assert re.fullmatch(rf"run {run_id} at sqlite:///\S+mlflow.db: {left} left\n", listed)
    status, sent, _ = in_process("sync")
    assert status == 0
    assert sent == listed.replace("left", "sent")
    assert in_process("sync")[:2] == (0, "Nothing waits to be sent.\n")
    assert not (workspace / ".unsent").exists()

    from mlflow import MlflowClient

    run = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}").get_run(run_id)
    assert (run.info.status, run.data.metrics) == ("FINISHED", {"loss": 0.5})


def test_what_is_left_is_told_with_the_reason(
    run_id: str, workspace: Path, in_process: InProcess
) -> None:
    (workspace / "mlflow.db").write_text("no database")
    left = _waiting(run_id)
    status, output, errors = in_process("sync")
    assert (status, output) == (1, "")
    reason = r"\(The tracking database \S+ is no SQLite file\.\)"
    assert re.fullmatch(rf"error: run {run_id} at \S+: {left} left {reason}\n", errors)
    assert (workspace / ".unsent" / "runs" / run_id).is_dir()


def test_models_are_sent_to_their_storage(
    workspace: Path,
    in_process: InProcess,
    iris_model: Path,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    target = f"s3://{object_store.new_bucket()}/models/iris"
    kept = keep_model(iris_model, target, get_storage_options())
    status, listed, _ = in_process("sync", "dry_run=true")
    assert (status, listed) == (0, f"model {target}: left in {kept}\n")
    assert in_process("sync")[:2] == (0, f"model {target}: sent\n")
    with open_model_directory(target):
        pass
    assert not (workspace / ".unsent").exists()


def test_a_storage_that_is_away_is_waited_for_once(
    workspace: Path, in_process: InProcess, iris_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "name")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-word")
    options = get_storage_options(endpoint_url="http://127.0.0.1:9")
    kept = [keep_model(iris_model, f"s3://bucket/{name}", options) for name in ("one", "two")]
    (workspace / ".unsent" / "runs").mkdir()
    status, output, errors = in_process("sync")
    assert (status, output) == (1, "")
    reasons = []
    for line, name, place in zip(errors.splitlines(), ("one", "two"), kept, strict=True):
        start = f"error: model s3://bucket/{name}: left in {place} ("
        assert line.startswith(start)
        reasons.append(line.removeprefix(start))
    assert reasons[0] == reasons[1]
    assert "http://127.0.0.1:9" in reasons[0]
    assert all(place.is_dir() for place in kept)


def test_a_damaged_record_of_a_model_keeps_no_run_back(
    run_id: str, workspace: Path, in_process: InProcess
) -> None:
    (workspace / ".unsent" / "models" / "x").mkdir(parents=True)
    status, output, errors = in_process("sync")
    assert (status, errors.count("\n")) == (1, 1)
    assert "is no unsent model" in errors
    assert output.startswith(f"run {run_id} at ")
