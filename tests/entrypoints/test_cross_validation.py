"""Cross-validation from the command line: ``train cv=5``."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from entrypoints._composition import compose_config
from entrypoints.preprocess import preprocess, preprocess_folds
from ml_project_template.data import TabularDataset

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

InProcess = Callable[..., tuple[int, str, str]]

QUICK_GB = ("model=gb", "model.max_iter=5", "seed=0")
QUICK_MLP = ("model=mlp", "model.layer_dims=[null,4,null]", "training.max_epochs=2")
LEFT_BEHIND = (".data", ".models", "mlflow.db", "mlruns")


def _client() -> MlflowClient:
    from mlflow import MlflowClient

    # In full: MLflow keeps what it has opened by its address, wherever that was.
    store = f"sqlite:///{Path.cwd() / 'mlflow.db'}"
    return MlflowClient(store, registry_uri=store)


def _runs() -> tuple[Run, list[Run]]:
    """Give the run above and those below it, in the order of their start."""
    client = _client()
    experiment = client.get_experiment_by_name("iris")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time"])
    (above,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    return above, [run for run in runs if run is not above]


def _forget() -> None:
    """Delete all runs, so that the next command is alone with its own."""
    above, below = _runs()
    for run in (above, *below):
        _client().delete_run(run.info.run_id)


def _weights(directory: Path) -> dict[str, str]:
    files = json.loads((directory / "manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.startswith("weights")}


def _cv(run: Run) -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if name.startswith("cv_")}


def _header(out: str) -> list[str]:
    """Give the names above the columns of the printed table."""
    return next(line.split() for line in out.splitlines() if line.split()[:2] == ["train", "val"])


def _table(workspace: Path) -> list[str]:
    """Write a table whose feature 'row' says which row it is; give the settings to read it by."""
    lines = [f"{row},{row % 7},{'xyz'[row % 3]}" for row in range(90)]
    (workspace / "rows.csv").write_text("\n".join(["row,more,target", *lines]))
    data = ["data=csv", "data.path=rows.csv", "data.target_column=target"]
    return [*data, "preprocessing=none"]


def test_one_run_has_the_model_and_the_means_of_a_run_for_each_fold_below_it(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process("train", *QUICK_GB, "cv=5", "run_name=whole")
    assert status == 0, err
    above, below = _runs()
    assert (above.info.run_name, above.info.status) == ("whole", "FINISHED")
    assert above.data.params["cv"] == "5"
    assert [run.data.tags["fold"] for run in below] == ["1", "2", "3", "4", "5"]
    assert {run.data.tags["mlflow.parentRunId"] for run in below} == {above.info.run_id}
    assert {run.info.status for run in below} == {"FINISHED"}
    assert all("seed" not in run.data.tags for run in below)

    cv = _cv(above)
    for metric in ("loss", "log_loss", "accuracy", "f1_macro", "roc_auc"):
        values = [run.data.metrics[f"val_{metric}"] for run in below]
        assert cv[f"cv_{metric}"] == pytest.approx(statistics.mean(values))
        assert cv[f"cv_{metric}_std"] == pytest.approx(statistics.stdev(values))
    assert len({run.data.metrics["val_loss"] for run in below}) == 5
    assert {"train_loss", "val_loss", "test_loss"} <= above.data.metrics.keys()
    for run in below:
        assert not [name for name in run.data.metrics if name.startswith(("test_", "cv_"))]

    # The folds hold neither plots nor models: there is one model, and one place where it is.
    client = _client()
    assert client.list_artifacts(above.info.run_id, "plots")
    assert not [run for run in below if client.list_artifacts(run.info.run_id, "plots")]
    (logged,) = client.search_logged_models([above.info.experiment_id])
    assert logged.source_run_id == above.info.run_id
    assert [path.name for path in (workspace / ".models").iterdir()] == ["iris_gb"]
    metadata = json.loads((workspace / ".models/iris_gb/metadata.json").read_text())
    assert metadata["run_id"] == above.info.run_id

    assert "cv" in _header(out)
    loss = next(line for line in out.splitlines() if line.startswith("loss"))
    assert f"{cv['cv_loss']:.4f}" in loss
    assert f"{cv['cv_loss_std']:.4f}" in out
    assert above.info.run_id in out


def test_the_saved_model_is_the_one_of_a_training_without_cross_validation(
    in_process: InProcess, workspace: Path
) -> None:
    for model in (QUICK_GB, (*QUICK_MLP, "seed=0")):
        weights, metrics = [], []
        for path, more in (("plain", ()), ("with", ("cv=2",))):
            status, _, err = in_process(
                "train", *model, *more, "tracking=disabled", f"model_path={path}"
            )
            assert status == 0, err
            weights.append(_weights(workspace / path))
            metrics.append(json.loads((workspace / path / "metadata.json").read_text())["metrics"])
        assert weights[0]
        assert weights[0] == weights[1]
        assert metrics[0] == metrics[1]


def test_no_test_row_is_in_any_fold(workspace: Path) -> None:
    cfg = compose_config("train", [*_table(workspace), "cv=4", "data.drop_identifiers=false"])

    def rows(part: TabularDataset | None) -> set[int]:
        assert part is not None
        return {int(row) for row in part.X[:, part.feature_names.index("row")]}

    whole, folds = preprocess(cfg), preprocess_folds(cfg)
    test = rows(whole.test)
    assert len(test) == 18
    assert len(folds) == 4
    for fold in folds:
        assert rows(fold.train) | rows(fold.val) == set(range(90)) - test
        assert not rows(fold.train) & rows(fold.val)
    assert rows(whole.train) | rows(whole.val) == set(range(90)) - test


def test_folds_of_a_run_are_of_all_rows_but_the_test_rows(
    in_process: InProcess, workspace: Path
) -> None:
    status, _, err = in_process("train", *QUICK_GB, "cv=4", "experiment_name=iris")
    assert status == 0, err
    above, below = _runs()

    def sizes(run: Run) -> dict[str, int]:
        assert run.inputs is not None
        inputs = {entry.tags[0].value: entry.dataset for entry in run.inputs.dataset_inputs}
        profiles = {context: json.loads(data.profile or "{}") for context, data in inputs.items()}
        return {context: profile["rows"] for context, profile in profiles.items()}

    assert sizes(above) == {"train": 90, "val": 30, "test": 30}
    assert [sizes(run) for run in below] == [{"train": 90, "val": 30}] * 4


@pytest.mark.parametrize(
    ("cv", "message"),
    [
        ("1", "error: cv: must be at least 2, got 1"),
        ("0", "error: cv: must be at least 2, got 0"),
        ("-3", "error: cv: must be at least 2, got -3"),
        ("abc", "error: cv: must be a whole number, got 'abc'"),
        ("2.5", "error: cv: must be a whole number, got 2.5"),
        ("true", "error: cv: must be a whole number, got True"),
    ],
)
def test_a_number_of_folds_that_is_none_is_told_before_anything_is_done(
    cv: str, message: str, in_process: InProcess, workspace: Path
) -> None:
    for stage in ("train", "check"):
        status, _, err = in_process(stage, *QUICK_GB, f"cv={cv}")
        assert status == 1
        assert err.splitlines() == [message]
    assert not [name for name in LEFT_BEHIND if (workspace / name).exists()]


def test_more_folds_than_rows_are_told_before_anything_is_trained(
    in_process: InProcess, workspace: Path
) -> None:
    status, _, err = in_process("train", *QUICK_GB, "cv=41")
    assert status == 1
    (line,) = err.splitlines()
    assert "120 rows are too few for cv=41" in line
    assert "choose cv of at most 40" in line
    assert not (workspace / ".models").exists()
    assert not (workspace / "mlflow.db").exists()


def test_cross_validation_works_without_tracking(in_process: InProcess, workspace: Path) -> None:
    status, out, err = in_process("train", *QUICK_GB, "cv=3", "tracking=disabled")
    assert status == 0, err
    loss = next(line for line in out.splitlines() if line.startswith("loss"))
    values = [float(word.strip("±()")) for word in loss.split()[1:] if word != "±"]
    assert len(values) >= 4
    assert all(math.isfinite(value) for value in values)
    assert not (workspace / "mlflow.db").exists()
    assert not (workspace / "mlruns").exists()
    assert (workspace / ".models" / "iris_gb" / "manifest.json").is_file()


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(
    in_process: InProcess,
) -> None:
    found: list[tuple[dict[str, float], list[Any]]] = []
    for seed in (0, 0, 1):
        status, _, err = in_process(
            "train", *QUICK_MLP, f"seed={seed}", "cv=2", "tracking.log_plots=false"
        )
        assert status == 0, err
        above, below = _runs()
        found.append((_cv(above), [run.data.metrics for run in below]))
        _forget()
    assert found[0] == found[1]
    assert found[0][0].keys() == found[2][0].keys()
    assert found[0][0]["cv_loss"] != found[2][0]["cv_loss"]


def test_folds_that_can_not_be_cut_are_told_before_anything_is_trained(
    in_process: InProcess, workspace: Path
) -> None:
    # A single training keeps the only row of 'rare' for itself.
    lines = [f"{row},{'xy'[row % 2]}" for row in range(40)]
    (workspace / "t.csv").write_text("\n".join(["a,target", *lines, "99,rare"]))
    status, _, err = in_process(
        *("train", *QUICK_GB, "data=csv", "data.path=t.csv", "data.target_column=target"),
        *("tracking=disabled", "cv=3"),
    )
    assert status == 1
    assert "only one row of class 'rare' is left to cut into 3 folds" in err
    assert not (workspace / ".models").exists()


@pytest.mark.parametrize("sweep", ["mlp", "gb"])
def test_a_sweep_of_one_run_is_refused(sweep: str, in_process: InProcess, workspace: Path) -> None:
    status, out, err = in_process("train", f"sweep={sweep}")
    assert (status, out) == (1, "")
    assert err.splitlines() == [
        f"error: sweep={sweep}: is about many runs, and this is one: add -m"
    ]
    assert not [name for name in LEFT_BEHIND if (workspace / name).exists()]


def test_a_single_training_is_no_sweep(in_process: InProcess, workspace: Path) -> None:
    status, out, err = in_process("train", "model=gb", "model.max_iter=5", "seed=1")
    assert status == 0, err
    assert _header(out) == ["train", "val", "test"]
    metadata = json.loads((workspace / ".models/iris_gb/metadata.json").read_text())
    assert metadata["seed"] == 1
    assert "sweep" not in metadata["config"]
    above, below = _runs()
    assert below == []
    assert not [name for name in above.data.params if name.startswith("sweep")]
    assert not _cv(above)
    assert not (workspace / ".sweeps").exists()
    assert not (workspace / "multirun").exists()
