"""Runs that are open already, and runs that are kept nowhere."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_project_template.data import TabularDataset
from ml_project_template.models import GBClassifier
from ml_project_template.runs import DisabledTracker, OpenRun, Run
from ml_project_template.tracking import MLflowTracker


@pytest.fixture
def table() -> TabularDataset:
    values = np.random.default_rng(0).normal(size=(60, 2))
    labels = np.where(values[:, 0] > 0, "yes", "no").tolist()
    frame = pd.DataFrame(values, columns=["a", "b"])
    return TabularDataset(frame, labels, target_column="y", name="made")


@pytest.fixture
def tracker(tmp_path: Path) -> MLflowTracker:
    return MLflowTracker(
        f"sqlite:///{tmp_path / 'mlflow.db'}",
        tags={"team": "blue"},
        log_plots=False,
        log_models=False,
    )


def _train(table: TabularDataset, tracker: OpenRun, **arguments: Any) -> Any:
    return GBClassifier(max_iter=3).train(
        experiment_name="another",
        run_name="another",
        train_data=table,
        tracking=tracker,
        progress=False,
        **arguments,
    )


def test_a_training_inside_of_an_open_run_logs_to_it_and_does_not_end_it(
    tracker: MLflowTracker, table: TabularDataset
) -> None:
    from mlflow import MlflowClient

    assert tracker.uri is not None
    client = MlflowClient(tracker.uri, registry_uri=tracker.uri)
    with tracker.start_run(experiment_name="x", run_name="whole") as run:
        assert run.id is not None
        report = _train(table, OpenRun(run, tracker))
        assert (report.run_id, report.experiment_id) == (run.id, run.experiment_id)
        assert client.get_run(run.id).info.status == "RUNNING"
        run.log_metrics({"cv_loss": 0.5})
    found = client.get_run(run.id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "whole")
    assert found.data.params["model.max_iter"] == "3"
    assert found.data.tags["model"] == "gb_classifier"
    assert found.data.metrics["train_loss"] == report.metrics["train_loss"]
    assert found.data.metrics["cv_loss"] == 0.5
    assert len(client.get_metric_history(run.id, "epoch/train_loss")) == 3
    # Its names are those it was opened with: nothing was made by the name of the training's own.
    assert client.get_experiment_by_name("another") is None
    assert len(client.search_runs([found.info.experiment_id])) == 1


def test_a_training_that_fails_inside_of_an_open_run_leaves_it_to_whoever_opened_it(
    tracker: MLflowTracker, table: TabularDataset
) -> None:
    from mlflow import MlflowClient

    class Failing:
        def report(self, *_: Any) -> None:
            raise RuntimeError("no luck")

    assert tracker.uri is not None
    client = MlflowClient(tracker.uri, registry_uri=tracker.uri)
    with tracker.start_run(experiment_name="x") as run:
        assert run.id is not None
        with pytest.raises(RuntimeError, match="no luck"):
            _train(table, OpenRun(run, tracker), reporters=[Failing()])
        assert client.get_run(run.id).info.status == "RUNNING"
    found = client.get_run(run.id)
    assert found.info.status == "FINISHED"
    assert "error" not in found.data.tags


def test_what_stands_below_an_open_run_is_kept_where_its_tracker_keeps_it(tmp_path: Path) -> None:
    tracker = MLflowTracker("sqlite:///a.db", tags={"team": "blue"}, log_plots=True)
    run = Run()
    run.id = "0" * 32
    below = OpenRun(Run(), tracker).below(run, tags={"fold": 1}, log_plots=False, log_models=True)
    assert isinstance(below, MLflowTracker)
    assert (below.uri, below.parent_run_id) == ("sqlite:///a.db", run.id)
    assert below.tags == {"team": "blue", "fold": 1}
    assert (below.log_plots, below.log_models) == (False, True)
    assert list(tmp_path.iterdir()) == []


def test_below_a_run_that_is_kept_nowhere_nothing_is_kept_either(
    workspace: Path, table: TabularDataset
) -> None:
    tracker = DisabledTracker()
    with tracker.start_run(experiment_name="x") as run:
        for below in (tracker.below(run), OpenRun(run, tracker).below(run, tags={"fold": 1})):
            assert isinstance(below, DisabledTracker)
        report = _train(table, OpenRun(run, tracker))
    assert report.run_id is None
    assert report.metrics["train_accuracy"] > 0.5
    assert list(workspace.iterdir()) == []


def test_the_interface_of_runs_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys, ml_project_template.runs\n"
        "assert not {'mlflow', 'sqlalchemy', 'pandas', 'numpy', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
