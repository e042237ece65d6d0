"""The target of a table: whether it is a class or a number, and how it is written as an array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ml_project_template.data.columns import (
    label_codes,
    label_text,
    numeric_column,
    sort_labels,
)
from ml_project_template.data.signature import Task
from ml_project_template.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = ["encode_labels", "given_class_names", "read_numbers", "read_target", "task_of"]

# Fewer different numbers than this may be classes; more of them, each seen a few times only, are a
# measure. Text with so many different values is neither.
_MOST_CLASSES = 50
_FEWEST_ROWS_OF_A_CLASS = 20
_LARGEST = 1e100


def read_target(
    target: pd.Series[Any],
    task: Task | Literal["auto"],
    target_column: str,
    class_names: Sequence[object] | None,
    where: str,
) -> tuple[NDArray[Any], Task, tuple[str, ...]]:
    """Find out what a target is, and read it.

    Args:
        target: The target of each row.
        task: What the user says of it.
        target_column: The name of the column, for the message.
        class_names: The classes in the order of their codes, where the user names them.
        where: What the column belongs to, for the message.

    Returns:
        Class codes, int64, or numbers, float64, of shape ``(n_samples,)``; the task; and the
        classes in the order of their codes, none for a regression.

    Raises:
        ConfigError: As for `task_of` and `given_class_names`.
        DataError: As for `read_numbers` or `encode_labels`.
    """
    found = task_of(target, task, target_column, class_names, where)
    if found == "regression":
        return read_numbers(target, target_column, where), found, ()
    codes, names = encode_labels(target, target_column, class_names, where)
    return codes, found, names


def task_of(
    target: pd.Series[Any] | None,
    task: Task | Literal["auto"],
    target_column: str,
    class_names: Sequence[object] | None,
    where: str,
) -> Task:
    """Tell whether a target is a class or a number.

    Fractions that hardly repeat are numbers, and so are whole numbers of more than 50 values with
    fewer than 20 rows each; everything else is a class.

    Args:
        target: The target of each row; None where it is not known.
        task: What the user says of it.
        target_column: The name of the column, for the message.
        class_names: The classes, where the user names them.
        where: What the column belongs to, for the message.

    Raises:
        ConfigError: An unknown task, or class names for a regression.
    """
    import pandas as pd

    if task not in (*get_args(Task), "auto"):
        raise ConfigError(unknown("task", str(task), [*get_args(Task), "auto"]))
    if task == "regression" and class_names is not None:
        raise ConfigError(
            f"{where}: class_names are given for '{target_column}', and task=regression."
        )
    if task != "auto":
        return task
    if class_names is not None or target is None:
        return "classification"
    dtype = target.dtype
    if not pd.api.types.is_any_real_numeric_dtype(dtype):
        return "classification"
    values = target.dropna().to_numpy(dtype=np.float64)
    values = np.sort(values[np.isfinite(values)])
    different = min(1, len(values)) + int(np.count_nonzero(values[1:] != values[:-1]))
    whole = bool(np.all(values == np.floor(values)))
    if whole:
        is_measure = different > _MOST_CLASSES and len(values) < different * _FEWEST_ROWS_OF_A_CLASS
    else:
        is_measure = different > _MOST_CLASSES or different > len(values) / 2
    return "regression" if is_measure else "classification"


def read_numbers(target: pd.Series[Any], target_column: str, where: str) -> NDArray[np.float64]:
    """Read a numeric target.

    Args:
        target: The target of each row.
        target_column: The name of the column, for the message.
        where: What the column belongs to, for the message.

    Returns:
        Shape ``(n_samples,)``, finite.

    Raises:
        DataError: A value is missing, no finite number, or too large to be squared.
    """
    _refuse_missing(target, target_column, where, "fill in their value")
    values = numeric_column(target, target_column, where).to_numpy(dtype=np.float64)
    largest = int(np.argmax(np.abs(values)))
    if abs(values[largest]) > _LARGEST:
        raise DataError(
            f"{where}: target column '{target_column}', row {largest + 1}: {values[largest]:g} is "
            "too large for its errors to be squared; write the target in larger units."
        )
    return values


def given_class_names(class_names: Sequence[object]) -> tuple[str, ...]:
    """Write the classes that a user names as text.

    Args:
        class_names: Labels in the order of their codes.

    Raises:
        ConfigError: No list, fewer than two, or one more than once.
    """
    if isinstance(class_names, str):
        raise ConfigError(f"class_names must be a list of labels, got '{class_names}'.")
    names = tuple(label_text(label) for label in class_names)
    doubled = {label for label in names if names.count(label) > 1}
    if doubled:
        raise ConfigError(f"class_names names '{min(doubled)}' more than once.")
    if len(names) < 2:
        raise ConfigError(f"class_names must name at least two classes, got {list(names)}.")
    return names


def encode_labels(
    labels: pd.Series[Any],
    target_column: str,
    class_names: Sequence[object] | None,
    where: str,
) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Turn labels into codes and fix the order of the classes.

    Args:
        labels: The label of each row.
        target_column: The name of the column, for the message.
        class_names: The labels in the order of their codes; None sorts those that occur.
        where: What the column belongs to, for the message.

    Returns:
        Codes of shape ``(n_samples,)``, and the class names in their order.

    Raises:
        DataError: A label is missing, or none of ``class_names``; or there is one class only.
    """
    _refuse_missing(labels, target_column, where, "fill in their label")
    codes, found = label_codes(labels, target_column, where)
    if class_names is None:
        if len(found) > _MOST_CLASSES and len(found) > len(labels) / 2:
            raise DataError(
                f"{where}: target column '{target_column}' has {len(found)} different values in "
                f"{len(labels)} rows: the target must hold class labels that repeat, or numbers."
            )
        names = sort_labels(set(found))
        if len(names) < 2:
            raise DataError(
                f"{where}: target column '{target_column}' holds one class only, '{names[0]}'; "
                "at least two are needed."
            )
    else:
        names = given_class_names(class_names)
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


def _refuse_missing(target: pd.Series[Any], target_column: str, where: str, remedy: str) -> None:
    missing = target.isna().to_numpy()
    if missing.any():
        raise DataError(
            f"{where}: target column '{target_column}' is missing in {int(missing.sum())} of "
            f"{len(target)} rows, first in row {int(np.argmax(missing)) + 1}; "
            f"remove these rows or {remedy}."
        )
