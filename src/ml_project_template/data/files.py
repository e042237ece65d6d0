"""From the bytes of a file to a table: every failure is one line that names the file."""

from __future__ import annotations

import gzip
import inspect
import io
import warnings
import zlib
from collections.abc import Mapping
from typing import Any, Literal

import pandas as pd

from ml_project_template.data.columns import MISSING_WORDS, check_unique
from ml_project_template.errors import ConfigError, DataError, unknown

__all__ = ["FileFormat", "format_of", "parse", "parse_csv", "parse_parquet"]

FileFormat = Literal["csv", "parquet"]

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
    if path.lower().endswith((".csv", ".csv.gz")):
        return "csv"
    if path.lower().endswith(".parquet"):
        return "parquet"
    raise ConfigError(f"'{path}': the file must end in .csv, .csv.gz or .parquet.")


def parse(
    data: bytes, where: str, file_format: FileFormat, options: Mapping[str, Any]
) -> pd.DataFrame:
    """Read the bytes of a file.

    Args:
        data: The whole file.
        where: What the file is called in a message, in quotes.
        file_format: What they are.
        options: How a CSV is written.

    Raises:
        ConfigError: As for `parse_csv`.
        DataError: As for `parse_csv` and `parse_parquet`.
    """
    return parse_csv(data, where, options) if file_format == "csv" else parse_parquet(data, where)


def parse_csv(data: bytes, where: str, options: Mapping[str, Any]) -> pd.DataFrame:
    """Read the bytes of a CSV file, plain or gzipped.

    Args:
        data: The whole file.
        where: What the file is called in a message, in quotes.
        options: How the file is written, in the words of ``pandas.read_csv``.

    Raises:
        ConfigError: An option that ``pandas.read_csv`` does not know.
        DataError: The file is empty, ragged or not text, or a column name stands in it more than
            once.
    """
    known = set(inspect.signature(pd.read_csv).parameters) - _OWN_OPTIONS
    for option in options:
        if option not in known:
            raise ConfigError(unknown("read option", option, known))
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{where} is a damaged gzip file: {error}.") from error
    if set(options) <= _ARROW_OPTIONS and not isinstance(options.get("na_values"), Mapping):
        return _parse_with_arrow(data, where, options)
    return _parse_with_pandas(data, where, options)


def _parse_with_arrow(data: bytes, where: str, options: Mapping[str, Any]) -> pd.DataFrame:
    import pyarrow as pa
    from pyarrow import csv

    missing = options.get("na_values") or []
    missing = [missing] if isinstance(missing, (str, int, float)) else missing
    quote = options.get("quotechar", '"')
    try:
        table = csv.read_csv(
            pa.BufferReader(data),
            # A row must fit into a block; one of a very wide table has a header as wide.
            csv.ReadOptions(
                encoding=options.get("encoding", "utf8"),
                block_size=min(max(2**20, 16 * data.find(b"\n")), 2**31 - 1),
            ),
            csv.ParseOptions(
                delimiter=options.get("sep", options.get("delimiter", ",")),
                quote_char=quote,
                # Slower, for blocks can't be cut at any line break then.
                newlines_in_values=quote.encode() in data,
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
        names = [name or f"Unnamed: {position}" for position, name in enumerate(table.column_names)]
        check_unique(names, where)
        frame: pd.DataFrame = table.rename_columns(names).to_pandas()
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
    return frame


def _parse_with_pandas(data: bytes, where: str, options: Mapping[str, Any]) -> pd.DataFrame:
    # Without index_col=False the first column would become the index where rows are longer than
    # the header; low_memory would guess the type of a column piece by piece.
    fixed = {"index_col": False, "low_memory": False, "engine": "c"}
    try:
        with warnings.catch_warnings():
            # pandas only warns where it is about to leave out values of rows that are too long.
            warnings.simplefilter("error", pd.errors.ParserWarning)
            if not {"header", "names", "skiprows", "comment", "dialect"} & set(options):
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


def parse_parquet(data: bytes, where: str) -> pd.DataFrame:
    """Read the bytes of a Parquet file.

    Args:
        data: The whole file.
        where: What the file is called in a message, in quotes.

    Raises:
        DataError: The bytes are no Parquet file, or a column name stands in it more than once.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not data:
        raise DataError(f"{where} is empty.")
    try:
        with pq.ParquetFile(pa.BufferReader(data)) as file:
            check_unique(file.schema_arrow.names, where)
            frame: pd.DataFrame = file.read().to_pandas()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{where} is not a readable Parquet file: {_one_line(error)}") from error
    return frame
