"""The multilayer perceptron for numbers, and what it does with a mixed table."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.signature import Task
from ml_project_template.errors import ArtifactError, ConfigError, DataError
from ml_project_template.inference import Inference
from ml_project_template.models import MLPClassifier, MLPRegressor, TrainingReport

Splits = tuple[TabularDataset, TabularDataset, TabularDataset]
Mixed = Callable[[Task], tuple[TabularDataset, TabularDataset]]
Prepared = tuple[TabularDataset, TabularDataset]


def _mlp(*hidden: int, **arguments: Any) -> MLPRegressor:
    return MLPRegressor([None, *hidden, None], **{"accelerator": "cpu", **arguments})


def _train(
    model: MLPRegressor | MLPClassifier,
    train: TabularDataset,
    val: TabularDataset | None = None,
    **arguments: Any,
) -> TrainingReport:
    return model.train(
        experiment_name="test",
        train_data=train,
        val_data=val,
        **{"seed": 0, "tracking": False, "max_epochs": 3, **arguments},
    )


@pytest.fixture(scope="session")
def flats(mixed: Mixed) -> Prepared:
    """A table with a column of each type and a number to predict."""
    raw = mixed("regression")
    preprocessor = Preprocessor().fit(raw[0])
    train, val = (preprocessor.transform(part) for part in raw)
    return train, val


def _rescaled(data: TabularDataset, factor: float, shift: float) -> TabularDataset:
    return TabularDataset(
        data.features, data.y * factor + shift, target_column="y", task="regression"
    )


@pytest.mark.parametrize(("factor", "shift"), [(1e-6, 0.0), (1e6, -1e9)])
def test_the_units_of_the_target_do_not_matter(
    factor: float, shift: float, raw_petals: TabularDataset
) -> None:
    plain, other = _mlp(8), _mlp(8)
    _train(plain, _rescaled(raw_petals, 1.0, 0.0))
    _train(other, _rescaled(raw_petals, factor, shift))
    expected = plain.predict(raw_petals.X) * factor + shift
    spread = raw_petals.y.std() * factor
    np.testing.assert_allclose(other.predict(raw_petals.X), expected, rtol=0, atol=1e-4 * spread)


def test_a_constant_target_is_predicted(raw_petals: TabularDataset) -> None:
    model = _mlp(8)
    _train(model, _rescaled(raw_petals, 0.0, 0.1), max_epochs=50, lr=0.01)
    np.testing.assert_allclose(model.predict(raw_petals.X), 0.1, atol=0.3)


def test_its_history_is_told_in_the_units_of_the_target(petals: Splits) -> None:
    report = _train(_mlp(16), petals[0], petals[1], max_epochs=30, lr=0.01)
    losses = [row["val_loss"] for row in report.history]
    assert report.metrics["val_loss"] == pytest.approx(min(losses), rel=1e-4)
    best = report.history[int(np.argmin(losses))]
    assert best["val_rmse"] == pytest.approx(report.metrics["val_rmse"], rel=1e-4)
    report = _train(_mlp(16), petals[0], petals[1], max_epochs=30, lr=0.01, loss="mae")
    losses = [row["val_loss"] for row in report.history]
    assert report.metrics["val_mae"] == pytest.approx(min(losses), rel=1e-4)


def test_outliers_count_less_in_other_losses_than_the_squared_error(
    raw_petals: TabularDataset,
) -> None:
    y = raw_petals.y.copy()
    y[::10] += 20_000
    data = TabularDataset(raw_petals.features, y, target_column="y", task="regression")
    train = Preprocessor().fit(data).transform(data)
    errors = {}
    for loss in (None, "mse", "mae", "huber"):
        model = _mlp(16)
        _train(model, train, max_epochs=60, lr=0.01, loss=loss)
        errors[loss] = float(np.median(np.abs(model.predict(train) - raw_petals.y)))
    assert errors[None] == errors["mse"]
    assert errors["mae"] < errors["huber"] < errors["mse"]


def test_settings_of_the_other_task_are_told(petals: Splits, iris: Splits) -> None:
    with pytest.raises(ConfigError, match=r"^training\.class_weight: is for classes"):
        _train(_mlp(4), petals[0], class_weight="balanced")
    with pytest.raises(ConfigError, match=r"^training\.loss=mae is for a number"):
        _train(MLPClassifier([None, 4, None]), iris[0], loss="mae")
    with pytest.raises(ConfigError, match=r"ends with 3 but the data has 1 number to predict"):
        _train(MLPRegressor([None, 4, 3]), petals[0])


@pytest.mark.parametrize("embedding", [None, "periodic", "piecewise_linear"])
@pytest.mark.parametrize("one_hot_levels", [0, 16])
def test_every_way_to_read_a_table_is_saved_and_served(
    embedding: Any, one_hot_levels: int, flats: Prepared, tmp_path: Path
) -> None:
    # Where a model that is loaded runs, too.
    place = {"accelerator": "auto", "bins": 6}
    model = _mlp(16, numeric_embedding=embedding, one_hot_levels=one_hot_levels, **place)
    _train(model, flats[0], model_path=tmp_path / "model")
    params = json.loads((tmp_path / "model" / "config.json").read_text())["params"]
    assert params["cardinalities"] == list(flats[0].cardinalities)
    assert sum(params["cardinalities"]) == 6
    loaded = MLPRegressor.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(flats[1]), model.predict(flats[1]))
    served = Inference.load(str(tmp_path / "model"), backend="onnxruntime")
    assert model.signature is not None
    rows: list[list[object]] = [
        [np.nan, 2, None, True, "2001-02-03"],
        [250.0, 9, "Essen", False, "1960-01-01"],
    ]
    raw = model.signature.rows_to_frame(rows).to_numpy()
    assert loaded.preprocessor is not None
    expected = loaded.answer(loaded.preprocessor.transform_array(raw))
    np.testing.assert_allclose(served.probabilities(raw), expected, rtol=1e-6)


def test_a_number_near_zero_among_large_ones_is_served_by_a_graph(
    petals: Splits, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    y = (petals[0].y - petals[0].y.mean()) * 1e6
    data = petals[0].take(range(len(y)))
    data._y = y
    _train(_mlp(64, 64), data, model_path=tmp_path / "model", max_epochs=30)
    with caplog.at_level(logging.WARNING):
        assert Inference.load(str(tmp_path / "model")).backend == "onnxruntime"
    assert not caplog.records


def test_a_code_that_is_no_level_counts_as_missing(flats: Prepared) -> None:
    model = _mlp(8)
    _train(model, flats[0])
    X = flats[1].X[:1].repeat(5, axis=0)
    X[:, flats[1].feature_names.index("city")] = [np.nan, 6, -1, 1e30, 3]
    missing, *unseen, known = model.predict(X)
    np.testing.assert_allclose(unseen, missing, rtol=1e-6)
    assert known != pytest.approx(missing, rel=1e-4)


def test_a_gap_in_a_number_is_still_told(mixed: Mixed) -> None:
    train, _ = mixed("regression")
    with pytest.raises(DataError, match="feature 'size' is missing, and this model needs a number"):
        _train(_mlp(4), train)


def test_cardinalities_that_are_not_those_of_the_data_are_told(flats: Prepared) -> None:
    with pytest.raises(ConfigError, match=r"model\.cardinalities is \[0, 3\] but the data has"):
        _train(_mlp(4, cardinalities=[0, 3]), flats[0])


def test_a_model_of_before_there_were_categories_is_loaded(iris: Splits, tmp_path: Path) -> None:
    model = MLPClassifier([None, 8, None], accelerator="cpu")
    _train(model, iris[0], model_path=tmp_path / "model")
    params = {"layer_dims": [4, 8, 3], "activation": "relu", "normalization": None, "dropout": 0.0}
    _rewrite(tmp_path / "model", params=params, name="mlp_classifier")
    loaded = MLPClassifier.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.predict(iris[2]), model.predict(iris[2]))
    assert Inference.load(str(tmp_path / "model")).backend == "onnxruntime"


def _rewrite(
    path: Path,
    *,
    name: str = "mlp_regressor",
    params: dict[str, Any] | None = None,
    tensors: dict[str, Any] | None = None,
) -> None:
    parts = {file.name: file.read_bytes() for file in path.iterdir()}
    replaced = {artifacts.MANIFEST}
    replaced |= set() if params is None else {artifacts.CONFIG}
    replaced |= set() if tensors is None else {artifacts.WEIGHTS_SAFETENSORS}

    def write(directory: Path) -> None:
        for file_name, content in parts.items():
            if file_name not in replaced:
                (directory / file_name).write_bytes(content)
        if params is not None:
            artifacts.write_config(directory, name=name, params=params)
        if tensors is not None:
            artifacts.save_tensors(directory / artifacts.WEIGHTS_SAFETENSORS, tensors)

    artifacts.write_model_directory(path, write)


HOSTILE: list[tuple[Callable[[dict[str, Any], dict[str, Any]], Any], str]] = [
    (lambda _, t: t.pop("target.mean"), "'target.mean' must be float64"),
    (lambda _, t: t.update({"target.scale": np.array([-1.0])}), "'target.scale' must be positive"),
    (lambda _, t: t.update({"target.scale": np.ones(2)}), "'target.scale' must be float64"),
    (lambda _, t: t.pop("encoder.numbers.edges"), "encoder.numbers.edges"),
    (
        lambda _, t: t.update({"encoder.categories.0.weight": np.zeros((7, 4), np.float32)}),
        "encoder.categories.0.weight",
    ),
    (lambda p, _: p.update(cardinalities=[0, 6]), "cardinalities has 2 entries for 8 features"),
    (lambda p, _: p.update(cardinalities=None), "encoder"),
    (lambda p, _: p.update(cardinalities=[255] * 8), "cardinalities"),
    (lambda p, _: p.update(bins=10**12), "encoder.numbers.edges"),
]


@pytest.mark.parametrize(("change", "message"), HOSTILE)
def test_weights_and_settings_that_do_not_fit_are_refused(
    change: Callable[[dict[str, Any], dict[str, Any]], Any],
    message: str,
    flats: Prepared,
    tmp_path: Path,
) -> None:
    path = tmp_path / "model"
    model = _mlp(4, numeric_embedding="piecewise_linear", bins=4)
    _train(model, flats[0], max_epochs=1, model_path=path)
    params = model.get_params()
    tensors: dict[str, Any] = artifacts.load_tensors(path / artifacts.WEIGHTS_SAFETENSORS)
    change(params, tensors)
    _rewrite(path, params=params, tensors=tensors)
    with pytest.raises(ArtifactError, match=message):
        MLPRegressor.load(path)
    with pytest.raises(ArtifactError):
        Inference.load(str(path), backend="onnxruntime")


def test_an_embedding_tells_unordered_levels_apart() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 30, 600)
    worth = rng.normal(size=30)
    frame = pd.DataFrame({"shop": [f"shop {code}" for code in codes]})
    data = TabularDataset(frame, 10 * worth[codes], target_column="sales", task="regression")
    train = Preprocessor().fit(data).transform(data)
    report = _train(_mlp(32), train, max_epochs=20, lr=0.02)
    assert report.metrics["train_r2"] > 0.99
