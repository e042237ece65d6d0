"""The Open Inference Protocol, as Triton's and MLServer's own clients speak it."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton  # type: ignore[import-untyped]
from fastapi.testclient import TestClient
from numpy.typing import NDArray
from tritonclient.utils import (  # type: ignore[import-untyped]
    InferenceServerException,
    np_to_triton_dtype,
)

from ml_project_template.predictor import Predictor
from ml_project_template.serving import ModelServer, ModelSource, create_app, load_model
from ml_project_template.serving.settings import ServerSettings
from tests.conftest import ROOT
from tests.servers import FLAT, ROW, Loaded, serving_in_a_thread, train_model

INFER = "/v2/models/iris/infer"
NAMES = list(ROW)
VALUES = list(ROW.values())
CLASSES = ["setosa", "versicolor", "virginica"]
HEADER_LENGTH = "Inference-Header-Content-Length"


@pytest.fixture(scope="module")
def app(iris_model: Path) -> ModelServer:
    return create_app({"iris": load_model(str(iris_model))}, ServerSettings(max_rows=1_000))


@pytest.fixture(scope="module")
def client(app: ModelServer) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="module")
def address(iris_model: Path) -> Iterator[str]:
    """A real server; it has an application of its own, as it has an event loop of its own."""
    with serving_in_a_thread(create_app({"iris": load_model(str(iris_model))})) as address:
        yield address.removeprefix("http://")


@pytest.fixture
def triton_client(address: str) -> Iterator[Any]:
    with triton.InferenceServerClient(address) as client:
        yield client


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float64]:
    """A thousand rows, which 32-bit floats hold as they are."""
    random = np.random.default_rng(0)
    return random.integers(1, 64, (1_000, 4)) / 8.0


@pytest.fixture(scope="module")
def expected(iris_model: Path, rows: NDArray[np.float64]) -> Any:
    return Predictor.load(str(iris_model)).predict(rows)


def tensor(name: str, values: NDArray[Any], *, binary: bool = True) -> Any:
    found = triton.InferInput(name, list(values.shape), np_to_triton_dtype(values.dtype))
    found.set_data_from_numpy(values, binary_data=binary)
    return found


def matrix(**changes: Any) -> dict[str, Any]:
    """Make a request of one row; what is None in the changes is left out."""
    given = {"name": "x", "shape": [1, 4], "datatype": "FP64", "data": VALUES, **changes}
    return {"inputs": [{key: value for key, value in given.items() if value is not None}]}


def by_feature(**changes: Any) -> dict[str, Any]:
    """Make a request of two rows, of a tensor for each feature."""
    inputs = [
        {"name": name, "shape": [2], "datatype": "FP64", "data": [value, value]}
        for name, value in ROW.items()
    ]
    inputs[0] |= changes
    return {"inputs": inputs}


# Triton's client


def test_tritons_client_finds_the_server_and_the_model(
    triton_client: Any, app: ModelServer
) -> None:
    version = app.models["iris"].inference.version
    assert triton_client.is_server_live()
    assert triton_client.is_server_ready()
    assert triton_client.is_model_ready("iris")
    assert triton_client.is_model_ready("iris", version)
    assert not triton_client.is_model_ready("iris", "0")
    assert not triton_client.is_model_ready("wine")
    server = triton_client.get_server_metadata()
    assert server["name"] == "ml_project_template"
    assert server["version"] == metadata.version("ml_project_template")
    assert "binary_tensor_data" in server["extensions"]
    found = triton_client.get_model_metadata("iris")
    assert found == triton_client.get_model_metadata("iris", version)
    assert found["name"] == "iris"
    assert found["versions"] == [version]
    assert found["inputs"][0]["shape"] == [-1, 4]
    assert found["inputs"][0]["parameters"]["feature_names"] == NAMES
    assert [output["name"] for output in found["outputs"]] == ["predict", "probabilities"]
    assert found["outputs"][1]["parameters"]["class_names"] == CLASSES
    index = triton_client.get_model_repository_index()
    assert index == [{"name": "iris", "version": version, "state": "READY", "reason": ""}]


@pytest.mark.parametrize("binary_outputs", [True, False])
@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_tritons_client_gets_the_models_own_answers(
    dtype: Any,
    binary: bool,
    binary_outputs: bool,
    triton_client: Any,
    rows: NDArray[np.float64],
    expected: Any,
) -> None:
    outputs = [
        triton.InferRequestedOutput(name, binary_data=binary_outputs)
        for name in ("probabilities", "predict")
    ]
    answer = triton_client.infer(
        "iris",
        [tensor("input-0", rows.astype(dtype), binary=binary)],
        outputs=outputs,
        request_id="a-1",
    )
    response = answer.get_response()
    assert response["id"] == "a-1"
    assert response["model_name"] == "iris"
    assert np.abs(answer.as_numpy("probabilities") - expected.probabilities).max() <= 1e-6
    labels = answer.as_numpy("predict")
    assert [x.decode() if isinstance(x, bytes) else x for x in labels] == expected.labels


def test_without_a_wish_tritons_client_gets_all_outputs_in_binary(
    triton_client: Any, rows: NDArray[np.float64], expected: Any
) -> None:
    version = triton_client.get_model_metadata("iris")["versions"][0]
    answer = triton_client.infer("iris", [tensor("x", rows)], model_version=version)
    assert "data" not in answer.get_output("probabilities")
    assert np.abs(answer.as_numpy("probabilities") - expected.probabilities).max() <= 1e-6
    assert [x.decode() for x in answer.as_numpy("predict")] == expected.labels
    with pytest.raises(InferenceServerException, match="Unknown version '0'"):
        triton_client.infer("iris", [tensor("x", rows)], model_version="0")


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("column", [True, False])
def test_a_tensor_for_each_feature_may_come_in_any_order_and_type(
    binary: bool, column: bool, triton_client: Any, iris_model: Path
) -> None:
    rows = np.array([[5, 3, 1, 0], [6, 3, 5, 1], [7, 2, 6, 1]])
    types = [np.int64, np.float32, np.uint8, np.bool_]
    inputs = []
    for index in (2, 0, 3, 1):
        values: NDArray[Any] = rows[:, index].astype(types[index])
        inputs.append(
            tensor(NAMES[index], values[:, None] if column else values, binary=binary),
        )
    answer = triton_client.infer("iris", inputs)
    expected = Predictor.load(str(iris_model)).predict(rows.astype(float))
    assert np.abs(answer.as_numpy("probabilities") - expected.probabilities).max() <= 1e-6


INTEGERS = [np.int8, np.int16, np.int32, np.int64, np.uint16, np.uint32, np.uint64]


@pytest.mark.parametrize(
    ("dtype", "binary"),
    [(np.float16, True), *((dtype, binary) for dtype in INTEGERS for binary in (True, False))],
)
def test_every_type_of_numbers_is_read(
    dtype: Any, binary: bool, triton_client: Any, iris_model: Path
) -> None:
    rows = np.array([[5, 3, 1, 0], [6, 3, 5, 1]])
    answer = triton_client.infer("iris", [tensor("x", rows.astype(dtype), binary=binary)])
    expected = Predictor.load(str(iris_model)).predict(rows.astype(float))
    assert np.abs(answer.as_numpy("probabilities") - expected.probabilities).max() <= 1e-6


@pytest.mark.parametrize("binary", [True, False])
def test_text_is_read_as_numbers_and_an_empty_one_as_missing(
    binary: bool, triton_client: Any, iris_model: Path
) -> None:
    texts = np.array([["5.1", "3.5", "1.4e0", "2e-1"], ["", "3.5", "5", ""]], dtype=np.object_)
    answer = triton_client.infer("iris", [tensor("x", texts, binary=binary)])
    rows = [[5.1, 3.5, 1.4, 0.2], [None, 3.5, 5.0, None]]
    expected = Predictor.load(str(iris_model)).predict(rows)
    assert np.abs(answer.as_numpy("probabilities") - expected.probabilities).max() <= 1e-6


def test_not_a_number_in_a_binary_tensor_is_missing(triton_client: Any, iris_model: Path) -> None:
    rows = np.array([[np.nan, 3.5, 1.4, 0.2]])
    answer = triton_client.infer("iris", [tensor("x", rows)])
    expected = Predictor.load(str(iris_model)).predict(rows)
    assert np.abs(answer.as_numpy("probabilities") - expected.probabilities).max() <= 1e-6
    with pytest.raises(InferenceServerException, match="'sepal_width_cm' is infinite"):
        triton_client.infer("iris", [tensor("x", np.array([[1.0, np.inf, 1.0, 1.0]]))])


@pytest.mark.parametrize("binary", [True, False])
def test_the_top_classes_are_told_as_triton_does(binary: bool, triton_client: Any) -> None:
    wish = triton.InferRequestedOutput("probabilities", binary_data=binary, class_count=2)
    answer = triton_client.infer("iris", [tensor("x", np.array([VALUES]))], outputs=[wish])
    found = answer.as_numpy("probabilities")
    assert found.shape == (1, 2)
    best = found[0, 0].decode() if binary else found[0, 0]
    value, index, label = best.split(":")
    assert float(value) > 0.5
    assert (index, label) == ("0", "setosa")


# MLServer's client code

MLSERVER = [
    "--with",
    "mlserver==1.7.*",
    "--with",
    "pandas<3",
]  # its codec knows no text of pandas 3
MLSERVER_SCRIPT = """
import sys
import urllib.request

import numpy as np
import pandas as pd
from mlserver.codecs import NumpyCodec, NumpyRequestCodec, PandasCodec, StringCodec
from mlserver.types import InferenceResponse, MetadataModelResponse, MetadataServerResponse
from mlserver.types import RepositoryIndexResponse, RequestOutput

base = sys.argv[1]
rows = np.array([[5.1, 3.5, 1.4, 0.2], [6.0, 2.9, 4.5, 1.5]])


def ask(path, body=None):
    with urllib.request.urlopen(base + path, None if body is None else body.encode()) as answer:
        return answer.read()


def infer(request):
    answer = ask("/v2/models/iris/infer", request.model_dump_json())
    return InferenceResponse.model_validate_json(answer)


MetadataServerResponse.model_validate_json(ask("/v2"))
RepositoryIndexResponse.model_validate_json(ask("/v2/repository/index", "{}"))
model = MetadataModelResponse.model_validate_json(ask("/v2/models/iris"))
names = model.inputs[0].parameters.feature_names


def probabilities(response):
    return NumpyCodec.decode_output(response.outputs[-1])


whole = infer(NumpyRequestCodec.encode_request(rows))
assert StringCodec.decode_output(whole.outputs[0]) == ["setosa", "versicolor"]
assert probabilities(whole).shape == (2, 3)
frame = pd.DataFrame(rows, columns=names)
mixed = frame.astype({names[0]: "float32", names[1]: str})
for table, exact in ((frame, True), (mixed, True), (frame.round().astype(int), False)):
    for use_bytes in (True, False):
        found = probabilities(infer(PandasCodec.encode_request(table, use_bytes=use_bytes)))
        assert not exact or np.allclose(found, probabilities(whole), atol=1e-6)
frame.iloc[1, 2] = None
request = PandasCodec.encode_request(frame)
request.outputs = [RequestOutput(name="predict")]
print(PandasCodec.decode_response(infer(request))["predict"].tolist())
"""


def test_mlservers_codecs_encode_requests_and_decode_answers(address: str, tmp_path: Path) -> None:
    """It needs other versions of what is installed here, and so an environment of its own."""
    uv = shutil.which("uv", path=f"{os.environ['PATH']}{os.pathsep}{ROOT / '.uv' / 'bin'}")
    if uv is None:
        pytest.skip("uv is not installed")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    command = [uv, "run", "--isolated", "--no-project", "--python", python, *MLSERVER, "python"]
    environment = {
        key: value
        for key, value in os.environ.items()
        if key not in {"PYTHONPATH", "VIRTUAL_ENV", "PYTHONWARNINGS"}
    }

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    probe = run("-c", "import mlserver")
    if probe.returncode != 0:
        pytest.skip(f"mlserver can't be had: {probe.stderr.strip()[-200:]}")
    script = tmp_path / "ask.py"
    script.write_text(MLSERVER_SCRIPT, "utf-8")
    done = run(str(script), f"http://{address}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().startswith("['setosa', ")


# By hand


def test_data_may_be_flat_or_nested(client: TestClient) -> None:
    flat = client.post(INFER, json=matrix(shape=[2, 4], data=VALUES * 2))
    nested = client.post(INFER, json=matrix(shape=[2, 4], data=[VALUES, VALUES]))
    columns = client.post(INFER, json=by_feature(shape=[2, 1], data=[[VALUES[0]], [VALUES[0]]]))
    assert flat.status_code == 200
    assert flat.json() == nested.json() == columns.json()
    labels, chances = flat.json()["outputs"]
    assert labels == {
        "name": "predict",
        "datatype": "BYTES",
        "shape": [2],
        "data": ["setosa", "setosa"],
    }
    assert chances["shape"] == [2, 3]
    assert sum(chances["data"]) == pytest.approx(2)


def test_null_is_a_missing_value(client: TestClient) -> None:
    for datatype in ("FP32", "INT64", "BOOL", "BYTES"):
        answer = client.post(INFER, json=matrix(datatype=datatype, data=[None] * 4))
        assert answer.status_code == 200


def test_parameters_of_others_do_no_harm(client: TestClient) -> None:
    body = matrix(parameters={"content_type": "np", "headers": {"a": "b"}})
    body |= {"parameters": {"content_type": "pd", "timeout": 5}, "id": "x", "outputs": None}
    answer = client.post(INFER, json=body)
    assert answer.status_code == 200
    assert answer.json()["id"] == "x"


def test_only_the_outputs_asked_for_are_answered(client: TestClient) -> None:
    answer = client.post(INFER, json={**matrix(), "outputs": [{"name": "probabilities"}]})
    assert [output["name"] for output in answer.json()["outputs"]] == ["probabilities"]


WRONG: list[tuple[str, object, int, str]] = [
    ("no object", [], 400, "Expected `object`"),
    ("no inputs", {}, 400, "`inputs`"),
    ("an empty list", {"inputs": []}, 400, "[n, 4]"),
    ("an input without a name", {"inputs": [{"shape": [1]}]}, 400, "`name`"),
    ("an id that is no text", {**matrix(), "id": 5}, 400, "$.id"),
    ("too few columns", matrix(shape=[1, 3]), 400, "[n, 4]"),
    ("one dimension", matrix(shape=[4]), 400, "[n, 4]"),
    ("three dimensions", matrix(shape=[1, 2, 2]), 400, "[n, 4]"),
    ("no dimension", matrix(shape=[]), 400, "[n, 4]"),
    ("a negative dimension", matrix(shape=[-1, 4]), 400, "$.inputs[0].shape[0]"),
    ("a huge dimension", matrix(shape=[2**62, 4]), 422, "1000 at most"),
    ("an impossible dimension", matrix(shape=[2**70, 4]), 400, "$.inputs[0].shape[0]"),
    ("dimensions that overflow", matrix(shape=[2**32, 2**32]), 400, "[n, 4]"),
    ("no row", matrix(shape=[0, 4], data=[]), 422, "at least one row"),
    ("too many rows", matrix(shape=[1_001, 4]), 422, "1000 at most"),
    ("too little data", matrix(shape=[2, 4]), 400, "8 values"),
    ("too much data", matrix(data=VALUES * 2), 400, "4 values"),
    ("a ragged list", matrix(shape=[2, 4], data=[[1, 2, 3], [1, 2, 3, 4, 5]]), 400, "8 values"),
    ("another nesting", matrix(shape=[2, 4], data=[[1] * 8]), 400, "8 values"),
    ("no data", matrix(data=None), 400, "needs either"),
    ("data twice", matrix(parameters={"binary_data_size": 0}), 400, "needs either"),
    ("data that is no list", matrix(data=5), 400, "Expected `array`"),
    ("text among numbers", matrix(data=["x", 1, 2, 3]), 400, "got `str` - at `$[0]`"),
    ("a fraction as INT64", matrix(datatype="INT64"), 400, "`int | null`"),
    ("too large an INT8", matrix(datatype="INT8", data=[128, 0, 0, 0]), 400, "INT8"),
    ("a negative UINT8", matrix(datatype="UINT8", data=[-1, 0, 0, 0]), 400, "UINT8"),
    ("a number without end", matrix(datatype="INT64", data=[10**400, 0, 0, 0]), 400, "INT64"),
    ("a number as BOOL", matrix(datatype="BOOL", data=[1, 0, 0, 0]), 400, "`bool | null`"),
    ("a number as BYTES", matrix(datatype="BYTES"), 400, "`str | null`"),
    ("words", matrix(datatype="BYTES", data=["1", "2", "three", "4"]), 400, "element 3"),
    ("python's digits", matrix(datatype="BYTES", data=["1_0", "2", "3", "4"]), 400, "element 1"),
    ("infinite text", matrix(datatype="BYTES", data=["inf", "2", "3", "4"]), 422, "infinite"),
    ("too large for the model", matrix(data=[1e300, 2, 3, 4]), 422, "Row 1"),
    ("an unknown type", matrix(datatype="FP23"), 400, "Did you mean 'FP32'"),
    ("bytes that did not come", matrix(data=None, parameters={"binary_data_size": 32}), 400, "0 b"),
    ("a negative size", matrix(data=None, parameters={"binary_data_size": -1}), 400, "_size`"),
    ("shared memory", matrix(parameters={"shared_memory_region": "x"}), 400, "Shared memory"),
    ("a misspelt feature", by_feature(name="sepal_lenght_cm"), 400, "mean 'sepal_length_cm'"),
    ("a feature twice", by_feature(name="sepal_width_cm"), 400, "more than once"),
    ("a feature less", {"inputs": by_feature()["inputs"][1:]}, 400, "'sepal_length_cm' is miss"),
    ("one feature alone", {"inputs": by_feature()["inputs"][:1]}, 400, "'sepal_width_cm' is miss"),
    ("a shorter feature", by_feature(shape=[1], data=[1]), 400, "as long as"),
    ("a feature of two columns", by_feature(shape=[2, 2]), 400, "[n] or [n, 1]"),
    ("a feature without a shape", by_feature(shape=[]), 400, "[n] or [n, 1]"),
    ("an unknown output", {**matrix(), "outputs": [{"name": "predic"}]}, 400, "mean 'predict'"),
    ("an output twice", {**matrix(), "outputs": [{"name": "predict"}] * 2}, 400, "more than once"),
    (
        "the top of no probabilities",
        {**matrix(), "outputs": [{"name": "predict", "parameters": {"classification": 1}}]},
        400,
        "classification",
    ),
    (
        "the top none",
        {**matrix(), "outputs": [{"name": "predict", "parameters": {"classification": 0}}]},
        400,
        "classification",
    ),
    (
        "an output in shared memory",
        {**matrix(), "outputs": [{"name": "predict", "parameters": {"shared_memory_region": "x"}}]},
        400,
        "Shared memory",
    ),
    ("a long name", by_feature(name="x" * 100_000), 400, "Unknown feature 'xxx"),
    ("a long type", matrix(datatype="x" * 100_000), 400, "Unknown datatype 'xxx"),
    ("many dimensions", matrix(shape=[1] * 10_000), 400, "[n, 4]"),
]


def check_refusal(answer: Any, status: int, words: str) -> None:
    assert answer.status_code == status, answer.text
    assert len(answer.content) < 2_000
    assert list(answer.json()) == ["error"]
    error = answer.json()["error"]
    assert words in error
    assert "\n" not in error


@pytest.mark.parametrize(
    ("body", "status", "words"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_a_wrong_request_is_refused_in_one_line(
    body: object, status: int, words: str, client: TestClient
) -> None:
    check_refusal(client.post(INFER, json=body), status, words)


DEEP = b"[" * 100_000


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"\xff\xfe", "no JSON"),
        (b'{"inputs": [{"name": "\xff"}]}', "no JSON"),
        (
            b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP64","data":[NaN,1,2,3]}]}',
            "no JSON",
        ),
        (b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"BYTES","data":["\xff"]}]}', "BYTES"),
        (b'{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP64","data":[1e999]}]}', "out of"),
        (b'{"inputs":[{"name":"x","data":' + DEEP, "too deep"),
        (b'{"more":' + DEEP, "too deep"),
    ],
)
def test_a_body_that_is_no_json_is_refused(body: bytes, words: str, client: TestClient) -> None:
    check_refusal(client.post(INFER, content=body), 400, words)


def binary(size: int, content: bytes, **changes: Any) -> tuple[bytes, dict[str, str]]:
    head = json.dumps(matrix(data=None, parameters={"binary_data_size": size}, **changes)).encode()
    return head + content, {HEADER_LENGTH: str(len(head))}


TEXTS = b"".join(b"\x01\x00\x00\x00" + digit for digit in (b"1", b"2", b"3", b"4"))


@pytest.mark.parametrize(
    ("size", "content", "changes", "words"),
    [
        (32, bytes(31), {}, "31 bytes"),
        (32, bytes(33), {}, "33 bytes"),
        (2**62, bytes(32), {}, "32 bytes"),
        (16, bytes(16), {}, "has 32 bytes"),
        (4, bytes(4), {"datatype": "BYTES"}, "4 elements"),
        (20, TEXTS[:19] + b"\xff", {"datatype": "BYTES"}, "element 4"),
        (21, TEXTS + b"5", {"datatype": "BYTES"}, "4 elements"),
        (20, b"\xff" * 20, {"datatype": "BYTES"}, "4 elements"),
    ],
)
def test_wrong_binary_tensors_are_refused(
    size: int, content: bytes, changes: dict[str, Any], words: str, client: TestClient
) -> None:
    body, headers = binary(size, content, **changes)
    check_refusal(client.post(INFER, content=body, headers=headers), 400, words)


@pytest.mark.parametrize("length", ["-1", "x", "9" * 30, "100000", "1e2"])
def test_a_wrong_length_of_the_json_is_refused(length: str, client: TestClient) -> None:
    body, _ = binary(32, bytes(32))
    answer = client.post(INFER, content=body, headers={HEADER_LENGTH: length})
    check_refusal(answer, 400, "Inference-Header-Content-Length")


def test_a_compressed_body_is_not_read(client: TestClient) -> None:
    answer = client.post(INFER, content=b"x", headers={"Content-Encoding": "gzip"})
    check_refusal(answer, 415, "Content-Encoding")


def test_unknown_models_and_versions_are_not_found(client: TestClient, app: ModelServer) -> None:
    for path in ("", "/ready", "/versions/1", "/versions/1/ready"):
        check_refusal(client.get(f"/v2/models/irs{path}"), 404, "Did you mean 'iris'")
    check_refusal(client.post("/v2/models/irs/infer", json=matrix()), 404, "irs")
    version = app.models["iris"].inference.version
    check_refusal(client.get("/v2/models/iris/versions/1"), 404, version)
    check_refusal(client.get("/v2/models/iris/versions/1/ready"), 404, version)
    check_refusal(client.post("/v2/models/iris/versions/1/infer", json=matrix()), 404, version)
    # The pattern itself is no version.
    check_refusal(client.get("/v2/models/iris/versions/{version}"), 404, version)
    check_refusal(client.get("/v2/models/{name}"), 404, "iris")


def test_a_server_about_to_end_is_live_but_not_ready(iris_model: Path) -> None:
    app = create_app({"iris": load_model(str(iris_model))})
    with TestClient(app) as client:
        assert client.get("/v2/health/ready").json() == {"ready": True}
        app.draining = True
        assert client.get("/v2/health/live").json() == {"live": True}
        for path, body in (
            ("/v2/health/ready", {"ready": False}),
            ("/v2/models/iris/ready", {"name": "iris", "ready": False}),
        ):
            answer = client.get(path)
            assert answer.status_code == 503
            assert answer.json() == body


def test_a_full_queue_says_when_to_come_again(
    iris_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app({"iris": load_model(str(iris_model))})
    monkeypatch.setattr(app.models["iris"].batcher, "_max_queue", 0)
    with TestClient(app) as client:
        answer = client.post(INFER, json=matrix())
    check_refusal(answer, 429, "busy")
    assert answer.headers["retry-after"] == "1"


def test_a_reloaded_model_has_a_new_version_only(tmp_path: Path) -> None:
    path = train_model(tmp_path / "model", max_iter=2)
    app = create_app({"iris": ModelSource(str(path))})
    with TestClient(app) as client:
        (old,) = client.get("/v2/models/iris").json()["versions"]
        shutil.rmtree(path)
        train_model(path, max_iter=3)
        asyncio.run(app.models.reload())
        (new,) = client.get("/v2/models/iris").json()["versions"]
        assert new != old
        assert client.get(f"/v2/models/iris/versions/{old}/ready").status_code == 404
        answer = client.post(f"/v2/models/iris/versions/{new}/infer", json=matrix())
        assert answer.json()["model_version"] == new


def test_a_model_of_one_feature_takes_a_plain_list(tmp_path: Path) -> None:
    from ml_project_template.data import Preprocessor, TabularDataset
    from ml_project_template.models import ModelRegistry

    table = tmp_path / "one.csv"
    table.write_text("x,target\n" + "\n".join(f"{i},{'ab'[i > 20]}" for i in range(40)), "utf-8")
    raw = TabularDataset.from_csv(str(table), target_column="target")
    model = ModelRegistry.get("gb_classifier")(max_iter=5, min_samples_leaf=2)
    model.train(
        experiment_name="x",
        train_data=Preprocessor().fit(raw).transform(raw),
        tracking=False,
        model_path=str(tmp_path / "model"),
    )
    with TestClient(create_app({"one": load_model(str(tmp_path / "model"))})) as client:
        for name, shape in (("x", [2]), ("x", [2, 1]), ("any", [2]), ("any", [2, 1])):
            body = matrix(name=name, shape=shape, data=[1, 39])
            answer = client.post("/v2/models/one/infer", json=body)
            assert answer.json()["outputs"][0]["data"] == ["a", "b"]
        for shape in ([], [2, 2], [2, 1, 1]):
            answer = client.post("/v2/models/one/infer", json=matrix(shape=shape, data=[1, 39]))
            check_refusal(answer, 400, "[n, 1]")


def test_the_example_of_the_schema_works(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert "/v2" in paths
    assert "/v2/models/iris" in paths
    content = paths[INFER]["post"]["requestBody"]["content"]["application/json"]
    assert client.post(INFER, json=content["example"]).status_code == 200


def test_damaged_bodies_are_never_the_servers_fault(client: TestClient) -> None:
    chance = random.Random(0)
    wishes = [{"name": "probabilities", "parameters": {"binary_data": True, "classification": 2}}]
    whole = [
        binary(32, np.array(VALUES).tobytes()),
        binary(20, TEXTS, datatype="BYTES"),
        (json.dumps({**by_feature(), "id": "x"}).encode(), {}),
        (json.dumps({**matrix(datatype="FP32"), "outputs": wishes}).encode(), {}),
    ]
    tokens = [b"[", b"]", b"{", b"}", b"null", b"-1", b"9" * 30, b'"', b",", b"\xff", b"1e308"]
    for body, headers in whole:
        assert client.post(INFER, content=body, headers=headers).status_code == 200
    statuses = set()
    for _ in range(2_000):
        original, headers = chance.choice(whole)
        damaged = bytearray(original)
        for _ in range(chance.randint(1, 4)):
            place = chance.randrange(len(damaged))
            kind = chance.randrange(4)
            if kind == 0:
                damaged[place] = chance.randrange(256)
            elif kind == 1:
                del damaged[place : place + chance.randint(1, 8)]
            elif kind == 2:
                damaged[place:place] = chance.choice(tokens)
            else:
                damaged[place : place + 1] = bytes([chance.choice(b"0123456789")])
        if headers and chance.random() < 0.3:
            headers = {HEADER_LENGTH: str(chance.randrange(len(damaged) + 2))}
        answer = client.post(INFER, content=bytes(damaged), headers=headers)
        assert answer.status_code < 500, (bytes(damaged), headers)
        assert answer.status_code == 200 or len(answer.content) < 2_000
        statuses.add(answer.status_code)
    assert {200, 400} <= statuses


# Categories, dates and numbers as answers


def flat_inputs(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Make a request of a tensor for each feature."""
    inputs = []
    for name in FLAT:
        data = [row[name] for row in rows]
        is_text = name in {"city", "zone", "built"}
        kind = "BOOL" if name == "garden" else "BYTES" if is_text else "FP64"
        inputs.append({"name": name, "shape": [len(rows)], "datatype": kind, "data": data})
    return {"inputs": inputs}


FLATS = [FLAT, {**FLAT, "city": "Paris", "zone": None}, {**FLAT, "built": "2020-05-01T10:00:00Z"}]


def test_texts_come_in_a_tensor_for_each_feature(
    flats_client: TestClient, class_model: Loaded, number_model: Loaded
) -> None:
    described = flats_client.get("/v2/models/flats").json()
    kinds = {tensor["name"]: tensor["datatype"] for tensor in described["inputs"]}
    texts = dict.fromkeys(("city", "zone", "built"), "BYTES")
    assert kinds == dict.fromkeys(FLAT, "FP64") | texts
    assert all(tensor["shape"] == [-1] for tensor in described["inputs"])
    answer = flats_client.post("/v2/models/flats/infer", json=flat_inputs(FLATS)).json()
    labels, chances = answer["outputs"]
    expected = class_model.predictor.predict(FLATS)
    assert labels["data"] == expected.labels
    assert "dear" in expected.labels
    np.testing.assert_allclose(chances["data"], expected.probabilities.ravel(), atol=1e-6)

    described = flats_client.get("/v2/models/prices").json()
    assert described["outputs"] == [{"name": "predict", "datatype": "FP64", "shape": [-1]}]
    answer = flats_client.post("/v2/models/prices/infer", json=flat_inputs(FLATS)).json()
    (numbers,) = answer["outputs"]
    assert (numbers["datatype"], numbers["shape"]) == ("FP64", [3])
    np.testing.assert_allclose(numbers["data"], number_model.numbers(FLATS))


def test_tritons_client_sends_texts_and_gets_numbers(
    class_model: Loaded, number_model: Loaded
) -> None:
    columns: dict[str, Any] = {
        "size": np.array([40.0, 50.0]),
        "rooms": np.array([2, 3]),
        "city": np.array(["Köln", ""], dtype=np.object_),
        "zone": np.array([1, 3]),
        "garden": np.array([True, False]),
        "built": np.array(["1990-02-01", "2001-01-01"], dtype=np.object_),
    }
    inputs = [tensor(name, values) for name, values in columns.items()]
    rows = [
        {name: values[row] if values[row] != "" else None for name, values in columns.items()}
        for row in (0, 1)
    ]
    app = create_app({"flats": class_model.inference, "prices": number_model.inference})
    with (
        serving_in_a_thread(app) as address,
        triton.InferenceServerClient(address.removeprefix("http://")) as client,
    ):
        numbers = client.infer("prices", inputs).as_numpy("predict")
        labels = client.infer("flats", inputs).as_numpy("predict")
    np.testing.assert_allclose(numbers, number_model.numbers(rows))
    expected = class_model.predictor.predict(rows).labels
    assert [label.decode() for label in labels] == expected


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        ({"built": ["soon"]}, 422, "Row 1: feature 'built': it must be a date"),
        ({"built": ["99999-01-01"]}, 422, "Row 1: feature 'built': it must be a date"),
        ({"built": [None]}, 422, "Row 1: feature 'built' is missing"),
        ({"city": ["x" * 1_001]}, 422, "Row 1: feature 'city': it must be a text of at most 1000"),
        ({"size": [None]}, 422, "Row 1: feature 'size' is missing"),
        ({"city": [5]}, 400, "Input 'city': data of BYTES"),
    ],
)
def test_a_wrong_text_in_a_tensor_is_told(
    changes: dict[str, Any], status: int, words: str, flats_client: TestClient
) -> None:
    request = flat_inputs([FLAT])
    for given in request["inputs"]:
        given["data"] = changes.get(given["name"], given["data"])
    answer = flats_client.post("/v2/models/prices/infer", json=request)
    assert (answer.status_code, words in answer.json()["error"]) == (status, True), answer.text


def test_a_matrix_of_texts_holds_every_kind_of_feature(
    flats_client: TestClient, number_model: Loaded
) -> None:
    texts = ["41.5", "2", "Rome", "1", "0", "1990-02-01"]
    given = {"name": "x", "shape": [2, 6], "datatype": "BYTES", "data": texts * 2}
    answer = flats_client.post("/v2/models/prices/infer", json={"inputs": [given]}).json()
    expected = number_model.numbers([FLAT] * 2)
    np.testing.assert_allclose(answer["outputs"][0]["data"], expected)
    given["data"] = [*texts, "41.5", "two", *texts[2:]]
    answer = flats_client.post("/v2/models/prices/infer", json={"inputs": [given]})
    assert answer.json()["error"] == "Input 'x': element 8 is no number."
    given |= {"datatype": "FP64", "data": [1.0] * 12}
    answer = flats_client.post("/v2/models/prices/infer", json={"inputs": [given]})
    assert answer.status_code == 422
    assert "Row 1: feature 'built': it must be a date" in answer.json()["error"]


def test_a_regression_has_no_probabilities_to_ask_for(flats_client: TestClient) -> None:
    request = flat_inputs([FLAT]) | {"outputs": [{"name": "probabilities"}]}
    answer = flats_client.post("/v2/models/prices/infer", json=request)
    assert answer.status_code == 400
    assert answer.json()["error"] == "Unknown output 'probabilities'. Available: predict."
