"""Signs that the target is given away: equal rows in two parts, features that stand for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ml_project_template.data.tabular import TabularDataset

__all__ = ["row_hashes", "warn_of_leaks"]

logger = logging.getLogger(__name__)

# Features of few values repeat by themselves: where fewer than this part of the training rows
# differ, equal rows say nothing.
_FEWEST_DIFFERENT = 0.5
# A value has to come with so many rows, on average, for its one class to be more than chance.
_ROWS_PER_VALUE = 10
_SAME = 0.9999  # correlation
_SAMPLE = 10_000  # rows
_ROWS_PER_VALUE_OF_SAMPLE = 2
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, odd


def warn_of_leaks(parts: Mapping[str, TabularDataset], where: str) -> None:
    """Log a line for each sign that the parts of a table give the target away.

    Args:
        parts: Raw rows, among them ``train``.
        where: What the rows belong to, for messages.
    """
    train = parts["train"]
    learned = [train]
    hashes = [row_hashes(train)]
    if len(np.unique(hashes[0])) >= _FEWEST_DIFFERENT * len(train):
        for part, before in (("val", "training"), ("test", "training or validation")):
            if part in parts:
                found = row_hashes(parts[part])
                _warn_of_equal_rows(parts[part], found, learned, hashes, part, before, where)
                learned.append(parts[part])
                hashes.append(found)
    for name in train.feature_names:
        told = _gives_away(train.features[name], train)
        if told is not None:
            logger.warning(
                "%s: the feature '%s' %s. If it is not known when the model is used, leave it out: "
                "data.drop_columns=[%s]",
                *(where, name, told, name),
            )


def row_hashes(data: TabularDataset) -> NDArray[np.uint64]:
    """Hash each row's features to 64 bits; of parts of one table, equal rows have equal hashes.

    Args:
        data: Raw rows.

    Returns:
        Shape ``(n_samples,)``.
    """
    from pandas.util import hash_array

    hashes = np.zeros(len(data), dtype=np.uint64)
    for name in data.feature_names:
        hashes = (hashes ^ hash_array(_plain(data.features[name]))) * _MULTIPLIER
    return hashes


def _warn_of_equal_rows(
    data: TabularDataset,
    found: NDArray[np.uint64],
    learned: list[TabularDataset],
    hashes: list[NDArray[np.uint64]],
    part: str,
    before: str,
    where: str,
) -> None:
    equal = np.isin(found, np.concatenate(hashes))
    if not equal.any():
        return
    targets = [_with_target(h, each) for h, each in zip(hashes, learned, strict=True)]
    other = equal & ~np.isin(_with_target(found, data), np.concatenate(targets))
    contrary = f", {int(other.sum())} of them with another target" if other.any() else ""
    logger.warning(
        "%s: %d of %d %s rows (%.1f%%) have all features equal to a %s row%s: what is measured on "
        "them is no test of new rows. Remove doubled rows, or keep them together by data.split.",
        *(where, int(equal.sum()), len(data), {"val": "validation"}.get(part, part)),
        *(100 * float(equal.mean()), before, contrary),
    )


def _with_target(hashes: NDArray[np.uint64], data: TabularDataset) -> NDArray[np.uint64]:
    from pandas.util import hash_array

    mixed: NDArray[np.uint64] = (hashes ^ hash_array(data.y)) * _MULTIPLIER
    return mixed


def _plain(column: pd.Series[Any]) -> NDArray[Any]:
    """Write a column as numbers of which equal ones are equal to the bit."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy().astype(np.int64)
    values = column.to_numpy()
    if values.dtype.kind == "M":
        return values.astype(np.int64)
    if values.dtype.kind == "f":
        # There are two zeros, and many ways to write NaN.
        return np.where(np.isnan(values), np.nan, values.astype(np.float64) + 0.0)
    return values


def _gives_away(column: pd.Series[Any], train: TabularDataset) -> str | None:
    """Say how a feature gives the target away; None where it does not."""
    values = _plain(column)
    if column.dtype.kind in "biuf" and train.task == "regression" and _is_same(values, train.y):
        return "is the target in other units"
    there = column.notna().to_numpy()
    if there.sum() < len(values) / 2:
        return None
    values, y = values[there], train.y[there]
    # Most features are ruled out by a few rows: they have too many values, or one with two targets.
    if _values_with_one_target(values[:_SAMPLE], y[:_SAMPLE], _ROWS_PER_VALUE_OF_SAMPLE) is None:
        return None
    found = _values_with_one_target(values, y, _ROWS_PER_VALUE)
    if found is None:
        return None
    return f"determines the target: each of its {found} values comes with one target alone"


def _is_same(values: NDArray[Any], y: NDArray[Any]) -> bool:
    """Say whether numbers are a linear function of the target."""
    values = values.astype(np.float64)
    there = ~np.isnan(values)
    if there.sum() < max(3, len(values) / 2):
        return False
    values, target = values[there], y[there].astype(np.float64)
    # Brought near to 1, so that no square overflows.
    values = values / (np.max(np.abs(values)) or 1.0)
    target = target / (np.max(np.abs(target)) or 1.0)
    values, target = values - values.mean(), target - target.mean()
    spread = float(np.sqrt(np.dot(values, values) * np.dot(target, target)))
    return spread > 0.0 and abs(float(np.dot(values, target))) > _SAME * spread


def _values_with_one_target(values: NDArray[Any], y: NDArray[Any], rows: int) -> int | None:
    """Count the values, if each comes with one target alone and, on average, with so many rows."""
    import pandas as pd

    codes = pd.factorize(values)[0].astype(np.int64)
    targets = pd.factorize(y)[0].astype(np.int64)
    count = len(np.unique(codes))
    if count < 2 or len(codes) < rows * count or len(np.unique(targets)) < 2:
        return None
    pairs = len(np.unique(codes * (targets.max() + 1) + targets))
    return count if pairs == count else None
