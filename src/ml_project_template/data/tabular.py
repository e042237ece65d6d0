"""A table of numbers with a target column of class labels."""

from __future__ import annotations

import copy
import hashlib
import logging
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from ml_project_template.data.base import BaseDataset
from ml_project_template.data.columns import (
    check_unique,
    label_text,
    label_texts,
    numeric_column,
    show,
    sort_labels,
)
from ml_project_template.data.files import parse_csv, parse_parquet
from ml_project_template.data.splitting import num_rows_of, split_indices
from ml_project_template.errors import ConfigError, DataError, unknown
from ml_project_template.utils import io
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from ml_project_template.data.preprocessing import Preprocessor
    from ml_project_template.data.signature import Signature

__all__ = ["TabularDataset"]

logger = logging.getLogger(__name__)

FilePath = str | os.PathLike[str]

# A target with more different labels than this, most of them seen once, is no class label.
_MOST_RARE_LABELS = 50

# How many columns a message names before it says '...'.
_SHOWN_COLUMNS = 10


class TabularDataset(BaseDataset):
    """Numeric features and a class label for each row.

    Args:
        features: One column for each feature, of bool, int or float; missing values are NaN.
        target: The label of each row, or None where the labels are not known.
        target_column: The name of the target.
        class_names: The labels in the order of their codes. Default: those that occur, sorted as
            numbers if all are numbers, else as text.
        name: What the data set is called in logs.
        digest: The SHA-256 of the file that the table was read from.
        source: The path or URL that the table was read from.
        signature: What the raw features look like; set on prepared data.
        preprocessor: What the features were prepared with; set on prepared data.

    Raises:
        DataError: The table can't be used as it is; the message names column, row and value.
    """

    def __init__(
        self,
        features: pd.DataFrame,
        target: NDArray[Any] | pd.Series[Any] | Sequence[object] | None,
        *,
        target_column: str,
        class_names: Sequence[object] | None = None,
        name: str = "dataset",
        digest: str | None = None,
        source: str | None = None,
        signature: Signature | None = None,
        preprocessor: Preprocessor | None = None,
    ) -> None:
        where = f"'{source or name}'"
        self.name = name
        self.digest = digest
        self.source = source
        self.target_column = target_column
        self.signature = signature
        self.preprocessor = preprocessor
        self.features = _numeric_features(features, where)
        self._feature_names = tuple(str(column) for column in self.features.columns)
        if target_column in self._feature_names:
            raise DataError(f"{where}: the target column '{target_column}' is also a feature.")
        self._codes: NDArray[np.int64] | None = None
        self._class_names: tuple[str, ...] = ()
        self._matrix: NDArray[np.float32] | None = None
        if target is not None:
            labels = pd.Series(target).reset_index(drop=True)
            if len(labels) != len(self.features):
                raise DataError(
                    f"{where}: {len(labels)} labels for {len(self.features)} rows of features."
                )
            self._codes, self._class_names = _encode(labels, target_column, class_names, where)
        elif class_names is not None:
            self._class_names = _given_class_names(class_names)

    # -- reading and writing ---------------------------------------------------------------------

    @classmethod
    def from_file(
        cls,
        path: FilePath,
        *,
        target_column: str,
        storage_options: Mapping[str, Any] | None = None,
        class_names: Sequence[object] | None = None,
        drop_columns: Sequence[str] = (),
        name: str | None = None,
        **read_options: Any,
    ) -> Self:
        """Read a table by the ending of its name: ``.csv``, ``.csv.gz`` or ``.parquet``.

        Args:
            path: A local path or a URL.
            target_column: The column of the labels.
            storage_options: Options of the storage that the path lies on.
            class_names: The labels in the order of their codes.
            drop_columns: Columns that are neither feature nor target.
            name: What the data set is called; default: the name of the file.
            **read_options: How a CSV is written, as for ``from_csv``.

        Raises:
            ConfigError: The ending is none of these, or options of a CSV are given for Parquet.
            DataError: As for ``from_csv`` and ``from_parquet``.
            FileNotFoundError: There is no such file.
        """
        text = os.fspath(path)
        if text.lower().endswith((".csv", ".csv.gz")):
            return cls.from_csv(
                text,
                target_column=target_column,
                storage_options=storage_options,
                class_names=class_names,
                drop_columns=drop_columns,
                name=name,
                **read_options,
            )
        if not text.lower().endswith(".parquet"):
            raise ConfigError(f"'{text}': the file must end in .csv, .csv.gz or .parquet.")
        if read_options:
            raise ConfigError(
                f"'{text}': {', '.join(sorted(read_options))} can only be set for a CSV."
            )
        return cls.from_parquet(
            text,
            target_column=target_column,
            storage_options=storage_options,
            class_names=class_names,
            drop_columns=drop_columns,
            name=name,
        )

    @classmethod
    def from_csv(
        cls,
        path: FilePath,
        *,
        target_column: str,
        storage_options: Mapping[str, Any] | None = None,
        class_names: Sequence[object] | None = None,
        drop_columns: Sequence[str] = (),
        name: str | None = None,
        **read_options: Any,
    ) -> Self:
        """Read a CSV file with a header line, plain or gzipped, in UTF-8 unless told otherwise.

        Args:
            path: A local path or a URL.
            target_column: The column of the labels.
            storage_options: Options of the storage that the path lies on.
            class_names: The labels in the order of their codes.
            drop_columns: Columns that are neither feature nor target.
            name: What the data set is called; default: the name of the file.
            **read_options: How the file is written, in the words of ``pandas.read_csv``, such as
                ``sep=";"``, ``decimal=","`` or ``encoding="latin-1"``.

        Raises:
            ConfigError: An option that ``pandas.read_csv`` does not know.
            DataError: The file is empty, a directory, ragged or not text, a column is missing or
                doubled, or a value is not a number.
            FileNotFoundError: There is no such file.
        """
        return cls._read(
            path,
            lambda data, where: parse_csv(data, where, read_options),
            target_column=target_column,
            storage_options=storage_options,
            class_names=class_names,
            drop_columns=drop_columns,
            name=name,
        )

    @classmethod
    def from_parquet(
        cls,
        path: FilePath,
        *,
        target_column: str,
        storage_options: Mapping[str, Any] | None = None,
        class_names: Sequence[object] | None = None,
        drop_columns: Sequence[str] = (),
        name: str | None = None,
    ) -> Self:
        """Read a Parquet file.

        Args:
            path: A local path or a URL.
            target_column: The column of the labels.
            storage_options: Options of the storage that the path lies on.
            class_names: The labels in the order of their codes.
            drop_columns: Columns that are neither feature nor target.
            name: What the data set is called; default: the name of the file.

        Raises:
            DataError: The file is empty, a directory or no Parquet, a column is missing or
                doubled, or a value is not a number.
            FileNotFoundError: There is no such file.
        """
        return cls._read(
            path,
            parse_parquet,
            target_column=target_column,
            storage_options=storage_options,
            class_names=class_names,
            drop_columns=drop_columns,
            name=name,
        )

    @classmethod
    def _read(
        cls,
        path: FilePath,
        parse: Callable[[bytes, str], pd.DataFrame],
        *,
        target_column: str,
        storage_options: Mapping[str, Any] | None,
        class_names: Sequence[object] | None,
        drop_columns: Sequence[str],
        name: str | None,
    ) -> Self:
        text = os.fspath(path)
        shown = public_url(text)
        where = f"'{shown}'"
        # Read once: the digest is that of the very bytes that are parsed.
        try:
            data = io.read_bytes(text, storage_options=storage_options)
        except IsADirectoryError as error:
            raise DataError(f"{where} is a directory; the path must name a file.") from error
        table = parse(data, where)
        if table.empty:
            raise DataError(f"{where} has no rows of data.")
        features, target = _separate(table, target_column, drop_columns, where)
        return cls(
            features,
            target,
            target_column=target_column,
            class_names=class_names,
            name=name or PurePosixPath(text).name.split(".")[0],
            digest=hashlib.sha256(data).hexdigest(),
            source=shown,
        )

    def to_parquet(self, path: FilePath, storage_options: Mapping[str, Any] | None = None) -> str:
        """Write features and labels as one Parquet file, whole or not at all.

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
        """Write features and labels, as text, into the bytes of a Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.Table.from_pandas(self.features, preserve_index=False)
        if self._codes is not None:
            # As a dictionary, so that a label is stored once however many rows bear it.
            labels = pa.DictionaryArray.from_arrays(
                pa.array(self._codes, type=pa.int32()), pa.array(self._class_names)
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
            f"features={self.num_features}, classes={self.num_classes})"
        )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the feature columns, in their order."""
        return self._feature_names

    @property
    def num_features(self) -> int:
        """The number of feature columns."""
        return len(self._feature_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes in the order of their codes; empty where none are known."""
        return self._class_names

    @property
    def num_classes(self) -> int:
        """The number of classes, those included that no row here belongs to."""
        return len(self._class_names)

    @property
    def has_target(self) -> bool:
        """Whether the labels of the rows are known."""
        return self._codes is not None

    @property
    def X(self) -> NDArray[np.float32]:
        """Features of shape ``(n_samples, n_features)``, float32, C-contiguous.

        Raises:
            DataError: A value is too large for float32.
        """
        if self._matrix is None:
            with np.errstate(over="ignore"):
                matrix = np.ascontiguousarray(self.features.to_numpy(dtype=np.float32))
            infinite = np.isinf(matrix)
            if infinite.any():
                row, column = (int(index[0]) for index in np.nonzero(infinite))
                raise DataError(
                    f"'{self.source or self.name}': column '{self._feature_names[column]}', row "
                    f"{row + 1}: {show(self.features.iloc[row, column])} is too large for a 32-bit "
                    "float; standardise the data (preprocessing=standardize)."
                )
            self._matrix = matrix
        return self._matrix

    @property
    def y(self) -> NDArray[np.int64]:
        """Class codes of shape ``(n_samples,)``, int64, each an index into ``class_names``.

        Raises:
            DataError: The data set has no labels.
        """
        if self._codes is None:
            raise DataError(f"'{self.source or self.name}' has no target: its rows are unlabelled.")
        return self._codes

    @property
    def labels(self) -> NDArray[np.object_]:
        """The class name of each row, strings of shape ``(n_samples,)``."""
        return np.asarray(self._class_names, dtype=object)[self.y]

    # -- parts -----------------------------------------------------------------------------------

    def split(self, test_size: float, random_state: int) -> tuple[Self, Self]:
        """Split the rows in two, with the classes in the same proportions.

        Where a class has too few rows for that, some of them stay in the training part and a
        warning is logged: no class is ever lost from training. Each part keeps the order of the
        rows.

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
            self.y, self._class_names, num_rows_of(test_size, len(self)), random_state, self.name
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
        part._codes = None if self._codes is None else self._codes[positions]
        part._matrix = None
        return part

    def with_features(
        self, features: pd.DataFrame, *, signature: Signature, preprocessor: Preprocessor
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


def _numeric_features(features: pd.DataFrame, where: str) -> pd.DataFrame:
    """Check the feature columns and turn each into numbers, sharing what needs no change."""
    if features.shape[1] == 0:
        raise DataError(f"{where} has no feature column.")
    if len(features) == 0:
        raise DataError(f"{where} has no rows of data.")
    names = [str(column) for column in features.columns]
    check_unique(names, where)
    columns: dict[str, pd.Series[Any]] = {}
    problems: dict[str, DataError] = {}
    for index, name in enumerate(names):
        try:
            column = features.iloc[:, index].reset_index(drop=True)
            columns[name] = numeric_column(column, name, where)
        except DataError as error:
            problems[name] = error
    if problems:
        # All of them at once: a table with one column of text mostly has more.
        rest = ", ..." if len(problems) > _SHOWN_COLUMNS else ""
        names_shown = ", ".join(list(problems)[:_SHOWN_COLUMNS]) + rest
        raise DataError(
            f"{next(iter(problems.values()))} Mend it, or leave columns out: "
            f"data.drop_columns=[{names_shown}]"
        )
    return pd.DataFrame(columns, copy=False)


def _separate(
    table: pd.DataFrame, target_column: str, drop_columns: Sequence[str], where: str
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
    unnamed = [name for name in names if name.startswith("Unnamed: ") and name not in drop_columns]
    if unnamed:
        logger.warning(
            "%s: a column without a name is used as the feature '%s'; drop it if it only numbers "
            "the rows.",
            where,
            unnamed[0],
        )
    return table.drop(columns=[target_column, *drop_columns]), table[target_column]


def _given_class_names(class_names: Sequence[object]) -> tuple[str, ...]:
    if isinstance(class_names, str):
        raise ConfigError(f"class_names must be a list of labels, got '{class_names}'.")
    names = tuple(label_text(label) for label in class_names)
    doubled = {label for label in names if names.count(label) > 1}
    if doubled:
        raise ConfigError(f"class_names names '{min(doubled)}' more than once.")
    if len(names) < 2:
        raise ConfigError(f"class_names must name at least two classes, got {list(names)}.")
    return names


def _encode(
    labels: pd.Series[Any],
    target_column: str,
    class_names: Sequence[object] | None,
    where: str,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Turn labels into codes and fix the order of the classes."""
    missing = labels.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"{where}: target column '{target_column}' is missing in {int(missing.sum())} of "
            f"{len(labels)} rows, first in row {int(np.argmax(missing)) + 1}; "
            "remove these rows or fill in their label."
        )
    texts = label_texts(labels, target_column, where)
    codes, uniques = pd.factorize(texts)
    found = [str(label) for label in uniques]
    if class_names is None:
        _check_labels(labels, found, target_column, where)
        names = sort_labels(set(found))
        if len(names) < 2:
            raise DataError(
                f"{where}: target column '{target_column}' holds one class only, '{names[0]}'; "
                "at least two are needed."
            )
    else:
        names = _given_class_names(class_names)
    index = {label: code for code, label in enumerate(names)}
    for label in found:
        if label not in index:
            row = int(np.argmax(codes == found.index(label)))
            raise DataError(
                f"{where}: target column '{target_column}', row {row + 1}: "
                f"{unknown('class', label, names)}"
            )
    order = np.asarray([index[label] for label in found], dtype=np.int64)
    return order[codes], names


def _check_labels(
    labels: pd.Series[Any], found: Sequence[str], target_column: str, where: str
) -> None:
    """Refuse a target that is a measure or a key rather than a class."""
    often = len(found) > len(labels) / 2
    if pd.api.types.is_float_dtype(labels.dtype):
        values = labels.to_numpy(dtype=np.float64)
        whole = bool(np.all(values == np.floor(values)))
        if not whole and (len(found) > _MOST_RARE_LABELS or often):
            raise DataError(
                f"{where}: target column '{target_column}' is continuous ({len(found)} different "
                f"numbers in {len(labels)} rows): regression is not supported, the target must "
                "hold class labels."
            )
    if len(found) > _MOST_RARE_LABELS and often:
        raise DataError(
            f"{where}: target column '{target_column}' has {len(found)} different values in "
            f"{len(labels)} rows: the target must hold class labels that repeat."
        )
