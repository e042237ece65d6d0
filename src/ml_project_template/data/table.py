"""Which raw table is meant, how it is read, and which of its rows are for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field

from ml_project_template.data.columns import label_text
from ml_project_template.data.files import format_of, parse
from ml_project_template.data.parts import PARTS, SplitRows, SplitSettings, fold_rows, part_rows
from ml_project_template.data.raw_columns import OpenTable, open_table
from ml_project_template.data.signature import Task
from ml_project_template.data.tabular import TabularDataset
from ml_project_template.errors import ConfigError, unknown
from ml_project_template.utils import io
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["PARTS", "RawTable", "Split"]

Split = Literal["train", "val", "test", "all"]


@dataclass(frozen=True, kw_only=True)
class RawTable:
    """A raw table and its settings, as ``conf/data`` names them.

    Attributes:
        path: The raw file, a local path or a URL.
        target_column: The column of the target.
        name: What the data set is called.
        task: ``classification``, ``regression``, or ``auto``, which tells them apart by the target.
        columns: Feature name to ``numeric``, ``category``, ``date`` or ``drop``, where it shall not
            be found out.
        class_names: The labels in the order of their codes.
        drop_columns: Columns that are neither feature nor target.
        only_columns: The features; None takes all columns that are left.
        drop_identifiers: Leave out columns that only name or number the rows.
        drop_constant: Leave out columns that hold one value alone.
        test_size: The part of all rows that is kept for the test, in [0, 1).
        val_size: The part of all rows that is kept for validation, in [0, 1).
        random_state: The seed of both draws.
        split_by: How the rows are split.
        read_options: How a CSV is written, as for ``TabularDataset.from_csv``.
        storage_options: Options of the storage that the path lies on.
    """

    path: str
    target_column: str
    name: str = "dataset"
    task: Task | Literal["auto"] = "auto"
    columns: Mapping[str, str] | None = None
    class_names: Sequence[object] | None = None
    drop_columns: Sequence[str] = ()
    only_columns: Sequence[str] | None = None
    drop_identifiers: bool = True
    drop_constant: bool = False
    test_size: Annotated[float, Field(ge=0, lt=1)] = 0.2
    val_size: Annotated[float, Field(ge=0, lt=1)] = 0.2
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = 42
    split_by: SplitSettings = field(default_factory=SplitSettings)
    read_options: Mapping[str, Any] = field(default_factory=dict)
    storage_options: Mapping[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """Give all that changes what is read and how it is split, but the place of the file."""
        settings = asdict(self)
        for key in ("path", "name", "storage_options", "only_columns"):
            del settings[key]
        del settings["split_by"]["file"]
        if self.class_names is not None:
            settings["class_names"] = [label_text(label) for label in self.class_names]
        return {
            **settings,
            "test_size": float(self.test_size),
            "val_size": float(self.val_size),
        }

    def check_sizes(self) -> None:
        """Refuse sizes that are no fractions or leave no rows for training.

        Raises:
            ConfigError: A size is out of range, or both sum up to 1 or more.
        """
        for key, size in {"test_size": self.test_size, "val_size": self.val_size}.items():
            if isinstance(size, bool) or not isinstance(size, int | float) or not 0.0 <= size < 1.0:
                raise ConfigError(
                    f"{key} must be a fraction of at least 0 and below 1, got {size!r}."
                )
        if self.test_size + self.val_size >= 1.0:
            raise ConfigError(
                "test_size and val_size must leave rows for training, got "
                f"{self.test_size} and {self.val_size}."
            )

    def read(self) -> TabularDataset:
        """Read all rows.

        Raises:
            ConfigError: A setting is wrong.
            DataError: The table can't be used as it is.
            FileNotFoundError: There is no such file.
        """
        self.split_by.check()
        return TabularDataset.from_file(
            self.path,
            **self._reading(),
            name=self.name,
            storage_options=self.storage_options,
            **self.read_options,
        )

    def open(self) -> OpenTable:
        """Read the table up to its target.

        Raises:
            ConfigError: A setting is wrong.
            DataError: The table can't be used as it is.
            FileNotFoundError: There is no such file.
        """
        self.split_by.check()
        return open_table(
            self.path,
            **self._reading(),
            storage_options=self.storage_options,
            file_format=format_of(self.path),
            read_options=self.read_options,
        )

    def _reading(self) -> dict[str, Any]:
        """Give what says how the columns are taken."""
        return {
            "target_column": self.target_column,
            "task": self.task,
            "columns": self.columns,
            "class_names": self.class_names,
            "drop_columns": self.drop_columns,
            "only_columns": self.only_columns,
            "drop_identifiers": self.drop_identifiers,
            "drop_constant": self.drop_constant,
            "split_column": self.split_by.column,
        }

    def parts(self) -> dict[str, TabularDataset]:
        """Read the table and split it; see `part_rows`.

        Returns:
            ``train``, and ``test`` and ``val`` where there are such rows.

        Raises:
            ConfigError: A setting is wrong.
            DataError: The table can't be used as it is.
            FileNotFoundError: There is no such file.
        """
        self.check_sizes()
        data = self.read()
        return {part: data.take(rows) for part, rows in self.rows(data.split_rows).items()}

    def folds(self, cv: int) -> list[tuple[TabularDataset, TabularDataset]]:
        """Read the table, set its test rows aside, and cut the rest into folds; see `fold_rows`.

        Args:
            cv: How many folds to make, at least 2.

        Returns:
            For each fold its training and its validation rows.

        Raises:
            ConfigError: A setting is wrong.
            DataError: The table can't be used as it is, or is too small for so many folds.
            FileNotFoundError: There is no such file.
        """
        self.check_sizes()
        data = self.read()
        rest = np.ones(len(data), dtype=bool)
        rest[replace(self, val_size=0.0).rows(data.split_rows).get("test", [])] = False
        data = data.take(np.flatnonzero(rest))
        return [
            (data.take(train), data.take(val))
            for train, val in fold_rows(
                data.split_rows,
                self.split_by,
                num_folds=cv,
                random_state=self.random_state,
                where=self._where,
            )
        ]

    def rows(self, data: SplitRows) -> dict[str, NDArray[np.int64]]:
        """Find the positions of the rows of each part; see `part_rows`.

        Args:
            data: All rows of the table.
        """
        return part_rows(
            data,
            self.split_by,
            test_size=self.test_size,
            val_size=self.val_size,
            random_state=self.random_state,
            where=self._where,
            assigned=self._assigned(),
        )

    def _assigned(self) -> pd.DataFrame | None:
        """Read the file that says what each row is for, if the split goes by one."""
        path = self.split_by.file
        if path is None:
            return None
        shown = f"split.file '{public_url(path)}'"
        data = io.read_bytes(path, storage_options=self.storage_options)
        table = parse(data, shown, format_of(path), {})
        if not isinstance(table, pd.DataFrame):
            table = table.to_pandas()
        table.columns = pd.Index([str(column) for column in table.columns], dtype=object)
        return table

    @property
    def _where(self) -> str:
        return f"'{public_url(self.path)}'"

    def split(self, split: Split) -> TabularDataset:
        """Read the raw rows of one part.

        Args:
            split: ``"train"``, ``"val"``, ``"test"``, or ``"all"`` for every row.

        Raises:
            ConfigError: An unknown split, or one that has no rows with these sizes.
            DataError: The table can't be used as it is.
            FileNotFoundError: There is no such file.
        """
        if split not in (*PARTS, "all"):
            raise ConfigError(unknown("split", str(split), [*PARTS, "all"]))
        if split == "all":
            self.check_sizes()
            # Where the features are known, the column of the split need not be there.
            known = self if self.only_columns is None else replace(self, split_by=SplitSettings())
            return known.read()
        parts = self.parts()
        if split not in parts and self.split_by.method == "file":
            raise ConfigError(
                f"The split '{split}' has no rows: split.file names none ({', '.join(parts)})."
            )
        if split not in parts:
            raise ConfigError(f"The split '{split}' has no rows: {split}_size is 0.")
        return parts[split]
