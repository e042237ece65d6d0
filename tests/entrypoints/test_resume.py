"""A training that is stopped, and gone on with by ``resume``."""

from __future__ import annotations

import hashlib
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StopTraining

InProcess = Callable[..., tuple[int, str, str]]

LONG = (
    *("model=mlp", "data=iris", "model.dropout=0.2", "training.max_epochs=1500"),
    *("training.patience=null", "model_path=m", "checkpoint.every_epochs=50"),
)
CHECKPOINT = Path(".checkpoints", "m", "fit.safetensors")


def _weights(path: Path) -> str:
    return hashlib.sha256((path / "weights.safetensors").read_bytes()).hexdigest()


def _runs(workspace: Path) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    return list(client.search_runs(["1"], order_by=["attributes.start_time"]))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_training_goes_on_to_the_same_weights_in_the_same_run(
    number: signal.Signals, in_process: InProcess, workspace: Path, stop_training: StopTraining
) -> None:
    status, output = stop_training(number, *LONG, when=(workspace / CHECKPOINT).exists)
    (stopped,) = _runs(workspace)
    if number == signal.SIGKILL:
        assert status < 0
        assert stopped.info.status == "RUNNING"
    else:
        assert status == 128 + number, output
        assert stopped.info.status == "KILLED"
        assert "The checkpoint is in '.checkpoints/m': the same command with resume=true" in output
    assert not (workspace / "m").exists()

    # What makes the model has to be as it was; nothing is done else.
    status, _, err = in_process("train", *LONG, "resume=true", "training.lr=0.5", "seed=3")
    assert status == 1
    assert "another training: training.lr was 0.001 and is 0.5; seed was 42 and is 3." in err
    assert len(_runs(workspace)) == 1

    status, out, err = in_process("train", *LONG, "resume=true")
    assert status == 0, err
    assert f"run       {stopped.info.run_id} " in out
    (finished,) = _runs(workspace)
    assert finished.info.status == "FINISHED"
    assert not (workspace / ".checkpoints").exists()

    status, _, err = in_process("train", *LONG, "model_path=whole", "experiment_name=whole")
    assert status == 0, err
    assert _weights(workspace / "m") == _weights(workspace / "whole")
    assert _series(workspace, finished) == list(range(1, 1501))

    # It has come to its end.
    status, _, err = in_process("train", *LONG, "resume=true")
    assert status == 1
    assert "resume: there is no checkpoint in '.checkpoints/m'" in err


def _series(workspace: Path, run: Any) -> list[int]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    history = client.get_metric_history(run.info.run_id, "epoch/val_loss")
    return sorted(point.step for point in history)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["resume=yes_please"], "resume: must be true or false or 'auto', got 'yes_please'"),
        (["checkpoint.every_epochs=0"], "checkpoint.every_epochs: must be greater than 0, got 0"),
        (["resume=true", "cv=3"], "resume: goes on with one training, and cv is for several"),
        (["resume=true", "checkpoint=null"], "resume: needs checkpoints, and checkpoint is null"),
        (["resume=true", "model_path=null"], "resume: there is no checkpoint without a model_path"),
        (["resume=true", "-m"], "resume: is about one run; a sweep goes on by itself"),
        (["resume=true", "model=gb"], "its model keeps none"),
    ],
)
def test_what_cannot_be_resumed_is_told(
    settings: list[str], message: str, in_process: InProcess, workspace: Path
) -> None:
    status, _, err = in_process("train", "tracking=disabled", *settings)
    assert status == 1
    assert message in err
    assert not (workspace / ".models").exists()


def test_the_check_tells_that_there_can_be_no_checkpoint(in_process: InProcess) -> None:
    status, _, err = in_process("check", "resume=true", "checkpoint=null", "tracking=disabled")
    assert (status, err) == (1, "error: resume: needs checkpoints, and checkpoint is null\n")


def test_auto_begins_anew_where_there_is_nothing_to_go_on_from(
    in_process: InProcess, workspace: Path
) -> None:
    quick = ("tracking=disabled", "training.max_epochs=3", "model_path=m", "resume=auto")
    status, _, err = in_process("train", *quick)
    assert status == 0, err
    assert (workspace / "m").is_dir()
    # A model that keeps none, too.
    status, _, err = in_process(
        "train", "tracking=disabled", "model=linear", "model_path=n", "resume=auto"
    )
    assert status == 0, err
    assert not (workspace / ".checkpoints").exists()


def test_a_training_that_diverges_leaves_its_best_model_beside_the_old_one(
    in_process: InProcess, workspace: Path
) -> None:
    from ml_project_template.models import ModelRegistry

    settings = ("data=iris", "model=mlp", "model_path=m")
    status, _, err = in_process("train", *settings, "training.max_epochs=2", "tracking=disabled")
    assert status == 0, err
    before = _weights(workspace / "m")
    # The rate grows until the weights are no numbers.
    diverging = ("training.optimizer=sgd", "training.lr=30", "model.normalization=null")
    status, _, err = in_process("train", *settings, *diverging, "training.momentum=0.99")
    assert status == 1
    assert "the training diverged. Try a smaller training.lr" in err
    assert "is kept in '.diverged/m'." in err
    assert _weights(workspace / "m") == before
    model = ModelRegistry.load(".diverged/m")
    assert "the training diverged" in model.metadata["diverged"]
    assert model.metadata["metrics"]["val_loss"] > 0
    (run,) = _runs(workspace)
    assert run.info.status == "FAILED"
    assert "val_loss" not in run.data.metrics
