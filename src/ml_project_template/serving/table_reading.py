"""Tables of strangers, read with care: Arrow, Parquet and CSV into raw rows.

What a stranger sends is unpacked only after its own description of itself has been checked.
"""

from __future__ import annotations

import contextlib
import csv
import difflib
import io
import re
import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ml_project_template.data.columns import MISSING_WORDS
from ml_project_template.data.signature import Feature
from ml_project_template.errors import unknown
from ml_project_template.predictor import PREDICTION, PROBABILITY
from ml_project_template.serving.contract import Contract
from ml_project_template.serving.http import RefusalError, cut
from ml_project_template.serving.parquet_layout import check_parquet, check_size, contradiction

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "NUMBER",
    "TITLES",
    "Form",
    "decode_table",
    "find_features",
    "output_names",
    "read_parquet_features",
    "read_texts",
    "shorten",
    "type_name",
]

Form = Literal["stream", "file", "parquet", "csv"]

TITLES: dict[Form, str] = {
    "stream": "an Arrow stream",
    "file": "an Arrow file",
    "parquet": "Parquet",
    "csv": "CSV",
}
_MAX_COLUMNS = 2_000
_MISSING = frozenset(MISSING_WORDS)
# A number as text, as JSON and CSV have it.
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


def output_names(contract: Contract) -> list[str]:
    """Name the columns of an answer."""
    return [PREDICTION, *(PROBABILITY + name for name in contract.signature.class_names)]


def find_features(names: Sequence[str], contract: Contract) -> list[int]:
    """Find the features among the columns of a table; others are of no account.

    Args:
        names: The columns.
        contract: What the model needs.

    Returns:
        The position of each feature.

    Raises:
        RefusalError: 422, a feature is missing or stands more than once.
    """
    found = dict(zip(names, range(len(names)), strict=True))
    features = contract.signature.feature_names
    twice = set() if len(found) == len(names) else {n for n in features if names.count(n) > 1}
    for feature in features:
        if feature in twice:
            raise RefusalError(422, f"The feature '{shorten(feature)}' stands more than once.")
        if feature not in found:
            raise RefusalError(422, _missing(feature, names, features))
    return [found[feature] for feature in features]


def _missing(feature: str, names: Sequence[str], features: Sequence[str]) -> str:
    """Say that a feature is missing, and which column was probably meant."""
    known = set(features)
    # Looking for likeness takes long where there is much to compare.
    surplus = [name for name in names[:_MAX_COLUMNS] if name not in known and len(name) <= 100]
    close = difflib.get_close_matches(feature, surplus[:200], n=1, cutoff=0.5)
    hint = (
        unknown("column", shorten(close[0]), features)
        if close
        else f"Needed: {', '.join(features)}."
    )
    return f"The feature '{shorten(feature)}' is missing. {shorten(hint, 1_000)}"


def shorten(text: str, length: int = 60) -> str:
    """Cut a text that was sent, and keep it on its line."""
    text = cut(text, length)
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def decode_table(body: bytes, form: Form, contract: Contract) -> tuple[Any, NDArray[np.float64]]:
    """Read a table.

    Returns:
        The Arrow table with all its columns, and its features as `ServedModel.probabilities` takes
        them.

    Raises:
        RefusalError: 400 if it is damaged, 422 if it can't be predicted.
    """
    with _damaged(form):
        if form == "csv":
            table = _read_csv(body, contract)
        elif form == "parquet":
            table = _read_parquet(body, contract)
        else:
            table = _read_ipc(body, form, contract)
        return table, _rows(table, contract, from_text=form == "csv")


def read_parquet_features(body: bytes, contract: Contract) -> NDArray[np.float64]:
    """Read the features of a Parquet file; its other columns may have any names.

    Raises:
        RefusalError: 400 if it is damaged, 422 if it can't be predicted.
    """
    with _damaged("parquet"):
        table = _read_parquet(body, contract, only_features=True)
        return _rows(table, contract, from_text=False)


@contextlib.contextmanager
def _damaged(form: Form) -> Iterator[None]:
    """Turn what Arrow says of a damaged table into one line."""
    import pyarrow as pa

    try:
        yield
    except (
        *(pa.ArrowException, OSError, ValueError, MemoryError),
        *(OverflowError, LookupError, struct.error),
    ) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise RefusalError(
            400, f"The body can't be read as {TITLES[form]}: {shorten(lines[0], 200)}"
        ) from None


def _check_columns(schema: Any, contract: Contract, *, only_features: bool = False) -> None:
    """Check the columns of a table before their values are read.

    Raises:
        RefusalError: 422.
    """
    import pyarrow as pa

    names = schema.names
    if len(names) > _MAX_COLUMNS:
        raise RefusalError(
            422, f"There are {len(names)} columns; a table may have {_MAX_COLUMNS} at most."
        )
    positions = find_features(names, contract)
    for feature, position in zip(contract.signature.features, positions, strict=True):
        kind = schema.field(position).type
        if not _fits(kind, feature):
            raise RefusalError(
                422,
                f"The feature '{shorten(names[position])}' must hold {_CONTENTS[feature.type]}, "
                f"not {type_name(kind)}.",
            )
    if not only_features:
        _check_names(names, contract)
    for field in schema:
        kind = field.type
        if not _is_plain(kind.value_type if pa.types.is_dictionary(kind) else kind):
            raise RefusalError(
                422,
                f"The column '{shorten(field.name)}' is of a type that can't be taken over: "
                f"{type_name(kind)}. Drop it.",
            )


def _check_names(names: Sequence[str], contract: Contract) -> None:
    """See that each column can stand in the answer, beside the predictions.

    Raises:
        RefusalError: 422.
    """
    if len(set(names)) < len(names):
        name = next(name for name in names if names.count(name) > 1)
        raise RefusalError(422, f"The column '{shorten(name)}' stands more than once.")
    for name in output_names(contract):
        if name in names:
            raise RefusalError(
                422,
                f"There is a column '{shorten(name)}' already, which the predictions would "
                "overwrite. Rename or drop it.",
            )


def type_name(kind: Any) -> str:
    """Name a type of Arrow shortly."""
    return shorten(str(kind), 80)


_CONTENTS = {
    **dict.fromkeys(("float", "int", "bool"), "numbers"),
    "category": "texts",
    "date": "dates or texts",
}


def _fits(kind: Any, feature: Feature) -> bool:
    """Whether a column may hold the values of a feature."""
    from pyarrow import types

    if feature.type not in {"category", "date"}:
        return _is_number(kind)
    if types.is_dictionary(kind):
        kind = kind.value_type
    is_text = types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)
    if feature.type == "category":
        return bool(is_text or _is_number(kind))
    return bool(is_text or types.is_date(kind) or types.is_timestamp(kind) or types.is_null(kind))


def _is_number(kind: Any) -> bool:
    from pyarrow import types

    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_null(kind)
    )


def _is_text(kind: Any) -> bool:
    """Whether values have a length each."""
    from pyarrow import types

    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
    )


def _is_plain(kind: Any) -> bool:
    """Whether a type is a single value: of nested ones, few bytes can stand for very many."""
    from pyarrow import types

    return bool(
        _is_number(kind)
        or _is_text(kind)
        or types.is_decimal(kind)
        or types.is_date(kind)
        or types.is_time(kind)
        or types.is_timestamp(kind)
        or types.is_duration(kind)
        or types.is_fixed_size_binary(kind)
        or types.is_string_view(kind)
        or types.is_binary_view(kind)
    )


def _width(kind: Any) -> int:
    """Bytes of a value; 0 where each has its own length."""
    from pyarrow import types

    if types.is_dictionary(kind):
        return _width(kind.value_type)
    if types.is_null(kind) or _is_text(kind):
        return 0
    if types.is_string_view(kind) or types.is_binary_view(kind):
        return 16
    return -(-int(kind.bit_width) // 8)


def _unpacked_size(column: Any) -> int:
    """Count the bytes of a column with each value written out."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = column.type
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not _is_text(values):
        return len(column) * _width(kind)
    if values is kind:
        return int(pc.sum(pc.cast(pc.binary_length(column), pa.int64())).as_py() or 0)
    total = 0
    for chunk in column.chunks:
        lengths = pc.cast(pc.binary_length(chunk.dictionary), pa.int64())
        total += pc.sum(lengths.take(chunk.indices)).as_py() or 0
    return total


def _view_size(column: Any) -> int:
    """Count the bytes of a column of views, which may all show the same ones."""
    total = 0
    for chunk in column.chunks:
        views = np.frombuffer(chunk.buffers()[1] or b"", dtype=np.int32)[::4]
        total += int(views[chunk.offset : chunk.offset + len(chunk)].sum(dtype=np.int64))
    return total


def _settle(table: Any, schema: Any) -> Any:
    """Bring a table that was read into the types of its answer, after checking its size.

    Args:
        table: A table that is valid.
        schema: The types that its text columns shall have.
    """
    import pyarrow as pa

    size, columns, fields = 0, [], []
    for field, column in zip(schema, table.columns, strict=True):
        kind = field.type
        if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
            size += _view_size(column)
            kind = pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary()
        else:
            size += _unpacked_size(column)
        check_size(size)
        columns.append(column if column.type == kind else column.cast(kind))
        # What else a field says of itself is not taken over: it may be of another tool.
        fields.append(pa.field(field.name, kind))
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key == b"pandas"}
    return pa.Table.from_arrays(columns, schema=pa.schema(fields, metadata))


def _read_ipc(body: bytes, form: Form, contract: Contract) -> Any:
    """Read Arrow's own form.

    A file is a stream with a magic word before it and a table of contents behind, which is not
    read: it could lead elsewhere.
    """
    import pyarrow as pa
    from pyarrow import ipc

    buffer = pa.py_buffer(body)
    if form == "file":
        if not body.startswith(b"ARROW1\0\0") or not body.endswith(b"ARROW1"):
            raise RefusalError(
                400, "The body can't be read as an Arrow file: it lacks ARROW1 at an end."
            )
        buffer = buffer.slice(8)
    _check_messages(buffer)
    options = ipc.IpcReadOptions(use_threads=False)
    rows, batches = 0, []
    with ipc.open_stream(buffer, options=options) as reader:
        schema = reader.schema
        _check_columns(schema, contract)
        for batch in reader:
            rows += batch.num_rows
            contract.check_count(rows)
            # Offsets and lengths are the client's word until here.
            batch.validate(full=True)
            batches.append(batch)
    return _settle(pa.Table.from_batches(batches, schema).unify_dictionaries(), schema)


def _check_messages(buffer: Any) -> None:
    """Add up what the compressed buffers of a stream say to be the size of their contents."""
    from pyarrow import ipc

    size = 0
    reader = ipc.MessageReader.open_stream(buffer)
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        if message.type in {"record batch", "dictionary"}:
            size += _declared_size(bytes(message.metadata), message.body)
            check_size(size)


def _declared_size(metadata: bytes, body: Any) -> int:
    """Add up the sizes of the buffers of a message once they are unpacked.

    Args:
        metadata: A ``Message`` of ``format/Message.fbs``, as FlatBuffers write it. Arrow checks it
            itself when it reads the batch.
        body: The buffers.
    """

    def field(table: int, number: int) -> int:
        """Find a field of a table; 0 if it was left out."""
        entry = table - _int32(metadata, table)
        place = 4 + 2 * number
        if place >= struct.unpack_from("<H", metadata, entry)[0]:
            return 0
        offset: int = struct.unpack_from("<H", metadata, entry + place)[0]
        return table + offset if offset else 0

    def follow(place: int) -> int:
        return place + _int32(metadata, place)

    message = follow(0)
    batch = follow(field(message, 2))
    if metadata[field(message, 1)] == 2:  # a dictionary holds a batch
        batch = follow(field(batch, 1))
    # Where Arrow 0.17 wrote that it compressed, and where it is still looked for.
    compressed = field(batch, 3) or b"ARROW:experimental_compression" in metadata
    buffers = field(batch, 2)
    if not compressed or not buffers:
        # Not compressed, they are parts of the body; how many show the same is counted later.
        return 0
    vector = follow(buffers)
    pairs = np.frombuffer(metadata, np.int64, 2 * _int32(metadata, vector), vector + 4)
    size = 0
    for offset, length in pairs.reshape(-1, 2).tolist():
        if length >= 8 and 0 <= offset <= len(body) - 8:
            size += max(0, struct.unpack("<q", body.slice(offset, 8))[0])
    return size


def _int32(data: bytes, place: int) -> int:
    value: int = struct.unpack_from("<i", data, place)[0]
    return value


def _read_parquet(body: bytes, contract: Contract, *, only_features: bool = False) -> Any:
    import pyarrow as pa
    from pyarrow import parquet

    # Not by pyarrow's `metadata.row_group(i).column(j)`: what is damaged there ends the process.
    num_rows = check_parquet(body, contract)
    with parquet.ParquetFile(pa.BufferReader(body)) as file:
        schema = file.schema_arrow
    _check_columns(schema, contract, only_features=only_features)
    if only_features:
        positions = find_features(schema.names, contract)
        schema = pa.schema([schema.field(position) for position in positions])
    check_size(num_rows * sum(_width(field.type) for field in schema))
    # Of a text that stands in many rows the file holds one copy, and so does a dictionary.
    texts = [
        field.name
        for field in schema
        if _is_text(field.type)
        or pa.types.is_string_view(field.type)
        or pa.types.is_binary_view(field.type)
    ]
    with parquet.ParquetFile(pa.BufferReader(body), read_dictionary=texts) as file:
        table = file.read(columns=schema.names if only_features else None, use_threads=False)
    table.validate(full=True)
    if only_features:
        table = table.select(schema.names)
    if table.num_rows != num_rows or table.num_columns != len(schema):
        raise contradiction()
    return _settle(table, schema)


def _read_csv(body: bytes, contract: Contract) -> Any:
    """Read a CSV; all its columns stay text."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise RefusalError(400, "The body can't be read as CSV: it is no UTF-8.") from None
    header = _csv_header(text)
    if len(header) > _MAX_COLUMNS:
        raise RefusalError(
            422, f"There are {len(header)} columns; a table may have {_MAX_COLUMNS} at most."
        )
    ragged: list[tuple[int | None, int]] = []

    def note(row: Any) -> str:
        ragged.append((row.number, row.actual_columns))
        return "error"

    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(body),
            # In one block: a row may be of any length.
            read_options=arrow_csv.ReadOptions(use_threads=False, block_size=len(body) + 1),
            parse_options=arrow_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note),
            convert_options=arrow_csv.ConvertOptions(
                default_column_type=pa.string(), strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid:
        if not ragged:
            raise
        number, count = ragged[0]
        where = "A row" if number is None else f"Row {number - 1}"
        raise RefusalError(
            422, f"{where} has {count} values; the header has {len(header)}."
        ) from None
    contract.check_count(table.num_rows)
    find_features(table.schema.names, contract)
    _check_names(table.schema.names, contract)
    return table.combine_chunks()


def _csv_header(text: str) -> list[str]:
    try:
        return next((row for row in csv.reader(io.StringIO(text, newline="")) if row), [])
    except csv.Error as error:
        raise RefusalError(400, f"The body can't be read as CSV: {shorten(str(error))}.") from None


def _rows(table: Any, contract: Contract, *, from_text: bool) -> NDArray[np.float64]:
    """Take the features out of a table.

    Returns:
        Shape ``(n_rows, n_features)``, C-contiguous; NaN where missing.

    Raises:
        RefusalError: 422, a value is no finite number.
    """
    features = contract.signature.features
    values = np.empty((table.num_rows, len(features)), dtype=np.float64)
    for index, feature in enumerate(features):
        column = table.column(feature.name)
        if feature.type in {"category", "date"}:
            values[:, index] = _others(column, index, contract)
        else:
            values[:, index] = _parse(column, feature.name) if from_text else _numbers(column)
    contract.check_values(values)
    return values


def _others(column: Any, index: int, contract: Contract) -> NDArray[np.float64]:
    """Read a column of categories or dates as numbers."""
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        return _seconds(column)
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return read_texts(column.to_pylist(), index, contract)
    return contract.read_column(index, column.to_pylist())


_TICKS = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}  # in a second
_FIRST_SECOND, _END_SECOND = -62_135_596_800, 253_402_300_800  # of the years 1 to 9999


def _seconds(column: Any) -> NDArray[np.float64]:
    """Read a column of dates in seconds since 1970-01-01; infinite outside the years 1 to 9999."""
    import pyarrow as pa

    kind = column.type
    missing = column.is_null().to_numpy()
    if pa.types.is_date32(kind):
        seconds = column.cast(pa.int32()).fill_null(0).to_numpy() * 86_400.0
    else:
        ticks = _TICKS[kind.unit] if pa.types.is_timestamp(kind) else _TICKS["ms"]
        whole = column.cast(pa.int64()).fill_null(0).to_numpy()
        # As in training, nothing below a microsecond counts.
        seconds = whole // 1_000 / 1e6 if ticks == _TICKS["ns"] else whole / ticks
    seconds[(seconds < _FIRST_SECOND) | (seconds >= _END_SECOND)] = np.inf
    return np.where(missing, np.nan, seconds)


def _numbers(column: Any) -> NDArray[np.float64]:
    """Read a column of numbers as float64, as near as float64 comes to them."""
    import pyarrow as pa

    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    numbers: NDArray[np.float64] = column.cast(pa.float64(), safe=False).to_numpy()
    return numbers


def _parse(column: Any, feature: str) -> NDArray[np.float64]:
    """Read a column of text as float64."""
    import pyarrow as pa
    import pyarrow.compute as pc

    texts = pc.utf8_trim_whitespace(column)
    missing = pc.is_in(texts, value_set=pa.array(MISSING_WORDS))
    try:
        there = texts.filter(pc.invert(missing)).cast(pa.float64())
        if pc.any(pc.is_nan(there)).as_py():
            raise pa.ArrowInvalid
    except pa.ArrowInvalid:
        # A truth value, or wrong: slower, row by row.
        return np.array(
            [_text_to_number(text, feature, row) for row, text in enumerate(texts.to_pylist())]
        )
    values = np.full(len(column), np.nan)
    values[~missing.to_numpy()] = there.to_numpy()
    return values


def read_texts(texts: Sequence[str | None], index: int, contract: Contract) -> NDArray[np.float64]:
    """Read a column of text, as CSV has it; the words of pandas for a missing value are one.

    Args:
        texts: The values of one feature.
        index: The position of the feature.
        contract: What the model needs.

    Returns:
        Shape ``(n_rows,)``, as of `Contract.read_column`.

    Raises:
        RefusalError: 422, with the row and the feature.
    """
    feature = contract.signature.features[index]
    if feature.type not in {"category", "date"}:
        return np.array(
            [_text_to_number(text or "", feature.name, row) for row, text in enumerate(texts)]
        )
    gaps = _MISSING.difference(feature.levels or ())
    column = [None if text in gaps else text for text in texts]
    return contract.read_column(index, column)


def _text_to_number(text: str, feature: str, row: int) -> float:
    """Read a field of a CSV.

    Args:
        text: What stands there.
        feature: Its column, for the message.
        row: Counted from 0, for the message.

    Returns:
        NaN where the value is missing; perhaps infinite.

    Raises:
        RefusalError: 422.
    """
    text = text.strip()
    if text in _MISSING:
        return float("nan")
    if NUMBER.fullmatch(text):
        return float(text)
    # Truth values are written as words by pandas and by Excel, each in its own case.
    word = text.lower() if len(text) <= 9 else ""
    if word in {"true", "false"}:
        return float(word == "true")
    if word.lstrip("+-") in {"inf", "infinity"}:
        return float("inf")
    raise RefusalError(
        422, f"Row {row + 1}: feature '{shorten(feature)}' must be a finite number, got text."
    )
