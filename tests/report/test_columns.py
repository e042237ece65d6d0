"""Summaries of columns, against figures computed another way."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_project_template.data import TabularDataset
from ml_project_template.report.columns import correlations, summarize_columns


def _features(**columns: Any) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    return TabularDataset(table, ["x", "y"] * (len(table) // 2), target_column="t").features


def test_each_type_is_told_in_its_own_words() -> None:
    features = _features(
        number=[1.0, 2.0, np.nan, 5.0],
        word=["a", "b", "a", None],
        day=["2024-01-01", "2024-01-31", "2024-01-11", "2024-01-21"],
        flag=[True, False, True, True],
        same=[7, 7, 7, 7],
    )
    found = {c.name: c for c in summarize_columns(features, np.array([0, 1, 0, 1]), num_classes=2)}
    assert [each.type for each in found.values()] == ["float", "category", "date", "bool", "int"]
    assert found["number"].values == "1 to 5, mean 2.667"
    assert found["number"].missing == 0.25
    assert sum(found["number"].counts) == 3
    assert found["word"].values == "a 50%, b 25%"
    assert found["word"].labels == ("a", "b")
    assert "1 levels have one row" in found["word"].notes
    assert found["day"].values == "2024-01-01 to 2024-01-31"
    assert found["same"].notes == ("constant",)
    assert found["same"].association is None


def test_the_association_is_the_measure_that_fits_the_two_types() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=60)
    y = x + rng.normal(size=60)
    words = np.where(x > 0, "up", "down")
    classes = (y > 0).astype(np.int64)
    features = _features(x=x, words=words)
    number, category = summarize_columns(features, y, num_classes=0)
    assert number.association == pytest.approx(abs(np.corrcoef(x, y)[0, 1]))
    groups = [y[words == word] for word in ("up", "down")]
    between = sum(len(g) * (g.mean() - y.mean()) ** 2 for g in groups)
    assert category.association == pytest.approx(np.sqrt(between / np.sum((y - y.mean()) ** 2)))
    _, category = summarize_columns(features, classes, num_classes=2)
    # Of two by two, Cramér's V is the magnitude of the correlation of the codes.
    phi = np.corrcoef(words == "up", classes)[0, 1]
    assert category.association == pytest.approx(abs(phi))


def test_of_many_numbers_those_that_correlate_most_are_kept_in_their_order() -> None:
    rng = np.random.default_rng(0)
    table = {f"c{place}": rng.normal(size=40) for place in range(40)}
    table["c20"] = table["c3"] * 2 + 1
    names, matrix = correlations(_features(**table, word=["a", "b"] * 20))
    assert len(names) == 30
    assert {"c3", "c20"} <= set(names)
    assert names == [name for name in table if name in names]
    assert matrix[names.index("c3"), names.index("c20")] == pytest.approx(1.0)
