"""From a raw table to prepared folds in memory, for k-fold cross-validation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ml_project_template.data.prepare import fit_parts
from ml_project_template.data.preprocessing import Preprocessor
from ml_project_template.data.signature import Signature
from ml_project_template.data.table import RawTable
from ml_project_template.data.tabular import TabularDataset

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
    table: RawTable, *, preprocessor: Preprocessor, cv: Annotated[int, Field(ge=2)]
) -> list[Fold]:
    """Set the test rows of a raw table aside, cut the rest into folds, and prepare each fold.

    The test rows are those that ``prepare`` draws with the same settings: none of them is in any
    fold, so that what is chosen by the folds can still be judged on them. Each fold has a
    preprocessor of its own, fitted on its training rows only: statistics of its validation rows
    would leak. Nothing is written.

    Args:
        table: The raw table; its ``val_size`` has no effect, as the folds validate on one another.
        preprocessor: How to prepare; it is not changed, each fold has a fitted copy.
        cv: How many folds to make, at least 2.

    Returns:
        ``cv`` folds; each row that is no test row validates in exactly one of them, but in a split
        by time. All are in memory at once, about ``cv`` times the table.

    Raises:
        ConfigError: A setting is out of range.
        DataError: The table can't be used as it is, or has too few rows for so many folds.
        FileNotFoundError: There is no such file.
    """
    folds = []
    for train, val in table.folds(cv):
        parts = {"train": train, "val": val}
        prepared, fitted, signature = fit_parts(parts, preprocessor, table.path)
        folds.append(Fold(prepared["train"], prepared["val"], fitted, signature))
    return folds
