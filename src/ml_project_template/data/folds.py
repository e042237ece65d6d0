"""From a raw table to prepared folds in memory, for k-fold cross-validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from ml_project_template.data.prepare import check_sizes, fit_parts, raw_parts
from ml_project_template.data.preprocessing import Preprocessor
from ml_project_template.data.signature import Signature
from ml_project_template.data.splitting import fold_indices
from ml_project_template.data.tabular import TabularDataset
from ml_project_template.utils.secrets import public_url

__all__ = ["Fold", "prepare_folds"]


@dataclass(frozen=True)
class Fold:
    """One fold of a cross-validation and what it was prepared with.

    Attributes:
        train: The rows of all other folds, prepared.
        val: The rows of this fold, prepared.
        preprocessor: Fitted on the raw training rows of this fold.
        signature: What the raw training rows of this fold look like.
    """

    train: TabularDataset
    val: TabularDataset
    preprocessor: Preprocessor
    signature: Signature


def prepare_folds(
    *,
    path: str,
    target_column: str,
    preprocessor: Preprocessor,
    name: str,
    cv: Annotated[int, Field(ge=2)],
    test_size: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    val_size: Annotated[float, Field(ge=0, lt=1)] = 0.2,
    random_state: Annotated[int, Field(ge=0, lt=2**32)] = 42,
    class_names: Sequence[object] | None = None,
    drop_columns: Sequence[str] = (),
    read_options: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> list[Fold]:
    """Set the test rows of a raw table aside, cut the rest into folds, and prepare each fold.

    The test rows are those that ``prepare`` draws with the same settings: none of them is in any
    fold, so that what is chosen by the folds can still be judged on them. Each fold has a
    preprocessor of its own, fitted on its training rows only: statistics of its validation rows
    would leak. Nothing is written.

    Args:
        path: The raw CSV or Parquet file, a local path or a URL.
        target_column: The column of the labels.
        preprocessor: How to prepare; it is not changed, each fold has a fitted copy.
        name: What the data set is called.
        cv: How many folds to make, at least 2.
        test_size: The part of all rows that is kept for the test, in [0, 1).
        val_size: Checked as for ``prepare``, so that the same arguments can be given to both; it
            has no effect, as the folds validate on one another.
        random_state: The seed of the test rows and of the folds.
        class_names: The labels in the order of their codes.
        drop_columns: Columns that are neither feature nor target.
        read_options: How a CSV is written, as for ``TabularDataset.from_csv``.
        storage_options: Options of the storage that the path lies on.

    Returns:
        ``cv`` folds; each row that is no test row validates in exactly one of them. All are in
        memory at once, about ``cv`` times the table.

    Raises:
        ConfigError: A setting is out of range.
        DataError: The table can't be used as it is, or has too few rows for so many folds.
        FileNotFoundError: There is no such file.
    """
    check_sizes(test_size, val_size)
    raw = raw_parts(
        path,
        name=name,
        target_column=target_column,
        test_size=test_size,
        val_size=0.0,
        random_state=random_state,
        class_names=class_names,
        drop_columns=drop_columns,
        read_options=read_options,
        storage_options=storage_options,
    )["train"]
    folds = []
    for train, val in fold_indices(
        raw.y, raw.class_names, cv, random_state, f"'{public_url(path)}'"
    ):
        parts = {"train": raw.take(train), "val": raw.take(val)}
        prepared, fitted, signature = fit_parts(parts, preprocessor, path)
        folds.append(Fold(prepared["train"], prepared["val"], fitted, signature))
    return folds
