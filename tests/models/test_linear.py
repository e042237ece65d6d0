"""The linear models, a classifier and a regressor."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.errors import ArtifactError, ConfigError, DataError
from ml_project_template.inference import Inference
from ml_project_template.models import BaseModel, LinearClassifier, LinearRegressor
from ml_project_template.models import linear_classifier as module
from ml_project_template.training.reporting import StopTraining

Splits = tuple[TabularDataset, TabularDataset, TabularDataset]


def _train(model: BaseModel, data: TabularDataset, **arguments: Any) -> None:
    model.train(experiment_name="test", train_data=data, tracking=False, **arguments)


@pytest.fixture(scope="module")
def mixed() -> pd.DataFrame:
    """Two numbers of different units, a category with gaps, and a column that never changes."""
    rng = np.random.default_rng(0)
    city = np.array(["Bonn", "Köln", None])[rng.integers(3, size=80)]
    size, weight = rng.normal(size=80), rng.normal(5e6, 1e6, size=80)
    price = 3 * size + weight / 1e6 + 2 * (city == "Köln") + rng.normal(size=80)
    return pd.DataFrame({"size": size, "weight": weight, "city": city, "same": 0.1, "price": price})


def _numbers(frame: pd.DataFrame) -> TabularDataset:
    return TabularDataset(
        frame.drop(columns="price"),
        frame["price"],
        target_column="price",
        task="regression",
    )


def _classes(frame: pd.DataFrame) -> TabularDataset:
    labels = pd.cut(frame["price"], 3, labels=["low", "middle", "high"])
    return TabularDataset(
        frame.drop(columns="price"), labels.astype(str).tolist(), target_column="price"
    )


@pytest.mark.parametrize("strength", [0.1, 10.0])
def test_the_classifier_is_scikit_learns_own(
    strength: float, iris: Splits, binary_iris: Splits
) -> None:
    for train, _, test in (iris, binary_iris):
        model = LinearClassifier(l2_regularization=strength)
        _train(model, train, class_weight="balanced")
        theirs = LogisticRegression(
            C=1 / strength, class_weight="balanced", tol=1e-7, max_iter=2_000
        )
        with threadpool_limits(1):
            theirs.fit(train.X.astype(np.float64), train.y)
        np.testing.assert_allclose(
            model.predict_proba(test), theirs.predict_proba(test.X), atol=1e-4
        )


def test_the_regressor_is_scikit_learns_own(mixed: pd.DataFrame) -> None:
    data = _numbers(mixed[["size", "weight", "price"]])
    prepared = Preprocessor().fit(data).transform(data)
    model = LinearRegressor(l2_regularization=7.0)
    _train(model, prepared)
    theirs = Ridge(alpha=7.0).fit(prepared.X.astype(np.float64), data.y)
    np.testing.assert_allclose(model.predict(prepared), theirs.predict(prepared.X), rtol=1e-5)


def test_units_and_scaling_make_no_difference(mixed: pd.DataFrame) -> None:
    for model_class, data in (
        (LinearClassifier, _classes(mixed)),
        (LinearRegressor, _numbers(mixed)),
    ):
        raw, scaled = model_class(), model_class()
        _train(raw, data)
        prepared = Preprocessor().fit(data).transform(data)
        _train(scaled, prepared)
        assert raw.preprocessor is not None
        np.testing.assert_allclose(
            raw.answer(raw.preprocessor.transform(data)), scaled.answer(prepared), atol=1e-3
        )


def test_importances_are_those_of_standardised_features(mixed: pd.DataFrame) -> None:
    model = LinearRegressor()
    _train(model, _numbers(mixed))
    importances = model.feature_importances()
    assert importances is not None
    assert importances.sum() == pytest.approx(1)
    by_name = dict(zip(model._column_names(), importances, strict=True))
    assert by_name.keys() == {"size", "weight", "city=Bonn", "city=Köln", "same"}
    assert max(by_name, key=lambda name: by_name[name]) == "size"
    assert by_name["same"] == 0
    constant = mixed.assign(size=1.0, weight=1.0, city="Bonn")
    _train(model, _numbers(constant))
    assert model.feature_importances() is None
    np.testing.assert_allclose(
        model.predict(np.ones((1, 4), dtype=np.float32)), constant["price"].mean()
    )


def test_a_server_answers_the_same_without_scikit_learn(
    mixed: pd.DataFrame, tmp_path: Path
) -> None:
    for model, data in (
        (LinearClassifier(), _classes(mixed)),
        (LinearRegressor(), _numbers(mixed)),
    ):
        prepared = Preprocessor().fit(data).transform(data)
        _train(model, prepared, model_path=tmp_path / "model")
        assert not (tmp_path / "model" / artifacts.WEIGHTS_SKOPS).exists()
        served = Inference.load(str(tmp_path / "model"), backend="onnxruntime")
        assert prepared.preprocessor is not None
        rows = np.column_stack(
            [mixed["size"], mixed["weight"], [0.0, 1.0, np.nan, 1.0] * 20, mixed["same"]]
        )
        np.testing.assert_allclose(
            served.probabilities(rows),
            model.answer(prepared.preprocessor.transform_array(rows)),
            rtol=1e-9,
        )


def test_a_gap_is_told_with_what_fills_it_in(mixed: pd.DataFrame) -> None:
    holes = mixed.assign(size=mixed["size"].where(mixed.index != 3))
    for model, data in (
        (LinearClassifier(), _classes(holes)),
        (LinearRegressor(), _numbers(holes)),
    ):
        with pytest.raises(DataError, match="Row 4: feature 'size' is missing.*=standardize"):
            _train(model, data)


def test_a_class_without_a_training_row_is_told(mixed: pd.DataFrame) -> None:
    data = TabularDataset(
        mixed[["size"]],
        ["a", "b"] * 40,
        target_column="y",
        class_names=["a", "b", "c"],
    )
    with pytest.raises(DataError, match="The class 'c' has no training row"):
        _train(LinearClassifier(), data)


def test_coefficients_that_do_not_settle_are_told(
    iris: Splits, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "_MAX_ITER", 2)
    with caplog.at_level(logging.WARNING):
        _train(LinearClassifier(), iris[0])
    assert "still change after 2 iterations" in caplog.text


@pytest.mark.parametrize("model_class", [LinearClassifier, LinearRegressor])
@pytest.mark.parametrize("strength", [0, -1.0, "much"])
def test_a_penalty_has_to_be_positive(model_class: type[BaseModel], strength: Any) -> None:
    data = TabularDataset(pd.DataFrame({"x": [0.0, 1.0]}), ["a", "b"], target_column="y")
    with pytest.raises(ConfigError, match=r"model\.l2_regularization: must be"):
        _train(model_class(l2_regularization=strength), data)  # type: ignore[call-arg]


def test_who_wants_the_fit_to_end_gets_the_model_that_is_there(
    mixed: pd.DataFrame, iris: Splits
) -> None:
    class Stopping:
        def report(self, step: int, metrics: Any, total: int | None) -> None:
            raise StopTraining

    for model, data in ((LinearClassifier(), iris[0]), (LinearRegressor(), _numbers(mixed))):
        _train(model, data, reporters=[Stopping()])
        assert len(model.history) == 1


@pytest.mark.parametrize("name", ["coefficients", "intercept", "scale"])
@pytest.mark.parametrize("what", ["missing", "longer", "float32"])
def test_an_array_that_is_not_the_models_is_refused(
    name: str, what: str, iris: Splits, tmp_path: Path
) -> None:
    model = LinearClassifier()
    _train(model, iris[0], model_path=tmp_path / "model")

    def damage(tensors: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        damaged = dict(tensors)
        found = damaged.pop(name)
        if what != "missing":
            damaged[name] = (
                np.concatenate([found, found]) if what == "longer" else found.astype(np.float32)
            )
        return damaged

    weights = tmp_path / "weights.safetensors"
    tensors = artifacts.load_tensors(tmp_path / "model" / artifacts.WEIGHTS_SAFETENSORS)
    artifacts.save_tensors(weights, damage(tensors))
    with pytest.raises(ArtifactError, match=f"'{name}' must be float64"):
        model._load_weights(tmp_path)
    with pytest.raises(ArtifactError, match=f"'{name}' must be float64"):
        LinearClassifier.score_graph({}, damage(tensors), 4, 3)
