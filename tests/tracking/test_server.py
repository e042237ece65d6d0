"""Runs on a real tracking server, with PostgreSQL and an object store behind it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ml_project_template.models.registry import ModelRegistry
from ml_project_template.tracking import MLflowTracker, download_model, waiting_runs
from tests.conftest import CommandLine
from tests.soak.broken_proxy import Fault, broken_proxy
from tests.tracking_server import TrackingServer

if TYPE_CHECKING:
    from pathlib import Path

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], dtype=np.float32)


def test_a_training_from_the_command_line_is_read_back_whole(
    tracking_server: TrackingServer, command_line: CommandLine, workspace: Path
) -> None:
    from mlflow import MlflowClient

    uri = tracking_server.uri
    address = {"MLFLOW_TRACKING_URI": uri}
    settings = ("model=gb", "data=iris", "model.max_iter=5", "seed=3", "experiment_name=whole")
    done = command_line("train", *settings, env=address)
    assert done.returncode == 0, done.stderr
    found = re.search(r"^run +(\w{32})", done.stdout, re.MULTILINE)
    assert found is not None
    assert f"look      {uri}/#/experiments/" in done.stdout

    client = MlflowClient(uri)
    run = client.get_run(found[1])
    assert run.info.status == "FINISHED"
    assert (run.data.params["model.max_iter"], run.data.params["seed"]) == ("5", "3")
    metadata = json.loads((workspace / ".models" / "iris_gb" / "metadata.json").read_text())
    for name, value in metadata["metrics"].items():
        assert run.data.metrics[name] == value
    losses = client.get_metric_history(found[1], "epoch/val_loss")
    history = [(row["step"], row["val_loss"]) for row in metadata["history"]]
    assert [(row.step, row.value) for row in losses] == history
    assert run.inputs is not None
    names = {entry.dataset.name for entry in run.inputs.dataset_inputs}
    assert names == {"iris_train", "iris_val", "iris_test"}
    kept = {file.path for file in client.list_artifacts(found[1])}
    assert {"config.yaml", "logs", "plots"} <= kept
    assert not (workspace / "mlruns").exists()

    trained = ModelRegistry.load(workspace / ".models" / "iris_gb")
    logged = ModelRegistry.load(download_model(f"runs:/{found[1]}/model", uri))
    np.testing.assert_array_equal(logged.predict(ROWS), trained.predict(ROWS))

    client.create_registered_model("whole-iris")
    assert run.outputs is not None
    model_id = run.outputs.model_outputs[0].model_id
    version = client.create_model_version(
        "whole-iris", f"models:/{model_id}", found[1], model_id=model_id
    )
    client.set_registered_model_alias("whole-iris", "champion", version.version)
    done = command_line(
        "evaluate", "model.path=models:/whole-iris@champion", "data=iris", env=address
    )
    assert done.returncode == 0, done.stderr
    assert f"{metadata['metrics']['test_loss']:.4f}" in done.stdout


def runs_of(server: TrackingServer, experiment_name: str) -> list[tuple[str, dict[str, str]]]:
    """The state and the parameters of the runs of an experiment."""
    from mlflow import MlflowClient

    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name(experiment_name)
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    return [(run.info.status, run.data.params) for run in runs]


# A start asks for the server's health, for the experiment twice, and for the run.
@pytest.mark.parametrize(
    ("fault", "number"), [("reset before", 1), ("half", 3), ("reset after", 4), ("late", 4)]
)
def test_a_run_whose_making_is_disturbed_is_made_once(
    fault: Fault, number: int, tracking_server: TrackingServer, workspace: Path
) -> None:
    name = f"disturbed {fault}"
    with broken_proxy(tracking_server.uri, own_host=True) as proxy:
        proxy.break_at(fault, number, number)
        with MLflowTracker(proxy.uri).start_run(experiment_name=name) as run:
            run.log_params({"a": 1})
            proxy.settle()
        assert proxy.broken == 1
    assert runs_of(tracking_server, name) == [("FINISHED", {"a": "1"})]


@pytest.mark.parametrize("number", [2, 4])
def test_a_run_whose_server_goes_away_while_it_is_made_is_made_later(
    number: int, tracking_server: TrackingServer, workspace: Path
) -> None:
    name = f"made later {number}"
    with broken_proxy(tracking_server.uri, own_host=True) as proxy:
        proxy.break_at("reset after", number)
        with MLflowTracker(proxy.uri).start_run(experiment_name=name) as run:
            run.log_params({"a": 1})
        proxy.heal()
        assert [waiting.problem for waiting in waiting_runs(proxy.uri)] == [None]
    assert runs_of(tracking_server, name) == [("FINISHED", {"a": "1"})]
