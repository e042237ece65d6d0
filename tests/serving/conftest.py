"""What the tests of the server share: a model on iris, and its application without a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from ml_project_template.predictor import Predictor
from ml_project_template.serving import create_app, load_model
from tests.servers import Loaded


@pytest.fixture(scope="module")
def predictor(iris_model: Path) -> Predictor:
    return Predictor.load(str(iris_model))


@pytest.fixture(scope="module")
def client(iris_model: Path) -> Iterator[TestClient]:
    with TestClient(create_app({"iris": load_model(str(iris_model))})) as client:
        yield client


@pytest.fixture(scope="session")
def flats_client(class_model: Loaded, number_model: Loaded) -> Iterator[TestClient]:
    """Serves ``flats``, classes with a threshold, and ``prices``, a regression."""
    app = create_app({"flats": class_model.inference, "prices": number_model.inference})
    with TestClient(app) as client:
        yield client
