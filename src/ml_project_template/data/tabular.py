"""A table of numbers, categories and dates, with a target column of classes or numbers."""

from __future__ import annotations

import copy
import os
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import pandas as pd

from ml_project_template.data.base import BaseDataset
from ml_project_template.data.columns import show
from ml_project_template.data.files import FileFormat, format_of
from ml_project_template.data.parts import SplitRows
from ml_project_template.data.raw_columns import RawColumns, TypedColumns, open_table
from ml_project_template.data.splitting import num_rows_of, split_indices
from ml_project_template.data.targets import given_class_names, read_target, task_of
from ml_project_template.errors import ConfigError, DataError
from ml_project_template.utils import io

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from ml_project_template.data.preprocessing import Preprocessor
    from ml_project_template.data.signature import Signature, Task

__all__ = ["TabularDataset"]

FilePath = str | os.PathLike[str]

_BLOCK_ROWS = 1024
# A column of so few values, among as many rows as that, is stored as a dictionary and its places.
_FEW_VALUES, _OF_ROWS = 64, 256


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
        typed = TypedColumns(
            [str(column) for column in features.columns],
            RawColumns.of_frame(features).take,
            num_rows=len(features),
            columns=columns or {},
            drop_identifiers=drop_identifiers,
            drop_constant=drop_constant,
            where=where,
        )
        self.features = pd.DataFrame(dict(typed), copy=False)
        self.dropped = typed.dropped
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
        if values is not None:
            self._y, self._task, self._class_names = read_target(
                values, task, target_column, class_names, where
            )
            return
        self._task = task_of(None, task, target_column, class_names, where)
        if class_names is not None:
            self._class_names = given_class_names(class_names)

    @classmethod
    def of_columns(
        cls,
        features: pd.DataFrame,
        rows: SplitRows,
        *,
        name: str,
        digest: str | None,
        source: str | None,
        dropped: Mapping[str, str] | None = None,
        signature: Signature | None = None,
        preprocessor: Preprocessor | None = None,
    ) -> Self:
        """Make a data set of columns and a target that are known to be in order.

        Args:
            features: As `typed_column` gives them, or prepared.
            rows: The target of each row, and what a split goes by.
            name: As for the class.
            digest: As for the class.
            source: As for the class.
            dropped: The attribute of the class.
            signature: As for the class.
            preprocessor: As for the class.
        """
        dataset = cls.__new__(cls)
        dataset.name = name
        dataset.digest = digest
        dataset.source = source
        dataset.target_column = rows.target_column
        dataset.signature = signature
        dataset.preprocessor = preprocessor
        dataset.split_keys = rows.split_keys
        dataset.features = features
        dataset.dropped = dict(dropped or {})
        dataset._feature_names = tuple(str(column) for column in features.columns)
        dataset._y, dataset._task, dataset._class_names = rows.y, rows.task, rows.class_names
        dataset._matrix = None
        return dataset

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
        table = open_table(
            text,
            target_column=target_column,
            task=task,
            columns=columns,
            class_names=class_names,
            drop_columns=drop_columns,
            only_columns=only_columns,
            drop_identifiers=drop_identifiers,
            drop_constant=drop_constant,
            split_column=split_column,
            file_format=file_format,
            storage_options=storage_options,
            read_options=read_options,
        )
        features = pd.DataFrame(dict(table.features), copy=False)
        return cls.of_columns(
            features,
            table.rows,
            name=name or PurePosixPath(text).name.split(".")[0],
            digest=table.digest,
            source=table.source,
            dropped=table.features.dropped,
        )

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

    def parquet_bytes(self) -> memoryview:
        """Write features and target, labels as text, into the bytes of a Parquet file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {}
        dictionaries = []
        for name, (_, column) in zip(self._feature_names, self.features.items(), strict=True):
            values = column.to_numpy() if isinstance(column.dtype, np.dtype) else column
            # NaN is written as missing.
            columns[name] = pa.array(values, from_pandas=True)
            # No NaN equals another.
            if len({v for v in values[:_OF_ROWS].tolist() if v == v}) <= _FEW_VALUES:
                dictionaries.append(name)
        if self._y is not None and self._task == "regression":
            columns[self.target_column] = pa.array(self._y)
        elif self._y is not None:
            # Through a dictionary, so that no label is made into text once for each row.
            labels = pa.DictionaryArray.from_arrays(
                pa.array(self._y, type=pa.int32()), pa.array(self._class_names)
            )
            columns[self.target_column] = labels.cast(pa.string())
            dictionaries.append(self.target_column)
        sink = pa.BufferOutputStream()
        # Numbers that hardly repeat are written as they are: to try a dictionary first is most of
        # the time that Parquet takes.
        pq.write_table(pa.table(columns), sink, use_dictionary=dictionaries or False)
        return memoryview(sink.getvalue())

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
            columns = [
                self.features.iloc[:, place].to_numpy() for place in range(self.num_features)
            ]
            row_by_row = columns[0].strides == (self.num_features * columns[0].itemsize,)
            if columns[0].dtype == np.float32 and row_by_row:
                # The columns of one matrix, which need not be copied.
                matrix = np.ascontiguousarray(self.features.to_numpy(dtype=np.float32))
            else:
                matrix = _interleaved(columns)
            self._refuse_infinite(matrix)
            if self.preprocessor is not None:
                # Prepared columns hold the same, and would double the memory.
                self.features = pd.DataFrame(matrix, columns=self.features.columns, copy=False)
            self._matrix = matrix
        return self._matrix

    def _refuse_infinite(self, matrix: NDArray[np.float32]) -> None:
        for start in range(0, len(matrix), _BLOCK_ROWS):
            infinite = np.isinf(matrix[start : start + _BLOCK_ROWS])
            if infinite.any():
                row, place = (int(index[0]) for index in np.nonzero(infinite))
                raise DataError(
                    f"'{self.source or self.name}': column '{self._feature_names[place]}', row "
                    f"{start + row + 1}: {show(self.features.iloc[start + row, place])} is too "
                    "large for a 32-bit float; standardise the data (preprocessing=standardize)."
                )

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
        return self.split_rows.codes

    @property
    def split_rows(self) -> SplitRows:
        """What is known of the rows when they are split.

        Raises:
            DataError: The target is not known.
        """
        return SplitRows(
            y=self.y,
            task=self._task,
            class_names=self._class_names,
            target_column=self.target_column,
            split_keys=self.split_keys,
        )

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


def _interleaved(columns: Sequence[NDArray[Any]]) -> NDArray[np.float32]:
    """Write columns side by side, of shape ``(n_rows, n_columns)``, block by block of rows.

    A block of the result stays in the processor's cache until all columns are in it.
    """
    result = np.empty((len(columns[0]), len(columns)), dtype=np.float32)
    with np.errstate(over="ignore"):
        for start in range(0, len(result), _BLOCK_ROWS):
            block = result[start : start + _BLOCK_ROWS]
            for place, column in enumerate(columns):
                block[:, place] = column[start : start + _BLOCK_ROWS]
    return result
