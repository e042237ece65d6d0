"""Boosted trees of XGBoost, LightGBM and CatBoost."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.signature import Task
from ml_project_template.errors import ArtifactError, ConfigError, DataError
from ml_project_template.models import BaseModel, ModelRegistry, TrainingReport
from ml_project_template.models._boosting import installed
from ml_project_template.models._features import without_infinite
from ml_project_template.training.reporting import StopTraining

Mixed = Callable[[Task], tuple[TabularDataset, TabularDataset]]
Make = Callable[[int], TabularDataset]
Splits = tuple[TabularDataset, TabularDataset, TabularDataset]

LIBRARIES = ["catboost", "lightgbm", "xgboost"]

every_library = pytest.mark.parametrize("library", LIBRARIES)


def _build(library: str, task: str, **settings: Any) -> BaseModel:
    kind = "regressor" if task == "regression" else "classifier"
    model: BaseModel = ModelRegistry.get(f"{library}_{kind}")(**settings)
    return model


def _train(model: BaseModel, train: TabularDataset, **arguments: Any) -> TrainingReport:
    return model.train(
        experiment_name="x", train_data=train, seed=0, tracking=False, progress=False, **arguments
    )


def _raw(part: TabularDataset) -> TabularDataset:
    return Preprocessor(impute=None, scale=None).fit(part).transform(part)


@every_library
def test_it_learns_from_a_category_alone(library: str) -> None:
    rng = np.random.default_rng(0)
    import pandas as pd

    code = rng.integers(0, 30, 600)
    frame = pd.DataFrame({"x": rng.random(600), "shop": [f"s{place}" for place in code]})
    frame.loc[::10, "shop"] = None
    worth = np.where(frame["shop"].isna(), 20.0, rng.permutation(30)[code])
    data = TabularDataset(frame, worth, target_column="y", task="regression", name="shops")
    model = _build(library, "regression", learning_rate=0.3)
    report = _train(model, _raw(data), patience=None)
    assert report.metrics["train_r2"] > 0.85
    importances = model.feature_importances()
    assert importances is not None
    assert importances[1] > 0.5


@every_library
def test_the_last_report_is_what_the_model_measures(library: str, mixed: Mixed) -> None:
    for task, tolerance in (("regression", 1e-4), ("classification", 1e-4)):
        train, val = (_raw(part) for part in mixed(task))  # type: ignore[arg-type]
        arguments: dict[str, Any] = {"save_model": "final", "patience": None, "val_data": val}
        if task == "classification":
            arguments["class_weight"] = [1.0, 3.0]
        report = _train(_build(library, task, max_iter=10), train, **arguments)
        assert [row["step"] for row in report.history] == list(range(1, 11))
        # CatBoost's own loss of a training row leaves the row itself out of its categories.
        for split in ("val",) if library == "catboost" else ("train", "val"):
            last = report.history[-1][f"{split}_loss"]
            assert last == pytest.approx(report.metrics[f"{split}_loss"], rel=tolerance)


@every_library
def test_best_keeps_the_trees_up_to_the_lowest_validation_loss(library: str, noisy: Make) -> None:
    model = _build(library, "classification", max_iter=200)
    report = _train(model, noisy(0), val_data=noisy(1), patience=5)
    losses = [row["val_loss"] for row in report.history]
    assert len(losses) == int(np.argmin(losses)) + 1 + 5
    assert report.metrics["val_loss"] == pytest.approx(min(losses), rel=1e-4)


@every_library
def test_a_listener_may_stop_it(library: str, noisy: Make) -> None:
    class Impatient:
        def report(self, step: int, metrics: Any, total: int | None) -> None:
            if step == 3:
                raise StopTraining

    report = _train(_build(library, "classification"), noisy(0), reporters=[Impatient()])
    assert len(report.history) == 3


@pytest.mark.parametrize(
    ("library", "loss"),
    [
        *((library, "absolute_error") for library in LIBRARIES),
        *((library, "poisson") for library in LIBRARIES if library != "catboost"),
        ("lightgbm", "gamma"),
        ("xgboost", "gamma"),
    ],
)
def test_each_loss_of_a_number_learns_and_is_loaded_again(
    library: str, loss: str, petals: Splits, tmp_path: Path
) -> None:
    model = _build(library, "regression", loss=loss, learning_rate=0.3)
    report = _train(model, petals[0], val_data=petals[1], model_path=tmp_path / "model")
    assert report.metrics["val_r2"] > 0.7
    loaded = ModelRegistry.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(petals[2]), model.predict(petals[2]))


def test_what_does_not_fit_is_told(monkeypatch: pytest.MonkeyPatch, petals: Splits) -> None:
    with pytest.raises(ConfigError, match="loss=gamma is not for a regression by catboost"):
        _build("catboost", "regression", loss="gamma")
    with pytest.raises(ConfigError, match=r"training\.class_weight: must be null"):
        _train(_build("xgboost", "regression"), petals[0], class_weight="balanced")
    below = TabularDataset(
        petals[0].features, petals[0].y - 1e6, target_column="y", task="regression"
    )
    with pytest.raises(DataError, match="loss=poisson: the target must be"):
        _train(_build("lightgbm", "regression", loss="poisson"), below)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed. Install it: uv sync --extra lightgbm"):
        _build("lightgbm", "classification")
    assert installed("no-such-distribution", "numpy") == "numpy"
    assert installed("no-such-distribution") == "no-such-distribution"


def _replace(path: Path, name: str, content: bytes) -> None:
    parts = {file.name: file.read_bytes() for file in path.iterdir()}
    parts[name] = content
    del parts[artifacts.MANIFEST]

    def write(directory: Path) -> None:
        for file, text in parts.items():
            (directory / file).write_bytes(text)

    artifacts.write_model_directory(path, write)


@every_library
def test_a_file_of_rubbish_or_of_another_model_is_refused(
    library: str, iris: Splits, binary_iris: Splits, tmp_path: Path
) -> None:
    model = _build(library, "classification", max_iter=3)
    _train(model, iris[0], model_path=tmp_path / "model")
    name = f"weights.{library}"
    other = _build(library, "classification", max_iter=3)
    _train(other, binary_iris[0], model_path=tmp_path / "other")
    for content in ((tmp_path / "other" / name).read_bytes(), b"rubbish", b"[]", b""):
        _replace(tmp_path / "model", name, content)
        with pytest.raises(ArtifactError, match=f"weights.{library}") as caught:
            ModelRegistry.load(tmp_path / "model")
        assert "\n" not in str(caught.value)


def _node(name: str, place: int, value: Any) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        _trees(model)[0][name][place] = value

    return change


def _trees(model: Any) -> Any:
    return model["learner"]["gradient_booster"]["model"]["trees"]


HOSTILE: list[Callable[[Any], None]] = [
    _node("left_children", 0, 0),
    _node("right_children", 0, 10**6),
    _node("left_children", 0, -7),
    _node("split_indices", 0, 99),
    lambda m: _trees(m)[0].update(split_type=[1 - kind for kind in _trees(m)[0]["split_type"]]),
    _node("default_left", 0, 7),
    _node("parents", 1, 2),
    _node("split_conditions", 0, "x"),
    lambda m: _trees(m)[0]["tree_param"].update(num_nodes="1000000"),
    lambda m: _trees(m)[0]["tree_param"].update(size_leaf_vector="9"),
    lambda m: _trees(m)[0]["base_weights"].pop(),
    lambda m: next(t for t in _trees(m) if t["categories"])["categories"].__setitem__(0, 10**6),
    lambda m: next(t for t in _trees(m) if t["categories"])["categories_sizes"].__setitem__(0, 99),
    lambda m: next(t for t in _trees(m) if t["categories"])["categories_nodes"].__setitem__(0, 99),
    lambda m: _trees(m).pop(),
    lambda m: _trees(m).clear(),
    lambda m: m["learner"]["learner_model_param"].update(num_feature="3"),
    lambda m: m["learner"]["learner_model_param"].update(base_score="[1,2,3,4]"),
    lambda m: m["learner"]["objective"].update(name="multi:softprob"),
    lambda m: m["learner"].update(feature_types=[]),
    lambda m: m["learner"]["gradient_booster"].update(name="gblinear"),
    lambda m: m["learner"]["gradient_booster"]["model"]["tree_info"].__setitem__(0, 10**6),
    lambda m: m["learner"].pop("learner_model_param"),
]


def test_trees_of_xgboost_that_were_tampered_with_are_refused(mixed: Mixed, tmp_path: Path) -> None:
    model = _build("xgboost", "classification", max_iter=10, max_depth=3)
    _train(model, _raw(mixed("classification")[0]), model_path=tmp_path / "model")
    content = (tmp_path / "model" / artifacts.WEIGHTS_XGBOOST).read_text()
    assert any(tree["categories"] for tree in _trees(json.loads(content)))
    for place, change in enumerate(HOSTILE):
        changed = json.loads(content)
        change(changed)
        _replace(tmp_path / "model", artifacts.WEIGHTS_XGBOOST, json.dumps(changed).encode())
        with pytest.raises(ArtifactError, match=r"weights\.xgboost"):
            pytest.fail(f"{place}: {ModelRegistry.load(tmp_path / 'model')}")


def test_features_are_copied_only_where_one_is_infinite() -> None:
    X = np.array([[1.0, np.nan], [2.0, 3.0]], dtype=np.float32)
    assert without_infinite(X) is X
    X[1, 0] = -np.inf
    assert without_infinite(X)[1, 0] == np.finfo(np.float32).min
    assert np.isnan(without_infinite(X)[0, 1])
    assert np.isinf(X[1, 0])
