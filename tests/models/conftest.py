"""Tables that models are tried on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from ml_project_template.data import Preprocessor, TabularDataset

Splits = tuple[TabularDataset, TabularDataset, TabularDataset]


def _prepared(frame: pd.DataFrame, labels: list[str]) -> Splits:
    dataset = TabularDataset(frame, labels, target_column="species", name="iris")
    rest, test = dataset.split(test_size=0.2, random_state=42)
    train, val = rest.split(test_size=0.25, random_state=42)
    preprocessor = Preprocessor().fit(train)
    train, val, test = (preprocessor.transform(part) for part in (train, val, test))
    return train, val, test


@pytest.fixture(scope="session")
def iris_frame() -> tuple[pd.DataFrame, list[str]]:
    bunch = load_iris(as_frame=True)
    frame = bunch.data.set_axis(
        ["sepal_length", "sepal_width", "petal_length", "petal_width"], axis=1
    )
    return frame, [str(bunch.target_names[code]) for code in bunch.target]


@pytest.fixture(scope="session")
def iris(iris_frame: tuple[pd.DataFrame, list[str]]) -> Splits:
    """Iris, split 90/30/30 and standardised."""
    return _prepared(*iris_frame)


@pytest.fixture(scope="session")
def binary_iris(iris_frame: tuple[pd.DataFrame, list[str]]) -> Splits:
    """Two of the three species."""
    frame, labels = iris_frame
    kept = np.array(labels) != "setosa"
    return _prepared(
        frame[kept].reset_index(drop=True),
        [label for label, keep in zip(labels, kept, strict=True) if keep],
    )


@pytest.fixture(scope="session")
def raw_iris(iris_frame: tuple[pd.DataFrame, list[str]]) -> TabularDataset:
    """Iris as it comes, nothing prepared."""
    frame, labels = iris_frame
    return TabularDataset(frame, labels, target_column="species", name="iris")


@pytest.fixture
def imbalanced() -> TabularDataset:
    """Two overlapping classes, one of them ten times as frequent."""
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(0, 1, (300, 2)), rng.normal(1, 1, (30, 2))])
    labels = ["common"] * 300 + ["rare"] * 30
    return TabularDataset(pd.DataFrame(values, columns=["a", "b"]), labels, target_column="y")


@pytest.fixture
def noisy() -> Callable[[int], TabularDataset]:
    """Make a table whose labels are half noise, so that fitting long overfits."""

    def make(seed: int) -> TabularDataset:
        rng = np.random.default_rng(seed)
        values = rng.normal(size=(200, 5))
        labels = np.where(values[:, 0] + rng.normal(0, 1.5, 200) > 0, "yes", "no")
        frame = pd.DataFrame(values, columns=list("abcde"))
        return TabularDataset(frame, labels.tolist(), target_column="y")

    return make
