"""A database for runs, and a model to log."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from ml_project_template.data.tabular import TabularDataset
from ml_project_template.models.registry import ModelRegistry
from ml_project_template.tracking import outbox

if TYPE_CHECKING:
    from ml_project_template.models.base import BaseModel


@pytest.fixture(autouse=True)
def _forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """Know nothing of the servers that were away in the test before."""
    monkeypatch.setattr(outbox, "_away_until", {})


@pytest.fixture(autouse=True)
def _ready_tables() -> None:
    """Make the tables of new databases, each time."""


@pytest.fixture
def store(empty_database: Path, tmp_path: Path) -> str:
    """The address of a database that is ready for use."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return f"sqlite:///{tmp_path / 'mlflow.db'}"


@pytest.fixture(scope="session")
def iris() -> TabularDataset:
    from sklearn.datasets import load_iris

    data = load_iris(as_frame=True)
    columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    return TabularDataset(
        data.data.set_axis(columns, axis=1),
        pd.Series(data.target_names[data.target]),
        target_column="species",
        name="iris",
        digest="a" * 64,
        source="data/iris.csv",
    )


@pytest.fixture(scope="session")
def model(iris: TabularDataset) -> BaseModel:
    make: Any = ModelRegistry.get("gb_classifier")
    model: BaseModel = make(max_iter=3)
    model.train(experiment_name="none", train_data=iris, seed=0, tracking=False)
    return model


@pytest.fixture(scope="session")
def model_directory(model: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> str:
    return model.save(tmp_path_factory.mktemp("models") / "iris")
