"""Random forests, of both tasks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.ensemble import RandomForestClassifier as TheirClassifier
from sklearn.ensemble import RandomForestRegressor as TheirRegressor

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.signature import Task
from ml_project_template.errors import ArtifactError, DataError
from ml_project_template.inference import Inference
from ml_project_template.models import (
    BaseModel,
    RandomForestClassifier,
    RandomForestRegressor,
    TrainingReport,
)
from ml_project_template.training.reporting import StopTraining

Mixed = Callable[[Task], tuple[TabularDataset, TabularDataset]]
Splits = tuple[TabularDataset, TabularDataset, TabularDataset]


def _train(model: BaseModel, train: TabularDataset, **arguments: Any) -> TrainingReport:
    return model.train(
        experiment_name="test",
        train_data=train,
        seed=0,
        tracking=False,
        progress=False,
        **arguments,
    )


def _with_gaps(data: TabularDataset) -> TabularDataset:
    frame = data.features.copy()
    frame.iloc[::5, 1] = np.nan
    if data.task == "regression":
        return TabularDataset(frame, data.y, target_column="y", task="regression")
    return TabularDataset(frame, data.labels, target_column="y")


def test_it_is_scikit_learns_own_gaps_included(iris: Splits, petals: Splits) -> None:
    flowers, areas = _with_gaps(iris[0]), _with_gaps(petals[0])
    classifier, regressor = RandomForestClassifier(30), RandomForestRegressor(30, max_features=0.5)
    _train(classifier, flowers)
    _train(regressor, areas)
    theirs = TheirClassifier(30, random_state=0).fit(flowers.X, flowers.y)
    np.testing.assert_allclose(
        classifier.predict_proba(flowers), theirs.predict_proba(flowers.X), atol=1e-6
    )
    numbers = TheirRegressor(30, max_features=0.5, random_state=0).fit(areas.X, areas.y)
    np.testing.assert_allclose(regressor.predict(areas), numbers.predict(areas.X), rtol=1e-12)
    np.testing.assert_array_equal(regressor.feature_importances(), numbers.feature_importances_)


def test_it_tells_of_parts_of_its_trees_and_may_be_stopped(iris: Splits) -> None:
    class Impatient:
        def report(self, step: int, metrics: Any, total: int | None) -> None:
            assert total == 50
            if step >= 10:
                raise StopTraining

    model = RandomForestClassifier(50)
    full = _train(model, iris[0], val_data=iris[1])
    assert len(full.history) == 20
    assert full.history[-1]["step"] == 50
    for split in ("train", "val"):
        last = full.history[-1][f"{split}_loss"]
        assert last == pytest.approx(full.metrics[f"{split}_loss"], abs=1e-5)
    short = _train(model, iris[0], val_data=iris[1], reporters=[Impatient()])
    assert short.history[-1]["step"] == len(model.estimator_.estimators_) == 10


def test_class_weights_find_more_of_a_rare_class(imbalanced: TabularDataset) -> None:
    found = []
    for class_weight in (None, [1.0, 30.0]):
        model = RandomForestClassifier(30, min_samples_leaf=20)
        _train(model, imbalanced, class_weight=class_weight)
        found.append(int((model.predict(imbalanced).argmax(axis=1) == 1).sum()))
        assert model.estimator_._sample_weight is None
    assert found[1] > found[0]


def test_an_infinite_value_goes_the_way_of_the_largest(iris: Splits) -> None:
    model = RandomForestClassifier(5)
    _train(model, iris[0])
    rows = np.array([[np.inf, 0, 0, 0], [1e30, 0, 0, 0]], dtype=np.float32)
    scores = model.predict(rows)
    np.testing.assert_array_equal(scores[0], scores[1])


def test_a_class_without_a_training_row_is_told(raw_iris: TabularDataset) -> None:
    with pytest.raises(DataError, match="class 'virginica' has no training row"):
        _train(RandomForestClassifier(5), raw_iris.take(list(range(100))))


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_server_computes_it_as_the_model_does(task: Any, mixed: Mixed, tmp_path: Path) -> None:
    model = (RandomForestRegressor if task == "regression" else RandomForestClassifier)(20)
    train = mixed(task)[0]
    preprocessor = Preprocessor(impute=None, scale=None).fit(train)
    _train(model, preprocessor.transform(train), model_path=tmp_path / "model")
    graph = Inference.load(str(tmp_path / "model"), backend="onnxruntime")
    own = Inference.load(str(tmp_path / "model"), backend="model")
    rows = graph.signature.probe_rows(missing=True)
    np.testing.assert_allclose(graph.probabilities(rows), own.probabilities(rows), rtol=1e-9)


def _tree_state(field: str, value: float) -> Callable[[Any], None]:
    def change(estimator: Any) -> None:
        tree = estimator.estimators_[1].tree_
        state = tree.__getstate__()
        if field == "values":
            state["values"][:] = value
        else:
            state["nodes"][field][0] = value
        tree.__setstate__(state)

    return change


HOSTILE: list[Callable[[Any], None]] = [
    _tree_state("left_child", 0),
    _tree_state("right_child", 10**6),
    _tree_state("feature", 4),
    _tree_state("threshold", np.nan),
    _tree_state("values", np.nan),
    _tree_state("values", -1.0),
    lambda e: e.estimators_.clear(),
    lambda e: e.estimators_.__setitem__(0, "tree"),
    lambda e: setattr(e, "n_features_in_", 9),
    lambda e: setattr(e, "estimators_", np.zeros(3)),
]


@pytest.mark.parametrize("change", HOSTILE)
def test_a_forest_that_was_tampered_with_is_refused(
    change: Callable[[Any], None], iris: Splits, tmp_path: Path
) -> None:
    model = RandomForestClassifier(3)
    _train(model, iris[0], model_path=tmp_path / "model")
    kept = {
        file.name: file.read_bytes()
        for file in (tmp_path / "model").iterdir()
        if file.name not in (artifacts.MANIFEST, artifacts.WEIGHTS_SKOPS)
    }
    change(model.estimator_)

    def write(directory: Path) -> None:
        for name, content in kept.items():
            (directory / name).write_bytes(content)
        artifacts.save_estimator(directory / artifacts.WEIGHTS_SKOPS, model.estimator_)

    artifacts.write_model_directory(tmp_path / "model", write)
    with pytest.raises(ArtifactError, match=r"weights\.skops"):
        RandomForestClassifier.load(tmp_path / "model")
