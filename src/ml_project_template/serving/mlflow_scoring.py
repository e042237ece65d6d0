"""MLflow's scoring protocol, as ``mlflow models serve`` speaks it.

``GET /ping`` and ``/version``, ``POST /invocations``: what was written for an MLflow model server
works here. Neither MLflow nor pandas is imported. The forms are those of
``mlflow.pyfunc.scoring_server``; MLflow's documentation calls them "inference specification".
"""

from __future__ import annotations

import asyncio
import csv
import importlib.metadata
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ml_project_template.serving.contract import Contract
from ml_project_template.serving.http import JSON, Answer, Endpoint, RefusalError, Request
from ml_project_template.serving.http import problem as plain_problem
from ml_project_template.serving.routes import HotRoute, json_answer
from ml_project_template.serving.served import ServedModels
from ml_project_template.serving.table_reading import (
    find_features,
    output_names,
    read_parquet_features,
    read_texts,
)
from ml_project_template.serving.tables import Gate

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["routes"]

_CSV = "text/csv"
_PARQUET = ("application/vnd.apache.parquet", "application/x-parquet")
_CONTENT_TYPES = ("application/json", _CSV, _PARQUET[0])
_FORMS = ("dataframe_split", "dataframe_records", "inputs", "instances")
_LARGE_BODY = 64 * 1024  # bytes; what is larger is read in a thread

_json = msgspec.json.Decoder()


def routes(models: ServedModels) -> list[HotRoute]:
    """Declare the addresses: MLflow's own for the default model, one below its name for each."""
    gate = Gate()
    # The client, which an image that only serves has alone; MLflow is of the same version.
    version = importlib.metadata.version("mlflow-skinny").encode()

    def route(name: str, path: str, label: str) -> HotRoute:
        return HotRoute(
            "POST", path, label, _invocations(models, name, gate), lambda: _operation(models, name)
        )

    return [
        HotRoute("GET", "/ping", "/ping", _constant(b"\n")),
        HotRoute("GET", "/version", "/version", _constant(version)),
        route(models.default, "/invocations", "/invocations"),
        *(
            route(name, f"/models/{name}/invocations", "/models/{name}/invocations")
            for name in models.names
        ),
    ]


def _constant(body: bytes) -> Endpoint:
    async def constant(_: Request) -> Answer:
        return Answer(body)

    return constant


def _invocations(models: ServedModels, name: str, gate: Gate) -> Endpoint:
    async def invocations(request: Request) -> Answer:
        model = models[name]
        contract = model.contract
        try:
            decode = _decoder(request)
            if decode is read_parquet_features:
                async with gate:
                    rows = await asyncio.to_thread(decode, request.body, contract)
            elif len(request.body) > _LARGE_BODY:
                rows = await asyncio.to_thread(decode, request.body, contract)
            else:
                rows = decode(request.body, contract)
            if len(rows) == 0:
                return Answer(b'{"predictions":[]}')
            return Answer(_encode(await model.probabilities(rows), contract))
        except RefusalError as refusal:
            return _problem(refusal)

    return invocations


def _problem(refusal: RefusalError) -> Answer:
    """Make the answer of a refused request as MLflow's client reads it."""
    answer = plain_problem(refusal)
    code = "REQUEST_LIMIT_EXCEEDED" if refusal.status == 429 else "BAD_REQUEST"
    message = msgspec.json.decode(answer.body)["detail"]
    answer.body = msgspec.json.encode({"error_code": code, "message": message})
    return answer


def _decoder(request: Request) -> Callable[[bytes, Contract], NDArray[np.float64]]:
    """Find what reads a request.

    Raises:
        RefusalError: 415, as MLflow does, for another charset too.
    """
    kind = request.content_type
    header = request.header(b"content-type").decode("latin-1").lower()
    for option in header.split(";")[1:]:
        key, _, value = option.strip().partition("=")
        if key == "charset" and value.strip('"') not in {"utf-8", "utf8"}:
            raise RefusalError(415, "The charset must be utf-8.")
    if kind == "application/json":
        return _decode_json
    if kind == _CSV:
        return _decode_csv
    if kind in _PARQUET:
        return read_parquet_features
    raise RefusalError(415, f"The content type must be one of: {', '.join(_CONTENT_TYPES)}.")


def _encode(answers: NDArray[np.float64], contract: Contract) -> bytes:
    """Write the answer: an object for each row, by the names of the columns of MLflow's own."""
    name, *chances = output_names(contract)
    predictions = contract.predictions(answers)
    # Of a number there are no probabilities: rows of no columns.
    rows = answers[:, : len(chances)].tolist()
    return msgspec.json.encode(
        {
            "predictions": [
                {name: prediction, **dict(zip(chances, row, strict=True))}
                for prediction, row in zip(predictions, rows, strict=True)
            ]
        }
    )


def _decode_json(body: bytes, contract: Contract) -> NDArray[np.float64]:
    """Read one of the four forms.

    Returns:
        Shape ``(n_rows, n_features)``, float64, C-contiguous; NaN where a value is missing.

    Raises:
        RefusalError: 400 if it is no JSON, 422 if it can't be predicted.
    """
    content = _parse(body)
    if not isinstance(content, dict):
        raise RefusalError(422, f"The body must be an object with one of: {', '.join(_FORMS)}.")
    given = [form for form in _FORMS if form in content]
    if len(given) != 1:
        got = ", ".join(given) or "none of them"
        raise RefusalError(
            422, f"The body must have exactly one of: {', '.join(_FORMS)}; got {got}."
        )
    form = given[0]
    data = content[form]
    if form == "dataframe_split":
        return _from_split(data, contract)
    if isinstance(data, dict) and form != "dataframe_records":
        return _from_columns(form, data, contract)
    if not isinstance(data, list):
        wanted = "a list of objects" if form == "dataframe_records" else "a list of rows"
        raise RefusalError(422, f"{form} must be {wanted}.")
    if form == "dataframe_records" or (data and isinstance(data[0], dict)):
        return _from_records(data, contract)
    names = contract.signature.feature_names
    return _from_lists(data, range(len(names)), len(names), contract)


def _parse(body: bytes) -> Any:
    try:
        return _json.decode(body)
    except msgspec.ValidationError:
        raise RefusalError(422, "The body has a number that is out of range.") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        if b"NaN" not in body and b"Infinity" not in body:
            what = str(error).removeprefix("JSON is malformed: ")
            raise RefusalError(400, f"The body is no JSON: {what[:200]}.") from None
    try:
        # MLflow's own client writes a missing value as NaN, which is Python's JSON and no other's.
        return json.loads(body)
    except (ValueError, RecursionError):
        raise RefusalError(400, "The body is no JSON.") from None


def _from_split(data: object, contract: Contract) -> NDArray[np.float64]:
    if not isinstance(data, dict):
        raise RefusalError(422, "dataframe_split must be an object with columns and data.")
    if not data.keys() <= {"columns", "data", "index"}:
        raise RefusalError(422, "dataframe_split may have columns, data and index only.")
    columns, rows, index = data.get("columns"), data.get("data"), data.get("index")
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise RefusalError(422, "dataframe_split: columns must be a list of names.")
    if not isinstance(rows, list):
        raise RefusalError(422, "dataframe_split: data must be a list of rows.")
    if index is not None and not (isinstance(index, list) and len(index) == len(rows)):
        raise RefusalError(422, "dataframe_split: index must be a list with an item for each row.")
    return _from_lists(rows, find_features(columns, contract), len(columns), contract)


def _from_lists(
    rows: Sequence[object], positions: Iterable[int], length: int, contract: Contract
) -> NDArray[np.float64]:
    """Read rows that are lists.

    Args:
        rows: The rows.
        positions: Where each feature stands.
        length: How many values a row has.
        contract: What the model needs.
    """
    contract.check_count(len(rows))
    lists: list[list[object]] = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, list):
            raise RefusalError(422, f"Row {number} must be a list of {length} values.")
        if len(row) != length:
            raise RefusalError(422, f"Row {number} has {len(row)} values; {length} are needed.")
        lists.append(row)
    return contract.read_columns([row[position] for row in lists] for position in positions)


def _from_records(rows: Sequence[object], contract: Contract) -> NDArray[np.float64]:
    """Read rows that are objects; keys that are no features are of no account."""
    contract.check_count(len(rows))
    names = contract.signature.feature_names
    records: list[dict[str, object]] = []
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict):
            raise RefusalError(422, f"Row {number} must be an object by feature name.")
        records.append(row)
    try:
        columns = [[row[name] for row in records] for name in names]
    except KeyError:
        for number, row in enumerate(records, 1):
            try:
                find_features(list(row), contract)
            except RefusalError as refusal:
                raise RefusalError(422, f"Row {number}: {refusal.detail}") from None
        raise
    return contract.read_columns(columns)


def _from_columns(form: str, data: Mapping[str, object], contract: Contract) -> NDArray[np.float64]:
    """Read a list of values for each column."""
    find_features(list(data), contract)
    names = contract.signature.feature_names
    columns: list[list[object]] = []
    for name in names:
        column = data[name]
        if not isinstance(column, list):
            raise RefusalError(422, f"{form}: feature '{name[:60]}' must be a list of values.")
        if columns and len(column) != len(columns[0]):
            raise RefusalError(
                422,
                f"{form}: feature '{name[:60]}' has {len(column)} values, and '{names[0][:60]}' "
                f"has {len(columns[0])}.",
            )
        columns.append(column)
    contract.check_count(len(columns[0]))
    return contract.read_columns(columns)


def _decode_csv(body: bytes, contract: Contract) -> NDArray[np.float64]:
    """Read a header and its rows.

    Returns:
        Shape ``(n_rows, n_features)``, float64, C-contiguous; NaN where a value is missing.

    Raises:
        RefusalError: 400 if it is no CSV, 422 if it can't be predicted.
    """
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RefusalError(400, "The body is no UTF-8.") from None
    wanted: list[list[str]] = []
    try:
        lines = (line for line in csv.reader(io.StringIO(text, newline=""), strict=True) if line)
        header = next(lines, [])
        positions = find_features(header, contract)
        for row, line in enumerate(lines):
            if len(line) != len(header):
                raise RefusalError(
                    422, f"Row {row + 1} has {len(line)} values; the header has {len(header)}."
                )
            if row >= contract.max_rows:
                contract.check_count(row + 1)
            wanted.append([line[position] for position in positions])
    except csv.Error as error:
        raise RefusalError(400, f"The body is no CSV: {str(error)[:200]}.") from None
    if not wanted:
        return np.empty((0, len(positions)))
    columns = [
        read_texts(column, index, contract)
        for index, column in enumerate(zip(*wanted, strict=True))
    ]
    rows = np.stack(columns, axis=1)
    contract.check_values(rows)
    return rows


def _operation(models: ServedModels, name: str) -> dict[str, Any]:
    contract = models[name].contract
    sample = contract.sample_row()
    lists = {"type": "array", "items": {"type": "array"}}
    records = {"type": "array", "items": {"type": "object"}}
    columns = {"type": "object", "additionalProperties": {"type": "array"}}
    forms: dict[str, Any] = {
        "dataframe_split": {
            "type": "object",
            "required": ["columns", "data"],
            "additionalProperties": False,
            "properties": {
                "columns": {"type": "array", "items": {"type": "string"}},
                "data": lists,
                "index": {"type": ["array", "null"]},
            },
        },
        "dataframe_records": records,
        "inputs": {"anyOf": [lists, records, columns]},
        "instances": {"anyOf": [lists, records, columns]},
    }
    chance = {"type": "number", "minimum": 0, "maximum": 1}
    prediction, *chances = output_names(contract)
    classes = {"type": "string", "enum": list(contract.signature.class_names)}
    row = {
        "type": "object",
        "required": [prediction, *chances],
        "properties": {
            prediction: classes if chances else {"type": "number"},
            **dict.fromkeys(chances, chance),
        },
    }
    error = {
        "type": "object",
        "required": ["error_code", "message"],
        "properties": {"error_code": {"type": "string"}, "message": {"type": "string"}},
    }
    texts = {
        "400": "The body can't be read",
        "415": "No such form of a request",
        "422": "A row can't be predicted; the message names the row and the feature",
        "429": "Too many requests wait",
    }
    return {
        "summary": f"Predict with {name} by MLflow's protocol",
        "description": "What `mlflow models serve` takes and answers.",
        "tags": ["mlflow"],
        "requestBody": {
            "required": True,
            "content": {
                JSON.decode(): {
                    "schema": {
                        "type": "object",
                        "properties": {**forms, "params": {"type": ["object", "null"]}},
                        "oneOf": [{"required": [form]} for form in forms],
                    },
                    "example": {"dataframe_records": [sample]},
                },
                _CSV: {"schema": {"type": "string"}},
                _PARQUET[0]: {"schema": {"type": "string", "format": "binary"}},
            },
        },
        "responses": {
            "200": json_answer(
                "The predictions, an object for each row",
                {
                    "type": "object",
                    "required": ["predictions"],
                    "properties": {"predictions": {"type": "array", "items": row}},
                },
            ),
            **{status: json_answer(text, error) for status, text in texts.items()},
        },
    }
