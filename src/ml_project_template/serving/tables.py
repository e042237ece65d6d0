"""``POST /predict/table``: a large table in, the same table with its predictions out.

Arrow, Parquet and CSV spare a client the JSON of many rows. The answer is what
`predictor.score_file` would write: the columns of the input, then ``prediction`` and, of classes,
``probability_<class>``. What a stranger sends is unpacked only after its own description of itself
has been checked, for some kilobytes of it can stand for a terabyte.
"""

from __future__ import annotations

import asyncio
import csv
import io
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_project_template.serving.contract import Contract
from ml_project_template.serving.http import Answer, Endpoint, RefusalError, Request
from ml_project_template.serving.routes import HotRoute, refusals
from ml_project_template.serving.served import ServedModel, ServedModels
from ml_project_template.serving.table_reading import (
    NUMBER,
    TITLES,
    Form,
    decode_table,
    output_names,
    shorten,
    type_name,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Gate", "routes"]

_MEDIA_TYPES: dict[str, Form] = {
    "application/vnd.apache.arrow.stream": "stream",
    "application/vnd.apache.arrow.file": "file",
    "application/vnd.apache.parquet": "parquet",
    "application/x-parquet": "parquet",
    "text/csv": "csv",
}
_CANONICAL: dict[Form, str] = {
    "stream": "application/vnd.apache.arrow.stream",
    "file": "application/vnd.apache.arrow.file",
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
}

_SLICE_ROWS = 8_192
_MAX_AT_ONCE = 2  # tables that are in memory together
_MAX_WAITING = 64
_ROW = re.compile(r"^Row (\d+)")


def routes(models: ServedModels) -> list[HotRoute]:
    """Declare the addresses: one for the default model, one below its name for each."""
    gate = Gate()

    def route(name: str, path: str, label: str) -> HotRoute:
        return HotRoute("POST", path, label, _predict(models, name, gate), lambda: _operation(name))

    return [
        route(models.default, "/predict/table", "/predict/table"),
        *(
            route(name, f"/models/{name}/predict/table", "/models/{name}/predict/table")
            for name in models.names
        ),
    ]


class Gate:
    """Lets a few tables in at a time: each may take some hundred megabytes."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(_MAX_AT_ONCE)
        self._inside_or_waiting = 0

    async def __aenter__(self) -> None:
        if self._inside_or_waiting >= _MAX_AT_ONCE + _MAX_WAITING:
            raise RefusalError(429, "The server is busy: too many tables wait.", retry_after=1)
        self._inside_or_waiting += 1
        try:
            await self._places.acquire()
        except BaseException:
            self._inside_or_waiting -= 1
            raise

    async def __aexit__(self, *_: object) -> None:
        self._inside_or_waiting -= 1
        self._places.release()


def _predict(models: ServedModels, name: str, gate: Gate) -> Endpoint:
    async def predict(request: Request) -> Answer:
        model = models[name]
        source = _MEDIA_TYPES.get(request.content_type)
        if source is None:
            raise RefusalError(415, f"The content type must be one of: {', '.join(_MEDIA_TYPES)}.")
        target = _accepted(request.header(b"accept").decode("latin-1"), source)
        async with gate:
            table, rows = await asyncio.to_thread(
                decode_table, request.body, source, model.contract
            )
            answers = await _answers(model, rows)
            body = await asyncio.to_thread(
                _encode, table, rows, answers, model.contract, source, target
            )
        return Answer(body, _CANONICAL[target].encode())

    return predict


def _accepted(accept: str, source: Form) -> Form:
    """Choose the form of the answer.

    Args:
        accept: The header; empty if it was not sent.
        source: The form of the request, which is taken if the client does not mind.

    Raises:
        RefusalError: 406, none of what the client takes can be written.
    """
    wishes: list[tuple[float, str]] = []
    for item in accept.lower().split(","):
        media, *options = (part.strip() for part in item.split(";"))
        given = next((option[2:] for option in options if option.startswith("q=")), "1")
        wishes.append((float(given) if NUMBER.fullmatch(given) else 0.0, media))
    for weight, media in sorted(wishes, key=lambda wish: -wish[0]):
        if weight <= 0:
            continue
        if media in {"", "*/*", "*"}:
            return source
        if media in _MEDIA_TYPES:
            return _MEDIA_TYPES[media]
        if media.endswith("/*"):
            prefix = media[:-1]
            if _CANONICAL[source].startswith(prefix):
                return source
            for form, canonical in _CANONICAL.items():
                if canonical.startswith(prefix):
                    return form
    raise RefusalError(406, f"An answer can be one of: {', '.join(_CANONICAL.values())}.")


async def _answers(model: ServedModel, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compute slice by slice, so that others have their turn."""
    parts = [np.empty((0, model.signature.num_outputs))]
    for start in range(0, len(rows), _SLICE_ROWS):
        try:
            parts.append(await model.probabilities(rows[start : start + _SLICE_ROWS]))
        except RefusalError as refusal:
            # The model counts the rows of the slice.
            detail = _ROW.sub(lambda match: f"Row {int(match[1]) + start}", refusal.detail)  # noqa: B023
            raise RefusalError(refusal.status, detail, refusal.retry_after) from None
    return np.concatenate(parts)


def _encode(
    table: Any,
    rows: NDArray[np.float64],
    answers: NDArray[np.float64],
    contract: Contract,
    source: Form,
    target: Form,
) -> bytes:
    """Write a table with its predictions.

    Args:
        table: The input.
        rows: Its features.
        answers: Probabilities of shape ``(n_rows, n_classes)``, or numbers of ``(n_rows, 1)``.
        contract: Names the features and the classes.
        source: The form of the input.
        target: The form of the answer.

    Raises:
        RefusalError: 422, a column can't be written in this form.
    """
    import pyarrow as pa

    if source == "csv" and target != "csv":
        for index, feature in enumerate(contract.signature.features):
            if feature.type not in {"category", "date"}:
                numbers = pa.array(rows[:, index], from_pandas=True)
                position = table.schema.get_field_index(feature.name)
                table = table.set_column(position, feature.name, numbers)
    prediction, *names = output_names(contract)
    kind = pa.string() if names else pa.float64()
    table = table.append_column(prediction, pa.array(contract.predictions(answers), kind))
    for index, name in enumerate(names):
        table = table.append_column(name, pa.array(answers[:, index]))
    try:
        if target == "csv":
            return _write_csv(table)
        return _write_binary(table, target)
    except (pa.ArrowException, ValueError, OSError, OverflowError):
        raise RefusalError(422, f"The table can't be written as {TITLES[target]}.") from None


def _write_binary(table: Any, target: Form) -> bytes:
    import pyarrow as pa
    from pyarrow import ipc, parquet

    sink = pa.BufferOutputStream()
    if target == "parquet":
        parquet.write_table(table, sink)
    else:
        make = ipc.new_stream if target == "stream" else ipc.new_file
        with make(sink, table.schema) as writer:
            writer.write_table(table)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def _write_csv(table: Any) -> bytes:
    """Write a CSV with quotes where they are needed; Arrow's own writer quotes every text."""
    import pyarrow as pa

    texts = []
    for name, column in zip(table.schema.names, table.columns, strict=True):
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        try:
            texts.append(column.cast(kind).cast(pa.large_string()).to_pylist())
        except pa.ArrowException:
            raise RefusalError(
                422,
                f"The column '{shorten(name)}' of type {type_name(kind)} can't be written as CSV. "
                "Ask for another form, or drop the column.",
            ) from None
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table.schema.names)
    writer.writerows(zip(*texts, strict=True))
    return text.getvalue().encode()


def _operation(name: str) -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    text = {"schema": {"type": "string"}}
    sent = {media: text if media == "text/csv" else binary for media in _MEDIA_TYPES}
    answered = {media: text if media == "text/csv" else binary for media in _CANONICAL.values()}
    return {
        "summary": f"Predict a table with {name}",
        "description": "Add the columns `prediction` and, of classes, `probability_<class>` to a "
        "table. The answer has the form of the request, or the one that `Accept` asks for.",
        "tags": ["predict"],
        "requestBody": {
            "required": True,
            "description": "A table with a column for each feature, and any others.",
            "content": sent,
        },
        "responses": {
            "200": {"description": "The table with its predictions", "content": answered},
            **refusals(400, 406, 408, 413, 415, 422, 429),
        },
    }
