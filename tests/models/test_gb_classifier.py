"""Gradient-boosted trees."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import GradientBoostingClassifier, HistGradientBoostingClassifier
from sklearn.metrics import log_loss

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.errors import ArtifactError, ConfigError, DataError
from ml_project_template.models import GBClassifier, TrainingReport
from ml_project_template.models._gb import _after_each_stage
from ml_project_template.training.metrics import softmax

Splits = tuple[TabularDataset, TabularDataset, TabularDataset]
Make = Callable[[int], TabularDataset]

BOOSTERS = ["exact", "histogram"]


def _train(
    model: GBClassifier,
    train: TabularDataset,
    val: TabularDataset | None = None,
    **arguments: Any,
) -> TrainingReport:
    return model.train(
        experiment_name="test",
        train_data=train,
        val_data=val,
        seed=0,
        tracking=False,
        **arguments,
    )


@pytest.mark.parametrize("booster", BOOSTERS)
def test_it_reaches_on_iris_what_boosting_can(booster: Any, iris: Splits) -> None:
    report = _train(GBClassifier(booster=booster), iris[0], iris[1], patience=20)
    assert report.metrics["val_accuracy"] >= 0.93


def test_the_histogram_booster_is_scikit_learns_own(iris: Splits) -> None:
    model = GBClassifier(max_iter=20, min_samples_leaf=3, l2_regularization=0.5)
    _train(model, iris[0], patience=None)
    theirs = HistGradientBoostingClassifier(
        max_iter=20, min_samples_leaf=3, l2_regularization=0.5, random_state=0
    )
    theirs.fit(iris[0].X, iris[0].y)
    np.testing.assert_array_equal(model.predict(iris[2]), theirs.decision_function(iris[2].X))


def test_the_exact_booster_is_scikit_learns_own(binary_iris: Splits) -> None:
    train, _, test = binary_iris
    model = GBClassifier("exact", max_iter=20, subsample=0.5, max_depth=2, max_leaf_nodes=None)
    _train(model, train, patience=None)
    theirs = GradientBoostingClassifier(
        n_estimators=20, subsample=0.5, max_depth=2, min_samples_leaf=10, random_state=0
    )
    theirs.fit(train.X, train.y)
    scores = theirs.decision_function(test.X)
    np.testing.assert_array_equal(model.predict(test), np.column_stack([-scores, scores]) / 2)
    np.testing.assert_allclose(model.predict_proba(test), theirs.predict_proba(test.X), rtol=1e-6)
    importances = model.feature_importances()
    assert importances is not None
    np.testing.assert_array_equal(importances, theirs.feature_importances_)


@pytest.mark.parametrize("booster", BOOSTERS)
@pytest.mark.parametrize("class_weight", [None, "balanced"])
@pytest.mark.parametrize("classes", [2, 3])
def test_reported_losses_are_those_of_the_stages(
    booster: Any, class_weight: Any, classes: int, iris: Splits, binary_iris: Splits
) -> None:
    train, val, _ = iris if classes == 3 else binary_iris
    train = train.take(list(range(len(train) - 7)))
    model = GBClassifier(booster, max_iter=4)
    report = _train(model, train, val, patience=None, class_weight=class_weight, save_model="final")
    weights = np.ones(classes)
    if class_weight:
        weights = len(train) / (classes * np.bincount(train.y))
    assert [row["step"] for row in report.history] == [1, 2, 3, 4]
    for column, data in (("train_loss", train), ("val_loss", val)):
        for row, scores in zip(
            report.history, model.estimator_.staged_decision_function(data.X), strict=True
        ):
            scores = scores.reshape(len(data), -1)
            if classes == 2:
                scores = np.hstack([-scores / 2, scores / 2])
            expected = log_loss(data.y, softmax(scores), sample_weight=weights[data.y])
            assert row[column] == pytest.approx(expected, rel=1e-6)
    assert report.metrics["val_loss"] == pytest.approx(report.history[-1]["val_loss"], rel=1e-6)


@pytest.mark.parametrize("booster", BOOSTERS)
def test_it_stops_when_our_validation_rows_get_no_better(booster: Any, noisy: Make) -> None:
    report = _train(GBClassifier(booster, max_iter=300), noisy(0), noisy(1), patience=5)
    losses = [row["val_loss"] for row in report.history]
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 5
    endless = _train(GBClassifier(booster, max_iter=60), noisy(0), noisy(1), patience=None)
    assert len(endless.history) == 60


@pytest.mark.parametrize("booster", BOOSTERS)
def test_without_validation_rows_it_watches_the_training_rows(booster: Any, noisy: Make) -> None:
    model = GBClassifier(booster, max_iter=300)
    report = _train(model, noisy(0), patience=2, tol=0.02)
    assert 2 < len(report.history) < 300
    assert "val_loss" not in report.history[0]


@pytest.mark.parametrize("booster", BOOSTERS)
def test_best_keeps_the_trees_up_to_the_lowest_validation_loss(booster: Any, noisy: Make) -> None:
    train, val = noisy(0), noisy(1)
    best, final = GBClassifier(booster, max_iter=60), GBClassifier(booster, max_iter=60)
    best_report = _train(best, train, val, patience=None, save_model="best")
    final_report = _train(final, train, val, patience=None, save_model="final")
    losses = [row["val_loss"] for row in final_report.history]
    assert best_report.metrics["val_loss"] == pytest.approx(min(losses))
    assert final_report.metrics["val_loss"] == pytest.approx(losses[-1])
    assert losses[-1] > min(losses)


def test_class_weights_find_more_of_a_rare_class(imbalanced: TabularDataset) -> None:
    found = []
    for class_weight in (None, "balanced", [1.0, 10.0]):
        model = GBClassifier(max_iter=20)
        _train(model, imbalanced, class_weight=class_weight)
        found.append(int((model.predict(imbalanced).argmax(axis=1) == 1).sum()))
    assert found[1] > found[0]
    assert found[2] > found[0]


def test_the_histogram_booster_takes_missing_values(raw_iris: TabularDataset) -> None:
    frame = raw_iris.features.copy()
    frame.iloc[::3, 0] = np.nan
    holey = TabularDataset(frame, raw_iris.labels, target_column="species")
    report = _train(GBClassifier(), holey)
    assert report.metrics["train_accuracy"] > 0.9


def test_the_exact_booster_names_the_column_of_a_missing_value(raw_iris: TabularDataset) -> None:
    frame = raw_iris.features.copy()
    frame.iloc[4, 1] = np.nan
    holey = TabularDataset(frame, raw_iris.labels, target_column="species")
    with pytest.raises(DataError, match="Row 5: feature 'sepal_width' is missing.*standardize"):
        _train(GBClassifier("exact"), holey)
    model = GBClassifier("exact", max_iter=2)
    _train(model, raw_iris)
    with pytest.raises(DataError, match="Row 5: feature 'sepal_width' is missing"):
        model.predict(holey)


def test_a_class_without_a_training_row_is_told(raw_iris: TabularDataset) -> None:
    with pytest.raises(DataError, match="class 'virginica' has no training row"):
        _train(GBClassifier(), raw_iris.take(list(range(100))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"booster": "exact", "l2_regularization": 1.0}, "l2_regularization=1.0 belongs to"),
        ({"booster": "histogram", "subsample": 0.5}, "subsample=0.5 belongs to booster exact"),
    ],
)
def test_a_setting_of_the_other_booster_is_told(arguments: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GBClassifier(**arguments)


def test_its_parameters_tell_what_scikit_learn_adds() -> None:
    params = GBClassifier(max_iter=7).get_params()
    assert params["max_iter"] == 7
    assert params["estimator"] == "HistGradientBoostingClassifier"
    assert params["estimator_params"]["max_bins"] == 255


@pytest.mark.parametrize("booster", BOOSTERS)
def test_the_seed_draws_rows_and_features(booster: Any, noisy: Make) -> None:
    settings: dict[str, Any] = {"max_features": 0.4, "max_iter": 10}

    def scores(seed: int) -> Any:
        model = GBClassifier(booster, **settings)
        model.train(experiment_name="x", train_data=noisy(0), seed=seed, tracking=False)
        return model.predict(noisy(1))

    np.testing.assert_array_equal(scores(0), scores(0))
    assert (scores(0) != scores(1)).any()


def _saved_estimator(booster: Any, splits: Splits, path: Path) -> Any:
    model = GBClassifier(booster, max_iter=3)
    _train(model, splits[0], model_path=path, patience=None)
    return model.estimator_


def _replace_weights(path: Path, estimator: Any) -> None:
    parts = {file.name: file.read_bytes() for file in path.iterdir()}

    def write(directory: Path) -> None:
        for name, content in parts.items():
            if name not in (artifacts.MANIFEST, artifacts.WEIGHTS_SKOPS):
                (directory / name).write_bytes(content)
        artifacts.save_estimator(directory / artifacts.WEIGHTS_SKOPS, estimator)

    artifacts.write_model_directory(path, write)


def _nodes(estimator: Any) -> Any:
    return estimator._predictors[1][0].nodes


def _set(field: str, value: float) -> Callable[[Any], None]:
    def change(estimator: Any) -> None:
        _nodes(estimator)[field][0] = value

    return change


def _attribute(path: str, value: Any) -> Callable[[Any], None]:
    def change(estimator: Any) -> None:
        *owners, name = path.split(".")
        for owner in owners:
            estimator = getattr(estimator, owner)
        setattr(estimator, name, value)

    return change


HISTOGRAM_TAMPERINGS: list[Callable[[Any], None]] = [
    _set("left", 0),
    _set("right", 10**6),
    _set("feature_idx", 4),
    _set("feature_idx", -1),
    _set("is_categorical", 1),
    _set("num_threshold", np.nan),
    _set("value", np.inf),
    lambda e: e._predictors[0].pop(),
    lambda e: e._predictors.clear(),
    lambda e: setattr(e._predictors[0][0], "nodes", _nodes(e)[:0]),
    lambda e: setattr(e._predictors[0][0], "nodes", _nodes(e)[:1]),
    lambda e: setattr(e._predictors[0][0], "nodes", np.zeros(3)),
    lambda e: e._predictors[0].__setitem__(0, "tree"),
    _attribute("_in_fit", True),
    _attribute("_preprocessor", 3),
    _attribute("is_categorical_", np.array([True, False, False, False])),
    _attribute("_bin_mapper.is_categorical_", np.ones(4, dtype=np.uint8)),
    _attribute("_bin_mapper.known_categories", [None]),
    _attribute("_bin_mapper", None),
    _attribute("_baseline_prediction", np.zeros((1, 2))),
    _attribute("_baseline_prediction", np.full((1, 3), np.nan)),
    _attribute("n_features_in_", 5),
    _attribute("n_trees_per_iteration_", 9),
    _attribute("classes_", np.array([0, 1])),
    _attribute("classes_", np.array([2, 1, 0])),
]


@pytest.mark.parametrize("change", HISTOGRAM_TAMPERINGS)
def test_a_histogram_booster_that_was_tampered_with_is_refused(
    change: Callable[[Any], None], iris: Splits, tmp_path: Path
) -> None:
    estimator = _saved_estimator("histogram", iris, tmp_path / "model")
    change(estimator)
    _replace_weights(tmp_path / "model", estimator)
    with pytest.raises(ArtifactError, match=r"weights\.skops"):
        GBClassifier.load(tmp_path / "model")


def _tree_state(**changes: Any) -> Callable[[Any], None]:
    """Set fields of the first node of one tree, by the way that pickles take."""

    def change(estimator: Any) -> None:
        tree = estimator.estimators_[1, 0].tree_
        state = tree.__getstate__()
        for field, value in changes.items():
            if field == "values":
                state["values"][:] = value
            else:
                state["nodes"][field][0] = value
        tree.__setstate__(state)

    return change


EXACT_TAMPERINGS: list[Callable[[Any], None]] = [
    _tree_state(left_child=0),
    _tree_state(right_child=10**6),
    _tree_state(left_child=-7),
    _tree_state(feature=4),
    _tree_state(feature=-2),
    _tree_state(threshold=np.nan),
    _tree_state(values=np.inf),
    lambda e: e.estimators_.__setitem__((0, 0), None),
    lambda e: e.estimators_.__setitem__((0, 0), e.init_),
    lambda e: setattr(e.estimators_[0, 0], "tree_", 3),
    _attribute("estimators_", np.empty((0, 3), dtype=object)),
    _attribute("estimators_", np.zeros((2, 3))),
    _attribute("init_.class_prior_", np.zeros(3)),
    _attribute("init_.class_prior_", np.ones(2) / 2),
    _attribute("init_.strategy", "uniform"),
    _attribute("n_features_in_", 5),
    _attribute("n_trees_per_iteration_", 1),
    _attribute("classes_", np.array([0, 1])),
]


@pytest.mark.parametrize("change", EXACT_TAMPERINGS)
def test_an_exact_booster_that_was_tampered_with_is_refused(
    change: Callable[[Any], None], iris: Splits, tmp_path: Path
) -> None:
    estimator = _saved_estimator("exact", iris, tmp_path / "model")
    change(estimator)
    _replace_weights(tmp_path / "model", estimator)
    with pytest.raises(ArtifactError, match=r"weights\.skops"):
        GBClassifier.load(tmp_path / "model")


@pytest.mark.parametrize("booster", BOOSTERS)
@pytest.mark.parametrize("classes", [2, 3])
def test_an_untouched_booster_passes_the_same_checks(
    booster: Any, classes: int, iris: Splits, binary_iris: Splits, tmp_path: Path
) -> None:
    splits = iris if classes == 3 else binary_iris
    estimator = _saved_estimator(booster, splits, tmp_path / "model")
    _replace_weights(tmp_path / "model", estimator)
    loaded = GBClassifier.load(tmp_path / "model")
    assert loaded.predict(splits[2]).shape == (len(splits[2]), classes)


def test_an_estimator_of_another_kind_is_refused(iris: Splits, tmp_path: Path) -> None:
    _saved_estimator("histogram", iris, tmp_path / "model")
    estimator = GradientBoostingClassifier(n_estimators=2).fit(iris[0].X, iris[0].y)
    _replace_weights(tmp_path / "model", estimator)
    with pytest.raises(ArtifactError, match="not trusted"):
        GBClassifier.load(tmp_path / "model")


def test_training_saving_loading_and_predicting_import_no_torch(
    raw_iris: TabularDataset, tmp_path: Path
) -> None:
    raw_iris.to_parquet(str(tmp_path / "iris.parquet"))
    code = (
        "import sys\n"
        "from ml_project_template.data import Preprocessor, TabularDataset\n"
        "from ml_project_template.models import GBClassifier, ModelRegistry\n"
        "raw = TabularDataset.from_parquet('iris.parquet', target_column='species')\n"
        "train, val = raw.split(test_size=0.2, random_state=0)\n"
        "prepared = Preprocessor().fit(train).transform(train)\n"
        "for booster in ('histogram', 'exact'):\n"
        "    GBClassifier(booster, max_iter=3).train(experiment_name='x', train_data=prepared,\n"
        "        model_path=booster, tracking=False, seed=0)\n"
        "    ModelRegistry.load(booster).predict(prepared)\n"
        "heavy = {'torch', 'lightning', 'mlflow', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_booster_that_can_not_be_listened_to_is_fitted_all_the_same() -> None:
    told = []

    def tell() -> bool:
        told.append(True)
        return True

    with _after_each_stage(object(), tell):
        assert told == []


def test_prepared_and_raw_rows_make_the_same_trees(raw_iris: TabularDataset) -> None:
    prepared = Preprocessor().fit(raw_iris).transform(raw_iris)
    classes = []
    for data in (raw_iris, prepared):
        model = GBClassifier(max_iter=10)
        _train(model, data)
        classes.append(model.predict(data).argmax(axis=1))
    np.testing.assert_array_equal(classes[0], classes[1])


def test_a_column_without_any_value_is_ignored(iris: Splits) -> None:
    table = iris[0].features.assign(empty=np.nan)
    data = TabularDataset(table, iris[0].labels, target_column="target")
    model = GBClassifier(max_iter=5)
    model.train(experiment_name="x", train_data=data, tracking=False)
    filled = data.X.copy()
    filled[:, -1] = 7.0
    np.testing.assert_array_equal(model.predict(data.X), model.predict(filled))
