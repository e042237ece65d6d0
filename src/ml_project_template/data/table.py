"""Which raw table is meant, how it is read, and which of its rows are for what."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from ml_project_template.data.columns import label_text
from ml_project_template.data.signature import Task
from ml_project_template.data.splitting import num_rows_of, split_indices
from ml_project_template.data.tabular import TabularDataset
from ml_project_template.errors import ConfigError, unknown
from ml_project_template.utils.secrets import public_url

__all__ = ["PARTS", "RawTable", "Split"]

Split = Literal["train", "val", "test", "all"]

PARTS = ("train", "val", "test")


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
        read_options: How a CSV is written, as for ``TabularDataset.from_csv``.
        storage_options: Options of the storage that the path lies on.
    """

    path: str
    target_column: str
    name: str = "dataset"
    task: Task | Literal["auto"] = "auto"
    columns: Mapping[str, str] = field(default_factory=dict)
    class_names: Sequence[object] | None = None
    drop_columns: Sequence[str] = ()
    only_columns: Sequence[str] | None = None
    drop_identifiers: bool = True
    drop_constant: bool = False
    test_size: Annotated[float, Field(ge=0, lt=1)] = 0.2
    val_size: Annotated[float, Field(ge=0, lt=1)] = 0.2
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = 42
    read_options: Mapping[str, Any] = field(default_factory=dict)
    storage_options: Mapping[str, Any] | None = None

    def settings(self) -> dict[str, Any]:
        """Give all that changes what is read and how it is split, but the place of the file."""
        settings = asdict(self)
        for key in ("path", "name", "storage_options", "only_columns"):
            del settings[key]
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
        return TabularDataset.from_file(
            self.path,
            target_column=self.target_column,
            task=self.task,
            columns=self.columns,
            class_names=self.class_names,
            drop_columns=self.drop_columns,
            only_columns=self.only_columns,
            drop_identifiers=self.drop_identifiers,
            drop_constant=self.drop_constant,
            name=self.name,
            storage_options=self.storage_options,
            **self.read_options,
        )

    def parts(self) -> dict[str, TabularDataset]:
        """Read the table and draw test rows, then validation rows, then keep the rest.

        The test rows are drawn first and from all rows, so they don't depend on ``val_size``.

        Returns:
            ``train``, and ``test`` and ``val`` where their sizes are not 0.

        Raises:
            ConfigError: A setting is wrong.
            DataError: The table can't be used as it is.
            FileNotFoundError: There is no such file.
        """
        self.check_sizes()
        train = self.read()
        parts: dict[str, TabularDataset] = {}
        num_rows = len(train)
        for part, size in (("test", self.test_size), ("val", self.val_size)):
            if size > 0.0:
                rest, chosen = split_indices(
                    train.codes,
                    train.class_names or ("",),
                    num_rows_of(size, num_rows),
                    self.random_state,
                    f"'{public_url(self.path)}'",
                )
                parts[part] = train.take(chosen)
                train = train.take(rest)
        return {"train": train, **parts}

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
            return self.read()
        parts = self.parts()
        if split not in parts:
            raise ConfigError(f"The split '{split}' has no rows: {split}_size is 0.")
        return parts[split]

    def without_validation(self) -> RawTable:
        """Give the same table with all rows that are not for the test in its training part."""
        self.check_sizes()
        return replace(self, val_size=0.0)
