"""What a column is taken for, and how its values become numbers."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_project_template.data.column_types import (
    check_column_types,
    date_text,
    encode_categories,
    encode_dates,
    is_constant,
    is_identifier,
    parse_date,
    typed_column,
)
from ml_project_template.errors import ConfigError, DataError


def _typed(values: Any, wanted: str | None = None) -> pd.Series[Any]:
    return typed_column(pd.Series(values), "c", "'t.csv'", wanted)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 2], "int64"),
        ([1.5, None], "float64"),
        ([True, False], "bool"),
        (["1.5", "2", None], "float64"),
        (["a", "b", None], "category"),
        (["12", "A7", "B"], "category"),
        (["yes", "no"], "category"),
        (["2024-01-31", None, "2024-02-01"], "datetime64[us]"),
        (["2024-01-31T10:00:00+02:00", "2024-01-31 12:30"], "datetime64[us]"),
        ([datetime.date(2024, 1, 31), None], "datetime64[us]"),
        (pd.to_datetime(["2024-01-31"]).tz_localize("Europe/Berlin"), "datetime64[us]"),
        (["2024-01-31", "later"], "category"),
        ([None, None], "float64"),
        (pd.Categorical(["a", "b"]), "category"),
        (pd.Categorical([1, 2]), "int64"),
    ],
)
def test_the_type_of_a_column_is_found_out(values: Any, dtype: str) -> None:
    found = _typed(values)
    assert str(found.dtype) == dtype
    assert found.isna().tolist() == pd.Series(values).isna().tolist()


def test_the_user_has_the_last_word() -> None:
    assert list(_typed([1, 2, None], "category").cat.categories) == ["1", "2"]
    assert list(_typed([True, False], "category").cat.categories) == ["False", "True"]
    assert _typed(["5", "7"], "numeric").tolist() == [5.0, 7.0]
    assert str(_typed(["2024-01-31"], "date").dtype) == "datetime64[us]"
    with pytest.raises(DataError, match=r"'t.csv': column 'c', row 2: 'x' is not a number"):
        _typed(["5", "x"], "numeric")
    with pytest.raises(DataError, match=r"column 'c', row 2: 'x' is not a date such as 2024-01-31"):
        _typed(["2024-01-31", "x"], "date")
    for wanted in (None, "category"):
        with pytest.raises(DataError, match=r"\[1\]"):
            _typed([[1], [2]], wanted)


def test_one_mistake_among_numbers_does_not_make_them_categories() -> None:
    values = [*map(str, range(19)), "?"]
    with pytest.raises(DataError, match=r"row 20: '\?' is not a number\. 95% .*category}'"):
        _typed(values)
    assert len(_typed(values, "category").cat.categories) == 20


def test_an_unknown_type_or_column_is_told() -> None:
    with pytest.raises(ConfigError, match=r"columns\.a: Unknown type 'catgory'.*'category'"):
        check_column_types({"a": "catgory"}, ["a"], "'t.csv'")
    with pytest.raises(DataError, match=r"columns: Unknown column 'b'"):
        check_column_types({"b": "date"}, ["a"], "'t.csv'")


def test_a_level_is_its_place_and_all_else_is_missing() -> None:
    unseen: list[str] = []
    typed = _typed(["a", "z", None, "b"])
    for column in (typed, typed.astype(object)):
        codes = encode_categories(column, ["b", "a"], unseen=unseen)
        np.testing.assert_array_equal(codes, [1.0, np.nan, np.nan, 0.0])
    assert unseen == ["z", "z"]
    np.testing.assert_array_equal(encode_categories(pd.Series([1.0, 2.0]), ["1", "2"]), [0, 1])


@pytest.mark.parametrize(
    "moment",
    ["1969-12-31", "2024-02-29", "2024-02-29T23:59:59", "2024-02-29T10:30:00+02:00", "9999-12-31"],
)
def test_a_date_is_the_same_alone_and_in_a_column(moment: str) -> None:
    seconds = parse_date(moment)
    assert seconds is not None
    assert (
        seconds
        == datetime.datetime.fromisoformat(moment)
        .replace(tzinfo=datetime.datetime.fromisoformat(moment).tzinfo or datetime.UTC)
        .timestamp()
    )
    column = encode_dates(pd.Series([moment, None]), "c", "t")
    assert column[0] == seconds
    assert math.isnan(column[1])
    assert parse_date(date_text(seconds)) == seconds


@pytest.mark.parametrize("value", ["2024-13-01", "31.01.2024", "2024", "0000-01-01", "", 7, None])
def test_what_is_no_date_is_none(value: object) -> None:
    assert parse_date(value) is None


def test_columns_that_only_name_the_rows_are_known() -> None:
    rows = 30
    text = _typed([f"K{n}" for n in range(rows)])
    assert is_identifier(text, "anything")
    assert not is_identifier(text[:10], "id")
    assert not is_identifier(_typed(["a", "b"] * 15), "id")
    numbers = _typed(list(range(rows)))
    for name in ("id", "Customer_ID", "Unnamed: 0", "row", "order key"):
        assert is_identifier(numbers, name)
    for name in ("year", "width", "paid", "x"):
        assert not is_identifier(numbers, name)
    assert is_constant(_typed([7, 7]))
    assert is_constant(_typed([None, None]))
    assert not is_constant(_typed([7, None]))
