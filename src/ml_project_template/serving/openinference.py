"""The Open Inference Protocol, version 2, of KServe, Triton and MLServer: ``/v2/...``.

Rows come as one tensor of shape ``(n_rows, n_features)``, in the order of the features, or as a
tensor for each feature, by its name: the way for a model with categories or dates, which are texts.
Of classes the answer is their names and probabilities, of a regression its numbers. Tensors are
JSON, or raw bytes behind the JSON: the extension
`binary_tensor_data <https://github.com/triton-inference-server/server/blob/main/docs/protocol/
extension_binary_data.md>`_. Of Triton's others, the answer as classification is known.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import metadata
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from ml_project_template.data.signature import Value
from ml_project_template.errors import unknown
from ml_project_template.serving.contract import Contract
from ml_project_template.serving.http import JSON, Answer, Endpoint, RefusalError, Request, cut
from ml_project_template.serving.routes import HotRoute, json_answer
from ml_project_template.serving.served import ServedModel, ServedModels

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["routes"]

_PACKAGE = __name__.partition(".")[0]
_OCTETS = b"application/octet-stream"
_HEADER_LENGTH = b"inference-header-content-length"
_LENGTH_PREFIX = 4  # bytes before each element of a binary BYTES tensor

_PREDICT, _PROBABILITIES = "predict", "probabilities"

_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("u1"),  # any byte may come, and only 0 and 1 would be a bool of numpy's
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPES = (*_DTYPES, "BYTES")


def _decoders(element: Any) -> tuple[msgspec.json.Decoder[Any], msgspec.json.Decoder[Any]]:
    """Make the decoders of a flat and of a nested tensor; null is a missing value."""
    return (
        msgspec.json.Decoder(list[element | None]),
        msgspec.json.Decoder(list[list[element | None]]),
    )


_FLOATS, _INTEGERS, _BOOLEANS, _TEXTS = (_decoders(kind) for kind in (float, int, bool, str))
_NESTED = re.compile(rb"\s*\[\s*\[")

_Size = Annotated[int, msgspec.Meta(ge=0, le=2**62)]


class _InputParameters(msgspec.Struct, gc=False):
    binary_data_size: _Size | None = None
    shared_memory_region: str | None = None


class _Input(msgspec.Struct):
    name: str
    shape: list[_Size]
    datatype: str
    parameters: _InputParameters | None = None
    # Decoded by its datatype, when that is known.
    data: msgspec.Raw = msgspec.Raw()


class _OutputParameters(msgspec.Struct, gc=False):
    binary_data: bool | None = None
    classification: Annotated[int, msgspec.Meta(ge=1, le=2**62)] | None = None
    shared_memory_region: str | None = None


class _Output(msgspec.Struct):
    name: str
    parameters: _OutputParameters | None = None


class _RequestParameters(msgspec.Struct, gc=False):
    binary_data_output: bool | None = None


class _Inference(msgspec.Struct):
    inputs: list[_Input]
    id: str | None = None
    outputs: list[_Output] | None = None
    parameters: _RequestParameters | None = None


_decode = msgspec.json.Decoder(_Inference).decode
_encode = msgspec.json.Encoder().encode


def routes(models: ServedModels, is_ready: Callable[[], bool]) -> list[HotRoute]:
    """Declare the addresses below ``/v2``.

    Args:
        models: What is served.
        is_ready: Whether the server takes further requests.
    """
    hot = [
        HotRoute("GET", "/v2", "/v2", _server, _server_operation),
        HotRoute("GET", "/v2/health/live", "/v2/health/live", _live),
        HotRoute("GET", "/v2/health/ready", "/v2/health/ready", _ready(is_ready)),
        HotRoute("POST", "/v2/repository/index", "/v2/repository/index", _index(models)),
    ]
    label = "/v2/models/{name}"
    for name in models.names:
        path = f"/v2/models/{name}"
        hot += [
            HotRoute("GET", path, label, _metadata(models, name), _metadata_operation(name)),
            HotRoute("GET", f"{path}/ready", f"{label}/ready", _model_ready(name, is_ready)),
            HotRoute(
                "POST",
                f"{path}/infer",
                f"{label}/infer",
                _infer(models, name),
                _infer_operation(models, name),
            ),
        ]
    # Neither a version, which changes as models are reloaded, nor a wrong name is a fixed path.
    for name in models.names:
        path = f"/v2/models/{name}/versions/{{version}}"
        version = f"{label}/versions/{{version}}"
        of_version = _of_version(models, name)
        hot += [
            HotRoute("GET", path, version, of_version(_metadata(models, name))),
            HotRoute(
                "GET", f"{path}/ready", f"{version}/ready", of_version(_model_ready(name, is_ready))
            ),
            HotRoute("POST", f"{path}/infer", f"{version}/infer", of_version(_infer(models, name))),
        ]
    no_model = _no_model(models)
    for path in (label, f"{label}/versions/{{version}}"):
        hot += [
            HotRoute("GET", path, path, no_model),
            HotRoute("GET", f"{path}/ready", f"{path}/ready", no_model),
            HotRoute("POST", f"{path}/infer", f"{path}/infer", no_model),
        ]
    return hot


@cache
def _package_version() -> str:
    try:
        return metadata.version(_PACKAGE)
    except metadata.PackageNotFoundError:
        return "unknown"


async def _server(request: Request) -> Answer:  # noqa: ARG001
    return Answer(
        _encode(
            {
                "name": _PACKAGE,
                "version": _package_version(),
                "extensions": ["binary_tensor_data", "classification"],
            }
        )
    )


async def _live(request: Request) -> Answer:  # noqa: ARG001
    return Answer(b'{"live":true}')


def _state(ready: bool, name: str | None = None) -> Answer:
    body = {"ready": ready} if name is None else {"name": name, "ready": ready}
    if ready:
        return Answer(_encode(body))
    return Answer(_encode(body), JSON, 503, [(b"retry-after", b"1")])


def _ready(is_ready: Callable[[], bool]) -> Endpoint:
    async def ready(request: Request) -> Answer:  # noqa: ARG001
        return _state(is_ready())

    return ready


def _model_ready(name: str, is_ready: Callable[[], bool]) -> Endpoint:
    async def model_ready(request: Request) -> Answer:  # noqa: ARG001
        return _state(is_ready(), name)

    return model_ready


def _index(models: ServedModels) -> Endpoint:
    async def index(request: Request) -> Answer:  # noqa: ARG001
        return Answer(
            _encode(
                [
                    {
                        "name": name,
                        "version": models[name].inference.version,
                        "state": "READY",
                        "reason": "",
                    }
                    for name in models.names
                ]
            )
        )

    return index


def _metadata(models: ServedModels, name: str) -> Endpoint:
    async def model_metadata(request: Request) -> Answer:  # noqa: ARG001
        return Answer(_encode(_describe(models[name])))

    return model_metadata


def _describe(model: ServedModel) -> dict[str, Any]:
    classes = list(model.class_names)
    inputs: list[dict[str, Any]] = [
        {
            "name": "features",
            "datatype": "FP64",
            "shape": [-1, len(model.feature_names)],
            "parameters": {"feature_names": list(model.feature_names)},
        }
    ]
    if not model.contract.is_numeric:
        inputs = [
            {
                "name": feature.name,
                "datatype": "BYTES" if feature.type in {"category", "date"} else "FP64",
                "shape": [-1],
            }
            for feature in model.signature.features
        ]
    outputs: list[dict[str, Any]] = [{"name": _PREDICT, "datatype": "FP64", "shape": [-1]}]
    if classes:
        outputs = [
            {"name": _PREDICT, "datatype": "BYTES", "shape": [-1]},
            {
                "name": _PROBABILITIES,
                "datatype": "FP64",
                "shape": [-1, len(classes)],
                "parameters": {"class_names": classes},
            },
        ]
    return {
        "name": model.name,
        "versions": [model.inference.version],
        "platform": f"{_PACKAGE}_{model.inference.model_name}",
        "inputs": inputs,
        "outputs": outputs,
    }


def _output_names(model: ServedModel) -> tuple[str, ...]:
    return (_PREDICT, _PROBABILITIES) if model.class_names else (_PREDICT,)


def _no_model(models: ServedModels) -> Endpoint:
    async def no_model(request: Request) -> Answer:
        name = cut(request.path_params.get("name", ""))
        raise RefusalError(404, unknown("model", name, models.names))

    return no_model


def _of_version(models: ServedModels, name: str) -> Callable[[Endpoint], Endpoint]:
    """Make endpoints answer for the present version only."""

    def decorate(endpoint: Endpoint) -> Endpoint:
        async def of_version(request: Request) -> Answer:
            version = request.path_params.get("version", "")
            present = models[name].inference.version
            if version != present:
                raise RefusalError(404, unknown("version", cut(version), [present]))
            return await endpoint(request)

        return of_version

    return decorate


def _infer(models: ServedModels, name: str) -> Endpoint:
    async def infer(request: Request) -> Answer:
        model = models[name]
        inference, binary = _parse(request)
        wanted = _wanted(inference, _output_names(model))
        rows = _rows(model, inference.inputs, binary)
        model.contract.check_values(rows)
        return _answer(model, inference.id, wanted, await model.probabilities(rows))

    return infer


def _parse(request: Request) -> tuple[_Inference, memoryview]:
    """Read the JSON of a request, and what stands behind it.

    Raises:
        RefusalError: 400; 415 for a compressed body, which could grow without end.
    """
    if request.header(b"content-encoding") not in {b"", b"identity"}:
        raise RefusalError(415, "A compressed body is not read: send it without Content-Encoding.")
    body = memoryview(request.body)
    given = request.header(_HEADER_LENGTH)
    length = len(body)
    if given:
        if not given.isdigit() or len(given) > 18 or int(given) > length:
            raise RefusalError(
                400,
                "Inference-Header-Content-Length must be the length of the JSON at the start of "
                f"the body, which has {length} bytes.",
            )
        length = int(given)
    try:
        return _decode(body[:length]), body[length:]
    except msgspec.ValidationError as error:
        raise RefusalError(400, f"The request: {error}.") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RefusalError(400, f"The body is no JSON: {error}.") from None
    except RecursionError:
        raise RefusalError(400, "The body is no JSON that can be read: it is too deep.") from None


_Wanted = tuple[str, bool, int]  # the output, whether in binary, and of how many top classes


def _wanted(inference: _Inference, names: Sequence[str]) -> list[_Wanted]:
    """Find which outputs are asked for, and in which form.

    Args:
        inference: The request.
        names: The outputs that there are.

    Raises:
        RefusalError: 400.
    """
    parameters = inference.parameters
    all_binary = parameters is not None and bool(parameters.binary_data_output)
    if not inference.outputs:
        return [(name, all_binary, 0) for name in names]
    wanted: list[_Wanted] = []
    for output in inference.outputs:
        name = output.name
        if name not in names:
            raise RefusalError(400, unknown("output", cut(name), names))
        if any(name == other for other, _, _ in wanted):
            raise RefusalError(400, f"The output '{name}' is asked for more than once.")
        binary, top = all_binary, 0
        if output.parameters is not None:
            if output.parameters.binary_data is not None:
                binary = output.parameters.binary_data
            if output.parameters.shared_memory_region is not None:
                raise _shared_memory()
            if output.parameters.classification is not None:
                top = output.parameters.classification
                if name != _PROBABILITIES:
                    raise RefusalError(
                        400, f"Only the output '{_PROBABILITIES}' has a classification."
                    )
        wanted.append((name, binary, top))
    return wanted


def _rows(model: ServedModel, inputs: list[_Input], binary: memoryview) -> NDArray[np.float64]:
    """Make rows of tensors.

    Args:
        model: Who is asked.
        inputs: The tensors.
        binary: The bytes behind the JSON.

    Returns:
        Shape ``(n_rows, n_features)``, float64, C-contiguous; NaN where missing.

    Raises:
        RefusalError: 400 if a tensor can't be read; 422 if there are too many rows, or none.
    """
    names = model.feature_names
    if not inputs:
        raise RefusalError(
            400, f"inputs must be one tensor of shape [n, {len(names)}], or one for each feature."
        )
    shape = inputs[0].shape
    if len(inputs) == 1 and (len(names) == 1 or len(shape) == 2 or inputs[0].name not in names):
        if shape[1:] != [len(names)] and not (len(shape) == 1 and len(names) == 1):
            raise _wrong_shape(inputs[0], f"[n, {len(names)}], a value for each feature")
        _check_count(model, shape[0])
        _check_sizes(inputs, binary)
        return _tensor(inputs[0], model.contract, range(len(names)), binary)
    tensors = Counter(tensor.name for tensor in inputs)
    for name, times in tensors.items():
        if name not in names:
            raise RefusalError(400, unknown("feature", cut(name), names))
        if times > 1:
            raise RefusalError(400, f"The input '{cut(name)}' stands more than once.")
    for name in names:
        if name not in tensors:
            raise RefusalError(400, f"The feature '{cut(name)}' is missing.")
    for tensor in inputs:
        if not tensor.shape or tensor.shape[1:] not in ([], [1]):
            raise _wrong_shape(tensor, "[n] or [n, 1] for one feature")
        if tensor.shape[0] != shape[0]:
            raise _wrong_shape(tensor, f"as long as the first input's {_shape(inputs[0])}")
    count = shape[0]
    _check_count(model, count)
    _check_sizes(inputs, binary)
    rows = np.empty((count, len(names)), dtype=np.float64)
    position = {name: index for index, name in enumerate(names)}
    for tensor in inputs:
        index = position[tensor.name]
        rows[:, index] = _tensor(tensor, model.contract, [index], binary)[:, 0]
        binary = binary[_binary_size(tensor) or 0 :]
    return rows


def _check_count(model: ServedModel, count: int) -> None:
    if count < 1:
        raise RefusalError(422, "inputs: there must be at least one row.")
    model.contract.check_count(count)


def _binary_size(tensor: _Input) -> int | None:
    return None if tensor.parameters is None else tensor.parameters.binary_data_size


def _check_sizes(inputs: Iterable[_Input], binary: memoryview) -> None:
    """Check that the sizes of the binary tensors are what stands behind the JSON.

    Raises:
        RefusalError: 400.
    """
    total = sum(_binary_size(tensor) or 0 for tensor in inputs)
    if total != len(binary):
        raise RefusalError(
            400,
            f"{len(binary)} bytes stand behind the JSON; the inputs' binary_data_size say {total}.",
        )


def _tensor(
    tensor: _Input, contract: Contract, indices: Sequence[int], binary: memoryview
) -> NDArray[np.float64]:
    """Read a tensor of checked shape.

    Args:
        tensor: It.
        contract: What the model needs.
        indices: The positions of the features whose values stand in its columns.
        binary: The bytes behind the JSON from this tensor's own on.

    Returns:
        Shape ``(n_rows, len(indices))``; NaN where missing.

    Raises:
        RefusalError: 400; 422 for a value that its feature can't have.
    """
    columns = len(indices)
    values = _values(tensor, columns, binary)
    if not isinstance(values, list) and contract.is_numeric:
        return values.reshape(tensor.shape[0], columns)
    rows = np.empty((tensor.shape[0], columns), dtype=np.float64)
    for column, index in enumerate(indices):
        feature, of_column = contract.signature.features[index], values[column::columns]
        if feature.type not in {"category", "date"}:
            if isinstance(of_column, list):
                of_column = _from_texts(tensor, of_column, column + 1, columns)
            rows[:, column] = of_column
        elif isinstance(of_column, list):
            # Binary texts have no null.
            gaps = {""}.difference(feature.levels or ())
            found = [None if text in gaps else text for text in of_column]
            rows[:, column] = contract.read_column(index, found)
        else:
            found = of_column.tolist()
            if tensor.datatype == "BOOL":
                found = [value if value != value else value != 0 for value in found]
            rows[:, column] = contract.read_column(index, found)
    return rows


def _values(
    tensor: _Input, columns: int, binary: memoryview
) -> NDArray[np.float64] | list[str | None]:
    """Read the values of a tensor of checked shape.

    Args:
        tensor: It.
        columns: Values of each row.
        binary: The bytes behind the JSON from this tensor's own on.

    Returns:
        They, one after another: numbers, NaN where missing; or texts.

    Raises:
        RefusalError: 400.
    """
    datatype = tensor.datatype
    if datatype not in _DATATYPES:
        raise _wrong(tensor, unknown("datatype", cut(datatype), _DATATYPES).rstrip("."))
    if tensor.parameters is not None and tensor.parameters.shared_memory_region is not None:
        raise _shared_memory()
    size, has_data = _binary_size(tensor), memoryview(tensor.data).nbytes > 0
    if (size is None) is not has_data:
        raise _wrong(tensor, "it needs either data or binary_data_size")
    count = tensor.shape[0]
    if size is None:
        return _from_json(tensor, columns)
    if datatype == "BYTES":
        return _split(tensor, binary[:size], count * columns)
    dtype = _DTYPES[datatype]
    if size != count * columns * dtype.itemsize:
        raise _wrong(
            tensor,
            f"{datatype} of shape {_shape(tensor)} has {count * columns * dtype.itemsize} "
            "bytes; binary_data_size says otherwise",
        )
    raw = np.frombuffer(binary[:size], dtype=dtype)
    return (raw != 0).astype(np.float64) if datatype == "BOOL" else raw.astype(np.float64)


def _from_json(tensor: _Input, columns: int) -> NDArray[np.float64] | list[str | None]:
    """Read data as JSON, flat or nested, into a flat array."""
    datatype, count = tensor.datatype, tensor.shape[0]
    if datatype == "BYTES":
        decoders = _TEXTS
    elif datatype == "BOOL":
        decoders = _BOOLEANS
    else:
        decoders = _FLOATS if datatype.startswith("FP") else _INTEGERS
    is_nested = _NESTED.match(tensor.data) is not None
    try:
        found = decoders[is_nested].decode(tensor.data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # Its place is told from the start of the data on: `$[0]`.
        raise _wrong(tensor, f"data of {datatype}: {error}") from None
    if is_nested:
        fits = len(found) == count and all(len(row) == columns for row in found)
        found = [value for row in found for value in row] if fits else []
    if len(found) != count * columns:
        raise _wrong(tensor, f"data has not the {count * columns} values of {_shape(tensor)}")
    if datatype == "BYTES":
        texts: list[str | None] = found
        return texts
    try:
        values = np.array(found, dtype=np.float64)
    except OverflowError:
        values = np.array([np.inf])
    if decoders is _INTEGERS:
        limits = np.iinfo(_DTYPES[datatype])
        # Not a number is missing, and so within the limits.
        if ((values < limits.min) | (values > limits.max)).any():
            raise _wrong(tensor, f"a value is no {datatype}")
    return values


def _from_texts(
    tensor: _Input, texts: Iterable[str | None], first: int, step: int
) -> NDArray[np.float64]:
    """Read numbers that are written as text; an empty one is missing.

    Args:
        tensor: Where they stand.
        texts: They.
        first: The place of the first in the tensor, counted from 1.
        step: From one to the next.
    """
    values = []
    for index, text in enumerate(texts):
        if not text:
            values.append(np.nan)
            continue
        try:
            # Python's own ways to write 1000, as 1_000 or in another script, are no data's.
            values.append(float(text if text.isascii() and "_" not in text else "?"))
        except ValueError:
            raise _wrong(tensor, f"element {first + index * step} is no number") from None
    return np.array(values, dtype=np.float64)


def _split(tensor: _Input, binary: memoryview, count: int) -> list[str | None]:
    """Split a binary tensor of texts, each behind its length."""
    texts: list[str | None] = []
    start = 0
    wrong = _wrong(tensor, f"its bytes are not {count} elements, each behind its length")
    for _ in range(count):
        end = start + _LENGTH_PREFIX
        length = int.from_bytes(binary[start:end], "little")
        start, end = end, end + length
        if end > len(binary):
            raise wrong
        # Whatever is no UTF-8 is neither number, date nor level, and told as such.
        texts.append(str(binary[start:end], "utf-8", "replace"))
        start = end
    if start != len(binary):
        raise wrong
    return texts


def _answer(
    model: ServedModel, request_id: str | None, wanted: list[_Wanted], answers: NDArray[np.float64]
) -> Answer:
    """Write the outputs that are asked for."""
    outputs: list[dict[str, Any]] = []
    tail: list[bytes] = []
    for name, binary, top in wanted:
        shape = list(answers.shape)
        texts: list[str] | None = None
        if top:
            texts, shape = _classification(model, answers, top)
        elif name == _PREDICT:
            shape = shape[:1]
            if model.class_names:
                texts = [str(label) for label in model.contract.predictions(answers)]
        output: dict[str, Any] = {
            "name": name,
            "datatype": "FP64" if texts is None else "BYTES",
            "shape": shape,
        }
        if binary:
            content = _join(texts) if texts is not None else answers.astype("<f8").tobytes()
            output["parameters"] = {"binary_data_size": len(content)}
            tail.append(content)
        else:
            output["data"] = answers.ravel().tolist() if texts is None else texts
        outputs.append(output)
    body: dict[str, Any] = {
        "model_name": model.name,
        "model_version": model.inference.version,
        "outputs": outputs,
    }
    if request_id is not None:
        body["id"] = request_id
    head = _encode(body)
    if not tail:
        return Answer(head)
    return Answer(
        b"".join([head, *tail]), _OCTETS, headers=[(_HEADER_LENGTH, str(len(head)).encode())]
    )


def _classification(
    model: ServedModel, chances: NDArray[np.float64], top: int
) -> tuple[list[str], list[int]]:
    """Write the most probable classes as Triton does: ``value:index:label``."""
    top = min(top, len(model.class_names))
    order = np.argsort(-chances, axis=1, kind="stable")[:, :top]
    texts = [
        f"{row[index]:f}:{index}:{model.class_names[index]}"
        for row, best in zip(chances.tolist(), order.tolist(), strict=True)
        for index in best
    ]
    return texts, [len(chances), top]


def _join(texts: Iterable[str]) -> bytes:
    """Write texts as a binary tensor, each behind its length."""
    parts: list[bytes] = []
    for text in texts:
        content = text.encode()
        parts += (len(content).to_bytes(_LENGTH_PREFIX, "little"), content)
    return b"".join(parts)


def _wrong(tensor: _Input, what: str) -> RefusalError:
    return RefusalError(400, f"Input '{cut(tensor.name)}': {what}.")


def _wrong_shape(tensor: _Input, needed: str) -> RefusalError:
    return _wrong(tensor, f"its shape must be {needed}; got {_shape(tensor)}")


def _shared_memory() -> RefusalError:
    return RefusalError(400, "Shared memory is not served: send the tensors in the body.")


def _shape(tensor: _Input) -> str:
    return cut(str(tensor.shape[:8]))


# What the OpenAPI document says of them.

_TEXT: dict[str, Any] = {"type": "string"}
_TENSOR: dict[str, Any] = {
    "type": "object",
    "required": ["name", "shape", "datatype"],
    "properties": {
        "name": _TEXT,
        "shape": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 2},
        "datatype": {"type": "string", "enum": list(_DATATYPES)},
        "parameters": {"type": "object"},
        "data": {"type": "array", "items": {}, "description": "Flat or nested, row by row"},
    },
}


def _object(required: Iterable[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": list(required), "properties": properties}


def _list_of(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _errors(**texts: str) -> dict[str, Any]:
    schema = _object(["error"], error=_TEXT)
    return {status.removeprefix("_"): json_answer(text, schema) for status, text in texts.items()}


def _operation(summary: str, answer: dict[str, Any], **more: Any) -> dict[str, Any]:
    responses = {"200": answer, **more.pop("errors", {})}
    return {
        "summary": summary,
        "tags": ["open inference protocol"],
        **more,
        "responses": responses,
    }


def _server_operation() -> dict[str, Any]:
    keys = ("name", "version", "extensions")
    schema = _object(keys, name=_TEXT, version=_TEXT, extensions=_list_of(_TEXT))
    return _operation("Describe the server", json_answer("Its name and version", schema))


def _metadata_operation(name: str) -> Callable[[], dict[str, Any]]:
    def operation() -> dict[str, Any]:
        tensors = _list_of(_object(["name", "datatype", "shape"]))
        schema = _object(
            ["name", "versions", "platform", "inputs", "outputs"],
            name=_TEXT,
            versions=_list_of(_TEXT),
            platform=_TEXT,
            inputs=tensors,
            outputs=tensors,
        )
        return _operation(f"Describe {name}", json_answer("Its tensors", schema))

    return operation


def _example(model: ServedModel) -> dict[str, Any]:
    """Make a request that works, of a raw row of the training."""
    row = model.contract.sample_row()
    if model.contract.is_numeric:
        data = [None if value is None else float(value) for value in row.values()]
        tensor = {"name": "features", "shape": [1, len(row)], "datatype": "FP64", "data": data}
        return {"inputs": [tensor]}
    return {
        "inputs": [
            {
                "name": tensor["name"],
                "shape": [1],
                "datatype": tensor["datatype"],
                "data": [_plain(row[tensor["name"]], tensor["datatype"])],
            }
            for tensor in _describe(model)["inputs"]
        ]
    }


def _plain(value: Value, datatype: str) -> Value:
    return float(value) if datatype == "FP64" and value is not None else value


def _infer_operation(models: ServedModels, name: str) -> Callable[[], dict[str, Any]]:
    def operation() -> dict[str, Any]:
        model = models[name]
        output = _object(
            ["name"], name={"enum": list(_output_names(model))}, parameters={"type": "object"}
        )
        request = _object(
            ["inputs"],
            id=_TEXT,
            parameters={"type": "object"},
            inputs=_list_of(_TENSOR),
            outputs=_list_of(output),
        )
        schema = _object(
            ["model_name", "model_version", "outputs"],
            model_name=_TEXT,
            model_version=_TEXT,
            id=_TEXT,
            outputs=_list_of(_TENSOR),
        )
        return _operation(
            f"Infer with {name}",
            json_answer("The outputs, a row for each row", schema),
            description="Inputs are one tensor of all features, in their order, or one for each "
            "feature, by its name.",
            requestBody={
                "required": True,
                "content": {"application/json": {"schema": request, "example": _example(model)}},
            },
            errors=_errors(
                _400="A tensor can't be read",
                _415="The body is compressed",
                _422="A row can't be predicted; the error names the row and the feature",
                _429="Too many requests wait",
            ),
        )

    return operation
