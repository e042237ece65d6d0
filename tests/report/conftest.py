"""Small models and the rows they are judged on."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import pytest

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.models import ModelRegistry
from ml_project_template.predictor import Predictor

Case = tuple[Predictor, Mapping[str, TabularDataset]]


def _table(rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.normal(size=rows) * 10 + 50,
            "city <b>": rng.choice(["Rome", "Oslo", "Bern"], rows),
            "noise": rng.normal(size=rows),
            "sold": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 300, rows), "D"),
        }
    )


def _case(task: str) -> Case:
    table = _table(200)
    price = table["size"] + 20 * (table["city <b>"] == "Rome")
    target = price if task == "regression" else np.where(price > 57, "dear", "cheap")
    raw = TabularDataset(table, target, target_column="price", name="flats")
    train, test = raw.split(0.3, 0)
    preprocessor = Preprocessor().fit(train)
    name = "linear_regressor" if task == "regression" else "linear_classifier"
    model = ModelRegistry.get(name)()
    model.train(
        experiment_name="report",
        train_data=preprocessor.transform(train),
        tracking=False,
        progress=False,
    )
    return Predictor(model), {"train": train, "test": test}


@pytest.fixture(scope="session")
def classifier() -> Case:
    """A classifier of a table of all types, and its raw rows."""
    return _case("classification")


@pytest.fixture(scope="session")
def regressor() -> Case:
    """A regression on a table of all types, and its raw rows."""
    return _case("regression")
