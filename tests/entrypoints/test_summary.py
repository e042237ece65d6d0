"""What a stage prints at its end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from entrypoints._composition import compose_config
from entrypoints._summary import metrics_table, training_summary
from ml_project_template.models import TrainingReport

REPORT = TrainingReport(
    metrics={"train_loss": 0.5, "train_accuracy": 1.0, "val_loss": 0.25},
    history=[],
    model_path="a model",
    run_id="abc",
    experiment_id="7",
    seconds=1.25,
)


def test_metrics_stand_in_rows_and_splits_in_columns() -> None:
    table = metrics_table({"train": {"loss": 0.5, "accuracy": 1.0}, "val": {"loss": 0.25}})
    assert table.splitlines() == [
        "             train       val",
        "loss        0.5000    0.2500",
        "accuracy    1.0000         -",
    ]


def test_what_could_not_be_sent_is_named_with_the_command_that_sends_it(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    cfg = compose_config("train", ["data=csv", "data.path=my.csv", "data.target_column=y"])
    assert "unsent" not in training_summary(REPORT, cfg)
    (workspace / ".unsent" / "runs" / "abc").mkdir(parents=True)
    told = "unsent    .unsent/runs/abc: python -m entrypoints.sync\n"
    assert told in training_summary(REPORT, cfg)


def test_the_commands_that_come_next_repeat_what_was_chosen(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    cfg = compose_config(
        "train", ["data=csv", "data.path=my.csv", "data.target_column=y", "storage=minio"]
    )
    summary = training_summary(REPORT, cfg)
    assert "run       abc (experiment my)" in summary
    assert "look      make mlflow\n" in summary
    assert "\n          http://127.0.0.1:5000/#/experiments/7/runs/abc\n" in summary
    assert (
        "evaluate  python -m entrypoints.evaluate 'model.path=a model' data=csv storage=minio "
        "data.path=my.csv data.target_column=y"
    ) in summary
    assert "serve     python -m entrypoints.serve 'model.path=a model' storage=minio" in summary


def test_the_commands_start_with_the_uv_that_is_there(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = compose_config("train")
    monkeypatch.setenv("PATH", "")
    (workspace / ".uv/bin").mkdir(parents=True)
    uv = workspace / ".uv/bin/uv"
    uv.touch(mode=0o755)
    assert "serve     .uv/bin/uv run python -m" in training_summary(REPORT, cfg)
    monkeypatch.setenv("PATH", str(uv.parent))
    assert "serve     uv run python -m" in training_summary(REPORT, cfg)


def test_a_run_on_a_server_is_looked_at_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:word@example.org:5000/")
    summary = training_summary(REPORT, compose_config("train"))
    assert "look      http://example.org:5000/#/experiments/7/runs/abc\n" in summary
    assert "make mlflow" not in summary
    assert "word" not in summary


def test_a_model_that_was_not_saved_is_found_in_its_run(workspace: Path) -> None:
    unsaved = dataclasses.replace(REPORT, model_path=None)
    summary = training_summary(unsaved, compose_config("train", ["model_path=null"]))
    assert "entrypoints.evaluate model.path=runs:/abc/model data=iris" in summary
    untracked = dataclasses.replace(unsaved, run_id=None, experiment_id=None)
    assert "model.path" not in training_summary(untracked, compose_config("train"))


def test_another_database_is_named_to_make(workspace: Path) -> None:
    summary = training_summary(REPORT, compose_config("train", ["tracking.uri=sqlite:///my.db"]))
    assert f"look      make mlflow MLFLOW_TRACKING_URI=sqlite:///{workspace}/my.db\n" in summary
