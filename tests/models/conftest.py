"""Tables that models are tried on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_iris

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.signature import Task

Splits = tuple[TabularDataset, TabularDataset, TabularDataset]


def _prepared(frame: pd.DataFrame, labels: list[str]) -> Splits:
    return _split(TabularDataset(frame, labels, target_column="species", name="iris"))


def _split(dataset: TabularDataset) -> Splits:
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


@pytest.fixture(scope="session")
def raw_petals(iris_frame: tuple[pd.DataFrame, list[str]]) -> TabularDataset:
    """The measures of iris with a number to predict, far from 0 and from 1."""
    frame, _ = iris_frame
    noise = np.random.default_rng(0).normal(0, 20, len(frame))
    area = 100 * frame["petal_length"] * frame["petal_width"] + 300 * frame["sepal_width"]
    return TabularDataset(
        frame, area + noise, target_column="area", task="regression", name="petals"
    )


@pytest.fixture(scope="session")
def petals(raw_petals: TabularDataset) -> Splits:
    """The same, split 90/30/30 and standardised."""
    return _split(raw_petals)


@pytest.fixture(scope="session")
def mixed() -> Callable[[Task], tuple[TabularDataset, TabularDataset]]:
    """Make a raw table with a column of each type, with gaps, split 200/100."""

    def make(task: Task) -> tuple[TabularDataset, TabularDataset]:
        rng = np.random.default_rng(0)
        n_rows = 300
        cities = np.array(["Aachen", "Bonn", "Celle", "Dresden", "Essen", "Fulda"])
        city = rng.integers(0, len(cities), n_rows)
        size = rng.uniform(20, 150, n_rows)
        garden = rng.random(n_rows) < 0.5
        built = rng.integers(0, 20_000, n_rows)
        worth = np.array([2.0, -1.0, 1.0, 0.0, -2.0, 1.5])[city] + 0.03 * (size - 85)
        worth += 0.8 * garden + built / 20_000 + rng.normal(0, 0.1, n_rows)
        frame = pd.DataFrame(
            {
                "size": np.where(rng.random(n_rows) < 0.05, np.nan, size),
                "rooms": rng.integers(1, 6, n_rows),
                "city": pd.Series(cities[city]).mask(rng.random(n_rows) < 0.05),
                "garden": garden,
                "built": pd.Timestamp("1970-01-01") + pd.to_timedelta(built, unit="D"),
            }
        )
        price = 250_000 + 80_000 * worth
        target = price if task == "regression" else np.where(worth > 0.8, "dear", "cheap")
        dataset = TabularDataset(frame, target, target_column="price", task=task, name="flats")
        train, val = dataset.split(test_size=1 / 3, random_state=0)
        return train, val

    return make


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
