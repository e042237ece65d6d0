"""Runs that are RUNNING without a process."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from ml_project_template.tracking import MLflowTracker
from ml_project_template.tracking.reaping import PROCESS_TAG, reap
from ml_project_template.utils.processes import ProcessId
from tests.conftest import CommandLine
from tests.tracking_server import TrackingServer

DIES = """
import os, signal, sys
from ml_project_template.tracking import MLflowTracker
with MLflowTracker(sys.argv[1]).start_run(experiment_name=sys.argv[2]) as run:
    run.log_metrics({"epoch/train_loss": 0.5}, 1)
    run.flush()
    print(run.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def _killed(uri: str, experiment: str, folder: Path, python: list[str]) -> str:
    """Have a process die in a run; returns the run."""
    command = [*python, "-c", DIES, uri, experiment]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ended.returncode != 0
    return ended.stdout.strip()


def _statuses(uri: str) -> dict[str, str]:
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiments = [each.experiment_id for each in client.search_experiments()]
    return {run.info.run_id: run.info.status for run in client.search_runs(experiments)}


def test_the_next_run_ends_those_whose_process_is_gone(
    store: str, tmp_path: Path, python: list[str]
) -> None:
    dead = _killed(store, "x", tmp_path, python)
    assert _statuses(store) == {dead: "RUNNING"}
    with MLflowTracker(store).start_run(experiment_name="x") as alive:
        pass
    assert _statuses(store) == {dead: "KILLED", alive.id: "FINISHED"}
    from mlflow import MlflowClient

    client = MlflowClient(store)
    # It ended about when it was heard of last.
    (point,) = client.get_metric_history(dead, "epoch/train_loss")
    assert client.get_run(dead).info.end_time == point.timestamp
    assert "error" not in client.get_run(dead).data.tags


def test_a_run_whose_process_lives_or_cannot_be_asked_is_left_alone(store: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store)
    elsewhere = client.create_run("0", tags={PROCESS_TAG: _tag("another machine")})
    untold = client.create_run("0")
    strange = client.create_run("0", tags={PROCESS_TAG: "{"})
    with MLflowTracker(store).start_run(experiment_name="x") as mine:
        assert reap(store) == []
        assert set(_statuses(store).values()) == {"RUNNING"}
    running = {run for run, status in _statuses(store).items() if status == "RUNNING"}
    assert running == {run.info.run_id for run in (elsewhere, untold, strange)}
    assert mine.id not in running


def _tag(machine: str) -> str:
    return json.dumps(ProcessId(machine, 1, 1).to_dict())


def test_on_a_server_those_of_the_same_experiment_are_ended(
    tracking_server: TrackingServer, workspace: Path, python: list[str]
) -> None:
    from mlflow import MlflowClient

    uri = tracking_server.uri
    mine, others = (_killed(uri, name, workspace, python) for name in ("reap-x", "reap-y"))
    with MLflowTracker(uri).start_run(experiment_name="reap-x"):
        pass
    statuses = _statuses(uri)
    assert (statuses[mine], statuses[others]) == ("KILLED", "RUNNING")
    # The command looks in all of them. The server is that of all tests: those that another one
    # has killed are not for this one to end.
    assert others in reap(uri, dry_run=True)
    assert mine not in reap(uri, dry_run=True)
    experiment = MlflowClient(uri).get_run(others).info.experiment_id
    assert reap(uri, [experiment]) == [others]
    assert reap(uri, [experiment]) == []
    assert _statuses(uri)[others] == "KILLED"


def test_a_database_that_is_not_there_is_not_made(workspace: Path) -> None:
    assert reap() == []
    assert list(workspace.iterdir()) == []


def test_the_command_that_sends_what_waits_ends_them_too(
    store: str, workspace: Path, python: list[str], command_line: CommandLine
) -> None:
    dead = _killed(store, "x", workspace, python)
    told = command_line("sync", f"tracking.uri={store}", "dry_run=true")
    assert (told.returncode, told.stdout) == (0, f"run {dead}: its process is gone, left\n")
    assert _statuses(store) == {dead: "RUNNING"}
    told = command_line("sync", f"tracking.uri={store}")
    assert (told.returncode, told.stdout) == (0, f"run {dead}: its process is gone, KILLED\n")
    assert _statuses(store) == {dead: "KILLED"}
