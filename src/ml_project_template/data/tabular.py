"""A table of numbers, categories and dates, with a target column of classes or numbers."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd

from ml_project_template.data.base import BaseDataset
from ml_project_template.data.column_types import (
    check_column_types,
    is_constant,
    is_identifier,
    typed_column,
)
from ml_project_template.data.columns import check_unique, show
from ml_project_template.data.files import FileFormat, format_of, parse
from ml_project_template.data.splitting import num_rows_of, split_indices
from ml_project_template.data.targets import encode_labels, given_class_names, read_numbers, task_of
from ml_project_template.errors import ConfigError, DataError, unknown
from ml_project_template.utils import io
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ml_project_template.data.preprocessing import Preprocessor
    from ml_project_template.data.signature import Signature, Task

__all__ = ["TabularDataset"]

logger = logging.getLogger(__name__)

FilePath = str | os.PathLike[str]

# How many columns a message names before it says '...'.
_SHOWN_COLUMNS = 10


class TabularDataset(BaseDataset):
    """Features, and a class label or a number for each row.

    Args:
        features: One column for each feature: numbers, truth values, texts or dates. See
            `typed_column` for what they are taken for; missing values are NaN, None or NaT.
        target: The target of each row, or None where it is not known.
        target_column: The name of the target.
        task: ``classification``, ``regression``, or ``auto``, which tells them apart by the target.
        columns: Feature name to ``numeric``, ``category``, ``date`` or ``drop``, where it shall not
            be found out.
        class_names: The labels in the order of their codes. Default: those that occur, sorted as
            numbers if all are numbers, else as text.
        drop_identifiers: Leave out text that never repeats, and whole numbers that only count the
            rows, unless ``columns`` names them.
        drop_constant: Leave out columns that hold one value alone, likewise.
        name: What the data set is called in logs.
        digest: The SHA-256 of the file that the table was read from.
        source: The path or URL that the table was read from.
        signature: What the raw features look like; set on prepared data.
        preprocessor: What the features were prepared with; set on prepared data.
        split_keys: What a split goes by, such as a group or a time of each row.

    Attributes:
        features: The typed columns; of prepared data, float32.
        dropped: Column name to why it was left out: ``identifier``, ``constant``, ``columns`` or
            ``split``.

    Raises:
        ConfigError: An unknown task, or an unknown type in ``columns``.
        DataError: The table can't be used as it is; the message names column, row and value.
    """

    def __init__(
        self,
        features: pd.DataFrame,
        target: NDArray[Any] | pd.Series[Any] | Sequence[object] | None,
        *,
        target_column: str,
        task: Task | Literal["auto"] = "auto",
        columns: Mapping[str, str] | None = None,
        class_names: Sequence[object] | None = None,
        drop_identifiers: bool = False,
        drop_constant: bool = False,
        name: str = "dataset",
        digest: str | None = None,
        source: str | None = None,
        signature: Signature | None = None,
        preprocessor: Preprocessor | None = None,
        split_keys: pd.Series[Any] | None = None,
    ) -> None:
        where = f"'{source or name}'"
        self.name = name
        self.digest = digest
        self.source = source
        self.target_column = target_column
        self.signature = signature
        self.preprocessor = preprocessor
        self.split_keys = None if split_keys is None else split_keys.reset_index(drop=True)
        self.features = _typed_features(features, columns or {}, where)
        self.dropped = {key: "columns" for key, kind in (columns or {}).items() if kind == "drop"}
        self._drop(columns or {}, identifiers=drop_identifiers, constant=drop_constant, where=where)
        self._feature_names = tuple(str(column) for column in self.features.columns)
        if target_column in self._feature_names:
            raise DataError(f"{where}: the target column '{target_column}' is also a feature.")
        self._y: NDArray[np.int64] | NDArray[np.float64] | None = None
        self._class_names: tuple[str, ...] = ()
        self._matrix: NDArray[np.float32] | None = None
        values = None if target is None else pd.Series(target).reset_index(drop=True)
        if values is not None and len(values) != len(self.features):
            raise DataError(
                f"{where}: {len(values)} labels for {len(self.features)} rows of features."
            )
        self._task = task_of(values, task, target_column, class_names, where)
        if values is not None and self._task == "regression":
            self._y = read_numbers(values, target_column, where)
        elif values is not None:
            self._y, self._class_names = encode_labels(values, target_column, class_names, where)
        elif class_names is not None:
            self._class_names = given_class_names(class_names)

    def _drop(
        self, columns: Mapping[str, str], *, identifiers: bool, constant: bool, where: str
    ) -> None:
        """Leave out the columns that no model can learn from, and say so."""
        for name in list(self.features.columns):
            if name in columns:
                continue
            if identifiers and is_identifier(self.features[name], name):
                self.dropped[name] = "identifier"
            elif constant and is_constant(self.features[name]):
                self.dropped[name] = "constant"
        left_out = [name for name in self.features.columns if name in self.dropped]
        if not left_out:
            return
        if len(left_out) == self.features.shape[1]:
            raise DataError(
                f"{where} has no feature to learn from: {', '.join(left_out[:_SHOWN_COLUMNS])} "
                "only name or number the rows, or hold one value alone. Keep one: "
                f"'data.columns={{{left_out[0]}: category}}'"
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
                        *(where, name, what, name),
                    )
        self.features = self.features.drop(columns=left_out)

    # -- reading and writing ---------------------------------------------------------------------

    @classmethod
    def from_file(
        cls,
        path: FilePath,
        *,
        target_column: str,
        task: Task | Literal["auto"] = "auto",
        columns: Mapping[str, str] | None = None,
        class_names: Sequence[object] | None = None,
        drop_columns: Sequence[str] = (),
        only_columns: Sequence[str] | None = None,
        drop_identifiers: bool = True,
        drop_constant: bool = False,
        split_column: str | None = None,
        name: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        file_format: FileFormat | None = None,
        **read_options: Any,
    ) -> Self:
        """Read a table.

        Args:
            path: A local path or a URL; with ``*`` in its name, as many files of the same columns
                as match, one below the other in the order of their names.
            target_column: The column of the target.
            task: As for the class.
            columns: As for the class.
            class_names: The labels in the order of their codes.
            drop_columns: Columns that are neither feature nor target.
            only_columns: The features; other columns are left out. None takes all.
            drop_identifiers: As for the class.
            drop_constant: As for the class.
            split_column: The column that becomes ``split_keys``. It is no feature unless
                ``columns`` or ``only_columns`` name it: what tells the parts apart would leak.
            name: What the data set is called; default: the name of the file.
            storage_options: Options of the storage that the path lies on.
            file_format: ``csv`` or ``jsonl`` (JSON lines), plain or compressed, ``parquet`` or
                ``arrow`` (Feather or Arrow's IPC); None goes by the ending.
            **read_options: How a CSV is written, in the words of ``pandas.read_csv``, such as
                ``sep=";"``, ``decimal=","`` or ``encoding="latin-1"``.

        Raises:
            ConfigError: The ending is none of these, an option that ``pandas.read_csv`` does not
                know, or options of a CSV are given for another format.
            DataError: The file is empty, a directory, ragged or not of its format, a column is
                missing or doubled, or a value is not of the type of its column.
            FileNotFoundError: There is no such file.
        """
        text = os.fspath(path)
        file_format = file_format or format_of(text)
        if file_format != "csv" and read_options:
            raise ConfigError(
                f"'{text}': {', '.join(sorted(read_options))} can only be set for a CSV."
            )
        shown = public_url(text)
        where = f"'{shown}'"
        table, digest = _read(text, file_format, storage_options, read_options)
        if table.empty:
            raise DataError(f"{where} has no rows of data.")
        known = columns or {}
        keys = _split_keys(table, split_column, target_column, where)
        splits = split_column is not None and split_column not in {*known, *drop_columns}
        splits = splits and only_columns is None
        if splits:
            logger.info(
                "%s: the column '%s' splits the rows and is left out; "
                "'data.columns={%s: category}' keeps it as a feature.",
                *(where, split_column, split_column),
            )
            drop_columns = [*drop_columns, str(split_column)]
        features, target = _separate(table, target_column, drop_columns, only_columns, where)
        if only_columns is not None:
            known = {key: kind for key, kind in known.items() if key in only_columns}
        dataset = cls(
            features,
            target,
            target_column=target_column,
            task=task,
            columns=known,
            class_names=class_names,
            drop_identifiers=drop_identifiers and only_columns is None,
            drop_constant=drop_constant and only_columns is None,
            name=name or PurePosixPath(text).name.split(".")[0],
            digest=digest,
            source=shown,
            split_keys=keys,
        )
        if splits:
            dataset.dropped[str(split_column)] = "split"
        return dataset

    @classmethod
    def from_csv(cls, path: FilePath, *, target_column: str, **options: Any) -> Self:
        """Read a CSV file with a header line, plain or compressed, in UTF-8 unless told otherwise.

        Args:
            path: A local path or a URL, of any ending.
            target_column: The column of the target.
            **options: As for `from_file`, such as ``storage_options`` or ``sep=";"``.

        Raises:
            ConfigError: As for `from_file`.
            DataError: As for `from_file`.
            FileNotFoundError: There is no such file.
        """
        return cls.from_file(path, target_column=target_column, file_format="csv", **options)

    @classmethod
    def from_parquet(cls, path: FilePath, *, target_column: str, **options: Any) -> Self:
        """Read a Parquet file.

        Args:
            path: A local path or a URL, of any ending.
            target_column: The column of the target.
            **options: As for `from_file`, such as ``storage_options``.

        Raises:
            DataError: As for `from_file`.
            FileNotFoundError: There is no such file.
        """
        return cls.from_file(path, target_column=target_column, file_format="parquet", **options)

    def to_parquet(self, path: FilePath, storage_options: Mapping[str, Any] | None = None) -> str:
        """Write features and target as one Parquet file, whole or not at all.

        Args:
            path: A local path or a URL.
            storage_options: Options of the storage that the path lies on.

        Returns:
            The path.
        """
        text = os.fspath(path)
        io.write_bytes(text, self.parquet_bytes(), storage_options=storage_options)
        return text

    def parquet_bytes(self) -> bytes:
        """Write features and target, labels as text, into the bytes of a Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(self.features, preserve_index=False)
        if self._y is not None and self._task == "regression":
            table = table.append_column(self.target_column, pa.array(self._y))
        elif self._y is not None:
            # As a dictionary, so that a label is stored once however many rows bear it.
            labels = pa.DictionaryArray.from_arrays(
                pa.array(self._y, type=pa.int32()), pa.array(self._class_names)
            )
            table = table.append_column(self.target_column, labels.cast(pa.string()))
        # The metadata of pandas would name a column that it does not know.
        sink = pa.BufferOutputStream()
        pq.write_table(table.replace_schema_metadata(None), sink)
        return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]

    # -- what a model reads ----------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.features)

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(name={self.name!r}, rows={len(self)}, "
            f"features={self.num_features}, {self.target_text})"
        )

    @property
    def target_text(self) -> str:
        """What the target is, in short: ``classes=3`` or ``regression``."""
        return "regression" if self._task == "regression" else f"classes={self.num_classes}"

    @property
    def task(self) -> Task:
        """Whether the target is a class or a number."""
        return self._task

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """The number of levels of each prepared feature that is a category, 0 for the others."""
        if self.preprocessor is None:
            return (0,) * self.num_features
        return self.preprocessor.cardinalities_

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the feature columns, in their order."""
        return self._feature_names

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of their codes; empty where none are known."""
        return self._class_names

    @property
    def has_target(self) -> bool:
        """Whether the target of the rows is known."""
        return self._y is not None

    @property
    def X(self) -> NDArray[np.float32]:
        """Features of shape ``(n_samples, n_features)``, float32, C-contiguous.

        A category is the place of its level, NaN where it is missing or unseen.

        Raises:
            DataError: A value is too large for float32, or there are categories or dates and the
                data are not prepared yet.
        """
        if self._matrix is None:
            for name, column in self.features.items():
                if column.dtype.kind not in "biuf":
                    raise DataError(
                        f"'{self.source or self.name}': column '{name}' holds no numbers; prepare "
                        "the data first: Preprocessor().fit(train).transform(train)."
                    )
            with np.errstate(over="ignore"):
                matrix = np.ascontiguousarray(self.features.to_numpy(dtype=np.float32))
            infinite = np.isinf(matrix)
            if infinite.any():
                row, place = (int(index[0]) for index in np.nonzero(infinite))
                raise DataError(
                    f"'{self.source or self.name}': column '{self._feature_names[place]}', row "
                    f"{row + 1}: {show(self.features.iloc[row, place])} is too large for a 32-bit "
                    "float; standardise the data (preprocessing=standardize)."
                )
            self._matrix = matrix
        return self._matrix

    @property
    def y(self) -> NDArray[Any]:
        """The target of shape ``(n_samples,)``.

        Class codes, int64, each an index into ``class_names``; for a regression float64.

        Raises:
            DataError: The target is not known.
        """
        if self._y is None:
            raise DataError(f"'{self.source or self.name}' has no target: its rows are unlabelled.")
        return self._y

    @property
    def labels(self) -> NDArray[np.object_]:
        """The class name of each row, strings of shape ``(n_samples,)``.

        Raises:
            DataError: The target is a number.
        """
        if self._task == "regression":
            raise DataError(f"'{self.source or self.name}': a numeric target has no labels.")
        labels: NDArray[np.object_] = np.asarray(self._class_names, dtype=object)[self.y]
        return labels

    @property
    def codes(self) -> NDArray[np.int64]:
        """What rows are stratified by, of shape ``(n_samples,)``: classes; zeros for a regression.

        Raises:
            DataError: The target is not known.
        """
        return self.y if self._task == "classification" else np.zeros(len(self.y), dtype=np.int64)

    # -- parts -----------------------------------------------------------------------------------

    def split(self, test_size: float, random_state: int) -> tuple[Self, Self]:
        """Split the rows in two, with the classes in the same proportions.

        For a regression the rows are drawn at random. Where a class has too few rows for that,
        some of them stay in the training part and a warning is logged: no class is ever lost from
        training. Each part keeps the order of the rows.

        Args:
            test_size: The part of the rows that goes to the second data set, in (0, 1).
            random_state: The seed of the draw; the same seed draws the same rows.

        Returns:
            The training part and the test part.

        Raises:
            ConfigError: ``test_size`` is not between 0 and 1.
            DataError: A part would be empty.
        """
        if isinstance(test_size, bool) or not 0.0 < test_size < 1.0:
            raise ConfigError(
                f"test_size must be a fraction between 0 and 1, both excluded, got {test_size}."
            )
        train, test = split_indices(
            self.codes,
            self._class_names or ("",),
            num_rows_of(test_size, len(self)),
            random_state,
            self.name,
        )
        return self.take(train), self.take(test)

    def take(self, rows: NDArray[np.int64] | Sequence[int]) -> Self:
        """Choose rows; everything else about the data set stays.

        Args:
            rows: Positions of shape ``(n_chosen,)``, in the order wanted.

        Raises:
            DataError: No row is chosen.
        """
        positions = np.asarray(rows, dtype=np.int64)
        if len(positions) == 0:
            raise DataError(f"'{self.source or self.name}': no row is chosen.")
        part = copy.copy(self)
        part.features = self.features.iloc[positions].reset_index(drop=True)
        part._y = None if self._y is None else self._y[positions]
        if self.split_keys is not None:
            part.split_keys = self.split_keys.iloc[positions].reset_index(drop=True)
        part._matrix = None
        return part

    def with_features(
        self,
        features: pd.DataFrame,
        *,
        signature: Signature | None,
        preprocessor: Preprocessor | None,
    ) -> Self:
        """Put prepared features in the place of the raw ones; labels and origin stay.

        Args:
            features: Finite numbers or NaN, as many rows as before.
            signature: What the raw features look like.
            preprocessor: What the features were prepared with.
        """
        prepared = copy.copy(self)
        prepared.features = features
        prepared._feature_names = tuple(str(column) for column in features.columns)
        prepared._matrix = None
        prepared.signature = signature
        prepared.preprocessor = preprocessor
        return prepared


def _read(
    path: str,
    file_format: FileFormat,
    storage_options: Mapping[str, Any] | None,
    read_options: Mapping[str, Any],
) -> tuple[pd.DataFrame, str]:
    """Read a file, or all that a pattern stands for; give the rows and the digest."""
    tables: list[pd.DataFrame] = []
    digests: list[str] = []
    files = io.matching_files(path, storage_options)
    for file in files:
        where = f"'{public_url(file)}'"
        # Read once: the digest is that of the very bytes that are parsed.
        try:
            data = io.read_bytes(file, storage_options=storage_options)
        except IsADirectoryError as error:
            raise DataError(f"{where} is a directory; the path must name a file.") from error
        digests.append(hashlib.sha256(data).hexdigest())
        table = parse(data, where, file_format, read_options)
        if tables and list(table.columns) != list(tables[0].columns):
            differing = set(table.columns) ^ set(tables[0].columns)
            what = f"'{min(map(str, differing))}' is in one alone" if differing else "another order"
            raise DataError(
                f"{where} has not the columns of '{public_url(files[0])}': {what}; the files of a "
                "pattern must have the same."
            )
        tables.append(table)
    joined = tables[0] if len(tables) == 1 else pd.concat(tables, ignore_index=True)
    return joined, io.joined_digest(digests)


def _typed_features(features: pd.DataFrame, columns: Mapping[str, str], where: str) -> pd.DataFrame:
    """Find out what each column holds, and turn it into that, sharing what needs no change."""
    if features.shape[1] == 0:
        raise DataError(f"{where} has no feature column.")
    if len(features) == 0:
        raise DataError(f"{where} has no rows of data.")
    names = [str(column) for column in features.columns]
    check_unique(names, where)
    check_column_types(columns, names, where)
    typed: dict[str, pd.Series[Any]] = {}
    problems: dict[str, DataError] = {}
    for index, name in enumerate(names):
        if columns.get(name) == "drop":
            continue
        try:
            column = features.iloc[:, index].reset_index(drop=True)
            typed[name] = typed_column(column, name, where, columns.get(name))
        except DataError as error:
            problems[name] = error
    if problems:
        # All of them at once: a table with one such column mostly has more.
        rest = ", ..." if len(problems) > _SHOWN_COLUMNS else ""
        names_shown = ", ".join(list(problems)[:_SHOWN_COLUMNS]) + rest
        raise DataError(
            f"{next(iter(problems.values()))} Mend it, or leave columns out: "
            f"data.drop_columns=[{names_shown}]"
        )
    if not typed:
        raise DataError(f"{where} has no feature column: data.columns drops all of them.")
    return pd.DataFrame(typed, copy=False)


def _split_keys(
    table: pd.DataFrame, split_column: str | None, target_column: str, where: str
) -> pd.Series[Any] | None:
    """Find the column that a split goes by."""
    if split_column is None:
        return None
    names = [str(column) for column in table.columns]
    if split_column not in names:
        raise DataError(f"{where}: {unknown('split column', split_column, names)}")
    if split_column == target_column:
        raise DataError(f"{where}: the target column '{target_column}' can't split the rows.")
    keys = table.iloc[:, names.index(split_column)]
    first = next(iter(keys.dropna().head(1)), None)
    if isinstance(first, (dict, list, np.ndarray)):
        raise DataError(f"{where}: the split column '{split_column}' holds lists or objects.")
    return keys


def _separate(
    table: pd.DataFrame,
    target_column: str,
    drop_columns: Sequence[str],
    only_columns: Sequence[str] | None,
    where: str,
) -> tuple[pd.DataFrame, pd.Series[Any]]:
    """Take the target out of a table and drop what is neither feature nor target."""
    table.columns = pd.Index([str(column) for column in table.columns], dtype=object)
    names = list(table.columns)
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
        return table[list(only_columns)], table[target_column]
    unnamed = [name for name in names if name.startswith("Unnamed: ") and name not in drop_columns]
    if unnamed:
        logger.warning(
            "%s: a column without a name is used as the feature '%s'; drop it if it only numbers "
            "the rows.",
            where,
            unnamed[0],
        )
    return table.drop(columns=[target_column, *drop_columns]), table[target_column]
