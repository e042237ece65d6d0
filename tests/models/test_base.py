"""Training, saving and loading, as all models share them."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_project_template import artifacts
from ml_project_template.data import TabularDataset
from ml_project_template.errors import (
    ArtifactError,
    ConfigError,
    DataError,
    DivergenceError,
    TrackingError,
)
from ml_project_template.models import BaseModel, GBClassifier, MLPClassifier, ModelRegistry
from ml_project_template.tracking import MLflowTracker, Run, Tracker
from ml_project_template.training.reporting import StopTraining

Splits = tuple[TabularDataset, TabularDataset, TabularDataset]


class KeepingRun(Run):
    """Keeps in memory what it is told."""

    id = "run-1"
    wants_plots = True
    wants_model = True

    def __init__(self) -> None:
        self.params: dict[str, Any] = {}
        self.metrics: list[tuple[int | None, dict[str, float]]] = []
        self.tags: dict[str, Any] = {}
        self.datasets: list[tuple[str, str]] = []
        self.files: dict[str, bytes] = {}
        self.models: list[dict[str, Any]] = []

    def log_params(self, params: Mapping[str, Any]) -> None:
        self.params |= params

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        self.tags |= tags

    def log_dataset(self, name: str, *, context: str, **details: Any) -> None:
        self.datasets.append((name, context))

    def log_text(self, text: str, artifact: str) -> None:
        self.files[artifact] = text.encode()

    def log_bytes(self, data: bytes, artifact: str) -> None:
        self.files[artifact] = data

    def log_model(self, directory: str | Path, **details: Any) -> None:
        config = artifacts.read_config(directory)
        self.models.append({"name": config["name"], "directory": str(directory), **details})


class KeepingTracker(Tracker):
    """A tracker with one run, in memory."""

    def __init__(self, run: KeepingRun | None = None) -> None:
        self.run = run or KeepingRun()
        self.names: tuple[str, str | None] | None = None

    @contextlib.contextmanager
    def start_run(self, *, experiment_name: str, run_name: str | None = None) -> Iterator[Run]:
        self.names = (experiment_name, run_name)
        yield self.run

    def below(self, run: Run, **settings: Any) -> Tracker:
        return self


def _train(model: BaseModel, splits: Splits, **arguments: Any) -> Any:
    return model.train(
        **{
            "experiment_name": "test",
            "train_data": splits[0],
            "val_data": splits[1],
            "test_data": splits[2],
            "seed": 0,
            "tracking": False,
            **arguments,
        }
    )


def _boosting(**arguments: Any) -> GBClassifier:
    return GBClassifier(**{"max_iter": 5, **arguments})


@pytest.fixture
def saved(iris: Splits, tmp_path: Path) -> Path:
    path = tmp_path / "model"
    _train(_boosting(), iris, model_path=path)
    return path


def _rewritten(path: Path, change: Callable[[Path], None]) -> Path:
    """Change a model directory and give it a manifest that fits, as an attacker could."""

    def write(directory: Path) -> None:
        for file in path.iterdir():
            if file.name != artifacts.MANIFEST:
                shutil.copy(file, directory)
        change(directory)

    return Path(artifacts.write_model_directory(path.with_name("changed"), write))


def _edited(file_name: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def edit(directory: Path) -> None:
        content = json.loads((directory / file_name).read_text())
        change(content)
        (directory / file_name).write_text(json.dumps(content))

    return edit


def test_every_wrong_argument_is_told_at_once_and_nothing_starts(
    iris: Splits, tmp_path: Path
) -> None:
    tracker = KeepingTracker()
    with pytest.raises(ConfigError) as caught:
        _train(
            _boosting(),
            iris,
            model_path=tmp_path / "model",
            tracking=tracker,
            patience=0,
            tool=1.0,
        )
    assert str(caught.value).splitlines() == [
        "training.patience: must be greater than 0, got 0",
        "training.tool: unknown key. Did you mean 'tol'? Available: class_weight, patience, tol.",
    ]
    assert tracker.names is None
    assert list(tmp_path.iterdir()) == []


def test_training_arguments_are_checked_without_a_model() -> None:
    assert GBClassifier.training_problems({"patience": 3}) == []
    assert GBClassifier.training_problems({"patience": "3"}) == [
        "training.patience: must be a whole number or null, got '3'"
    ]
    # What train() gives by itself is no training argument.
    assert "unknown key" in GBClassifier.training_problems({"seed": 3})[0]


def test_a_failed_fit_leaves_the_model_that_was_there(iris: Splits, saved: Path) -> None:
    before = {file.name: file.read_bytes() for file in saved.iterdir()}

    class Failing(KeepingRun):
        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            raise TrackingError("gone")

    with pytest.raises(TrackingError, match="gone"):
        _train(_boosting(), iris, model_path=saved, tracking=KeepingTracker(Failing()))
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    assert [entry.name for entry in saved.parent.iterdir()] == ["model"]


def test_a_listener_ends_the_fit_and_the_model_is_kept(iris: Splits, tmp_path: Path) -> None:
    class Stopping(KeepingRun):
        def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
            super().log_metrics(metrics, step)
            if step == 3:
                raise StopTraining

    for model in (
        _boosting(max_iter=50),
        _boosting(max_iter=50, booster="exact"),
        MLPClassifier([None, 8, None], accelerator="cpu"),
    ):
        tracker = KeepingTracker(Stopping())
        report = _train(model, iris, model_path=tmp_path / "model", tracking=tracker)
        assert [row["step"] for row in report.history] == [1, 2, 3]
        assert ModelRegistry.load(tmp_path / "model").predict(iris[2]).shape == (30, 3)


def test_the_tracker_is_told_all_of_a_training(iris: Splits, tmp_path: Path) -> None:
    tracker = KeepingTracker()
    config = {
        "model": {"_target_": "x.GBClassifier", "max_iter": 5},
        "training": {"patience": 4},
        "storage": {"password": "s3cr3t-canary", "root": "."},
    }
    report = _train(
        _boosting(booster="exact"),
        iris,
        model_path=tmp_path / "model",
        tracking=tracker,
        run_name="first",
        config=config,
        patience=4,
    )
    run = tracker.run
    assert tracker.names == ("test", "first")
    assert report.run_id == "run-1"
    assert run.params["model._target_"] == "x.GBClassifier"
    assert run.params["model.booster"] == "exact"
    assert run.params["model.estimator"] == "GradientBoostingClassifier"
    assert run.params["training.patience"] == 4
    assert run.params["training.tol"] == 1e-7
    assert run.params["seed"] == 0
    assert run.params["save_model"] == "best"
    assert run.tags["model"] == "gb_classifier"
    assert run.datasets == [("iris", "train"), ("iris", "val"), ("iris", "test")]
    steps = [step for step, _ in run.metrics]
    assert steps == [1, 2, 3, 4, 5, None]
    assert {"epoch/train_loss", "epoch/val_loss"} <= run.metrics[0][1].keys()
    assert run.metrics[-1][1] == report.metrics
    assert {name for name in run.files if name.startswith("plots/")} == {
        "plots/feature_importance.png",
        "plots/loss_curve.png",
        *(
            f"plots/{split}_{plot}.png"
            for split in ("val", "test")
            for plot in ("calibration", "confusion_matrix", "precision_recall", "roc")
        ),
    }
    assert run.files["plots/loss_curve.png"].startswith(b"\x89PNG")
    assert b"s3cr3t-canary" not in run.files["config.yaml"]
    assert b"root: ." in run.files["config.yaml"]
    (logged,) = run.models
    assert logged["name"] == "gb_classifier"
    assert logged["directory"] != str(tmp_path / "model")  # which another training may replace
    assert logged["signature"].class_names == ("setosa", "versicolor", "virginica")
    assert "scikit-learn" in logged["requirements"]


def test_without_a_path_the_tracker_still_gets_the_model(iris: Splits) -> None:
    tracker = KeepingTracker()
    report = _train(_boosting(), iris, tracking=tracker)
    assert report.model_path is None
    (logged,) = tracker.run.models
    assert logged["name"] == "gb_classifier"
    assert not Path(logged["directory"]).exists()


# MLflow compares the columns of an input example with a range, which pandas 3 warns of.
@pytest.mark.filterwarnings("ignore:Operation with range is deprecated")
def test_a_run_on_mlflow_gives_the_model_back(
    iris: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = _boosting()
    report = _train(model, iris, tracking=MLflowTracker("sqlite:///runs.db"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    loaded = ModelRegistry.load(f"runs:/{report.run_id}/model")
    np.testing.assert_array_equal(loaded.predict(iris[2]), model.predict(iris[2]))
    assert loaded.metadata["run_id"] == report.run_id


def test_secrets_do_not_reach_the_model_directory(iris: Splits, tmp_path: Path) -> None:
    config = {"db": {"url": "postgresql://me:canary-1@host/db"}, "api_key": "canary-2"}
    _train(_boosting(), iris, model_path=tmp_path / "model", config=config)
    metadata = (tmp_path / "model" / "metadata.json").read_text()
    assert "canary" not in metadata
    assert "postgresql://me:***@host/db" in metadata


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda d: d.with_features(
                d.features.rename(columns={"petal_width": "width"}),
                signature=d.signature,
                preprocessor=d.preprocessor,
            ),
            "The val data have other features",
        ),
        (
            lambda d: TabularDataset(d.features, ["a", "b", "c"] * 10, target_column="species"),
            "The val data have other classes",
        ),
        (
            lambda d: TabularDataset(d.features, d.labels, target_column="species"),
            "must both be prepared, or both be raw",
        ),
    ],
)
def test_splits_that_do_not_belong_together_are_told(
    iris: Splits, change: Callable[[TabularDataset], TabularDataset], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        _train(_boosting(), (iris[0], change(iris[1]), iris[2]))


def test_rows_of_other_classes_are_not_evaluated(iris: Splits, binary_iris: Splits) -> None:
    model = _boosting()
    report = _train(model, iris)
    evaluated = model.evaluate(iris[2])
    assert evaluated["accuracy"] == report.metrics["test_accuracy"]
    with pytest.raises(DataError, match="has the classes versicolor, virginica; the model knows"):
        model.evaluate(binary_iris[2])


def test_a_class_loads_its_own_models_only(saved: Path) -> None:
    with pytest.raises(ArtifactError, match="holds a gb_classifier, not a MLPClassifier"):
        MLPClassifier.load(saved)


def test_scores_that_are_no_numbers_are_a_divergence(iris: Splits) -> None:
    class Broken(GBClassifier):
        def predict(self, X: Any) -> Any:
            return np.full((len(X), 3), np.nan)

    ModelRegistry.add("broken_for_a_test", Broken)
    try:
        with pytest.raises(DivergenceError, match="scores on the train rows"):
            _train(Broken(max_iter=2), iris)
    finally:
        del ModelRegistry._classes["broken_for_a_test"]


@pytest.mark.parametrize(
    ("file_name", "change", "message"),
    [
        ("config.json", lambda c: c["params"].update(learning_rate="fast"), "learning_rate"),
        ("config.json", lambda c: c["params"].update(depht=3), "config.json.depht: unknown key"),
        ("config.json", lambda c: c["params"].update(accelerator="cuda"), "accelerator"),
        ("config.json", lambda c: c["params"].update(subsample=0.5), "model.subsample=0.5"),
        ("config.json", lambda c: c["params"].update(booster="exact"), "not trusted"),
        ("signature.json", lambda c: c.pop("features"), "signature"),
        ("preprocessing.json", lambda c: c.update(mean=[0.0]), "preprocessing.mean"),
        ("metadata.json", lambda c: c.update(num_features=0), "num_features"),
        (
            "metadata.json",
            lambda c: c.update(num_features=7),
            "num_features is 7, preprocessing.json makes 4",
        ),
        ("metadata.json", lambda c: c.update(num_features=True), "num_features must be a positive"),
    ],
)
def test_a_directory_whose_parts_do_not_fit_is_refused(
    saved: Path, file_name: str, change: Callable[[Any], Any], message: str
) -> None:
    changed = _rewritten(saved, _edited(file_name, change))
    with pytest.raises(ArtifactError, match=message) as caught:
        ModelRegistry.load(changed)
    assert "\n" not in str(caught.value)
    assert str(changed) in str(caught.value)


def test_where_a_model_runs_can_not_be_put_into_its_config(iris: Splits, tmp_path: Path) -> None:
    model = MLPClassifier([None, 4, None], accelerator="cpu")
    _train(model, iris, model_path=tmp_path / "model", max_epochs=1)
    edit = _edited("config.json", lambda c: c["params"].update(accelerator="cuda"))
    with pytest.raises(ArtifactError, match="config.json.accelerator: where a model runs"):
        ModelRegistry.load(_rewritten(tmp_path / "model", edit))


def test_a_frame_without_names_is_read_by_position(iris: Splits) -> None:
    model = _boosting()
    _train(model, iris)
    unnamed = pd.DataFrame(iris[2].X)
    np.testing.assert_array_equal(model.predict(unnamed), model.predict(iris[2]))


def test_reports_outside_of_a_training_go_nowhere() -> None:
    model = _boosting()
    model.report(1, {"train_loss": 1.0}, total=2)
    assert model.history == []


def test_a_tracker_of_another_kind_is_refused(iris: Splits) -> None:
    with pytest.raises(ConfigError, match="tracking must be True, False or a tracker, got 'mlf"):
        _train(_boosting(), iris, tracking="mlflow")


def test_whole_numbers_of_numpy_are_taken_as_python_writes_them(
    iris: Splits, tmp_path: Path
) -> None:
    path = tmp_path / "model"
    _train(_boosting(), iris, seed=np.int64(3), patience=np.int64(2), model_path=path)
    metadata = json.loads((path / "metadata.json").read_text())
    assert (metadata["seed"], metadata["training"]["patience"]) == (3, 2)


def test_a_constructor_that_was_given_a_wrong_choice_is_told_before_the_fit(iris: Splits) -> None:
    with pytest.raises(ConfigError, match=r"model\.booster: must be one of"):
        _train(_boosting(booster="hist"), iris)


def test_a_tracker_that_fails_after_the_fit_leaves_the_saved_model(
    iris: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise TrackingError("no room for plots")

    monkeypatch.setattr("ml_project_template.tracking.MLflowRun.log_bytes", fail)
    with pytest.raises(TrackingError):
        _train(
            _boosting(),
            iris,
            tracking=MLflowTracker(f"sqlite:///{tmp_path / 'mlflow.db'}"),
            model_path=tmp_path / "model",
        )
    assert BaseModel.load(tmp_path / "model").metadata["metrics"]["val_accuracy"] > 0.5


class Listening:
    """Keeps what it hears, and raises something at one step."""

    def __init__(self, error: BaseException | None = None, at: int = 3) -> None:
        self.error = error
        self.at = at
        self.heard: list[tuple[int, dict[str, float], int | None]] = []

    def report(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        self.heard.append((step, dict(metrics), total))
        if self.error is not None and step == self.at:
            raise self.error


KINDS: dict[str, tuple[Callable[[], BaseModel], dict[str, Any], int]] = {
    "histogram": (lambda: _boosting(max_iter=6), {"patience": None}, 6),
    "exact": (lambda: _boosting(max_iter=6, booster="exact"), {"patience": None}, 6),
    "mlp": (lambda: MLPClassifier([None, 8, None], accelerator="cpu"), {"max_epochs": 6}, 6),
}
kinds = pytest.mark.parametrize("kind", list(KINDS))


@kinds
def test_reporters_hear_of_each_step(kind: str, iris: Splits) -> None:
    make, arguments, steps = KINDS[kind]
    first, second = Listening(), Listening()
    report = _train(make(), iris, reporters=(first, second), **arguments)
    assert [step for step, _, _ in first.heard] == list(range(1, steps + 1))
    assert {total for _, _, total in first.heard} == {steps}
    assert [{"step": step, **metrics} for step, metrics, _ in first.heard] == report.history
    assert first.heard == second.heard
    assert {"train_loss", "val_loss"} <= first.heard[0][1].keys()


@kinds
def test_a_reporter_ends_the_fit_and_the_model_of_then_is_kept(
    kind: str, iris: Splits, tmp_path: Path
) -> None:
    make, arguments, _ = KINDS[kind]
    before, stopping, after = Listening(), Listening(StopTraining()), Listening()
    model = make()
    report = _train(
        model,
        iris,
        model_path=tmp_path / "model",
        save_model="final",
        reporters=[before, stopping, after],
        **arguments,
    )
    for reporter in (before, stopping, after):
        assert [step for step, _, _ in reporter.heard] == [1, 2, 3]
    assert [row["step"] for row in report.history] == [1, 2, 3]
    # The model is that of the third step, and not one of before or after.
    assert report.metrics["val_loss"] == pytest.approx(report.history[-1]["val_loss"], rel=1e-4)
    loaded = ModelRegistry.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(iris[2]), model.predict(iris[2]))
    assert loaded.metadata["metrics"] == report.metrics


@kinds
@pytest.mark.parametrize(
    ("error", "state"), [(RuntimeError("no luck"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_reporter_that_raises_anything_else_ends_the_training(
    error: BaseException, state: str, kind: str, iris: Splits, saved: Path, tmp_path: Path
) -> None:
    from mlflow import MlflowClient

    before = {file.name: file.read_bytes() for file in saved.iterdir()}
    make, arguments, _ = KINDS[kind]
    model = make()
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with pytest.raises(type(error)) as caught:
        _train(
            model,
            iris,
            model_path=saved,
            tracking=MLflowTracker(uri),
            reporters=[Listening(error)],
            **arguments,
        )
    assert caught.value is error
    client = MlflowClient(uri, registry_uri=uri)
    experiment = client.get_experiment_by_name("test")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == state
    assert run.data.tags["error"].startswith(type(error).__name__)
    history = client.get_metric_history(run.info.run_id, "epoch/train_loss")
    assert [row.step for row in history] == [1, 2, 3]
    assert "val_accuracy" not in run.data.metrics
    assert {file.name: file.read_bytes() for file in saved.iterdir()} == before
    # Nobody listens any longer, and the same object can be trained again.
    heard = Listening()
    _train(model, iris, reporters=[heard], **arguments)
    assert len(heard.heard) == 6


def test_progress_is_shown_only_where_it_is_wanted(
    iris: Splits, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO)
    lines = []
    for progress in (True, False):
        caplog.clear()
        report = _train(_boosting(), iris, progress=progress)
        assert len(report.history) == 5
        lines.append([text for text in caplog.messages if "step" in text])
    assert lines[0][0].startswith("gb_classifier: step 1/5, train_loss")
    assert lines[1] == []
    assert capfd.readouterr() == ("", "")


def test_without_progress_a_terminal_gets_no_bar(
    iris: Splits, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    shown = []
    for progress in (True, False):
        _train(_boosting(), iris, progress=progress)
        shown.append(capfd.readouterr().err)
    assert "gb_classifier" in shown[0]
    assert shown[1] == ""
