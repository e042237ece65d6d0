"""The benchmark of tracking, at its smallest."""

from __future__ import annotations

import os

import pytest

from benchmarks import tracking

EPOCHS = 2


@pytest.mark.long
def test_every_way_tells_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///elsewhere.db")
    told = []
    with tracking._workplace() as folder:
        report = tracking._runs(folder, 1, EPOCHS)
        for uri in tracking._ready(folder):
            client = MlflowClient(uri, registry_uri=uri)
            experiment = client.get_experiment_by_name(tracking.EXPERIMENT)
            assert experiment is not None
            for run in client.search_runs([experiment.experiment_id]):
                assert run.info.status == "FINISHED"
                assert run.inputs is not None
                told.append(
                    (
                        len(client.get_metric_history(run.info.run_id, "epoch/val_loss")),
                        {*run.data.params},
                        {*run.data.metrics},
                        {entry.dataset.name for entry in run.inputs.dataset_inputs},
                        run.data.tags["model"],
                    )
                )
    # Each way twice, for the first time does not count, and one to make each database.
    assert sorted(epochs for epochs, *_ in told) == [1] * 2 + [EPOCHS] * 12
    assert all(rest == told[0][1:] for rest in (each[1:] for each in told))
    ours = [tracking.OURS, tracking.OURS_WITH_PLOTS, tracking.OURS_WITH_MODEL]
    assert [row[0] for row in report.rows] == [
        *ours,
        tracking.FLUENT,
        tracking.ASYNCHRONOUS,
        tracking.BATCH,
    ]
    assert all(isinstance(cost, float) and cost > 0 for row in report.rows for cost in row[1:])
    assert [aim.limit for aim in report.aims] == [150, 5]
    assert os.environ["MLFLOW_TRACKING_URI"] == "sqlite:///elsewhere.db"
