"""Trials, folds and seeds that are trained in one go: as they would be by themselves."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template.artifacts import load_tensors
from ml_project_template.training import loop

InProcess = Callable[..., tuple[int, str, str]]

QUICK = ("model.layer_dims=[null,8,null]", "training.max_epochs=4", "data=iris")
GRID = ("train", "-m", "sweep.n_jobs=0", "sweep.log_plots=false", "sweep.log_models=false", *QUICK)


@pytest.fixture
def stacks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many fits each call of `fit_together` was given."""
    given: list[int] = []
    real = loop.fit_together

    def noted(fabric: Any, jobs: Sequence[Any]) -> Any:
        given.append(len(jobs))
        return real(fabric, jobs)

    monkeypatch.setattr(loop, "fit_together", noted)
    return given


def _runs(folder: Path) -> dict[str, Any]:
    """Give the runs of trials by their numbers."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    return {r.data.tags["trial"]: r for r in runs if "trial" in r.data.tags}


def _below(folder: Path, run: Any) -> list[Any]:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([run.info.experiment_id], order_by=["attributes.start_time"])
    return [r for r in runs if r.data.tags.get("mlflow.parentRunId") == run.info.run_id]


def _weights(folder: Path, trial: str) -> dict[str, Any]:
    (model,) = folder.glob(f".models/multirun/*/*/{trial}")
    return load_tensors(model / "weights.safetensors")


def _results(folder: Path) -> list[dict[str, str]]:
    (path,) = folder.glob("multirun/*/*/results.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.long
def test_trials_trained_together_are_those_trained_one_by_one(
    in_process: InProcess,
    workspace: Path,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
    stacks: list[int],
) -> None:
    tried = ("training.lr=0.001,0.01,0.05", "model.dropout=0.0,0.3")
    assert in_process(*GRID, *tried, "sweep.together=false")[0] == 0
    assert stacks == []
    other = tmp_path_factory.mktemp("together")
    monkeypatch.chdir(other)
    status, _, err = in_process(*GRID, *tried, "sweep.together=6")
    assert status == 0, err
    assert stacks == [6]
    alone, together = _runs(workspace), _runs(other)
    assert sorted(together) == sorted(alone) == list("012345")
    for number, run in together.items():
        before = alone[number]
        assert run.info.status == "FINISHED"
        assert run.data.params == before.data.params | {
            key: run.data.params[key] for key in ("model_path",)
        }
        assert run.data.metrics == pytest.approx(before.data.metrics, rel=1e-3, abs=1e-5)
        mine, theirs = _weights(other, number), _weights(workspace, number)
        for name, tensor in theirs.items():
            np.testing.assert_allclose(mine[name], tensor, rtol=1e-3, atol=1e-5)
        # Each job has its folder and its log, with its own lines alone.
        (job,) = other.glob(f"multirun/*/*/{number}")
        assert (job / ".hydra/overrides.yaml").is_file()
        (log,) = (job / "train.log").read_text().splitlines()[-1:]
        assert f"lr {float(run.data.params['training.lr']):.4g}" in log
        lines = [line for line in (job / "train.log").read_text().splitlines() if "step" in line]
        assert len({line.rpartition("lr ")[2] for line in lines}) == 1
        console = (Path(run.info.artifact_uri) / "logs/console.log").read_text()
        assert {line.rpartition("lr ")[2] for line in console.splitlines() if "step" in line} == {
            f"{float(run.data.params['training.lr']):.4g}"
        }


def test_a_trial_that_fails_fails_alone(
    in_process: InProcess, workspace: Path, stacks: list[int]
) -> None:
    tried = ("training.lr=0.001,1e30,0.01", "sweep.max_failure_rate=1")
    status, _, err = in_process(*GRID, *tried, "sweep.together=3")
    assert status == 0, err
    assert stacks == [3]
    runs = _runs(workspace)
    assert [runs[n].info.status for n in "012"] == ["FINISHED", "FAILED", "FINISHED"]
    assert "diverged" in runs["1"].data.tags["error"]
    assert [row["state"] for row in sorted(_results(workspace), key=lambda r: r["trial"])] == [
        "complete",
        "failed",
        "complete",
    ]


def test_only_trials_of_one_shape_are_trained_together(
    in_process: InProcess, workspace: Path, stacks: list[int]
) -> None:
    tried = ("model.layer_dims=[null,8,null],[null,4,4,null]", "seed=1,2")
    assert in_process(*GRID, *tried)[0] == 0
    assert stacks == [2, 2]
    assert {run.info.status for run in _runs(workspace).values()} == {"FINISHED"}


def test_folds_and_seeds_of_trials_are_trained_together(
    in_process: InProcess, workspace: Path, stacks: list[int]
) -> None:
    search = ("sweep=mlp", "sweep.n_trials=2", "sweep.pruner=none", "sweep.together=12")
    space = ("training.batch_size=32", "model.dropout=0.0", "cv=3", "seed=1,2")
    status, _, err = in_process(*GRID, *search, *space)
    assert status == 0, err
    assert stacks == [12]
    for run in _runs(workspace).values():
        below = _below(workspace, run)
        assert [(r.data.tags["fold"], r.data.tags["seed"]) for r in below] == [
            (fold, seed) for fold in "123" for seed in "12"
        ]
        assert {r.info.status for r in below} == {"FINISHED"}
        losses = [r.data.metrics["val_loss"] for r in below]
        assert run.data.metrics["cv_loss"] == pytest.approx(sum(losses) / 6)


def test_the_folds_of_one_training_are_trained_together(
    in_process: InProcess, workspace: Path, stacks: list[int]
) -> None:
    status, _, err = in_process("train", *QUICK, "cv=4")
    assert status == 0, err
    assert stacks == [4]


def test_a_trial_is_pruned_while_others_go_on(
    in_process: InProcess, workspace: Path, stacks: list[int]
) -> None:
    more = ("sweep.pruner=median", "+sweep.pruner_options.median.n_startup_trials=1")
    # Of the second three the second hardly moves.
    tried = ("training.lr=0.001,0.002,0.003,0.01,1e-6,0.02", "sweep.together=3")
    status, _, err = in_process(*GRID, *tried, *more)
    assert status == 0, err
    assert stacks == [3, 3]
    runs = _runs(workspace)
    assert [runs[n].data.tags["trial_state"] for n in "012345"] == [
        *["complete"] * 4,
        "pruned",
        "complete",
    ]
    assert runs["4"].data.tags["pruned_at"] == "1"
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
