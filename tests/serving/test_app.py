"""A saved model over HTTP."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.sources import onboard
from ml_project_template.models import ModelRegistry
from ml_project_template.predictor import Predictor
from ml_project_template.serving import create_app
from tests.conftest import ROOT

ROW = {
    "sepal_length_cm": 5.1,
    "sepal_width_cm": 3.5,
    "petal_length_cm": 1.4,
    "petal_width_cm": 0.2,
}


@pytest.fixture(scope="module")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    path = str(folder / "iris.csv")
    onboard(source="sklearn:iris", path=path)
    raw = TabularDataset.from_csv(path, target_column="target")
    data = Preprocessor().fit(raw).transform(raw)
    model = ModelRegistry.get("gb_classifier")(max_iter=20, min_samples_leaf=5)
    model.train(
        experiment_name="x", train_data=data, tracking=False, model_path=str(folder / "model")
    )
    return folder / "model"


@pytest.fixture(scope="module")
def predictor(model_directory: Path) -> Predictor:
    return Predictor.load(str(model_directory))


@pytest.fixture
def client(predictor: Predictor) -> Iterator[TestClient]:
    with TestClient(create_app(predictor)) as client:
        yield client


def test_rows_as_lists_and_as_objects_get_the_models_own_answer(
    client: TestClient, predictor: Predictor
) -> None:
    expected = predictor.predict([list(ROW.values())])
    for row in (list(ROW.values()), ROW):
        answer = client.post("/predict", json={"features": [row]})
        assert answer.status_code == 200
        body = answer.json()
        assert body["predictions"] == expected.labels == ["setosa"]
        assert list(body["probabilities"][0]) == list(expected.class_names)
        assert np.allclose(list(body["probabilities"][0].values()), expected.probabilities[0])


def test_a_missing_value_is_filled_in_as_in_training(client: TestClient) -> None:
    answer = client.post("/predict", json={"features": [{**ROW, "sepal_width_cm": None}]})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"features": [[1, 2, 3]]}, ["4", "3"]),
        ({"features": [{**ROW, "colour": 1}]}, ["colour"]),
        ({"features": [{k: ROW[k] for k in list(ROW)[:3]}]}, ["petal_width_cm"]),
        ({"features": [["a", 1, 2, 3]]}, ["features"]),
        ({"features": []}, ["features"]),
        ({"rows": [[1, 2, 3, 4]]}, ["features"]),
        ({"features": [[1, 2, 3, 4]], "more": 1}, ["more"]),
        ({"features": [["x" * 100_000, 2, 3, 4]]}, ["features"]),
    ],
)
def test_a_wrong_request_is_refused_shortly(
    body: object, words: list[str], client: TestClient
) -> None:
    answer = client.post("/predict", json=body)
    assert answer.status_code == 422
    assert len(answer.content) < 2_100
    assert all(word in answer.json()["detail"] for word in words)


@pytest.mark.parametrize("raw", ["NaN", "Infinity", "1e999"])
def test_a_number_that_is_none_is_refused(raw: str, client: TestClient) -> None:
    answer = client.post(
        "/predict",
        content=f'{{"features": [[{raw}, 2, 3, 4]]}}',
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 422


def test_the_schema_names_the_features_and_has_a_row_that_works(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["PredictRequest"]
    assert "sepal_length_cm" in json.dumps(schema)
    assert client.post("/predict", json=schema["example"]).status_code == 200


def test_health_ready_and_info_answer(client: TestClient) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").status_code == 200
    info = client.get("/info").json()
    assert info["model"] == "gb_classifier"
    assert info["class_names"] == ["setosa", "versicolor", "virginica"]
    assert [feature["name"] for feature in info["features"]] == list(ROW)
    assert "train_accuracy" in info["metrics"]


def test_the_command_serves_until_it_is_told_to_end(model_directory: Path, workspace: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "entrypoints.serve"),
            *(f"model.path={model_directory}", f"server.port={port}"),
        ],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                answer = httpx2.post(
                    f"http://127.0.0.1:{port}/predict", json={"features": [ROW]}, timeout=10
                )
                break
            except httpx2.ConnectError:
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert answer.json()["predictions"] == ["setosa"]
    finally:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert process.returncode in {0, 128 + signal.SIGTERM, -signal.SIGTERM}
    assert "curl http" in output
