"""What a column holds: numbers, truth values, categories or dates."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ml_project_template.data.columns import label_text, numeric_column, read_number, show
from ml_project_template.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

__all__ = [
    "ColumnType",
    "check_column_types",
    "date_text",
    "encode_categories",
    "encode_dates",
    "is_constant",
    "is_identifier",
    "parse_date",
    "typed_column",
]

ColumnType = Literal["numeric", "category", "date", "drop"]
"""What a user may say of a column; ``drop`` is neither feature nor target."""

# A column of text in which so many of the values are numbers is a column of numbers with a mistake
# in it, and not one of categories: a few typing errors would silently make it something else.
_MOSTLY_NUMBERS = 0.9
# A table shorter than this says nothing about which of its columns only number the rows.
_FEWEST_ROWS_OF_IDENTIFIERS = 20

_DATE = re.compile(
    r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?)?\s*(Z|[+-]\d{2}:?\d{2})?"
)
_IDENTIFIER = re.compile(r"unnamed: \d+|(.*[_ -])?(id|uid|uuid|index|idx|row|key)")
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


def check_column_types(columns: Mapping[str, str], names: Sequence[str], where: str) -> None:
    """Refuse a type that there is not, and a type for a column that there is not.

    Args:
        columns: Column name to type, as the user says it.
        names: The columns of the table.
        where: What the columns belong to, for the message.

    Raises:
        ConfigError: An unknown type.
        DataError: An unknown column.
    """
    for name, kind in columns.items():
        if kind not in get_args(ColumnType):
            raise ConfigError(f"columns.{name}: {unknown('type', str(kind), get_args(ColumnType))}")
        if name not in names:
            raise DataError(f"{where}: columns: {unknown('column', name, names)}")


def typed_column(
    column: pd.Series[Any], name: str, where: str, wanted: str | None = None
) -> pd.Series[Any]:
    """Turn a column into numbers, categories or dates.

    Text is a number if every value is one, a date if every value is one in ISO 8601, and a category
    otherwise; but where nine in ten values are numbers, the others are taken for mistakes.

    Args:
        column: The values, of any type.
        name: The name of the column, for the message.
        where: What the column belongs to, for the message.
        wanted: ``numeric``, ``category`` or ``date``; None finds out.

    Returns:
        Of bool, int64, float32 or float64; or of pandas' ``category`` with texts; or of
        ``datetime64[us]``, in UTC. Missing values are NaN or NaT.

    Raises:
        DataError: A value is not of that type; it names column, row and value.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.StringDtype):
        return _typed_texts(column, name, where, wanted)
    if wanted == "category":
        return _categories(column, name, where)
    if wanted == "date":
        return _dates(column, name, where)
    if wanted == "numeric" or not _may_be_other(column):
        return numeric_column(column, name, where)
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _dates(column, name, where)
    try:
        return numeric_column(column, name, where)
    except DataError as error:
        values = _distinct(column)
        if any(not isinstance(value, (str, bool, int, float, datetime.date)) for value in values):
            raise
        numbers = [read_number(value) is not None for value in values]
        if any(numbers) and not all(numbers):
            rows = column.dropna()
            of_rows = rows.map(dict(zip(values, numbers, strict=True))).mean()
            if float(of_rows) >= _MOSTLY_NUMBERS:
                raise DataError(
                    f"{error} {of_rows:.0%} of the values are numbers. If it stands for a missing "
                    "one, add it to na_values; if these are names, say "
                    f"'data.columns={{{name}: category}}'."
                ) from error
        if all(numbers):
            # Such as a number that is not finite: no other type makes that right.
            raise
    if all(_is_date(value) for value in values):
        return _dates(column, name, where)
    return _categories(column, name, where)


def _typed_texts(
    column: pd.Series[Any], name: str, where: str, wanted: str | None
) -> pd.Series[Any]:
    """Do what `typed_column` does by the different texts alone, which are few in most columns."""
    import pandas as pd

    codes, uniques = pd.factorize(column)
    texts = pd.Series([str(text) for text in uniques], dtype=object)
    try:
        typed = typed_column(texts, name, where, wanted)
    except DataError:
        # It names a row.
        return typed_column(column.astype(object), name, where, wanted)
    if isinstance(typed.dtype, pd.CategoricalDtype):
        is_number = [read_number(text) is not None for text in texts]
        if wanted is None and any(is_number):
            # What is a mistake goes by how many rows have it.
            of_rows = np.append(is_number, False)[codes].sum() / max(1, int((codes >= 0).sum()))
            if of_rows >= _MOSTLY_NUMBERS:
                return typed_column(column.astype(object), name, where, wanted)
        places = np.append(typed.cat.codes.to_numpy(), -1)[codes]
        return pd.Series(pd.Categorical.from_codes(places, dtype=typed.dtype), index=column.index)
    values = typed.to_numpy()
    if values.dtype.kind == "M":
        missing = np.array("NaT", dtype=values.dtype)
        return pd.Series(np.append(values, missing)[codes], index=column.index)
    return pd.Series(np.append(values, np.nan)[codes], index=column.index)


def _may_be_other(column: pd.Series[Any]) -> bool:
    """Whether the type of a column leaves open what it holds."""
    import pandas as pd

    if column.dtype.kind == "O":
        return True
    return not (
        pd.api.types.is_any_real_numeric_dtype(column.dtype)
        or pd.api.types.is_bool_dtype(column.dtype)
    )


def _distinct(column: pd.Series[Any]) -> list[Any]:
    """List the different values that are there; those that can't be compared, as they are."""
    try:
        return list(column.dropna().unique())
    except TypeError:
        return list(column.dropna())


def _is_date(value: object) -> bool:
    if isinstance(value, datetime.date):
        return True
    return isinstance(value, str) and _DATE.fullmatch(value.strip()) is not None


def _categories(column: pd.Series[Any], name: str, where: str) -> pd.Series[Any]:
    import pandas as pd

    values = _distinct(column)
    for value in values:
        if isinstance(value, (bytes, bytearray, list, dict, set, np.ndarray)):
            raise DataError(
                f"{where}: column '{name}': {show(value)} is neither number, text, truth value "
                "nor date."
            )
    codes, uniques = pd.factorize(column)
    texts = [label_text(value) for value in uniques]
    # 1 and "1" are one level.
    levels, places = np.unique(np.asarray(texts, dtype=object), return_inverse=True)
    mapped = np.append(places, -1)[codes].astype(np.int64)
    return pd.Series(
        pd.Categorical.from_codes(mapped, categories=pd.Index(levels, dtype=object)),
        index=column.index,
    )


def _dates(column: pd.Series[Any], name: str, where: str) -> pd.Series[Any]:
    import pandas as pd

    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        times = column
    else:
        texts = column.astype(object).where(column.notna(), None)
        times = pd.to_datetime(texts, format="ISO8601", utc=True, errors="coerce")
        wrong = (times.isna() & column.notna()).to_numpy()
        if wrong.any():
            row = int(np.argmax(wrong))
            raise DataError(
                f"{where}: column '{name}', row {row + 1}: {show(column.iloc[row])} is not a date "
                "such as 2024-01-31 or 2024-01-31T12:30:00Z."
            )
    if getattr(times.dt, "tz", None) is not None:
        times = times.dt.tz_convert("UTC").dt.tz_localize(None)
    return times.astype("datetime64[us]")


def encode_categories(
    column: pd.Series[Any], levels: Sequence[str], *, unseen: list[str] | None = None
) -> NDArray[np.float64]:
    """Write each value as the place of its level.

    Args:
        column: Of any type; a value that is no text is written as one, as `label_text` does.
        levels: The levels in their order.
        unseen: Is given the values that are none of them.

    Returns:
        Shape ``(n_samples,)``; NaN where the value is missing or none of the levels.
    """
    import pandas as pd

    places = {level: float(place) for place, level in enumerate(levels)}
    codes: Any
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes, uniques = column.cat.codes.to_numpy(), list(column.cat.categories)
    else:
        codes, found = pd.factorize(column)
        uniques = list(found)
    texts = [label_text(value) for value in uniques]
    table = np.asarray([*(places.get(text, math.nan) for text in texts), math.nan])
    if unseen is not None:
        occurring = set(np.unique(codes).tolist())
        unseen += [
            text for code, text in enumerate(texts) if text not in places and code in occurring
        ]
    encoded: NDArray[np.float64] = table[codes]
    return encoded


def encode_dates(column: pd.Series[Any], name: str, where: str) -> NDArray[np.float64]:
    """Write each date as seconds since 1970-01-01 in UTC.

    Args:
        column: Dates, or texts in ISO 8601.
        name: The name of the column, for the message.
        where: What the column belongs to, for the message.

    Returns:
        Shape ``(n_samples,)``; NaN where missing.

    Raises:
        DataError: A value is no date.
    """
    times = _dates(column, name, where)
    seconds = times.to_numpy().astype("datetime64[us]").astype(np.int64) / 1e6
    return np.where(times.isna().to_numpy(), np.nan, seconds)


def parse_date(value: object) -> float | None:
    """Read one date as seconds since 1970-01-01 in UTC.

    Args:
        value: A text in ISO 8601, or a ``date`` or ``datetime``; without a time zone it is UTC.

    Returns:
        The seconds; None where it is no date.
    """
    if isinstance(value, str):
        if not _is_date(value):
            return None
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            return None
    if isinstance(value, datetime.datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        return (moment - _EPOCH).total_seconds()
    if isinstance(value, datetime.date):
        return float((value - _EPOCH.date()).days * 86_400)
    return None


def date_text(seconds: float) -> str:
    """Write seconds since 1970-01-01 as a date in ISO 8601, with a time where there is one."""
    moment = _EPOCH + datetime.timedelta(seconds=seconds)
    if seconds % 86_400 == 0:
        return moment.date().isoformat()
    return moment.replace(tzinfo=None).isoformat()


def is_identifier(column: pd.Series[Any], name: str) -> bool:
    """Say whether a column only names or numbers the rows.

    That is text that never repeats; and whole numbers that never repeat, if the column is called
    like one of these: ``id``, ``customer_id``, ``index``, ``row``, ``key``, or has no name.

    Args:
        column: As `typed_column` gives it.
        name: The name of the column.
    """
    import pandas as pd

    rows = len(column)
    if rows < _FEWEST_ROWS_OF_IDENTIFIERS:
        return False
    if isinstance(column.dtype, pd.CategoricalDtype):
        codes = column.cat.codes.to_numpy()
        return bool((codes >= 0).all()) and len(np.unique(codes)) == rows
    return (
        column.dtype.kind == "i"
        and _IDENTIFIER.fullmatch(name.lower()) is not None
        and column.nunique() == rows
    )


def is_constant(column: pd.Series[Any]) -> bool:
    """Say whether a column holds one value alone, or none.

    Args:
        column: As `typed_column` gives it.
    """
    return column.nunique(dropna=False) <= 1
