"""MLflow's scoring protocol, by MLflow's own client and against MLflow's own server."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from fastapi.testclient import TestClient

from ml_project_template.predictor import Predictor
from ml_project_template.serving import create_app, load_model
from ml_project_template.serving.settings import ServerSettings
from ml_project_template.tracking import warm_up
from ml_project_template.tracking.models import model_signature
from tests.servers import FLAT, Loaded, flats, serving_in_a_thread

FEATURES = ["sepal_length_cm", "sepal_width_cm", "petal_length_cm", "petal_width_cm"]
ROW = dict(zip(FEATURES, [5.1, 3.5, 1.4, 0.2], strict=True))
JSON = {"content-type": "application/json"}
CSV = {"content-type": "text/csv"}
PARQUET = {"content-type": "application/vnd.apache.parquet"}


@pytest.fixture(scope="module", autouse=True)
def _mlflow() -> None:
    """Import MLflow, which warns of its own type hints."""
    warm_up()


@pytest.fixture(scope="module")
def mlflow_server(
    iris_model: Path, predictor: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TestClient]:
    """MLflow's own server for the same model."""
    from mlflow.pyfunc import load_model as load_pyfunc
    from mlflow.pyfunc import save_model, scoring_server

    path = tmp_path_factory.mktemp("mlflow") / "model"
    save_model(
        path,
        loader_module="ml_project_template.predictor",
        data_path=str(iris_model),
        signature=model_signature(predictor.signature),
        input_example=pd.DataFrame([ROW]),
        pip_requirements=[],
    )
    with pytest.MonkeyPatch.context() as patch:
        # Which `init` sets and never takes back.
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")
        with TestClient(scoring_server.init(load_pyfunc(str(path)))) as client:
            yield client


@pytest.fixture(scope="module")
def address(iris_model: Path) -> Iterator[tuple[str, int]]:
    """The host and port of a real server."""
    with serving_in_a_thread(create_app({"iris": load_model(str(iris_model))})) as url:
        yield "127.0.0.1", int(url.rpartition(":")[2])


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """1,000 rows like those of the training, with further columns in between."""
    generator = np.random.default_rng(0)
    columns = {
        name: generator.uniform(low, high, 1_000).round(3)
        for name, low, high in zip(FEATURES, [4, 2, 1, 0], [8, 4.5, 7, 2.5], strict=True)
    }
    frame = pd.DataFrame(columns)[FEATURES[::-1]]
    frame.insert(1, "note", 'a, "b"')
    return frame


def as_parquet(frame: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    frame.to_parquet(buffer)
    return buffer.getvalue()


def forms(frame: pd.DataFrame) -> dict[str, tuple[bytes, dict[str, str]]]:
    """Write a table in each form that the protocol knows."""
    plain = frame[FEATURES]
    columns = {name: plain[name].tolist() for name in FEATURES}
    records = plain.to_dict(orient="records")
    rows = plain.to_numpy().tolist()
    bodies = {
        "split": {"dataframe_split": frame.to_dict(orient="split")},
        "split without index": {
            "dataframe_split": {"columns": FEATURES, "data": rows},
            "params": {},
        },
        "records": {"dataframe_records": frame.to_dict(orient="records"), "params": None},
        "inputs as rows": {"inputs": rows},
        "inputs as columns": {"inputs": columns},
        "inputs as records": {"inputs": records},
        "instances as rows": {"instances": rows},
        "instances as records": {"instances": records},
        "instances as columns": {"instances": columns, "something": "else"},
    }
    written = {name: (json.dumps(body).encode(), JSON) for name, body in bodies.items()}
    return written | {
        "csv": (frame.to_csv(index=False).encode(), CSV),
        "csv with index and charset": (
            frame.to_csv().encode(),
            {"content-type": "text/csv; charset=utf-8"},
        ),
        "parquet": (as_parquet(frame), PARQUET),
    }


def close(answer: Any, expected: Any) -> bool:
    rows, wanted = answer["predictions"], expected["predictions"]
    return len(rows) == len(wanted) and all(
        list(row) == list(other)
        and row["prediction"] == other["prediction"]
        and np.allclose(list(row.values())[1:], list(other.values())[1:], rtol=0, atol=1e-6)
        for row, other in zip(rows, wanted, strict=True)
    )


@pytest.mark.parametrize("form", list(forms(pd.DataFrame([ROW]))))
def test_every_form_is_answered_as_by_mlflows_own_server(
    form: str,
    frame: pd.DataFrame,
    client: TestClient,
    mlflow_server: TestClient,
    predictor: Predictor,
) -> None:
    body, headers = forms(frame)[form]
    own = {"predictions": predictor.predict_frame(frame).to_dict(orient="records")}
    theirs = mlflow_server.post("/invocations", content=body, headers=headers)
    if form in {"inputs as rows", "instances as rows"}:
        # MLflow's own server wants names where the signature has names; here the order will do.
        assert theirs.status_code == 400
    else:
        assert theirs.status_code == 200
        assert close(theirs.json(), own)
    for path in ("/invocations", "/models/iris/invocations"):
        answer = client.post(path, content=body, headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == theirs.headers["content-type"]
        assert close(answer.json(), own)


@pytest.mark.parametrize("form", ["split", "records", "csv", "parquet", "inputs as columns"])
def test_a_missing_value_is_filled_in_as_by_mlflows_own_server(
    form: str, client: TestClient, mlflow_server: TestClient
) -> None:
    # `json.dumps` writes NaN, which is what MLflow's client sends.
    table = pd.DataFrame([ROW, {**ROW, "sepal_width_cm": np.nan}])
    body, headers = forms(table)[form]
    theirs = mlflow_server.post("/invocations", content=body, headers=headers)
    assert theirs.status_code == 200
    assert close(client.post("/invocations", content=body, headers=headers).json(), theirs.json())


def test_null_is_a_missing_value(client: TestClient, predictor: Predictor) -> None:
    row = {**ROW, "sepal_width_cm": None}
    answer = client.post("/invocations", json={"dataframe_records": [row]})
    expected = predictor.predict([row])
    assert answer.json()["predictions"][0]["prediction"] == expected.labels[0]
    values = list(answer.json()["predictions"][0].values())[1:]
    assert np.allclose(values, expected.probabilities[0], rtol=0, atol=1e-6)


def test_a_table_without_rows_has_no_predictions(
    client: TestClient, mlflow_server: TestClient
) -> None:
    body = {"dataframe_split": {"columns": FEATURES, "data": []}}
    theirs = mlflow_server.post("/invocations", json=body)
    assert client.post("/invocations", json=body).json() == theirs.json() == {"predictions": []}


def test_mlflows_own_client_is_served(
    address: tuple[str, int], frame: pd.DataFrame, predictor: Predictor
) -> None:
    from mlflow.pyfunc.scoring_server.client import ScoringServerClient
    from mlflow.version import VERSION

    make: Any = ScoringServerClient
    client = make(*address)
    client.wait_server_ready(timeout=10)
    client.ping()
    assert client.get_version() == VERSION
    rows = frame.copy()
    rows.loc[0, "sepal_width_cm"] = np.nan
    expected = predictor.predict_frame(rows)
    for data in (rows, rows[FEATURES].to_numpy(), rows[FEATURES].to_numpy().tolist()):
        answer = client.invoke(data, params={}).get_predictions()
        assert answer["prediction"].tolist() == expected["prediction"].tolist()
        assert list(answer.columns) == list(expected.columns)
        assert np.allclose(answer.iloc[:, 1:], expected.iloc[:, 1:], rtol=0, atol=1e-6)
    with pytest.raises(Exception, match="error code 422, response: .*BAD_REQUEST.*is missing"):
        client.invoke(rows.drop(columns="sepal_width_cm"))


def test_ping_and_version_answer_as_mlflows_own_server(
    client: TestClient, mlflow_server: TestClient
) -> None:
    for path in ("/ping", "/version"):
        ours, theirs = client.get(path), mlflow_server.get(path)
        assert (ours.status_code, ours.content) == (theirs.status_code, theirs.content)
        assert ours.headers["content-type"] == theirs.headers["content-type"]


VALUES = list(ROW.values())
LONG = "x" * 100_000


def columns(names: list[Any], *rows: list[Any]) -> dict[str, Any]:
    return {"dataframe_split": {"columns": names, "data": list(rows)}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ([], ["dataframe_split"]),
        ({}, ["exactly one", "none"]),
        ({"inputs": [VALUES], "instances": [VALUES]}, ["exactly one", "inputs, instances"]),
        ({"features": [VALUES]}, ["exactly one"]),
        ({"dataframe_split": [VALUES]}, ["dataframe_split", "object"]),
        ({"dataframe_split": {"columns": FEATURES}}, ["data"]),
        ({"dataframe_split": {"data": [VALUES]}}, ["columns"]),
        ({"dataframe_split": {"columns": FEATURES, "data": [], "x": 1}}, ["index"]),
        ({"dataframe_split": {"columns": FEATURES, "data": [VALUES], "index": []}}, ["index"]),
        (columns([1, 2, 3, 4], VALUES), ["columns", "names"]),
        (columns([*FEATURES[:3], "petal_widht_cm"], VALUES), ["petal_width_cm", "Did you mean"]),
        (columns(FEATURES[:3], VALUES[:3]), ["petal_width_cm", "missing"]),
        (columns([*FEATURES, FEATURES[0]], [*VALUES, 1]), ["sepal_length_cm", "more than once"]),
        (columns([*FEATURES, LONG], [*VALUES, 1], VALUES), ["Row 2", "4", "5"]),
        (columns([LONG], [1]), ["sepal_length_cm", "missing"]),
        (columns(FEATURES, VALUES, VALUES[:3]), ["Row 2", "3", "4"]),
        (columns(FEATURES, VALUES, ["a", 1, 2, 3]), ["Row 2", "sepal_length_cm", "str"]),
        (columns(FEATURES, ["5.1", 1, 2, 3]), ["Row 1", "sepal_length_cm", "str"]),
        (columns(FEATURES, [LONG, 1, 2, 3]), ["Row 1", "sepal_length_cm", "str"]),
        (columns(FEATURES, [1, [2], 2, 3]), ["Row 1", "sepal_width_cm", "array"]),
        (columns(FEATURES, [1, 2, 2, True]), ["Row 1", "petal_width_cm", "bool"]),
        (columns(FEATURES, [1, 2, 2, 10**400]), ["Row 1", "petal_width_cm", "finite"]),
        (columns(FEATURES, [1, 2, 2, float("inf")]), ["Row 1", "petal_width_cm", "infinite"]),
        (columns(FEATURES, [1, 2, 2, 1e300]), ["Row 1", "petal_width_cm"]),
        (columns(FEATURES, {"a": 1}), ["Row 1", "list"]),  # type: ignore[arg-type]
        ({"dataframe_records": ROW}, ["dataframe_records", "list"]),
        ({"dataframe_records": [VALUES]}, ["Row 1", "object"]),
        ({"dataframe_records": [ROW, {"sepal_length_cm": 1}]}, ["Row 2", "sepal_width_cm"]),
        ({"dataframe_records": [ROW, {**ROW, "sepal_width_cm": "a"}]}, ["Row 2", "str"]),
        ({"inputs": VALUES}, ["Row 1"]),
        ({"inputs": LONG}, ["inputs", "list"]),
        ({"inputs": ROW}, ["inputs", "sepal_length_cm", "list"]),
        ({"inputs": {name: [1] for name in FEATURES[:3]}}, ["petal_width_cm"]),
        ({"instances": {**{n: [1] for n in FEATURES}, "petal_width_cm": []}}, ["petal_width_cm"]),
        ({"instances": [VALUES, ROW]}, ["Row 2"]),
        ({"instances": [ROW, VALUES]}, ["Row 2"]),
        ({"instances": [VALUES] * 100_001}, ["100001", "100000"]),
        ({"inputs": {name: [1] * 100_001 for name in FEATURES}}, ["100001"]),
    ],
)
def test_a_wrong_request_is_refused_shortly(
    body: object, words: list[str], client: TestClient
) -> None:
    answer = client.post("/invocations", content=json.dumps(body), headers=JSON)
    assert answer.status_code == 422
    assert_refused(answer, words)


def assert_refused(answer: Any, words: list[str]) -> None:
    assert len(answer.content) < 2_000
    assert answer.json().keys() == {"error_code", "message"}
    assert answer.json()["error_code"] == "BAD_REQUEST"
    assert "\n" not in answer.json()["message"]
    assert all(word in answer.json()["message"] for word in words)


HEADER = ",".join(FEATURES)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ("", 422, ["sepal_length_cm", "missing"]),
        ("a,b\n1,2\n", 422, ["sepal_length_cm", "missing"]),
        (f"{HEADER}\n1,2,3\n", 422, ["Row 1", "3", "4"]),
        (f"{HEADER}\n1,2,3,4\n\n1,2,3,4,5\n", 422, ["Row 2", "5", "4"]),
        (f"{HEADER}\n1,2,3,4\n1,2,3,four\n", 422, ["Row 2", "petal_width_cm"]),
        (f"{HEADER}\n1,2,3,1_000\n", 422, ["Row 1", "petal_width_cm"]),
        (f"{HEADER}\n1,2,3,0x10\n", 422, ["Row 1", "petal_width_cm"]),
        (f"{HEADER}\n1,2,3,\u0664\n", 422, ["Row 1", "petal_width_cm"]),
        (f"{HEADER}\n1,2,3,-Infinity\n", 422, ["Row 1", "petal_width_cm", "infinite"]),
        (f"{HEADER}\n1,2,3,1e999\n", 422, ["Row 1", "petal_width_cm", "infinite"]),
        (f"{HEADER}\n1,2,3,{LONG}\n", 422, ["Row 1", "petal_width_cm"]),
        (f"{HEADER},sepal_width_cm\n1,2,3,4,5\n", 422, ["sepal_width_cm", "more than once"]),
        (f"{HEADER}\n" + "1,2,3,4\n" * 100_001, 422, ["100001", "100000"]),
        (f'{HEADER}\n1,2,3,"4\n', 400, ["CSV"]),
        (f"{HEADER}\n1,2,3,{LONG * 2}\n", 400, ["CSV"]),
        (f"{HEADER}\n".encode() + b"1,2,3,\xff\n", 400, ["UTF-8"]),
    ],
)
def test_a_wrong_csv_is_refused_shortly(
    body: str | bytes, status: int, words: list[str], client: TestClient
) -> None:
    answer = client.post("/invocations", content=body, headers=CSV)
    assert answer.status_code == status
    assert_refused(answer, words)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"NaN", 422),
        (b"{NaN", 400),
        (b"\xff\xfe", 400),
        (b'{"inputs": [[1e999, 1, 1, 1]]}', 422),
        (b'{"inputs": ' + b"[" * 100_000, 400),
        (b"[NaN, " + b"[" * 100_000, 400),
    ],
)
def test_a_body_that_is_no_json_is_refused(body: bytes, status: int, client: TestClient) -> None:
    answer = client.post("/invocations", content=body, headers=JSON)
    assert answer.status_code == status
    assert_refused(answer, [])


@pytest.mark.parametrize(
    "kind",
    [None, "", "text/plain", "application/json; charset=latin-1", "application/jsonlines"],
)
def test_another_content_type_is_refused(kind: str | None, client: TestClient) -> None:
    headers = {} if kind is None else {"content-type": kind}
    answer = client.post("/invocations", content=b"{}", headers=headers)
    assert answer.status_code == 415
    assert_refused(answer, [])


def test_a_full_queue_is_told_in_mlflows_words(iris_model: Path) -> None:
    app = create_app({"iris": load_model(str(iris_model))})
    app.models["iris"].batcher._max_queue = 0
    with TestClient(app) as client:
        answer = client.post("/invocations", json={"inputs": [VALUES]})
    assert answer.status_code == 429
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["error_code"] == "REQUEST_LIMIT_EXCEEDED"


def test_the_most_rows_can_be_set(iris_model: Path) -> None:
    settings = ServerSettings(max_rows=2)
    with TestClient(create_app({"iris": load_model(str(iris_model))}, settings)) as client:
        for body in ({"inputs": [VALUES] * 3}, {"dataframe_records": [ROW] * 3}):
            answer = client.post("/invocations", json=body)
            assert answer.status_code == 422
            assert_refused(answer, ["3", "2"])


def test_damaged_bodies_are_never_the_servers_fault(client: TestClient) -> None:
    generator = random.Random(0)
    bodies = list(forms(pd.DataFrame([ROW, ROW])).values())
    seen = set()
    for number in range(1_000):
        body, headers = bodies[number % len(bodies)]
        damaged = bytearray(body)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        if generator.random() < 0.2:
            del damaged[generator.randrange(len(damaged)) :]
        answer = client.post("/invocations", content=bytes(damaged), headers=headers)
        seen.add(answer.status_code)
        assert answer.status_code < 500, bytes(damaged)
        if answer.status_code != 200:
            assert_refused(answer, [])
    assert seen == {200, 400, 422}


def test_the_protocol_is_documented_with_a_request_that_works(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/invocations", "/models/iris/invocations"):
        operation = paths[path]["post"]
        example = operation["requestBody"]["content"]["application/json"]["example"]
        answer = client.post(path, json=example)
        assert answer.status_code == 200
        row = operation["responses"]["200"]["content"]["application/json"]["schema"]
        assert row["properties"]["predictions"]["items"]["required"] == list(
            answer.json()["predictions"][0]
        )


def test_texts_are_read_in_every_form_and_a_regression_answers_with_numbers(
    flats_client: TestClient, class_model: Loaded, number_model: Loaded
) -> None:
    frame = flats(50)
    columns = {name: frame[name].tolist() for name in FLAT}
    split = {"columns": list(frame), "data": frame.to_numpy(dtype=object).tolist()}
    bodies: list[tuple[bytes, dict[str, str]]] = [
        (json.dumps({"dataframe_split": split}).encode(), JSON),
        (json.dumps({"dataframe_records": frame.to_dict(orient="records")}).encode(), JSON),
        (json.dumps({"inputs": columns}).encode(), JSON),
        (frame.to_csv(index=False).encode(), CSV),
        (as_parquet(frame), PARQUET),
    ]
    numbers, classes = number_model.numbers(frame), class_model.predictor.predict(frame)
    for body, headers in bodies:
        answer = flats_client.post("/models/prices/invocations", content=body, headers=headers)
        assert answer.status_code == 200, answer.text
        rows = answer.json()["predictions"]
        assert all(list(row) == ["prediction"] for row in rows)
        np.testing.assert_allclose([row["prediction"] for row in rows], numbers)
        answer = flats_client.post("/models/flats/invocations", content=body, headers=headers)
        assert [row["prediction"] for row in answer.json()["predictions"]] == classes.labels
    assert {"cheap", "dear"} == set(classes.labels)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"built": "soon"}, "Row 1: feature 'built': it must be a date"),
        ({"built": 5}, "Row 1: feature 'built': it must be a date such as 2024-01-31, got int"),
        ({"built": None}, "Row 1: feature 'built' is missing"),
        ({"city": ["Rome"]}, "Row 1: feature 'city': it must be a text"),
        ({"city": float("inf")}, "Row 1: feature 'city' is infinite"),
        ({"size": "41"}, "Row 1: feature 'size': it must be a finite number, got str"),
        ({"size": 10**400}, "Row 1: feature 'size': it must be a finite number"),
    ],
)
def test_a_wrong_text_is_told(
    changes: dict[str, Any], words: str, flats_client: TestClient
) -> None:
    body = json.dumps({"dataframe_records": [{**FLAT, **changes}]})
    answer = flats_client.post("/models/prices/invocations", content=body, headers=JSON)
    assert answer.status_code == 422
    assert words in answer.json()["message"]


def test_the_signature_names_texts_and_the_number_that_comes_out(
    class_model: Loaded, number_model: Loaded
) -> None:
    found = model_signature(number_model.predictor.signature)
    types = {column["name"]: column["type"] for column in found.inputs.to_dict()}
    assert types == {
        "size": "double",
        "rooms": "long",
        "city": "string",
        "zone": "string",
        "garden": "boolean",
        "built": "string",
    }
    outputs = [(column["name"], column["type"]) for column in found.outputs.to_dict()]
    assert outputs == [("prediction", "double")]
    classes = model_signature(class_model.predictor.signature).outputs.to_dict()
    assert [column["type"] for column in classes] == ["string", "double", "double"]
