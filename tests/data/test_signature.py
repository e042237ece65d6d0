"""The contract of a model with those who send it rows."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml_project_template.data import Signature, TabularDataset
from ml_project_template.data.signature import MAX_LEVELS, describe
from ml_project_template.errors import DataError


@pytest.fixture
def dataset() -> TabularDataset:
    features = pd.DataFrame(
        {
            "width": [0.5, np.nan, 1.5, 2.5, np.nan, 3.5, 4.5],
            "count": [1, 2, 3, 4, 5, 6, 7],
            "on": [True, False, True, True, True, True, True],
            "void": [np.nan] * 7,
        }
    )
    labels = ["a", "a", "a", "a", "a", "b", "c"]
    return TabularDataset(features, labels, target_column="kind")


@pytest.fixture
def signature(dataset: TabularDataset) -> Signature:
    return Signature.from_dataset(dataset)


def _flat(*names: str) -> Signature:
    frame = pd.DataFrame({name: [1.0, 2.0] for name in names})
    return Signature.from_dataset(TabularDataset(frame, ["p", "q"], target_column="t"))


def test_a_signature_describes_the_rows(signature: Signature) -> None:
    assert signature.feature_names == ("width", "count", "on", "void")
    assert signature.target == "kind"
    assert signature.class_names == ("a", "b", "c")
    assert signature.n_rows == 7
    width, count, on, void = signature.features
    assert [feature.type for feature in signature.features] == ["float", "int", "bool", "float"]
    assert (width.min, width.max, width.mean) == (0.5, 4.5, 2.5)
    assert width.missing == pytest.approx(2 / 7)
    assert (count.min, count.max, count.mean, count.missing) == (1, 7, 4, 0)
    assert count.quantiles is not None
    np.testing.assert_allclose(count.quantiles, np.quantile(range(1, 8), np.linspace(0, 1, 11)))
    assert (on.min, on.max) == (0, 1)
    assert on.mean == pytest.approx(6 / 7)
    assert (void.min, void.max, void.mean, void.missing, void.quantiles) == (None,) * 3 + (1, None)


def test_the_sample_shows_as_many_classes_as_it_can(signature: Signature) -> None:
    assert [row["count"] for row in signature.sample] == [1, 6, 7, 2, 3]
    assert signature.sample[0] == {"width": 0.5, "count": 1, "on": True, "void": None}
    assert [type(value) for value in signature.sample[0].values()] == [float, int, bool, type(None)]


def test_the_sample_of_a_tiny_table_has_its_rows_once() -> None:
    assert [row["x"] for row in _flat("x").sample] == [1.0, 2.0]


def test_numbers_near_the_limits_of_floats_have_a_mean() -> None:
    frame = pd.DataFrame({"huge": [1.7e308, 1.6e308], "tiny": [5e-324, 5e-324]})
    data = TabularDataset(frame, ["p", "q"], target_column="t")
    huge, tiny = Signature.from_dataset(data).features
    assert huge.mean == pytest.approx(1.65e308)
    assert tiny.mean == 5e-324


def test_a_signature_survives_json(signature: Signature) -> None:
    text = json.dumps(signature.to_dict(), allow_nan=False)
    assert Signature.from_dict(json.loads(text)) == signature


def test_a_category_keeps_the_share_of_each_level() -> None:
    frame = pd.DataFrame({"city": ["Rome", "Bonn", None, "Rome"], "x": range(4)})
    signature = Signature.from_dataset(TabularDataset(frame, list("pqpq"), target_column="t"))
    city, number = signature.features
    assert city.levels == ("Bonn", "Rome")
    assert city.shares == (0.25, 0.5)
    assert number.shares is None
    state = json.loads(json.dumps(signature.to_dict()))
    assert Signature.from_dict(state) == signature
    for index, wrong in [(0, [0.5]), (0, [0.5, 2]), (0, [0.5, None]), (1, [0.5])]:
        damaged = copy.deepcopy(state)
        damaged["features"][index]["shares"] = wrong
        with pytest.raises(DataError, match=r"shares of '(city|x)' must be a number in \[0, 1\]"):
            Signature.from_dict(damaged)
    # A model that was saved before there were shares.
    del state["features"][0]["shares"]
    assert Signature.from_dict(state).features[0].shares is None


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["extra"], 1, "Unknown key 'extra'"),
        (["target"], 5, "signature.target must be text, got 5"),
        (["n_rows"], -1, "signature.n_rows must be a whole number"),
        (["n_rows"], True, "signature.n_rows must be a whole number"),
        (["class_names"], "abc", "signature.class_names must be a list"),
        (["class_names"], [1], "signature.class_names must be text"),
        (["features"], [], "at least one feature"),
        (["features"], [5], "signature.features must be an object, got 5"),
        (["features", 0, "name"], "count", "each once"),
        (["features", 0, "type"], "text", "Unknown type 'text'"),
        (["features", 0, "min"], "1", r"signature.features.min must be a finite number or null"),
        (["features", 0, "max"], float("inf"), "must be a finite number or null"),
        (["features", 0, "missing"], 1.5, r"must be in \[0, 1\], got 1.5"),
        (["features", 0, "missing"], None, r"must be in \[0, 1\], got None"),
        (["features", 0, "quantiles"], [1.0], "must be 11 numbers"),
        (["features", 0, "more"], 1, "Unknown key 'more'"),
        (["sample", 0, "width"], "wide", "signature.sample must be a finite number"),
        (["sample", 0, "wide"], 1.0, "Unknown key 'wide'. Did you mean 'width'"),
    ],
)
def test_a_damaged_signature_is_told_in_one_line(
    signature: Signature, path: list[Any], value: object, message: str
) -> None:
    state: Any = copy.deepcopy(signature.to_dict())
    place = state
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(DataError, match=message) as caught:
        Signature.from_dict(state)
    assert "\n" not in str(caught.value)


def test_a_signature_without_a_key_is_told(signature: Signature) -> None:
    state = signature.to_dict()
    del state["target"]
    with pytest.raises(DataError, match="signature: the key 'target' is missing"):
        Signature.from_dict(state)
    wrong: Any = []
    with pytest.raises(DataError, match="signature must be an object"):
        Signature.from_dict(wrong)


# -- rows ------------------------------------------------------------------------------------------

ROWS = [[1.5, 2.0], [np.nan, -3.0]]


@pytest.mark.parametrize(
    "rows",
    [
        ROWS,
        [[1.5, 2], [None, -3]],
        [(1.5, 2), (float("nan"), np.int64(-3))],
        [np.array([1.5, 2]), np.array([np.nan, -3])],
        np.array(ROWS),
        np.array(ROWS, dtype=np.float32),
        np.array([[1.5, 2], [None, -3]], dtype=object),
        [{"x": 1.5, "größe y": 2}, {"größe y": -3, "x": None}],
        [{"x": 1.5, "größe y": 2, "t": "p"}, {"größe y": -3, "x": None, "t": "q"}],
        pd.DataFrame({"größe y": [2, -3], "other": ["u", "v"], "x": [1.5, None]}),
        pd.DataFrame({"größe y": [2, -3], "x": pd.array([1.5, None], dtype="Float64")}),
        pd.DataFrame({"größe y": [2, -3], "x": np.array([1.5, None], dtype=object)}, index=[5, 6]),
    ],
)
def test_rows_of_every_form_become_the_same_frame(rows: Any) -> None:
    frame = _flat("x", "größe y").rows_to_frame(rows)
    pd.testing.assert_frame_equal(frame, pd.DataFrame(ROWS, columns=["x", "größe y"]))


def test_truth_values_are_numbers() -> None:
    signature = _flat("x")
    for rows in ([[True]], pd.DataFrame({"x": [True]}), np.array([[True]])):
        assert signature.rows_to_frame(rows).to_numpy().tolist() == [[1.0]]
    nullable = pd.DataFrame({"x": pd.array([True, None], dtype="boolean")})
    assert signature.rows_to_frame(nullable)["x"].isna().tolist() == [False, True]


def test_no_rows_are_a_frame_without_rows() -> None:
    frame = _flat("x", "y").rows_to_frame([])
    assert frame.shape == (0, 2)
    assert list(frame.columns) == ["x", "y"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[1, 2], [3]], "Row 2 has 1 values; 2 are needed: width, height"),
        ([[1, 2], [3, "4"]], "Row 2: feature 'height' must be a finite number, got '4'"),
        ([[1, float("inf")]], "Row 1: feature 'height' must be a finite number, got inf"),
        ([[1, 10**400]], "Row 1: feature 'height' must be a finite number, got inf"),
        ([[1, [2]]], r"feature 'height' must be a finite number, got \[2\]"),
        ([[1, "z" * 10_000]], r"got 'z{56}\.\.\."),
        ([{"width": 1}], "Row 1: the feature 'height' is missing"),
        ([{"width": 1, "heigth": 2}], "the feature 'height' is missing; is it 'heigth'?"),
        ([{"width": 1, "height": 2, "hight": 3}], "Row 1: Unknown feature 'hight'. Did you mean"),
        ([1, 2], "Row 1 must be a list of values or an object by feature name, got 1"),
        (["ab"], "Row 1 must be a list of values"),
        ("ab", "Rows must be a table or a list of rows, got 'ab'"),
        ({"width": [1]}, "Rows must be a table or a list of rows"),
        (5, "Rows must be a table or a list of rows, got 5"),
        (np.zeros((2, 3)), r"must have the shape \(n, 2\).*got the shape \(2, 3\)"),
        (np.zeros(2), r"got the shape \(2,\)"),
        (np.array([["a", "b"]]), "Row 1: feature 'width' must be a finite number, got 'a'"),
        (np.array([[1, np.inf]]), "Row 1: feature 'height' must be a finite number, got inf"),
        (pd.DataFrame({"width": [1]}), "The table: the feature 'height' is missing"),
        (pd.DataFrame({"width": [1], "Height": [1]}), "is missing; is it 'Height'"),
        (pd.DataFrame({"width": [1, 2], "height": ["3", "x"]}), "Row 1: .* got '3'"),
        (pd.DataFrame([[1, 2, 3]], columns=["width", "height", "width"]), "more than once"),
    ],
)
def test_wrong_rows_are_told_by_row_and_feature(rows: Any, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        _flat("width", "height").rows_to_frame(rows)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_strict_refuses_what_is_no_feature() -> None:
    signature = _flat("x")
    with pytest.raises(DataError, match="Unknown feature 'other'"):
        signature.rows_to_frame(pd.DataFrame({"x": [1], "other": [2]}), strict=True)
    with pytest.raises(DataError, match="Row 1: Unknown feature 't'"):
        signature.rows_to_frame([{"x": 1, "t": "p"}], strict=True)


def test_probe_rows_are_the_sample_and_mixtures_within_the_ranges(signature: Signature) -> None:
    rows = signature.probe_rows()
    assert rows.shape == (5 + 22, 4)
    assert rows.dtype == np.float64
    assert rows.flags.c_contiguous
    assert np.isfinite(rows).all()
    np.testing.assert_array_equal(rows, signature.probe_rows())
    assert rows[0].tolist() == [0.5, 1, 1, 0]
    for column, feature in zip(rows[5:].T, signature.features, strict=True):
        if feature.quantiles is None:
            assert (column == 0).all()
        else:
            assert set(column) == set(feature.quantiles)


def test_probe_rows_with_gaps_leave_out_each_feature_and_all(signature: Signature) -> None:
    rows = signature.probe_rows(missing=True)
    assert rows.shape == (5 + 22 + 5, 4)
    np.testing.assert_array_equal(np.isnan(rows[-5:-1]), np.eye(4, dtype=bool))
    assert np.isnan(rows[-1]).all()
    # The sample's own gaps stay.
    assert np.isnan(rows[0]).tolist() == [False, False, False, True]
    assert np.isfinite(rows[5:-5]).all()
    assert not np.isinf(rows).any()
    np.testing.assert_array_equal(rows, signature.probe_rows(missing=True))


@pytest.mark.parametrize("count", [1, 8, 9, 40])
def test_probe_rows_leave_out_eight_features_at_most(count: int) -> None:
    signature = _flat(*(f"f{i}" for i in range(count)))
    gaps = np.isnan(signature.probe_rows(missing=True)).sum(axis=1)
    assert gaps.tolist()[-(min(count, 8) + 1) :] == [1] * min(count, 8) + [count]
    assert gaps.sum() == min(count, 8) + count
    assert np.isfinite(signature.probe_rows()).all()


# -- categories, dates and numeric targets ---------------------------------------------------------


def test_each_type_is_described_and_encoded(mixed: TabularDataset) -> None:
    signature = Signature.from_dataset(mixed)
    assert [feature.type for feature in signature.features] == ["float", "category", "date", "bool"]
    assert signature.features[1].levels == ("Oslo", "Rome")
    assert signature.column_types == {
        "size": "numeric",
        "city": "category",
        "sold": "date",
        "new": "numeric",
    }
    assert signature.sample[1] == {"size": 1.0, "city": "Rome", "sold": "2024-01-31", "new": True}
    rows = [
        [2, "Oslo", "1970-01-02", False],
        {"size": None, "city": "Paris", "sold": None, "new": True},
    ]
    for given in (rows[:1], [rows[1]], rows):
        frame = signature.rows_to_frame(given)  # type: ignore[arg-type]
        assert len(frame) == len(given)
    np.testing.assert_array_equal(frame, [[2, 0, 86400, 0], [np.nan, np.nan, np.nan, 1]])
    again = Signature.from_dict(json.loads(json.dumps(signature.to_dict(), allow_nan=False)))
    assert again == signature
    table = signature.rows_to_frame(mixed.features)
    np.testing.assert_array_equal(table["city"], [1, 0, np.nan, 1])
    assert np.isfinite(signature.probe_rows()[:, [0, 2, 3]]).all()


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([1, ["Rome"], None, True], "feature 'city' must be a text, got"),
        ([1, "Rome", "tomorrow", True], "feature 'sold' must be a date such as 2024-01-31, got"),
        ([1, "Rome", 7, True], "feature 'sold' must be a date"),
        (["1", "Rome", None, True], "feature 'size' must be a finite number, got '1'"),
    ],
)
def test_a_value_of_another_type_is_told(
    mixed: TabularDataset, row: list[object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        Signature.from_dataset(mixed).rows_to_frame([row])


def test_of_too_many_levels_the_most_frequent_are_kept() -> None:
    words = [f"w{n:03}" for n in range(300)] + [f"w{n:03}" for n in range(250, 300)]
    table = pd.DataFrame({"word": words})
    raw = TabularDataset(table, ["x", "y"] * 175, target_column="t")
    levels = Signature.from_dataset(raw).features[0].levels
    assert levels is not None
    assert len(levels) == MAX_LEVELS
    assert {f"w{n:03}" for n in range(250, 300)} <= set(levels)
    assert list(levels) == sorted(levels)


def test_a_numeric_target_has_no_classes_and_its_deciles() -> None:
    target = np.linspace(0.5, 99.5, 100)
    raw = TabularDataset(pd.DataFrame({"a": target}), target, target_column="t")
    signature = Signature.from_dataset(raw)
    assert (signature.task, signature.class_names, signature.num_outputs) == ("regression", (), 1)
    assert signature.target_quantiles is not None
    assert signature.target_quantiles[::10] == (0.5, 99.5)
    assert Signature.from_dict(signature.to_dict()) == signature


def test_a_signature_of_before_there_were_tasks_is_one_of_a_classification(
    mixed: TabularDataset,
) -> None:
    state = Signature.from_dataset(mixed).to_dict()
    for key in ("task", "target_quantiles", "threshold"):
        del state[key]
    assert Signature.from_dict(state).task == "classification"


def test_a_threshold_decides_between_two_classes(mixed: TabularDataset) -> None:
    signature = Signature.from_dataset(mixed)
    chances = np.array([[0.6, 0.4], [0.9, 0.1]])
    assert signature.decide(chances).tolist() == [0, 0]
    assert replace(signature, threshold=0.3).decide(chances).tolist() == [1, 0]
    state = {**signature.to_dict(), "threshold": 2.0}
    with pytest.raises(DataError, match=r"threshold must be in \[0, 1\]"):
        Signature.from_dict(state)


@pytest.mark.parametrize("kind", ["normal", "skewed", "whole", "huge", "equal"])
def test_deciles_of_many_rows_are_those_of_numpy(kind: str) -> None:
    generator = np.random.default_rng(0)
    values = {
        "normal": generator.normal(size=50_001),
        "skewed": np.exp(6.0 * generator.normal(size=50_000)),
        "whole": generator.integers(-3, 7, 50_000).astype(np.float64),
        "huge": generator.normal(size=30_000) * 1e300,
        "equal": np.full(30_000, 0.1),
    }[kind]
    found = describe("x", pd.Series(values)).quantiles
    factor = 2.0**-8 if kind == "huge" else 1.0
    expected = np.quantile(values * factor, np.linspace(0.0, 1.0, 11)) / factor
    assert found == tuple(expected.tolist())
