"""Gradient-boosted trees that predict a number, and how both tasks take categories."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingRegressor, HistGradientBoostingRegressor

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.signature import Task
from ml_project_template.errors import ArtifactError, ConfigError, DataError
from ml_project_template.inference import Inference
from ml_project_template.models import BaseModel, GBClassifier, GBRegressor, TrainingReport

Mixed = Callable[[Task], tuple[TabularDataset, TabularDataset]]

BOOSTERS = ["exact", "histogram"]
LOSSES = [
    *(("histogram", loss) for loss in ("squared_error", "absolute_error", "gamma", "poisson")),
    *(("exact", loss) for loss in ("squared_error", "absolute_error", "huber")),
]


def _train(model: BaseModel, train: TabularDataset, **arguments: Any) -> TrainingReport:
    return model.train(
        experiment_name="test",
        train_data=train,
        seed=0,
        tracking=False,
        progress=False,
        **arguments,
    )


def _prepared(splits: Sequence[TabularDataset], **settings: Any) -> list[TabularDataset]:
    preprocessor = Preprocessor(**settings).fit(splits[0])
    return [preprocessor.transform(part) for part in splits]


def _encoded(served: Inference, rows: list[dict[Any, Any]]) -> NDArray[np.float64]:
    return np.ascontiguousarray(served.signature.rows_to_frame(rows).to_numpy(np.float64))


@pytest.mark.parametrize(("booster", "loss"), LOSSES)
def test_a_server_computes_each_loss_as_the_model_does(
    booster: Any, loss: Any, mixed: Mixed, tmp_path: Path
) -> None:
    # Some losses are for positive numbers alone.
    train, val = _prepared(
        [
            TabularDataset(
                part.features, part.y + 200_000, target_column="price", task="regression"
            )
            for part in mixed("regression")
        ]
    )
    report = _train(
        GBRegressor(booster, max_iter=30, loss=loss),
        train,
        val_data=val,
        model_path=tmp_path / "model",
    )
    assert report.metrics["val_r2"] > 0.8
    graph = Inference.load(str(tmp_path / "model"), backend="onnxruntime")
    model = Inference.load(str(tmp_path / "model"), backend="model")
    rows = graph.signature.probe_rows(missing=True)
    np.testing.assert_allclose(graph.probabilities(rows), model.probabilities(rows), rtol=1e-9)


@pytest.mark.parametrize("booster", BOOSTERS)
def test_squared_errors_are_reported_as_they_are_measured(booster: Any, mixed: Mixed) -> None:
    train, val = _prepared(mixed("regression"))
    model = GBRegressor(booster, max_iter=5)
    report = _train(model, train, val_data=val, save_model="final", patience=None)
    for split in ("train", "val"):
        last = report.history[-1][f"{split}_loss"]
        assert last == pytest.approx(report.metrics[f"{split}_loss"], rel=1e-6)


def test_trees_on_categories_are_scikit_learns_own(mixed: Mixed) -> None:
    (train,) = _prepared(mixed("regression")[:1], impute=None, scale=None)
    model = GBRegressor(max_iter=20)
    _train(model, train, patience=None)
    is_category = np.asarray(train.cardinalities) > 0
    assert is_category.any()
    assert not is_category[0]  # so that scikit-learn reorders the columns
    theirs = HistGradientBoostingRegressor(
        max_iter=20, min_samples_leaf=10, categorical_features=is_category, random_state=0
    )
    theirs.fit(train.X, train.y)
    np.testing.assert_allclose(model.predict(train), theirs.predict(train.X), rtol=1e-12)


def test_the_exact_booster_sees_zeros_and_ones(mixed: Mixed) -> None:
    (train,) = _prepared(mixed("regression")[:1])
    model = GBRegressor("exact", max_iter=20)
    _train(model, train, patience=None)
    columns = [
        train.X[:, place : place + 1]
        if count == 0
        else (train.X[:, place : place + 1] == np.arange(count)).astype(np.float32)
        for place, count in enumerate(train.cardinalities)
    ]
    theirs = GradientBoostingRegressor(
        n_estimators=20, max_depth=None, max_leaf_nodes=31, min_samples_leaf=10, random_state=0
    )
    theirs.fit(np.hstack(columns), train.y)
    np.testing.assert_array_equal(model.predict(train), theirs.predict(np.hstack(columns)))
    importances = model.feature_importances()
    assert importances is not None
    assert importances.shape == (len(train.feature_names),)


@pytest.mark.parametrize("booster", BOOSTERS)
def test_an_unseen_level_counts_as_missing(booster: Any, mixed: Mixed, tmp_path: Path) -> None:
    train, _ = mixed("classification")
    model = GBClassifier(booster, max_iter=20)
    _train(model, _prepared((train,))[0], model_path=tmp_path / "model")
    served = Inference.load(str(tmp_path / "model"), backend="onnxruntime")
    row = {"size": 50.0, "rooms": 2, "garden": True, "built": "1990-01-01"}
    unseen, missing = (
        served.probabilities(_encoded(served, [{**row, "city": city}]))
        for city in ("Atlantis", None)
    )
    np.testing.assert_array_equal(unseen, missing)


def test_a_category_of_many_levels_is_served_too(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    code = rng.integers(0, 254, 4000)
    frame = pd.DataFrame({"shop": [f"s{place:03d}" for place in code], "x": rng.random(4000)})
    worth = rng.normal(0, 10, 254)[code] + frame["x"]
    data = TabularDataset(frame, worth, target_column="y", task="regression", name="shops")
    model = GBRegressor(max_iter=20)
    report = _train(model, _prepared((data,))[0], model_path=tmp_path / "model")
    assert report.metrics["train_r2"] > 0.8
    served = Inference.load(str(tmp_path / "model"), backend="onnxruntime")
    rows = _encoded(served, frame.iloc[:500].to_dict("records"))
    expected = model.predict(_prepared((data,))[0])[:500]
    np.testing.assert_allclose(served.probabilities(rows)[:, 0], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (GBRegressor, {"loss": "log_loss"}, "loss=log_loss is not for a regression.*squared_error"),
        (GBRegressor, {"loss": "huber"}, "loss=huber is not for a regression by booster histogram"),
        (GBClassifier, {"loss": "poisson"}, "loss=poisson is not for a classification"),
    ],
)
def test_a_loss_that_is_not_for_the_task_is_told(model: Any, arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model(**arguments)


def test_class_weights_are_refused_for_numbers(mixed: Mixed) -> None:
    (train,) = _prepared(mixed("regression")[:1])
    with pytest.raises(ConfigError, match=r"training\.class_weight: must be null, got 'balanced'"):
        _train(GBRegressor(), train, class_weight="balanced")


@pytest.mark.parametrize(("loss", "lowest"), [("gamma", 0.0), ("poisson", -1.0)])
def test_a_target_that_the_loss_is_not_for_is_told(loss: Any, lowest: float) -> None:
    frame = pd.DataFrame({"x": np.arange(30.0)})
    target = np.linspace(lowest, 5, 30)
    data = TabularDataset(frame, target, target_column="y", task="regression")
    with pytest.raises(DataError, match=f"model.loss={loss}: the target must be"):
        _train(GBRegressor(loss=loss), data)


def _by_level(estimator: Any) -> tuple[Any, int]:
    """Find a tree with a split by levels, and the place of that node."""
    for (tree,) in estimator._predictors:
        found = np.flatnonzero(tree.nodes["is_categorical"] & (1 - tree.nodes["is_leaf"]))
        if len(found):
            return tree, int(found[0])
    raise AssertionError("no tree splits by levels")


def _node(field: str, value: int) -> Callable[[Any], None]:
    def change(estimator: Any) -> None:
        tree, place = _by_level(estimator)
        tree.nodes[field][place] = value

    return change


HOSTILE: list[Callable[[Any], None]] = [
    _node("bitset_idx", 10**6),
    _node("is_categorical", 0),
    _node("feature_idx", 0),
    lambda e: setattr(_by_level(e)[0], "raw_left_cat_bitsets", np.zeros((9, 7), np.uint32)),
    lambda e: setattr(_by_level(e)[0], "raw_left_cat_bitsets", np.zeros((99, 8), np.uint64)),
    lambda e: e._bin_mapper.is_categorical_.fill(0),
    lambda e: e._bin_mapper.bin_thresholds_.__setitem__(2, np.full(6, 1e9)),
    lambda e: setattr(e, "loss", "poisson"),
    lambda e: setattr(e, "n_trees_per_iteration_", 2),
]


@pytest.mark.parametrize("change", HOSTILE)
def test_splits_by_level_that_were_tampered_with_are_refused(
    change: Callable[[Any], None], mixed: Mixed, tmp_path: Path
) -> None:
    (train,) = _prepared(mixed("regression")[:1])
    assert train.cardinalities[2] == 6
    model = GBRegressor(max_iter=5)
    _train(model, train, model_path=tmp_path / "model")

    def write(directory: Path) -> None:
        for name, content in parts.items():
            (directory / name).write_bytes(content)
        artifacts.save_estimator(directory / artifacts.WEIGHTS_SKOPS, model.estimator_)

    parts = {
        file.name: file.read_bytes()
        for file in (tmp_path / "model").iterdir()
        if file.name not in (artifacts.MANIFEST, artifacts.WEIGHTS_SKOPS)
    }
    artifacts.write_model_directory(tmp_path / "model", write)
    assert isinstance(GBRegressor.load(tmp_path / "model"), GBRegressor)
    change(model.estimator_)
    artifacts.write_model_directory(tmp_path / "model", write)
    with pytest.raises(ArtifactError, match=r"weights\.skops"):
        GBRegressor.load(tmp_path / "model")
