"""The columns of a table as they were read, taken one after the other, so that few are in memory.

A table of ten million rows is some gigabytes, and so is what is made of it. Whoever needs the
columns but once takes each, makes what is to be made of it, and lets it go: then there is never
more in memory than the table itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from ml_project_template.data.column_types import (
    check_column_types,
    is_constant,
    is_identifier,
    typed_column,
)
from ml_project_template.data.columns import check_unique
from ml_project_template.data.files import FileFormat, parquet_columns, parse
from ml_project_template.data.parts import SplitRows
from ml_project_template.data.targets import read_target
from ml_project_template.errors import ConfigError, DataError, unknown
from ml_project_template.utils import io
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from pathlib import Path

    import pyarrow as pa

    from ml_project_template.data.signature import Task

__all__ = ["OpenTable", "RawColumns", "TypedColumns", "open_table", "read_columns"]

logger = logging.getLogger(__name__)

Makers = dict[str, Callable[[], "pd.Series[Any]"]]
"""Column name to what makes the column of what was read; it is called once at most."""

# A local file of more bytes than this is not held in memory beside what it holds.
_LARGE = 2**26
# The columns of a Parquet file of more bytes are read one by one, for which one thread does it all.
_HUGE = 2**29
_ATTEMPTS = 3
# How many columns a message names before it says '...'.
_SHOWN_COLUMNS = 10


class RawColumns:
    """The columns of one table, or of several that stand one below the other.

    Args:
        parts: Of each table what makes its columns, by their names; all have the same names in the
            same order.
        num_rows: How many rows all of them have.
        digest: The SHA-256 of the file, or that of the digests of the files, if there are any.

    Attributes:
        names: The columns that there are, in their order.
        digest: The same.
    """

    def __init__(self, parts: Sequence[Makers], num_rows: int, digest: str) -> None:
        self.digest = digest
        self._parts = parts
        self.names = list(parts[0])
        self._num_rows = num_rows

    @classmethod
    def of_frame(cls, frame: pd.DataFrame) -> RawColumns:
        """Take the columns of a table of pandas.

        Args:
            frame: The table.
        """
        return cls([_columns_of(frame)], len(frame), "")

    def __len__(self) -> int:
        return self._num_rows

    def take(self, name: str, *, keep: bool = False) -> pd.Series[Any]:
        """Give a column, once: nothing of it is kept here.

        Args:
            name: One of the names.
            keep: It will be taken once more.
        """
        _give_back_memory()
        made = [columns[name] if keep else columns.pop(name) for columns in self._parts]
        columns = [make() for make in made]
        return columns[0] if len(columns) == 1 else pd.concat(columns, ignore_index=True)


def read_columns(
    path: str,
    file_format: FileFormat,
    storage_options: Mapping[str, Any] | None,
    read_options: Mapping[str, Any],
) -> RawColumns:
    """Read a file, or all that a pattern stands for.

    Args:
        path: A local path or a URL.
        file_format: What the files are.
        storage_options: Options of the storage that the path lies on.
        read_options: How a CSV is written.

    Raises:
        ConfigError: An unknown option.
        DataError: A file can't be read, or the files differ in their columns.
        FileNotFoundError: There is no such file.
    """
    parts: list[Makers] = []
    digests: list[str] = []
    num_rows = 0
    files = io.matching_files(path, storage_options)
    for file in files:
        where = f"'{public_url(file)}'"
        part, size, digest = _read_file(file, where, file_format, storage_options, read_options)
        if parts and list(part) != list(parts[0]):
            differing = set(part) ^ set(parts[0])
            what = f"'{min(differing)}' is in one alone" if differing else "another order"
            raise DataError(
                f"{where} has not the columns of '{public_url(files[0])}': {what}; the files of a "
                "pattern must have the same."
            )
        parts.append(part)
        digests.append(digest)
        num_rows += size
    return RawColumns(parts, num_rows, io.joined_digest(digests))


def _read_file(
    path: str,
    where: str,
    file_format: FileFormat,
    storage_options: Mapping[str, Any] | None,
    read_options: Mapping[str, Any],
) -> tuple[Makers, int, str]:
    """Read a file; the digest is that of the very bytes that are parsed.

    Returns:
        What makes its columns, the number of rows, and the digest.
    """
    for _ in range(_ATTEMPTS):
        state = io.local_state(path)
        if state is None or state[2] <= _LARGE:
            try:
                data = io.read_bytes(path, storage_options=storage_options)
            except IsADirectoryError as error:
                raise DataError(f"{where} is a directory; the path must name a file.") from error
            table = parse(data, where, file_format, read_options)
            return _columns_of(table), len(table), hashlib.sha256(data).hexdigest()
        # Read twice, then, and once more where it has changed in between.
        local = io.local_path(path)
        if file_format == "parquet" and state[2] > _HUGE:
            found = _columns_of_parquet(local, where, path, state)
            if found is not None:
                return *found, io.sha256(path)
        table = parse(local, where, file_format, read_options)
        digest = io.sha256(path)
        if io.local_state(path) == state:
            return _columns_of(table), len(table), digest
    raise _changing(where)


def _columns_of_parquet(
    local: Path, where: str, path: str, state: tuple[int, ...]
) -> tuple[Makers, int] | None:
    """Have each column read when it is taken; None where that can't be."""
    opened = parquet_columns(local, where)
    if opened is None:
        return None
    schema, num_rows, read = opened

    def make(name: str) -> pd.Series[Any]:
        column = read(name)
        if io.local_state(path) != state:
            raise _changing(where)
        return _series(schema.field(name), column, schema.metadata)

    index = _index_of(schema)
    return {n: partial(make, n) for n in schema.names if n not in index}, num_rows


def _changing(where: str) -> DataError:
    return DataError(f"{where} changes while it is read.")


def _give_back_memory() -> None:
    """Have Arrow give back what it keeps of a large table that is not used any more."""
    import pyarrow as pa

    if pa.total_allocated_bytes() > _LARGE:
        pa.default_memory_pool().release_unused()


def _columns_of(table: pa.Table | pd.DataFrame) -> Makers:
    """Name the columns of a table, each with what makes it a column of pandas."""
    if isinstance(table, pd.DataFrame):
        return {
            str(label): partial(_column_of, table, place)
            for place, label in enumerate(table.columns)
        }
    schema, index = table.schema, _index_of(table.schema)
    return {
        name: partial(_series, schema.field(place), table.column(place), schema.metadata)
        for place, name in enumerate(schema.names)
        if name not in index
    }


def _column_of(frame: pd.DataFrame, place: int) -> pd.Series[Any]:
    return frame.iloc[:, place].reset_index(drop=True)


def _index_of(schema: pa.Schema) -> set[str]:
    """Name the columns that pandas wrote as an index: they are none of the table's own."""
    metadata = schema.pandas_metadata or {}
    return {name for name in metadata.get("index_columns", []) if isinstance(name, str)}


def _series(
    field: pa.Field, column: pa.ChunkedArray, metadata: Mapping[bytes, bytes] | None
) -> pd.Series[Any]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_float32(kind) or pa.types.is_float64(kind) or pa.types.is_integer(kind):
        # Most columns of most tables: without what pandas does for all others.
        return pd.Series(column.to_numpy(), copy=False)
    # Pandas' own types are in its metadata.
    schema = pa.schema([field], metadata=dict(metadata or {}))
    frame: pd.DataFrame = pa.Table.from_arrays([column], schema=schema).to_pandas()
    return frame.iloc[:, 0].reset_index(drop=True)


class TypedColumns:
    """Finds out what each column holds, and leaves out those that no model can learn from.

    Iterate over it once, for pairs of name and typed column, see `typed_column`. What is wrong with
    the columns, all of them, is raised at the end; what is left out is logged then.

    Args:
        names: The columns, in their order.
        take: Gives a column by its name.
        num_rows: How many rows there are.
        columns: Column name to ``numeric``, ``category``, ``date`` or ``drop``, where it shall not
            be found out.
        drop_identifiers: Leave out text that never repeats, and whole numbers that only count the
            rows, unless ``columns`` names them.
        drop_constant: Leave out columns that hold one value alone, likewise.
        where: What the columns belong to, for messages.
        splits: A column that is none of them, because it splits the rows.

    Attributes:
        dropped: Column name to why it is left out: ``identifier``, ``constant``, ``columns`` or
            ``split``.

    Raises:
        ConfigError: An unknown type in ``columns``.
        DataError: There is no column or no row, or a column can't be used as it is.
    """

    def __init__(
        self,
        names: Sequence[str],
        take: Callable[[str], pd.Series[Any]],
        *,
        num_rows: int,
        columns: Mapping[str, str],
        drop_identifiers: bool,
        drop_constant: bool,
        where: str,
        splits: str | None = None,
    ) -> None:
        if not names:
            raise DataError(f"{where} has no feature column.")
        if num_rows == 0:
            raise DataError(f"{where} has no rows of data.")
        check_unique(names, where)
        check_column_types(columns, names, where)
        self.dropped = {name: "columns" for name, kind in columns.items() if kind == "drop"}
        self._names = [name for name in names if name not in self.dropped]
        self._take = take
        self._columns = columns
        self._drop_identifiers = drop_identifiers
        self._drop_constant = drop_constant
        self._where = where
        self._splits = splits

    def __iter__(self) -> Iterator[tuple[str, pd.Series[Any]]]:
        problems: dict[str, DataError] = {}
        for name in self._names:
            try:
                column = typed_column(self._take(name), name, self._where, self._columns.get(name))
            except DataError as error:
                problems[name] = error
                continue
            reason = None if name in self._columns else self._reason_to_drop(name, column)
            if reason is None:
                yield name, column
            else:
                self.dropped[name] = reason
        self._raise(problems)
        self._tell()
        if self._splits is not None:
            self.dropped[self._splits] = "split"

    def _reason_to_drop(self, name: str, column: pd.Series[Any]) -> str | None:
        if self._drop_identifiers and is_identifier(column, name):
            return "identifier"
        return "constant" if self._drop_constant and is_constant(column) else None

    def _raise(self, problems: Mapping[str, DataError]) -> None:
        if problems:
            # All of them at once: a table with one such column mostly has more.
            rest = ", ..." if len(problems) > _SHOWN_COLUMNS else ""
            names_shown = ", ".join(list(problems)[:_SHOWN_COLUMNS]) + rest
            raise DataError(
                f"{next(iter(problems.values()))} Mend it, or leave columns out: "
                f"data.drop_columns=[{names_shown}]"
            )
        if not self._names:
            raise DataError(f"{self._where} has no feature column: data.columns drops all of them.")

    def _tell(self) -> None:
        left_out = [name for name in self._names if name in self.dropped]
        if left_out and len(left_out) == len(self._names):
            raise DataError(
                f"{self._where} has no feature to learn from: "
                f"{', '.join(left_out[:_SHOWN_COLUMNS])} only name or number the rows, or hold one "
                f"value alone. Keep one: 'data.columns={{{left_out[0]}: category}}'"
            )
        for reason, what in (
            ("identifier", "only names or numbers the rows"),
            ("constant", "holds one value alone"),
        ):
            for name in left_out:
                if self.dropped[name] == reason:
                    logger.warning(
                        "%s: the column '%s' %s and is left out; 'data.columns={%s: category}' "
                        "keeps it.",
                        *(self._where, name, what, name),
                    )


@dataclass(frozen=True)
class OpenTable:
    """A table whose target is read, and whose features wait to be taken.

    Attributes:
        rows: The target, and what a split goes by.
        features: The features, to be iterated over once.
        digest: The SHA-256 of the file, or that of the digests of the files.
        source: The path or URL without its secrets.
    """

    rows: SplitRows
    features: TypedColumns
    digest: str
    source: str


def open_table(
    path: str,
    *,
    target_column: str,
    task: Task | Literal["auto"],
    columns: Mapping[str, str] | None,
    class_names: Sequence[object] | None,
    drop_columns: Sequence[str],
    only_columns: Sequence[str] | None,
    drop_identifiers: bool,
    drop_constant: bool,
    split_column: str | None,
    file_format: FileFormat,
    storage_options: Mapping[str, Any] | None,
    read_options: Mapping[str, Any],
) -> OpenTable:
    """Read a table up to its target; see ``TabularDataset.from_file`` for arguments and errors."""
    source = public_url(path)
    where = f"'{source}'"
    raw = read_columns(path, file_format, storage_options, read_options)
    if len(raw) == 0 or not raw.names:
        raise DataError(f"{where} has no rows of data.")
    known = columns or {}
    keys = _split_keys(raw, split_column, target_column, where)
    splits = split_column is not None and split_column not in {*known, *drop_columns}
    splits = splits and only_columns is None
    if splits:
        logger.info(
            "%s: the column '%s' splits the rows and is left out; 'data.columns={%s: category}' "
            "keeps it as a feature.",
            *(where, split_column, split_column),
        )
        drop_columns = [*drop_columns, str(split_column)]
    names = _feature_names(raw.names, target_column, drop_columns, only_columns, where)
    if only_columns is not None:
        known = {key: kind for key, kind in known.items() if key in only_columns}
    features = TypedColumns(
        names,
        raw.take,
        num_rows=len(raw),
        columns=known,
        drop_identifiers=drop_identifiers and only_columns is None,
        drop_constant=drop_constant and only_columns is None,
        where=where,
        splits=split_column if splits else None,
    )
    y, found, labels = read_target(raw.take(target_column), task, target_column, class_names, where)
    rows = SplitRows(
        y=y, task=found, class_names=labels, target_column=target_column, split_keys=keys
    )
    return OpenTable(rows, features, raw.digest, source)


def _split_keys(
    raw: RawColumns, split_column: str | None, target_column: str, where: str
) -> pd.Series[Any] | None:
    """Find the column that a split goes by."""
    if split_column is None:
        return None
    if split_column not in raw.names:
        raise DataError(f"{where}: {unknown('split column', split_column, raw.names)}")
    if split_column == target_column:
        raise DataError(f"{where}: the target column '{target_column}' can't split the rows.")
    keys = raw.take(split_column, keep=True)
    first = next(iter(keys.dropna().head(1)), None)
    if isinstance(first, (dict, list, np.ndarray)):
        raise DataError(f"{where}: the split column '{split_column}' holds lists or objects.")
    return keys


def _feature_names(
    names: Sequence[str],
    target_column: str,
    drop_columns: Sequence[str],
    only_columns: Sequence[str] | None,
    where: str,
) -> list[str]:
    """Choose the columns that are neither target nor to be dropped."""
    check_unique(names, where)
    if target_column not in names:
        message = f"{where}: {unknown('target column', target_column, names)}"
        separators = [sign for sign in ";\t|" if sign in names[0]]
        if len(names) == 1 and separators:
            message += f" The file seems to be separated by {separators[0]!r}: set sep."
        raise DataError(message)
    if isinstance(drop_columns, str):
        raise ConfigError(f"drop_columns must be a list of names, got '{drop_columns}'.")
    for column in drop_columns:
        if column not in names:
            raise DataError(f"{where}: {unknown('column to drop', column, names)}")
    if target_column in drop_columns:
        raise DataError(f"{where}: the target column '{target_column}' can't be dropped.")
    if only_columns is not None:
        for column in only_columns:
            if column not in names:
                raise DataError(f"{where} lacks a feature: {unknown('column', column, names)}")
        if target_column in only_columns:
            raise DataError(f"{where}: the target column '{target_column}' is also a feature.")
        return list(only_columns)
    unnamed = [name for name in names if name.startswith("Unnamed: ") and name not in drop_columns]
    if unnamed:
        logger.warning(
            "%s: a column without a name is used as the feature '%s'; drop it if it only numbers "
            "the rows.",
            where,
            unnamed[0],
        )
    return [name for name in names if name not in {target_column, *drop_columns}]
