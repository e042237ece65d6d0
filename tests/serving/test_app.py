"""The application: what each address answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from fastapi.testclient import TestClient

from ml_project_template.errors import ConfigError
from ml_project_template.predictor import Predictor
from ml_project_template.serving import ModelServer, ServerSettings, create_app, load_model
from tests.servers import FLAT, ROW, Loaded, flats


def app_of(iris_model: Path, **settings: Any) -> ModelServer:
    return create_app({"iris": load_model(str(iris_model))}, ServerSettings(**settings))


@pytest.fixture
def client(iris_model: Path) -> Iterator[TestClient]:
    with TestClient(app_of(iris_model)) as client:
        yield client


def test_rows_as_lists_and_as_objects_get_the_models_own_answer(
    client: TestClient, predictor: Predictor
) -> None:
    expected = predictor.predict([list(ROW.values())])
    for row in (list(ROW.values()), ROW, dict(reversed(ROW.items()))):
        answer = client.post("/predict", json={"features": [row]})
        assert answer.status_code == 200
        body = answer.json()
        assert body["predictions"] == expected.labels == ["setosa"]
        assert list(body["probabilities"][0]) == list(expected.class_names)
        assert np.allclose(
            list(body["probabilities"][0].values()), expected.probabilities[0], atol=1e-6
        )


def test_a_thousand_rows_get_the_models_own_answers(
    client: TestClient, predictor: Predictor
) -> None:
    rows = np.random.default_rng(0).uniform(0, 8, size=(1_000, 4))
    body = client.post("/predict", json={"features": rows.tolist()}).json()
    expected = predictor.predict(rows)
    assert body["predictions"] == expected.labels
    found = [list(row.values()) for row in body["probabilities"]]
    assert np.allclose(found, expected.probabilities, rtol=0, atol=1e-6)


def test_a_missing_value_is_filled_in_as_in_training(
    client: TestClient, predictor: Predictor
) -> None:
    row = {**ROW, "sepal_width_cm": None}
    answer = client.post("/predict", json={"features": [row]})
    found = list(answer.json()["probabilities"][0].values())
    assert np.allclose(found, predictor.predict([row]).probabilities[0], atol=1e-6)


def test_a_wrong_request_is_refused_shortly(client: TestClient) -> None:
    answer = client.post("/predict", json={"features": [ROW, ["x" * 100_000, 2, 3, 4]]})
    assert answer.status_code == 422
    assert len(answer.content) < 2_000
    assert "Row 2" in answer.json()["detail"]
    assert "sepal_length_cm" in answer.json()["detail"]
    assert "xxx" not in answer.text


def test_the_schema_has_a_row_that_works(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/predict"]["post"]
    media = operation["requestBody"]["content"]["application/json"]
    assert "sepal_length_cm" in json.dumps(media["schema"])
    assert client.post("/predict", json=media["example"]).status_code == 200


def test_health_ready_and_info_answer(client: TestClient, predictor: Predictor) -> None:
    assert client.get("/health").json() == {"status": "ok"}
    assert client.get("/ready").json() == {"status": "ready"}
    info = client.get("/info").json()
    assert info["model"] == "gb_classifier"
    assert info["class_names"] == ["setosa", "versicolor", "virginica"]
    assert [feature["name"] for feature in info["features"]] == list(ROW)
    assert info["metrics"] == predictor.model.metadata["metrics"]
    assert np.trace(info["confusion_matrices"]["train"]) > 100
    assert info["history"][0]["step"] == 1
    assert info["models"] == ["iris"]
    assert info["backend"] == "onnxruntime"


def test_a_draining_server_is_not_ready_and_lets_its_clients_go(iris_model: Path) -> None:
    app = app_of(iris_model)
    with TestClient(app) as client:
        app.draining = True
        assert client.get("/ready").status_code == 503
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/health").status_code == 200
        answer = client.post("/predict", json={"features": [ROW]})
        assert answer.status_code == 200
        assert answer.headers["connection"] == "close"


def test_each_answer_has_a_request_id(client: TestClient) -> None:
    for path in ("/health", "/nowhere"):
        assert client.get(path).headers["x-request-id"]
    given = client.post("/predict", json={"features": [ROW]}, headers={"x-request-id": "job-7"})
    assert given.headers["x-request-id"] == "job-7"
    for strange in ("a b", "x" * 100, 'quote"'):
        answer = client.post("/predict", json={}, headers={"x-request-id": strange})
        assert answer.headers["x-request-id"] != strange
    ids = {client.post("/predict", json={}).headers["x-request-id"] for _ in range(5)}
    assert len(ids) == 5


def test_several_models_answer_at_addresses_of_their_own(
    iris_model: Path, wine_model: Path
) -> None:
    models = {"a": load_model(str(iris_model)), "b": load_model(str(wine_model))}
    with TestClient(create_app(models)) as client:
        assert client.get("/info").json()["models"] == ["a", "b"]
        assert client.get("/models/b/info").json()["name"] == "b"
        sample = client.get("/models/b/info").json()["sample"][0]
        first = client.post("/models/b/predict", json={"features": [sample]}).json()
        assert first["predictions"] == ["class_0"]
        assert client.post("/predict", json={"features": [ROW]}).json() == (
            client.post("/models/a/predict", json={"features": [ROW]}).json()
        )
        unknown = client.get("/models/c/info")
        assert unknown.status_code == 404
        assert "a, b" in unknown.json()["detail"]
        assert client.post("/models/c/predict", json={"features": [ROW]}).status_code == 404


def test_a_name_that_can_not_stand_in_an_address_is_refused(iris_model: Path) -> None:
    for name in ("a/b", "", "a b", "{name}"):
        with pytest.raises(ConfigError, match="is no name"):
            create_app({name: load_model(str(iris_model))})


def test_the_token_guards_all_but_health_and_the_empty_page(iris_model: Path) -> None:
    with TestClient(app_of(iris_model, token="canary-token")) as client:
        for path in ("/health", "/ready", "/ping", "/v2/health/live", "/", "/page.js"):
            assert client.get(path).status_code == 200, path
        for path in ("/info", "/metrics", "/openapi.json", "/docs", "/v2", "/nowhere"):
            answer = client.get(path)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "canary" not in answer.text
        body = {"features": [ROW]}
        for wrong in ("Bearer nope", "canary-token", "Bearer canary-token2", ""):
            answer = client.post("/predict", json=body, headers={"Authorization": wrong})
            assert answer.status_code == 401
        right = {"Authorization": "Bearer canary-token"}
        assert client.post("/predict", json=body, headers=right).status_code == 200
        assert client.get("/info", headers=right).status_code == 200
        schema = client.get("/openapi.json", headers=right).json()
        assert schema["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"


def test_too_large_a_body_and_too_many_rows_are_refused(iris_model: Path) -> None:
    with TestClient(app_of(iris_model, max_body_bytes=1_000, max_rows=3)) as client:
        body = json.dumps({"features": [list(ROW.values())] * 100})
        assert client.post("/predict", content=body).status_code == 413
        # In pieces, without a word of how many come.
        pieces = (body[start : start + 100].encode() for start in range(0, len(body), 100))
        assert client.post("/predict", content=pieces).status_code == 413
        answer = client.post("/predict", json={"features": [list(ROW.values())] * 4})
        assert answer.status_code == 422
        assert "3" in answer.json()["detail"]


def test_an_error_of_the_server_is_logged_and_not_shown(
    iris_model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    app = app_of(iris_model)

    def fail(_body: bytes) -> Any:
        raise RuntimeError("canary in the details")

    monkeypatch.setattr(app.models["iris"].contract, "decode", fail)
    with TestClient(app) as client:
        answer = client.post("/predict", json={"features": [ROW]})
    assert answer.status_code == 500
    assert "canary" not in answer.text
    assert "canary in the details" in caplog.text
    assert answer.headers["x-request-id"] in caplog.text


def test_the_metrics_count_requests_rows_and_predictions(client: TestClient) -> None:
    client.post("/predict", json={"features": [ROW, ROW]})
    client.post("/predict", json={})
    client.get("/nowhere/at/all")
    page = client.get("/metrics").text
    assert 'http_requests_total{route="/predict",status="200"} 1.0' in page
    assert 'http_requests_total{route="/predict",status="422"} 1.0' in page
    assert 'http_requests_total{route="other",status="404"} 1.0' in page
    assert 'model_predictions_total{class_name="setosa",model="iris"} 2.0' in page
    assert 'http_request_duration_seconds_count{route="/predict"} 2.0' in page
    assert "nowhere" not in page


def test_with_telemetry_the_hot_path_is_traced_by_fastapi(
    iris_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr("opentelemetry.trace.get_tracer_provider", lambda: provider)
    for telemetry in (False, True):
        with TestClient(app_of(iris_model, telemetry=telemetry)) as client:
            answer = client.post("/predict", json={"features": [ROW]})
        assert answer.json()["predictions"] == ["setosa"]
        names = [span.name for span in exporter.get_finished_spans()]
        assert any("/predict" in name for name in names) == telemetry


def test_classes_are_chosen_by_the_threshold_wherever_they_are_asked_for(
    flats_client: TestClient, class_model: Loaded
) -> None:
    frame = flats(60)
    rows = frame.astype(object).where(frame.notna(), None).to_dict(orient="records")
    answer = flats_client.post("/models/flats/predict", json={"features": rows}).json()
    chances = np.array([row["dear"] for row in answer["probabilities"]])
    assert ((chances >= 0.2) & (chances < 0.5)).any()
    expected = np.where(chances >= 0.2, "dear", "cheap").tolist()
    assert answer["predictions"] == expected == class_model.predictor.predict(frame).labels
    one_by_one = [
        flats_client.post("/predict", json={"features": [row]}).json()["predictions"][0]
        for row in rows[:20]
    ]
    assert one_by_one == expected[:20]


def test_a_regression_is_answered_and_described_as_one(
    flats_client: TestClient, number_model: Loaded
) -> None:
    answer = flats_client.post("/models/prices/predict", json={"features": [FLAT]})
    assert answer.json() == {"predictions": number_model.numbers([FLAT])}
    info = flats_client.get("/models/prices/info").json()
    assert info["task"] == "regression"
    assert info["class_names"] == []
    assert len(info["target_quantiles"]) == 11
    assert info["features"][2]["levels"] == ["Bonn", "Köln", "Rome"]
    info = flats_client.get("/info").json()
    assert (info["task"], info["threshold"]) == ("classification", 0.2)


def test_the_document_shows_requests_that_work(flats_client: TestClient) -> None:
    paths = flats_client.get("/openapi.json").json()["paths"]
    for name in ("flats", "prices"):
        for path in ("predict", "invocations"):
            operation = paths[f"/models/{name}/{path}"]["post"]
            example = operation["requestBody"]["content"]["application/json"]["example"]
            answer = flats_client.post(f"/models/{name}/{path}", json=example)
            assert answer.status_code == 200, answer.text
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            jsonschema.validate(answer.json(), schema)
        operation = paths[f"/v2/models/{name}/infer"]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        assert flats_client.post(f"/v2/models/{name}/infer", json=example).status_code == 200
    assert "count as missing" in paths["/predict"]["post"]["description"]


def test_a_mixed_model_counts_what_it_has_not_seen(class_model: Loaded) -> None:
    with TestClient(create_app({"flats": class_model.inference})) as client:
        for city in ("Rome", "Paris", None):
            client.post("/predict", json={"features": [{**FLAT, "city": city}]})
        page = client.get("/metrics").text
    for place, number in (("within", 1), ("unseen", 1), ("missing", 1)):
        line = f'model_feature_values_total{{feature="city",model="flats",place="{place}"}}'
        assert f"{line} {number}.0" in page
