"""The columns in a few lines."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ml_project_template.data import Signature, TabularDataset
from ml_project_template.data.column_table import describe_columns


def _lines(frame: pd.DataFrame, target: object) -> list[str]:
    data = TabularDataset(frame, pd.Series(target), target_column="y", drop_identifiers=True)
    return describe_columns(Signature.from_dataset(data), data.dropped)


def test_numbers_without_gaps_are_one_line() -> None:
    frame = pd.DataFrame({"a": np.arange(30) / 2, "b": np.arange(30) % 4})
    assert _lines(frame, ["u", "v"] * 15) == [
        "Columns: 2 features: numbers; 'y': classification, 2 classes: u, v"
    ]


def test_other_columns_are_a_table() -> None:
    frame = pd.DataFrame(
        {
            "size": [*np.arange(28) / 2, np.nan, np.nan, np.nan],
            "flag": [True] * 31,
            "zip": ["a b", "c\nd", None] * 10 + ["a b"],
            "day": pd.date_range("2024-01-01", periods=31),
            "id": np.arange(31),
        }
    )
    assert _lines(frame, np.linspace(0, 7, 31)) == [
        "column  type      missing  values                    note",
        "size    float     9.7%     0 to 13.5",
        "flag    bool               100.0% true               constant",
        "zip     category  32.3%    2: a b, c d",
        "day     date               2024-01-01 to 2024-01-31",
        "id                                                   left out: names or numbers the rows",
        "y       target                                       regression, 0 to 7",
    ]


def test_of_many_columns_those_with_something_to_tell_are_shown() -> None:
    columns = {f"x{i}": np.arange(30) + 0.5 for i in range(300)}
    frame = pd.DataFrame({**columns, "c": ["u", "v"] * 15, "gap": [np.nan, *range(29)]})
    lines = _lines(frame, ["u", "v"] * 15)
    assert [line.split()[0] for line in lines] == ["column", "c", "gap", "y", "..."]
    assert lines[-1] == "... and 300 more: numbers"
    frame = pd.DataFrame({f"c{i}": ["u", "v", None] * 10 for i in range(300)})
    lines = _lines(frame, ["u", "v"] * 15)
    assert len(lines) <= 32
    assert lines[-1] == "... and 271 more: categories"
