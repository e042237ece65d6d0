"""Sending from the command line what could not be sent before."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_project_template.tracking import MLflowTracker

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


def test_what_waits_is_listed_and_sent_once(
    run_id: str, workspace: Path, in_process: InProcess
) -> None:
    status, listed, _ = in_process("sync", "dry_run=true")
    assert status == 0
    assert re.fullmatch(rf"run {run_id} at sqlite:///\S+mlflow.db: 2 left\n", listed)
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
    status, output, errors = in_process("sync")
    assert (status, output) == (1, "")
    assert re.fullmatch(
        rf"error: run {run_id} at \S+: 2 left \(The tracking database \S+ is no SQLite file\.\)\n",
        errors,
    )
    assert (workspace / ".unsent" / "runs" / run_id).is_dir()
