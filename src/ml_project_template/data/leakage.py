"""Signs that the target is given away: equal rows in two parts, features that stand for it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ml_project_template.data.signature import Task

__all__ = ["LeakWatch", "mix"]

logger = logging.getLogger(__name__)

# Features of few values repeat by themselves: where fewer than this part of the training rows
# differ, equal rows say nothing.
_FEWEST_DIFFERENT = 0.5
# A value has to come with so many rows, on average, for its one class to be more than chance.
_ROWS_PER_VALUE = 10
_SAME = 0.9999  # correlation
_SAMPLE = 10_000  # rows
_ROWS_PER_VALUE_OF_SAMPLE = 2
_BLOCK_ROWS = 16_384  # so many stay in the processor's cache
_HALF = np.uint64(32)
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # 2**64 divided by the golden ratio, odd


class LeakWatch:
    """Looks at the columns of a table one by one, and tells at the end what gives the target away.

    Args:
        y: The target of all rows, those of the training first, of shape ``(n_samples,)``.
        sizes: How many rows each part has, in their order.
        task: What the target is.
    """

    def __init__(self, y: NDArray[Any], sizes: Mapping[str, int], task: Task) -> None:
        self._y = y
        self._sizes = dict(sizes)
        self._task = task
        self._hashes = np.zeros(len(y), dtype=np.uint64)
        self._told: dict[str, str] = {}

    def look_at(self, name: str, column: pd.Series[Any]) -> None:
        """Take a column into account.

        Args:
            name: Its name.
            column: As `typed_column` gives it, in the order of the target.
        """
        values, gap = _plain(column)
        mix(self._hashes, values)
        num_train = self._sizes["train"]
        told = _gives_away(values[:num_train], gap, self._y[:num_train], self._task)
        if told is not None:
            self._told[name] = told

    def warn(self, where: str) -> None:
        """Log a line for each sign.

        Args:
            where: What the rows belong to, for messages.
        """
        self._warn_of_equal_rows(where)
        for name, told in self._told.items():
            logger.warning(
                "%s: the feature '%s' %s. If it is not known when the model is used, leave it out: "
                "data.drop_columns=[%s]",
                *(where, name, told, name),
            )

    def _warn_of_equal_rows(self, where: str) -> None:
        num_train = self._sizes["train"]
        # Mostly no two rows are equal at all.
        if _num_different(self._hashes) == len(self._hashes):
            return
        if _num_different(self._hashes[:num_train]) < _FEWEST_DIFFERENT * num_train:
            return
        with_target = self._hashes.copy()
        mix(with_target, self._y)
        start = num_train
        for part, before in (("val", "training"), ("test", "training or validation")):
            if part not in self._sizes:
                continue
            stop = start + self._sizes[part]
            equal = np.isin(self._hashes[start:stop], self._hashes[:start])
            if equal.any():
                other = equal & ~np.isin(with_target[start:stop], with_target[:start])
                contrary = f", {int(other.sum())} of them with another target"
                logger.warning(
                    "%s: %d of %d %s rows (%.1f%%) have all features equal to a %s row%s: what is "
                    "measured on them is no test of new rows. Remove doubled rows, or keep them "
                    "together by data.split.",
                    *(where, int(equal.sum()), stop - start),
                    {"val": "validation"}.get(part, part),
                    *(100 * float(equal.mean()), before, contrary if other.any() else ""),
                )
            start = stop


def mix(hashes: NDArray[np.uint64], values: NDArray[Any]) -> None:
    """Mix a column into the 64 bits that stand for each row: equal rows have equal ones.

    For a given value, different hashes stay different, and for a given hash, different values give
    different ones: rows that differ are taken for equal by chance alone, as in multiplicative
    hashing (Knuth, The Art of Computer Programming 3, 6.4).

    Args:
        hashes: Of shape ``(n_samples,)``; changed in place.
        values: Numbers of the same shape.
    """
    for start in range(0, len(values), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        if values.dtype.kind == "f":
            # There are two zeros, and many ways to write NaN.
            block = values[rows].astype(np.float64)
            block += 0.0
            np.copyto(block, np.nan, where=np.isnan(block))
            bits = block.view(np.uint64)
        else:
            bits = values[rows].astype(np.int64).view(np.uint64)
        found = hashes[rows]
        found ^= bits
        found *= _MULTIPLIER
        # A product's high bits depend on all of a number's, its low bits on the low ones alone.
        found ^= found >> _HALF


def _num_different(values: NDArray[np.uint64]) -> int:
    ordered = np.sort(values)
    return min(1, len(values)) + int(np.count_nonzero(ordered[1:] != ordered[:-1]))


def _plain(column: pd.Series[Any]) -> tuple[NDArray[Any], int | None]:
    """Write a column as numbers; give the whole number that stands for a gap, if one does."""
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.codes.to_numpy(), -1
    values = column.to_numpy()
    if values.dtype.kind == "M":
        return values.astype(np.int64), np.iinfo(np.int64).min
    return values, None


def _there(values: NDArray[Any], gap: int | None) -> NDArray[np.bool_]:
    """Mark the values that are no gaps."""
    if gap is not None:
        there: NDArray[np.bool_] = values != gap
        return there
    return ~np.isnan(values) if values.dtype.kind == "f" else np.ones(len(values), dtype=bool)


def _gives_away(values: NDArray[Any], gap: int | None, y: NDArray[Any], task: Task) -> str | None:
    """Say how a feature gives the target away; None where it does not."""
    if task == "regression" and gap is None and _is_same(values, y):
        return "is the target in other units"
    # Most features are ruled out by a few rows: they have too many values, or one with two targets.
    start = slice(2 * _SAMPLE)
    there = _there(values[start], gap)
    few, targets = values[start][there][:_SAMPLE], y[start][there][:_SAMPLE]
    if (
        len(few) == _SAMPLE
        and _values_with_one_target(few, targets, _ROWS_PER_VALUE_OF_SAMPLE) is None
    ):
        return None
    there = _there(values, gap)
    if there.sum() < len(values) / 2:
        return None
    values, y = values[there], y[there]
    few, targets = values[:_SAMPLE], y[:_SAMPLE]
    if _values_with_one_target(few, targets, _ROWS_PER_VALUE_OF_SAMPLE) is None:
        return None
    found = _values_with_one_target(values, y, _ROWS_PER_VALUE)
    if found is None:
        return None
    return f"determines the target: each of its {found} values comes with one target alone"


def _is_same(values: NDArray[Any], y: NDArray[Any]) -> bool:
    """Say whether numbers are a linear function of the target."""
    values, target = values.astype(np.float64), y.astype(np.float64)
    there = ~np.isnan(values)
    if not there.all():
        values, target = values[there], target[there]
    if len(values) < max(3, len(y) / 2):
        return False
    # Brought near to 1, so that no square overflows.
    values /= np.max(np.abs(values)) or 1.0
    target /= np.max(np.abs(target)) or 1.0
    values -= values.mean()
    target -= target.mean()
    spread = float(np.sqrt(np.dot(values, values) * np.dot(target, target)))
    return spread > 0.0 and abs(float(np.dot(values, target))) > _SAME * spread


def _values_with_one_target(values: NDArray[Any], y: NDArray[Any], rows: int) -> int | None:
    """Count the values, if each comes with one target alone and, on average, with so many rows."""
    import pandas as pd

    codes, uniques = pd.factorize(values)
    count = len(uniques)
    if count < 2 or len(codes) < rows * count:
        return None
    targets, different = pd.factorize(y)
    if not 2 <= len(different) <= count:
        return None
    of_value = np.empty(count, dtype=np.int64)
    of_value[codes] = targets
    return count if np.array_equal(of_value[codes], targets) else None
