"""What the columns of a table hold, and how much each says about the target by itself."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_project_template.data.column_types import (
    date_text,
    encode_dates,
    is_constant,
    is_identifier,
)

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["ColumnSummary", "correlations", "summarize_columns"]

_BINS = 20
_LEVELS = 8
_MOST_CORRELATED = 30


@dataclass(frozen=True)
class ColumnSummary:
    """One column of a table.

    Attributes:
        name: The name of the column.
        type: ``bool``, ``int``, ``float``, ``category`` or ``date``.
        missing: The part of the rows without a value, in [0, 1].
        different: How many different values there are.
        values: The range and the mean, or the most frequent levels, in words.
        counts: Rows in each of up to 20 bins of equal width, or of each of the 8 most frequent
            levels.
        labels: What each of the counts is of.
        association: How much the column says about the target by itself, in [0, 1]; None where
            that can't be told.
        notes: What is remarkable, in words.
    """

    name: str
    type: str
    missing: float
    different: int
    values: str
    counts: tuple[int, ...]
    labels: tuple[str, ...]
    association: float | None
    notes: tuple[str, ...]


def summarize_columns(
    features: pd.DataFrame, y: NDArray[Any], *, num_classes: int
) -> list[ColumnSummary]:
    """Summarise each column of a typed table.

    The association with the target is between two numbers the magnitude of Pearson's correlation,
    between a number and classes the correlation ratio (Fisher, 1925), and between two categories
    Cramér's V (1946). Rows where the column is missing are left out of it.

    Args:
        features: Columns as `typed_column` gives them.
        y: The target of shape ``(n_samples,)``: class codes, or numbers.
        num_classes: How many classes there are; 0 for a numeric target.

    Returns:
        A summary of each column, in their order.
    """
    return [_summary(str(name), features[name], y, num_classes) for name in features.columns]


def _summary(name: str, column: pd.Series[Any], y: NDArray[Any], num_classes: int) -> ColumnSummary:
    import pandas as pd

    missing = float(column.isna().mean())
    notes = []
    if is_constant(column):
        notes.append("constant")
    if is_identifier(column, name):
        notes.append("only names or numbers the rows")
    if isinstance(column.dtype, pd.CategoricalDtype):
        found = column.value_counts()
        found = found[found > 0]
        top = found.iloc[:_LEVELS]
        there = column.notna().to_numpy()
        codes = column.cat.codes.to_numpy()[there]
        if len(found) and int(found.iloc[-1]) == 1:
            notes.append(f"{int((found == 1).sum())} levels have one row")
        return ColumnSummary(
            name,
            "category",
            missing,
            len(found),
            ", ".join(f"{level} {count / len(column):.0%}" for level, count in top.items()),
            tuple(int(count) for count in top),
            tuple(str(level) for level in top.index),
            _between_categories(codes, y[there], num_classes)
            if num_classes
            else _correlation_ratio(codes, y[there]),
            tuple(notes),
        )
    is_date = column.dtype.kind == "M"
    numbers = encode_dates(column, name, name) if is_date else column.to_numpy(dtype=np.float64)
    there = ~np.isnan(numbers)
    values = numbers[there]
    counts: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    told = "no value"
    write = date_text if is_date else _number
    if len(values):
        histogram, edges = np.histogram(values, bins=_BINS)
        counts = tuple(histogram.tolist())
        labels = tuple(f"{write(low)} to {write(high)}" for low, high in itertools.pairwise(edges))
        told = f"{write(values.min())} to {write(values.max())}"
        if not is_date:
            told += f", mean {_number(values.mean())}"
    kind = "date" if is_date else {"b": "bool", "i": "int"}.get(column.dtype.kind, "float")
    return ColumnSummary(
        name,
        kind,
        missing,
        len(np.unique(values)),
        told,
        counts,
        labels,
        _correlation_ratio(y[there], values) if num_classes else _correlation(values, y[there]),
        tuple(notes),
    )


def correlations(features: pd.DataFrame) -> tuple[list[str], NDArray[np.float64]]:
    """Correlate the numbers of a table with one another.

    Args:
        features: Columns as `typed_column` gives them.

    Returns:
        The names of up to 30 columns of numbers that vary, those with the largest correlations, in
        their order; and Pearson's correlations of shape ``(n, n)``, of the rows where both have a
        value; NaN where there are too few.
    """
    numbers = [
        str(name)
        for name in features.columns
        if features[name].dtype.kind in "biuf" and not is_constant(features[name])
    ]
    if len(numbers) < 2:
        return [], np.empty((0, 0))
    matrix = features[numbers].astype(np.float64).corr().to_numpy()
    if len(numbers) > _MOST_CORRELATED:
        others = np.abs(np.where(np.eye(len(numbers), dtype=bool), 0.0, np.nan_to_num(matrix)))
        kept = np.sort(np.argsort(-others.max(axis=1), kind="stable")[:_MOST_CORRELATED])
        matrix, numbers = matrix[np.ix_(kept, kept)], [numbers[place] for place in kept]
    return numbers, matrix


def _number(value: float) -> str:
    return f"{value:.4g}"


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    if len(x) < 3 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(abs(np.corrcoef(x, y)[0, 1]))


def _correlation_ratio(groups: NDArray[Any], values: NDArray[np.float64]) -> float | None:
    """Root of the part of the variance that lies between the groups."""
    if len(values) < 3 or np.ptp(values) == 0:
        return None
    _, codes, counts = np.unique(groups, return_inverse=True, return_counts=True)
    means = np.bincount(codes, weights=values) / counts
    between = float(np.sum(counts * np.square(means - values.mean())))
    total = float(np.sum(np.square(values - values.mean())))
    return math.sqrt(min(between / total, 1.0))


def _between_categories(x: NDArray[Any], y: NDArray[Any], num_classes: int) -> float | None:
    """Cramér's V: root of chi squared over its largest possible value."""
    if len(x) < 3:
        return None
    rows, x_codes = np.unique(x, return_inverse=True)
    table = np.bincount(x_codes * num_classes + y, minlength=len(rows) * num_classes)
    counts = table.reshape(len(rows), num_classes).astype(np.float64)
    counts = counts[:, counts.sum(axis=0) > 0]
    smaller = min(counts.shape) - 1
    if smaller < 1:
        return None
    expected = np.outer(counts.sum(axis=1), counts.sum(axis=0)) / counts.sum()
    chi = float(np.sum(np.square(counts - expected) / expected))
    return math.sqrt(min(chi / (counts.sum() * smaller), 1.0))
