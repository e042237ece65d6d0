"""Which rows are for training, validation and test, and which make a fold, by the method chosen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ml_project_template.data.column_types import typed_column
from ml_project_template.data.columns import label_text, show
from ml_project_template.data.splitting import (
    check_seed,
    fold_indices,
    listed_classes,
    num_rows_of,
    split_indices,
)
from ml_project_template.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ml_project_template.data.signature import Task

__all__ = ["PARTS", "SplitMethod", "SplitRows", "SplitSettings", "fold_rows", "part_rows"]

logger = logging.getLogger(__name__)

PARTS = ("train", "val", "test")

SplitMethod = Literal["auto", "random", "stratified", "group", "time", "file"]
"""How rows are split; ``auto`` is ``stratified`` for classes and ``random`` for numbers."""

_BY_COLUMN = ("group", "time")


@dataclass(frozen=True, kw_only=True)
class SplitSettings:
    """How the rows of a table are split.

    Attributes:
        method: ``random`` draws rows. ``stratified`` draws them with the classes in the same
            proportions. ``group`` draws values of ``column``, with all of their rows. ``time``
            orders the rows by ``column``: the last are for the test, those before them for
            validation. ``file`` reads from a table what each row is for. ``auto`` is ``stratified``
            for classes and ``random`` for numbers.
        column: What ``group`` and ``time`` go by. For ``file`` the column, in both tables, by which
            rows find one another; None where the rows are in the same order.
        file: For ``file``, a table with a column ``split`` of ``train``, ``val`` and ``test``, a
            local path or a URL.
    """

    method: SplitMethod = "auto"
    column: str | None = None
    file: str | None = None

    def check(self) -> None:
        """Refuse settings that say nothing or too much.

        Raises:
            ConfigError: An unknown method, or a column or a file is missing or has no effect.
        """
        if self.method not in get_args(SplitMethod):
            raise ConfigError(
                f"split.method: {unknown('method', str(self.method), get_args(SplitMethod))}"
            )
        if self.method in _BY_COLUMN and self.column is None:
            raise ConfigError(f"split.column: is required with split.method={self.method}")
        if self.method == "file" and self.file is None:
            raise ConfigError("split.file: is required with split.method=file")
        if self.column is not None and self.method not in (*_BY_COLUMN, "file"):
            raise ConfigError(
                f"split.column={self.column} has no effect with split.method={self.method}; "
                "choose group, time or file."
            )
        if self.file is not None and self.method != "file":
            raise ConfigError(
                f"split.file={self.file} has no effect with split.method={self.method}; choose "
                "split.method=file."
            )


@dataclass(frozen=True, kw_only=True)
class SplitRows:
    """What is known of the rows of a table when they are split.

    Attributes:
        y: Class codes, int64, or numbers, float64, of shape ``(n_samples,)``.
        task: Which of both.
        class_names: The classes in the order of their codes; none for a regression.
        target_column: The name of the target.
        split_keys: What the split goes by, such as a group or a time of each row.
    """

    y: NDArray[Any]
    task: Task
    class_names: tuple[str, ...]
    target_column: str
    split_keys: pd.Series[Any] | None = None

    def __len__(self) -> int:
        return len(self.y)

    def take(self, rows: NDArray[np.int64]) -> SplitRows:
        """Choose rows that are not split any more.

        Args:
            rows: Positions, in the order wanted.
        """
        return replace(self, y=self.y[rows], split_keys=None)

    @property
    def num_classes(self) -> int:
        """The number of classes, those included that no row belongs to; 0 for a regression."""
        return len(self.class_names)

    @property
    def codes(self) -> NDArray[np.int64]:
        """What rows are stratified by, of shape ``(n_samples,)``: classes, or else zeros."""
        return self.y if self.task == "classification" else np.zeros(len(self.y), dtype=np.int64)


def part_rows(
    data: SplitRows,
    by: SplitSettings,
    *,
    test_size: float,
    val_size: float,
    random_state: int,
    where: str,
    assigned: pd.DataFrame | None = None,
) -> dict[str, NDArray[np.int64]]:
    """Choose test rows, then validation rows; the rest is for training.

    The test rows are chosen first and from all rows, so they don't depend on ``val_size``.

    Args:
        data: All rows, with their ``split_keys`` where the method has a column.
        by: How to split.
        test_size: The part of all rows that is for the test, in [0, 1).
        val_size: The part of all rows that is for validation, in [0, 1).
        random_state: The seed of what is drawn.
        where: What the rows belong to, for messages.
        assigned: For the method ``file``, what it reads; the sizes have no effect then.

    Returns:
        Sorted positions for ``train``, and for ``test`` and ``val`` where there are such rows.

    Raises:
        ConfigError: The method does not suit the target, or the seed is out of range.
        DataError: A part would be empty, or the column has gaps.
    """
    if by.method == "file":
        assert assigned is not None
        parts = _assigned_rows(data, by, assigned, where)
    else:
        check_seed(random_state)
        chooser = _chooser(data, by, random_state, where)
        train = np.arange(len(data))
        parts = {}
        for part, size in (("test", test_size), ("val", val_size)):
            if size > 0.0:
                chosen = chooser(train, num_rows_of(size, len(data)))
                parts[part] = train[chosen]
                train = train[~chosen]
        parts["train"] = train
    if data.task == "classification":
        _tell_of_lost_classes(data, parts["train"], where)
    return parts


def fold_rows(
    data: SplitRows, by: SplitSettings, *, num_folds: int, random_state: int, where: str
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cut rows into folds that suit the method of the split.

    Groups stay whole (scikit-learn's ``GroupKFold``). By time each fold validates on the rows that
    follow those it trains on, in windows that grow (as ``TimeSeriesSplit``), so the earliest rows
    validate in no fold. Otherwise as `fold_indices`.

    Args:
        data: The rows that are not for the test.
        by: How the table is split.
        num_folds: How many folds to make; the setting is called ``cv``.
        random_state: The seed of what is drawn.
        where: What the rows belong to, for messages.

    Returns:
        For each fold, the sorted positions of its training rows and of its validation rows.

    Raises:
        ConfigError: A setting is out of range.
        DataError: There are too few rows, groups or times for so many folds.
    """
    if by.method not in _BY_COLUMN:
        codes = np.zeros(len(data), dtype=np.int64) if by.method == "random" else data.codes
        names = ("",) if by.method == "random" else data.class_names or ("",)
        return fold_indices(codes, names, num_folds, random_state, where)
    # True counts as 1, so that it is refused as well.
    if not isinstance(num_folds, int) or num_folds < 2:
        raise ConfigError(f"cv must be a whole number of at least 2, got {num_folds!r}.")
    keys = _keys(data, by, where)
    if by.method == "group":
        folds = _group_folds(keys, num_folds, str(by.column), where)
    else:
        folds = _time_folds(keys, num_folds, str(by.column), where)
    if data.task == "classification":
        classes = np.unique(data.y)
        lacking = sum(len(np.unique(data.y[train])) < len(classes) for train, _ in folds)
        if lacking:
            logger.warning(
                "%s: in %d of %d folds the training rows lack a class that other rows have.",
                *(where, lacking, num_folds),
            )
    return folds


def _chooser(
    data: SplitRows, by: SplitSettings, random_state: int, where: str
) -> Callable[[NDArray[np.int64], int], NDArray[np.bool_]]:
    """Make a function that marks, among given rows, about as many as are asked for."""
    if by.method in _BY_COLUMN:
        keys = _keys(data, by, where)
        if by.method == "time":
            return lambda rows, count: _latest(keys[rows], count, str(by.column), where)
        return lambda rows, count: _of_groups(
            keys[rows], count, random_state, str(by.column), where
        )
    if by.method == "stratified" and data.task == "regression":
        raise ConfigError(
            f"split.method=stratified is for classes, and '{data.target_column}' is a number: "
            "choose auto or random."
        )
    codes, names = data.codes, data.class_names or ("",)
    if by.method == "random":
        codes, names = np.zeros(len(data), dtype=np.int64), ("",)

    def draw(rows: NDArray[np.int64], count: int) -> NDArray[np.bool_]:
        chosen = np.zeros(len(rows), dtype=bool)
        chosen[split_indices(codes[rows], names, count, random_state, where)[1]] = True
        return chosen

    return draw


def _keys(data: SplitRows, by: SplitSettings, where: str) -> NDArray[np.int64]:
    """Write the groups, or the times in their order, as whole numbers from 0 on."""
    import pandas as pd

    assert data.split_keys is not None
    values = data.split_keys
    missing = values.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"{where}: the split column '{by.column}' is missing in {int(missing.sum())} of "
            f"{len(values)} rows, first in row {int(np.argmax(missing)) + 1}; remove these rows or "
            "fill in their value."
        )
    if by.method == "time":
        values = typed_column(values, str(by.column), where)
        if isinstance(values.dtype, pd.CategoricalDtype):
            raise DataError(
                f"{where}: the split column '{by.column}' holds neither dates such as 2024-01-31 "
                f"nor numbers, such as {show(data.split_keys.iloc[0])}: its rows have no order."
            )
    codes = pd.factorize(values, sort=by.method == "time")[0]
    return codes.astype(np.int64)


def _latest(keys: NDArray[np.int64], count: int, column: str, where: str) -> NDArray[np.bool_]:
    """Mark the last rows; rows of one time stay together, whichever side is nearer."""
    ordered = np.sort(keys)
    bounds = _bounds(ordered)
    if len(bounds) == 0:
        raise DataError(
            f"{where}: the split column '{column}' has too few different times: a part would be "
            "empty."
        )
    first = int(bounds[np.argmin(np.abs(bounds - (len(keys) - count)))])
    latest: NDArray[np.bool_] = keys >= ordered[first]
    return latest


def _bounds(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Find the places in sorted keys where another key begins, but the first."""
    return np.flatnonzero(ordered[1:] != ordered[:-1]) + 1


def _of_groups(
    keys: NDArray[np.int64], count: int, random_state: int, column: str, where: str
) -> NDArray[np.bool_]:
    """Draw whole groups, in random order, each that brings the number of rows nearer to count."""
    groups, places, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    if len(groups) < 2:
        raise DataError(
            f"{where}: the split column '{column}' has too few different values: a part would be "
            "empty."
        )
    taken = np.zeros(len(groups), dtype=bool)
    total = 0
    for group in np.random.default_rng(random_state).permutation(len(groups)):
        if abs(total + sizes[group] - count) < count - total:
            taken[group] = True
            total += sizes[group]
        if total >= count:
            break
    if not taken.any():
        # Each has more than twice as many rows.
        taken[np.argmin(sizes)] = True
    elif taken.all():
        taken[np.argmax(sizes)] = False
    chosen: NDArray[np.bool_] = taken[places]
    return chosen


def _group_folds(
    keys: NDArray[np.int64], num_folds: int, column: str, where: str
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    from sklearn.model_selection import GroupKFold

    groups = len(np.unique(keys))
    if groups < num_folds:
        raise DataError(
            f"{where}: the {groups} values of the split column '{column}' outside the test rows "
            f"are too few for cv={num_folds}: each fold needs one of its own."
        )
    return [
        (train.astype(np.int64), val.astype(np.int64))
        for train, val in GroupKFold(num_folds).split(keys, groups=keys)
    ]


def _time_folds(
    keys: NDArray[np.int64], num_folds: int, column: str, where: str
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    ordered = np.sort(keys)
    bounds = _bounds(ordered)
    wanted = len(keys) * np.arange(1, num_folds + 1) / (num_folds + 1)
    starts = [int(bounds[np.argmin(np.abs(bounds - place))]) for place in wanted if len(bounds)]
    if len(set(starts)) < num_folds:
        raise DataError(
            f"{where}: the times of the split column '{column}' outside the test rows are too few "
            f"for cv={num_folds}: each fold needs later rows of its own."
        )
    firsts = [int(ordered[start]) for start in starts]
    ends = [*firsts[1:], int(ordered[-1]) + 1]
    return [
        (np.flatnonzero(keys < first), np.flatnonzero((keys >= first) & (keys < end)))
        for first, end in zip(firsts, ends, strict=True)
    ]


def _assigned_rows(
    data: SplitRows, by: SplitSettings, assigned: pd.DataFrame, where: str
) -> dict[str, NDArray[np.int64]]:
    """Read from a table what each row is for."""
    told = f"split.file '{by.file}'"
    for column in ("split", *([] if by.column is None else [by.column])):
        if column not in assigned.columns:
            raise DataError(f"{told}: {unknown('column', column, list(assigned.columns))}")
    names = _texts(assigned["split"])
    wrong = np.asarray([name not in PARTS for name in names], dtype=bool)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{told}, row {row + 1}: {unknown('split', names[row], PARTS)}")
    if by.column is None:
        if len(names) != len(data):
            raise DataError(
                f"{told} has {len(names)} rows and {where} has {len(data)}: it must have one for "
                "each, in their order; or name by split.column what they find one another by."
            )
        chosen = names
    else:
        chosen = _joined(data, by.column, assigned, names, told, where)
    parts = {part: np.flatnonzero(chosen == part) for part in PARTS}
    if len(parts["train"]) == 0:
        raise DataError(f"{told}: no row of {where} is for training.")
    return {part: rows for part, rows in parts.items() if len(rows)}


def _joined(
    data: SplitRows,
    column: str,
    assigned: pd.DataFrame,
    names: NDArray[np.object_],
    told: str,
    where: str,
) -> NDArray[np.object_]:
    """Look each row's part up by the values of a column."""
    import pandas as pd

    assert data.split_keys is not None
    keys = pd.Index(_texts(assigned[column]))
    if not keys.is_unique:
        raise DataError(f"{told}: '{column}' {show(keys[keys.duplicated()][0])} stands twice.")
    wanted = _texts(data.split_keys)
    places = keys.get_indexer(pd.Index(wanted))
    absent = places < 0
    if absent.any():
        row = int(np.argmax(absent))
        raise DataError(
            f"{told} lacks {int(absent.sum())} of {len(wanted)} rows of {where}, first that of "
            f"'{column}' {show(wanted[row])}."
        )
    found: NDArray[np.object_] = names[places]
    return found


def _texts(column: pd.Series[Any]) -> NDArray[np.object_]:
    """Write values as text, so that 1 and "1" are the same; a gap is an empty one."""
    import pandas as pd

    codes, uniques = pd.factorize(column)
    texts = np.empty(len(uniques) + 1, dtype=object)
    texts[:] = [*(label_text(value) for value in uniques), ""]
    written: NDArray[np.object_] = texts[codes]
    return written


def _tell_of_lost_classes(data: SplitRows, train: NDArray[np.int64], where: str) -> None:
    """Warn of classes that occur, but in no training row."""
    counts = np.bincount(data.y, minlength=data.num_classes)
    lost = np.flatnonzero((counts > 0) & (np.bincount(data.y[train], minlength=len(counts)) == 0))
    if len(lost):
        logger.warning(
            "%s: no training row is of %s (%d rows of the other parts are): a model can't learn "
            "to predict it. Choose another split or leave these rows out.",
            *(where, _names(data.class_names, lost), int(counts[lost].sum())),
        )


def _names(class_names: Sequence[str], codes: NDArray[np.int64]) -> str:
    return listed_classes([class_names[int(code)] for code in codes])
