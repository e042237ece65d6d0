"""The exit handler of a workflow: what its processes could not end has an end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_project_template.tracking.client import import_mlflow, open_client
from ml_project_template.tracking_address import tracking_uri

InProcess = Callable[..., tuple[int, str, str]]

FAILURES = [
    {"displayName": "w1", "message": "", "finishedAt": "2026-01-01T00:00:09Z"},
    {
        "displayName": "train(1)",
        "message": 'OOMKilled (exit code 137): "it\'s" $HOME',
        "finishedAt": "2026-01-01T00:00:05Z",
    },
    {"displayName": "train(0)", "message": None, "finishedAt": "2026-01-01T00:00:03Z"},
]
TOLD = 'train(0); train(1): OOMKilled (exit code 137): "it\'s" $HOME'


@pytest.fixture
def client(workspace: Path) -> Any:
    import_mlflow()
    return open_client(tracking_uri())


def _run(client: Any, workflow: str, experiment: str = "a", status: str | None = None) -> str:
    found = client.get_experiment_by_name(experiment)
    where = found.experiment_id if found else client.create_experiment(experiment)
    run_id = str(client.create_run(where, tags={"workflow": workflow}).info.run_id)
    if status is not None:
        client.set_terminated(run_id, status)
    return run_id


def test_the_runs_that_were_left_open_get_an_end(
    client: Any, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As Argo writes it: the list in JSON, and that as a text in JSON once more.
    monkeypatch.setenv("WORKFLOW_FAILURES", json.dumps(json.dumps(FAILURES)))
    for status, state in (("Failed", "FAILED"), ("Error", "KILLED"), ("Succeeded", "KILLED")):
        workflow = f"w-{status}"
        left = _run(client, workflow)
        elsewhere = _run(client, workflow, "b")
        done = _run(client, workflow, status="FINISHED")
        other = _run(client, "w")
        code, out, err = in_process("close_runs", f"workflow={workflow}", f"status={status}")
        assert (code, err) == (0, "")
        assert f"Close: 3 runs of workflow {workflow} are marked {status}; " in out
        assert f"{left} is {state}" in out
        states = {each: client.get_run(each).info.status for each in (left, elsewhere, done, other)}
        assert states == {left: state, elsewhere: state, done: "FINISHED", other: "RUNNING"}
        for run_id in (left, elsewhere, done):
            tags = client.get_run(run_id).data.tags
            assert tags["workflow_status"] == status
            assert tags["workflow_failed_steps"] == f"{TOLD}; w1"
        assert "workflow_status" not in client.get_run(other).data.tags


def test_a_workflow_without_failures_or_runs_is_no_error(
    client: Any, in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("close_runs", 'workflow="it\'s"', "status=Succeeded")
    code, out, err = in_process(*arguments)
    assert (code, err, "Close: workflow it's has no runs" in out) == (0, "", True)
    run_id = _run(client, "it's", status="FINISHED")
    for failures in ("null", '"null"', "[]", json.dumps([{"displayName": "it's"}])):
        monkeypatch.setenv("WORKFLOW_FAILURES", failures)
        code, out, _ = in_process(*arguments)
        assert (code, "none was left open" in out) == (0, True)
        assert "workflow_failed_steps" not in client.get_run(run_id).data.tags


def test_without_tracking_there_is_nothing_to_close(in_process: InProcess) -> None:
    code, out, _ = in_process("close_runs", "workflow=w", "status=Error", "tracking=disabled")
    assert (code, "nothing is tracked" in out) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "failures", "message"),
    [
        (("status=Failed",), None, "workflow: is required: workflow=..."),
        (
            ("workflow=w", "status=failed"),
            None,
            "status: Unknown status 'failed'. Did you mean 'Failed'? Available: Error, Failed, "
            "Succeeded.",
        ),
        (("workflow=w", "status=Failed"), "[1]", "failures: must be a list in JSON"),
        (("workflow=w", "status=Failed"), "{", "failures: must be a list in JSON"),
    ],
    ids=["no workflow", "status", "no objects", "no json"],
)
def test_a_wrong_argument_is_told(
    arguments: tuple[str, ...],
    failures: str | None,
    message: str,
    in_process: InProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if failures is not None:
        monkeypatch.setenv("WORKFLOW_FAILURES", failures)
    code, _, err = in_process("close_runs", *arguments)
    assert code == 1
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
