"""The model by itself: what it learns, what it refuses, and that it is saved whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ml_project_template.data import TabularDataset
from ml_project_template.errors import ArtifactError, DataError
from ml_project_template.models import ModelRegistry
from own_package import NaiveBayesClassifier
from own_package.fruits import write_fruits

FRUITS = Path(__file__).parents[1] / "data" / "fruits.csv"


@pytest.fixture
def trained() -> tuple[NaiveBayesClassifier, TabularDataset]:
    data = TabularDataset.from_csv(str(FRUITS), target_column="fruit")
    rest, test = data.split(0.25, random_state=0)
    model = NaiveBayesClassifier()
    model.train(experiment_name="fruits", train_data=rest, tracking=False)
    return model, test


def test_the_fruits_are_as_they_are_drawn(tmp_path: Path) -> None:
    write_fruits(tmp_path / "again.csv")
    assert (tmp_path / "again.csv").read_bytes() == FRUITS.read_bytes()


def test_it_learns_the_moments_of_each_class_and_the_priors() -> None:
    data = TabularDataset.from_csv(str(FRUITS), target_column="fruit")
    model = NaiveBayesClassifier()
    model.train(experiment_name="fruits", train_data=data, tracking=False)
    lemons = data.X[data.y == data.class_names.index("lemon")].astype(np.float64)
    np.testing.assert_allclose(model.means_[1], lemons.mean(axis=0))
    np.testing.assert_allclose(model.variances_[1], lemons.var(axis=0), rtol=1e-4)
    np.testing.assert_allclose(model.priors_, [1 / 3] * 3)


def test_it_tells_fruits_apart(trained: tuple[NaiveBayesClassifier, TabularDataset]) -> None:
    model, test = trained
    assert (model.predict(test).argmax(axis=1) == test.y).mean() > 0.9


def test_a_saved_model_answers_as_before(
    trained: tuple[NaiveBayesClassifier, TabularDataset], tmp_path: Path
) -> None:
    model, test = trained
    path = model.save(str(tmp_path / "model"))
    again = ModelRegistry.load(path)
    assert isinstance(again, NaiveBayesClassifier)
    np.testing.assert_array_equal(again.predict(test), model.predict(test))


def test_weights_of_another_shape_are_refused(
    trained: tuple[NaiveBayesClassifier, TabularDataset], tmp_path: Path
) -> None:
    model, _ = trained
    model.priors_ = model.priors_[:2]
    model._save_weights(tmp_path)
    with pytest.raises(ArtifactError, match="shape"):
        model._load_weights(tmp_path)


def test_a_gap_is_refused_by_row_and_feature(
    trained: tuple[NaiveBayesClassifier, TabularDataset],
) -> None:
    model, test = trained
    X = test.X.copy()
    X[3, 1] = np.nan
    with pytest.raises(DataError, match="Row 4: feature 2 is missing"):
        model.predict(X)
