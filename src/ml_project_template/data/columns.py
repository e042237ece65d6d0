"""One column of a table: what counts as a number, as a label, and how a bad value is told."""

from __future__ import annotations

import datetime
import math
import numbers
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_project_template.errors import DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from numpy.typing import NDArray

__all__ = [
    "MISSING_WORDS",
    "check_unique",
    "harmless_factor",
    "label_codes",
    "label_text",
    "numeric_column",
    "power_of_two",
    "read_number",
    "show",
    "sort_labels",
]

# What stands for a missing value, the same as for pandas.
MISSING_WORDS = (
    "",
    "#N/A",
    "#N/A N/A",
    "#NA",
    "-1.#IND",
    "-1.#QNAN",
    "-NaN",
    "-nan",
    "1.#IND",
    "1.#QNAN",
    "<NA>",
    "N/A",
    "NA",
    "NULL",
    "NaN",
    "None",
    "n/a",
    "nan",
    "null",
)

# Between these, squares and sums of squares of any number of values are floats.
_SMALL, _BIG = 2.0**-200, 2.0**200

# The widths that a column keeps. Every other kind of number becomes one of these.
_KEPT = frozenset({"bool", "int64", "float32", "float64"})


def show(value: object, limit: int = 60) -> str:
    """Write a value for an error message, cut to a length that stays readable.

    Args:
        value: What was found in a table.
        limit: The most characters to write.
    """
    text = f"'{value}'" if isinstance(value, datetime.date) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def check_unique(names: Sequence[str], where: str) -> None:
    """Refuse a table in which two columns bear one name.

    Args:
        names: The names of the columns.
        where: What the columns belong to, for the message.

    Raises:
        DataError: A name stands more than once.
    """
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise DataError(f"{where}: the column name '{name}' stands more than once.")
        seen.add(name)


def power_of_two(values: NDArray[np.float64]) -> float:
    """Find the power of two at or below the largest magnitude.

    Dividing by it is exact and brings every value into [-2, 2], so that sums and squares of
    values such as 1e200 neither overflow nor vanish.

    Args:
        values: Finite numbers of any shape.

    Returns:
        A power of two; 1.0 where there is nothing but zeros, or nothing at all.
    """
    if values.size == 0:
        return 1.0
    largest = max(-float(values.min()), float(values.max()))
    return 1.0 if largest == 0.0 else math.ldexp(1.0, math.frexp(largest)[1] - 1)


def harmless_factor(values: NDArray[np.float64]) -> float:
    """Find what to divide numbers by before they are added up or squared.

    Args:
        values: Finite numbers of any shape.

    Returns:
        1.0 for all that is neither huge nor tiny, so that nothing is to be divided; otherwise as
        `power_of_two`. As that is exact, what is computed from them is the same to the bit.
    """
    factor = power_of_two(values)
    return 1.0 if _SMALL < factor < _BIG else factor


def numeric_column(column: pd.Series[Any], name: str, where: str) -> pd.Series[Any]:
    """Turn a column into bool, int64, float32 or float64.

    A column with missing values becomes a float column with NaN, whatever it held. Text counts as
    numbers only if every value of the column is one.

    Args:
        column: The values, of any type.
        name: The name of the column, for the message.
        where: What the column belongs to, for the message.

    Returns:
        The same values as numbers.

    Raises:
        DataError: A value is no number, or infinite.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        column = pd.Series(column.to_numpy(), index=column.index).infer_objects()
    dtype = column.dtype
    if str(dtype) in _KEPT:
        numeric = column
    elif pd.api.types.is_bool_dtype(dtype) and not column.hasnans:
        numeric = column.astype(bool)
    elif pd.api.types.is_integer_dtype(dtype) and not column.hasnans:
        small = str(dtype).lower() != "uint64" or int(column.max()) < 2**63
        numeric = column.astype(np.int64 if small else np.float64)
    elif pd.api.types.is_any_real_numeric_dtype(dtype) or pd.api.types.is_bool_dtype(dtype):
        numeric = pd.Series(column.to_numpy(dtype=np.float64, na_value=np.nan), index=column.index)
    else:
        numeric = _numbers_of_objects(column, name, where)
    if numeric.dtype.kind == "f":
        infinite = np.isinf(numeric.to_numpy())
        if infinite.any():
            row = int(np.argmax(infinite))
            raise DataError(
                f"{where}: column '{name}', row {row + 1}: "
                f"{numeric.iloc[row]} is not a finite number."
            )
    return numeric


def _numbers_of_objects(column: pd.Series[Any], name: str, where: str) -> pd.Series[Any]:
    """Read text and Python objects as float64 (bool if all are), or name the first that is not."""
    import pandas as pd

    values = column.to_numpy(dtype=object)
    missing = column.isna().to_numpy()
    if not missing.any() and all(isinstance(value, (bool, np.bool_)) for value in values):
        return pd.Series(values.astype(bool), index=column.index)
    result = np.full(len(values), np.nan)
    for row in np.flatnonzero(~missing):
        number = read_number(values[row])
        if number is None:
            raise DataError(
                f"{where}: column '{name}', row {row + 1}: {show(values[row])} is not a number."
            )
        result[row] = number
    return pd.Series(result, index=column.index)


def read_number(value: object) -> float | None:
    """Read one value as a float.

    Args:
        value: A number, a truth value, or text.

    Returns:
        The number, which need not be finite; None where it is none.
    """
    if isinstance(value, (numbers.Real, np.bool_, Decimal, str)):
        # Python reads '1_000' as a number; no table means that.
        if isinstance(value, str) and "_" in value:
            return None
        try:
            return float(value)
        except OverflowError:
            return math.inf
        except ValueError:
            return None
    return None


def label_codes(
    column: pd.Series[Any], name: str, where: str
) -> tuple[NDArray[np.int64], list[str]]:
    """Write the labels of a target column as text.

    Whole numbers are written without a fraction, so that a column of 0.0 and 1.0 has the classes
    "0" and "1".

    Args:
        column: The labels, of any type, none missing.
        name: The name of the column, for the message.
        where: What the column belongs to, for the message.

    Returns:
        For each row the place of its label in a list, of shape ``(n_samples,)``; and that list, in
        the order in which the labels occur.

    Raises:
        DataError: A label is neither text, number, truth value nor time.
    """
    import pandas as pd

    uniques: Any
    try:
        codes, uniques = pd.factorize(column)
    except TypeError:
        # Lists and objects can't be compared: they are looked at one by one.
        codes, uniques = np.arange(len(column)), column.to_numpy(dtype=object)
    places: dict[str, int] = {}
    of_uniques = []
    for index, value in enumerate(np.asarray(uniques, dtype=object)):
        if isinstance(value, (bytes, bytearray, list, dict, set, np.ndarray)):
            row = int(np.argmax(codes == index))
            raise DataError(
                f"{where}: target column '{name}', row {row + 1}: {show(value)} is not a label; "
                "a label is text, a number or a truth value."
            )
        # 1 and "1" are one label.
        of_uniques.append(places.setdefault(label_text(value), len(places)))
    return np.asarray(of_uniques, dtype=np.int64)[codes], list(places)


def label_text(value: object) -> str:
    """Write one label as text, a whole number without its fraction.

    Args:
        value: A label as it stands in a table or in a configuration.
    """
    if isinstance(value, (float, np.floating)):
        number = float(value)
        return str(int(number)) if number.is_integer() else repr(number)
    return str(value)


def sort_labels(labels: set[str]) -> tuple[str, ...]:
    """Put labels in their fixed order: as numbers if all are numbers, else as text.

    Args:
        labels: The different labels of a target.

    Returns:
        The labels in order.
    """
    values = {label: read_number(label) for label in labels}
    if all(value is not None and not math.isnan(value) for value in values.values()):
        return tuple(sorted(labels, key=lambda label: (values[label], label)))
    return tuple(sorted(labels))
