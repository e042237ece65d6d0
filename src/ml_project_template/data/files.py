"""From the bytes of a file to a table: every failure is one line that names the file."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import inspect
import io
import logging
import lzma
import re
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from ml_project_template.data.columns import MISSING_WORDS, check_unique
from ml_project_template.errors import ConfigError, DataError, unknown
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "ENDINGS",
    "Content",
    "FileFormat",
    "decompress",
    "format_of",
    "parquet_columns",
    "parse",
    "parse_arrow",
    "parse_csv",
    "parse_json_lines",
    "parse_parquet",
    "sniff",
]

logger = logging.getLogger(__name__)

FileFormat = Literal["csv", "parquet", "arrow", "jsonl"]

Content = bytes | Path
"""The bytes of a file, or where a local one lies that is too large to be in memory as well."""

ENDINGS: dict[str, FileFormat] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".parquet": "parquet",
    ".feather": "arrow",
    ".arrow": "arrow",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
}
"""The endings of files that can be read. Those of text may be followed by one of a compression."""

_COMPRESSIONS = (".gz", ".bz2", ".zst", ".xz")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")
_TEXT_FORMATS = ("csv", "jsonl")
_SEPARATORS = ",;\t|"
_SNIFFED_LINES = 100
_STREAMED = 2**29  # bytes of a CSV that may be in memory beside what it holds
# Bytes that are read at once of a longer one. Of small blocks the values of many columns would be
# side by side in memory, which is not given back when a column is done with.
_STREAM_BLOCK = 2**25
_START = 2**20  # bytes that tell how a file is written
# Options of a CSV with which its first line need not be its header.
_MOVED_HEADER = frozenset({"comment", "dialect", "header", "names", "skiprows"})

# The options that pyarrow's reader is given in its own words. It is the strict one: a row that is
# too short is an error there, while pandas' reader fills it up without a word. Any other option is
# left to pandas.
_ARROW_OPTIONS = frozenset(
    {"decimal", "delimiter", "encoding", "keep_default_na", "na_values", "quotechar", "sep"}
)
# Options that would change what is read rather than how, or that are set here.
_OWN_OPTIONS = frozenset(
    {"chunksize", "filepath_or_buffer", "index_col", "iterator", "on_bad_lines", "storage_options"}
)


def format_of(path: str) -> FileFormat:
    """Tell the format of a file by the ending of its name.

    Args:
        path: A local path or a URL.

    Raises:
        ConfigError: The ending is none of a format that can be read.
    """
    name = re.split("[?#]", path)[0] if re.match("https?://", path) else path
    name = name.lower()
    compressed = next((ending for ending in _COMPRESSIONS if name.endswith(ending)), "")
    name = name.removesuffix(compressed)
    for ending, found in ENDINGS.items():
        if name.endswith(ending) and (not compressed or found in _TEXT_FORMATS):
            return found
    raise ConfigError(
        f"'{public_url(path)}': the file must end in {', '.join(ENDINGS)}; text also in these with "
        f"{', '.join(_COMPRESSIONS)}."
    )


def parse(
    data: Content, where: str, file_format: FileFormat, options: Mapping[str, Any]
) -> pa.Table | pd.DataFrame:
    """Read a file.

    Args:
        data: The file, or its bytes.
        where: What the file is called in a message, in quotes.
        file_format: What they are.
        options: How a CSV is written.

    Raises:
        ConfigError: As for `parse_csv`.
        DataError: As for the function of the format.
    """
    if file_format == "csv":
        return parse_csv(data, where, options)
    if file_format == "jsonl":
        return parse_json_lines(_whole(data), where)
    return parse_arrow(data, where) if file_format == "arrow" else parse_parquet(data, where)


def _whole(data: Content) -> bytes:
    return data.read_bytes() if isinstance(data, Path) else data


def _start(data: Content) -> bytes:
    if isinstance(data, bytes):
        return data[:_START]
    with data.open("rb") as handle:
        return handle.read(_START)


def _contains(data: Content, sign: bytes) -> bool:
    """Say whether a byte is anywhere in a file."""
    if isinstance(data, bytes):
        return sign in data
    with data.open("rb") as handle:
        return any(sign in block for block in iter(lambda: handle.read(_START), b""))


def parquet_columns(
    path: Path, where: str
) -> tuple[pa.Schema, int, Callable[[str], pa.ChunkedArray]] | None:
    """Open a Parquet file whose columns are read one by one.

    Args:
        path: The file.
        where: What the file is called in a message, in quotes.

    Returns:
        What its columns are, how many rows it has, and what reads a column; None where their names
        don't tell them apart, as one with a point may be that of a part of another column.

    Raises:
        DataError: It is no Parquet file, or a column name stands in it more than once; also when a
            column is read.
    """
    import pyarrow.parquet as pq

    with _told_of_parquet(where):
        file = pq.ParquetFile(path)
    schema = file.schema_arrow
    check_unique(schema.names, where)
    if any("." in name for name in schema.names):
        return None

    def read(name: str) -> pa.ChunkedArray:
        with _told_of_parquet(where):
            return file.read(columns=[name]).column(name)

    return schema, file.metadata.num_rows, read


@contextlib.contextmanager
def _told_of_parquet(where: str) -> Iterator[None]:
    """Say in one line that a Parquet file is damaged."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where} is not a readable Parquet file: {_one_line(error)}") from error


def _opened(data: Content) -> pa.NativeFile:
    """Open a file for Arrow, which reads of a large one what it is about to need."""
    import pyarrow as pa

    return pa.BufferReader(data) if isinstance(data, bytes) else pa.OSFile(str(data))


def decompress(data: bytes, where: str) -> bytes:
    """Undo a compression that the first bytes tell of: gzip, bzip2, Zstandard or xz.

    Args:
        data: The whole file, compressed or not.
        where: What the file is called in a message, in quotes.

    Raises:
        DataError: The file is damaged.
    """
    import pyarrow as pa

    try:
        if data[:2] == b"\x1f\x8b":
            return gzip.decompress(data)
        if data[:3] == b"BZh" and data[4:10] == b"1AY&SY":
            return bz2.decompress(data)
        if data[:6] == b"\xfd7zXZ\x00":
            return lzma.decompress(data)
        if data[:4] == b"\x28\xb5\x2f\xfd":
            with pa.CompressedInputStream(pa.BufferReader(data), "zstd") as stream:
                return bytes(stream.read())
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError) as error:
        names = {b"\x1f\x8b": "gzip", b"BZ": "bzip2", b"\xfd7": "xz"}
        kind = names.get(data[:2], "Zstandard")
        raise DataError(f"{where} is a damaged {kind} file: {_one_line(error)}.") from error
    return data


def sniff(start: bytes, where: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Find out how a CSV is written, as far as the options leave it open.

    Its header tells what separates the columns: a comma, a semicolon, a tab or a bar, whichever
    stands there most often outside of quotes. After semicolons, numbers are read with a decimal
    comma if the first hundred lines have some, and none with a point. What is no comma is logged.

    Args:
        start: The file, not compressed, or the beginning of a long one.
        where: What the file is called in a message, in quotes.
        options: How the file is written, in the words of ``pandas.read_csv``.

    Returns:
        The options with ``sep``, and ``decimal``, where these are found out.
    """
    if {"sep", "delimiter", *_MOVED_HEADER} & set(options):
        return dict(options)
    quote = re.escape(str(options.get("quotechar", '"')))
    try:
        text = start[:_START].decode(str(options.get("encoding", "utf-8")), errors="replace")
    except LookupError:
        # Whoever reads it says so.
        return dict(options)
    header, *lines = text.split("\n", _SNIFFED_LINES)
    counts = Counter(re.sub(f"{quote}[^{quote}]*{quote}", "", header))
    separator = max(_SEPARATORS, key=lambda sign: counts[sign])
    if separator == "," or counts[separator] == 0:
        return dict(options)
    found = {**options, "sep": separator}
    if separator == ";" and "decimal" not in options:
        cells = [cell.strip().strip('"') for line in lines[:-1] for cell in line.split(separator)]
        if any(re.fullmatch(r"[+-]?\d+,\d+", cell) for cell in cells) and not any(
            re.fullmatch(r"[+-]?\d+\.\d+", cell) for cell in cells
        ):
            found["decimal"] = ","
    name = {"\t": "tabs", "|": "bars", ";": "semicolons"}[separator]
    commas = ", its numbers have decimal commas" if found.get("decimal") == "," else ""
    logger.info(
        "%s is separated by %s%s (set data.read_options.sep and decimal if not).",
        *(where, name, commas),
    )
    return found


def parse_csv(data: Content, where: str, options: Mapping[str, Any]) -> pa.Table | pd.DataFrame:
    """Read a CSV file, plain or compressed.

    Args:
        data: The file, or its bytes.
        where: What the file is called in a message, in quotes.
        options: How the file is written, in the words of ``pandas.read_csv``; see `sniff` for what
            is found out.

    Raises:
        ConfigError: An option that ``pandas.read_csv`` does not know.
        DataError: The file is empty, ragged or not text, or a column name stands in it more than
            once.
    """
    known = set(inspect.signature(pd.read_csv).parameters) - _OWN_OPTIONS
    for option in options:
        if option not in known:
            raise ConfigError(unknown("read option", option, known))
    start = _start(data)
    if start.startswith(_COMPRESSED):
        data = decompress(_whole(data), where)
        start = _start(data)
    elif b"\n" not in start:
        data = _whole(data)
    options = sniff(start, where, options)
    if set(options) <= _ARROW_OPTIONS and not isinstance(options.get("na_values"), Mapping):
        return _parse_with_arrow(data, where, options)
    return _parse_with_pandas(_whole(data), where, options)


def _parse_with_arrow(data: Content, where: str, options: Mapping[str, Any]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    missing = options.get("na_values") or []
    missing = [missing] if isinstance(missing, (str, int, float)) else missing
    quote = options.get("quotechar", '"')
    # A row must fit into a block; one of a very wide table has a header as wide.
    header = (data if isinstance(data, bytes) else _start(data)).find(b"\n")
    try:
        streamed = isinstance(data, Path) and data.stat().st_size > _STREAMED
        block_size = max(_STREAM_BLOCK if streamed else _START, 16 * header)
        how = (
            csv.ReadOptions(
                encoding=options.get("encoding", "utf8"), block_size=min(block_size, 2**31 - 1)
            ),
            csv.ParseOptions(
                delimiter=options.get("sep", options.get("delimiter", ",")),
                quote_char=quote,
                # Slower, for blocks can't be cut at any line break then.
                newlines_in_values=_contains(data, quote.encode()),
            ),
            csv.ConvertOptions(
                decimal_point=options.get("decimal", "."),
                null_values=[
                    *(MISSING_WORDS if options.get("keep_default_na", True) else ()),
                    *(str(value) for value in missing),
                ],
                strings_can_be_null=True,
            ),
        )
        table = _stream_csv(data, how) if streamed else None
        if table is None:
            table = csv.read_csv(_opened(data), *how)
        names = [name or f"Unnamed: {position}" for position, name in enumerate(table.column_names)]
        check_unique(names, where)
        table = table.rename_columns(names)
    except DataError:
        raise
    except UnicodeError as error:
        raise _not_text(where, options) from error
    except (pa.ArrowException, OSError) as error:
        if "Empty CSV file" in str(error):
            raise DataError(f"{where} is empty.") from error
        raise DataError(f"{where} is not a regular CSV: {_one_line(error)}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(f"{where} can't be read as CSV: {_one_line(error)}") from error
    # A column that is not UTF-8 is left as bytes.
    if any(pa.types.is_binary(kind) for kind in table.schema.types):
        raise _not_text(where, options)
    return table


def _stream_csv(data: Content, how: tuple[Any, Any, Any]) -> pa.Table | None:
    """Read a large CSV block by block; None where the first one is not enough to tell its types.

    Read as a whole, its text would be in memory beside the values until the end, for a column whose
    type turns out to be another one. A column that has the type of its first block to the end has
    that type when it is read as a whole, too.
    """
    import pyarrow as pa
    from pyarrow import csv

    try:
        with csv.open_csv(_opened(data), *how) as reader:
            return reader.read_all()
    except pa.ArrowInvalid:
        return None


def _parse_with_pandas(data: bytes, where: str, options: Mapping[str, Any]) -> pd.DataFrame:
    # Without index_col=False the first column would become the index where rows are longer than
    # the header; low_memory would guess the type of a column piece by piece.
    fixed = {"index_col": False, "low_memory": False, "engine": "c"}
    try:
        with warnings.catch_warnings():
            # pandas only warns where it is about to leave out values of rows that are too long.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            if not _MOVED_HEADER & set(options):
                _check_header(data, where, options)
            table = pd.read_csv(io.BytesIO(data), **{**fixed, **options})
    except DataError:
        raise
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{where} is empty.") from error
    except UnicodeError as error:
        raise _not_text(where, options) from error
    except (pd.errors.ParserError, pd.errors.ParserWarning) as error:
        raise DataError(f"{where} is not a regular CSV: {_one_line(error)}") from error
    except (ValueError, TypeError, LookupError) as error:
        raise DataError(f"{where} can't be read as CSV: {_one_line(error)}") from error
    if not isinstance(table, pd.DataFrame):
        raise DataError(f"{where} can't be read as one table with these read options.")
    return table


def _one_line(error: Exception, limit: int = 200) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _check_header(data: bytes, where: str, options: Mapping[str, Any]) -> None:
    """Refuse a doubled column name, which pandas would silently number."""
    layout = {
        key: value
        for key, value in options.items()
        if key in {"sep", "delimiter", "quotechar", "quoting", "escapechar", "encoding"}
    }
    header = pd.read_csv(
        io.BytesIO(data),
        header=None,
        nrows=1,
        dtype=str,
        keep_default_na=False,
        index_col=False,
        **layout,
    )
    check_unique([name for name in header.iloc[0].tolist() if name != ""], where)


def _not_text(where: str, options: Mapping[str, Any]) -> DataError:
    encoding = options.get("encoding", "UTF-8")
    return DataError(
        f"{where} is not {encoding} text; set encoding, such as latin-1 or cp1252, "
        "if it was written with another one."
    )


def parse_json_lines(data: bytes, where: str) -> pa.Table:
    """Read the bytes of a file of JSON objects, one in each line, plain or compressed.

    Args:
        data: The whole file.
        where: What the file is called in a message, in quotes.

    Raises:
        DataError: The file is empty, or a line holds no object.
    """
    import pyarrow as pa
    from pyarrow import json

    data = decompress(data, where)
    if not data.strip():
        raise DataError(f"{where} is empty.")
    try:
        # An object must fit into a block; how long the longest is, is not known.
        options = json.ReadOptions(block_size=min(max(2**20, len(data)), 2**31 - 1))
        table: pa.Table = json.read_json(pa.BufferReader(data), options)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where} is not JSON lines: {_one_line(error)}") from error
    check_unique(table.column_names, where)
    return table


def parse_arrow(data: Content, where: str) -> pa.Table:
    """Read an Arrow file: Feather (version 2), or a file or a stream of Arrow's IPC.

    Args:
        data: The file, or its bytes.
        where: What the file is called in a message, in quotes.

    Raises:
        DataError: The bytes are no Arrow file, or a column name stands in it more than once.
    """
    import pyarrow as pa

    start = _start(data)
    if not start:
        raise DataError(f"{where} is empty.")
    opener = pa.ipc.open_file if start[:6] == b"ARROW1" else pa.ipc.open_stream
    try:
        with opener(_opened(data)) as reader:
            table: pa.Table = reader.read_all()
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{where} is not a readable Arrow file: {_one_line(error)}") from error
    check_unique(table.column_names, where)
    return table


def parse_parquet(data: Content, where: str, *, dictionaries: Sequence[str] = ()) -> pa.Table:
    """Read a Parquet file.

    Args:
        data: The file, or its bytes.
        dictionaries: Columns of text that are read as Arrow's dictionaries.
        where: What the file is called in a message, in quotes.

    Raises:
        DataError: The bytes are no Parquet file, or a column name stands in it more than once.
    """
    import pyarrow.parquet as pq

    if not _start(data):
        raise DataError(f"{where} is empty.")
    with (
        _told_of_parquet(where),
        pq.ParquetFile(_opened(data), read_dictionary=list(dictionaries)) as file,
    ):
        table: pa.Table = file.read()
    check_unique(table.column_names, where)
    return table
