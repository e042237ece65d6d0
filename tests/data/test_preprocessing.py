"""Filling and scaling, learned from the training rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ml_project_template.data import Preprocessor, Signature, TabularDataset
from ml_project_template.errors import ConfigError, DataError


def _dataset(columns: dict[str, Any]) -> TabularDataset:
    frame = pd.DataFrame(columns)
    labels = ["p", "q"] * (len(frame) // 2) + ["p"] * (len(frame) % 2)
    return TabularDataset(frame, labels, target_column="t")


def _random(rows: int, seed: int, missing: float = 0.2) -> TabularDataset:
    generator = np.random.default_rng(seed)
    values = generator.normal(size=(rows, 4)) * [1, 1e-6, 1e6, 3] + [0, 5, -1e6, 1e3]
    values[generator.random(values.shape) < missing] = np.nan
    return _dataset({f"c{index}": values[:, index] for index in range(4)})


@pytest.mark.parametrize("impute", ["mean", "median", "zero"])
def test_the_result_is_that_of_scikit_learn(impute: Any) -> None:
    train, test = _random(500, seed=0), _random(100, seed=1)
    strategy: dict[str, Any] = {
        "strategy": "constant" if impute == "zero" else impute,
        "fill_value": 0.0,
    }
    peer = make_pipeline(SimpleImputer(**strategy), StandardScaler()).fit(train.features)
    prepared = Preprocessor(impute).fit(train).transform(test)
    np.testing.assert_allclose(prepared.X, peer.transform(test.features), rtol=1e-6, atol=1e-6)


def test_training_rows_end_with_mean_0_and_deviation_1() -> None:
    train = _random(500, seed=0)
    prepared = Preprocessor().fit(train).transform(train)
    np.testing.assert_allclose(prepared.X.mean(axis=0, dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(prepared.X.std(axis=0, dtype=np.float64), 1, atol=1e-6)


def test_a_prepared_data_set_knows_how_it_was_prepared() -> None:
    train = _random(20, seed=0)
    unfitted = Preprocessor()
    assert not unfitted.is_fitted
    preprocessor = unfitted.fit(train)
    assert preprocessor is unfitted
    assert preprocessor.is_fitted
    prepared = preprocessor.transform(train)
    assert prepared.preprocessor is preprocessor
    assert prepared.signature == Signature.from_dataset(train)
    assert prepared.X.dtype == np.float32
    assert prepared.X.flags.c_contiguous
    assert prepared.y.tolist() == train.y.tolist()
    assert train.preprocessor is None
    kept = _random(20, seed=1)
    kept.signature = prepared.signature
    assert preprocessor.transform(kept).signature is prepared.signature


def test_one_row_gives_to_the_bit_what_it_gives_among_many() -> None:
    train = _random(40_001, seed=0)
    preprocessor = Preprocessor().fit(train)
    values = train.features.to_numpy(dtype=np.float64)
    whole = preprocessor.transform(train).X
    assert preprocessor.transform_array(values).tobytes() == whole.tobytes()
    for row in (0, 1, 16_383, 16_384, 40_000):
        alone = preprocessor.transform_array(values[row : row + 1])
        assert alone.tobytes() == whole[row : row + 1].tobytes()
        framed = preprocessor.transform_frame(train.features.iloc[[row]])
        assert framed.to_numpy().tobytes() == alone.tobytes()


def test_columns_are_found_by_name() -> None:
    preprocessor = Preprocessor().fit(_dataset({"a": [1.0, 3.0], "b": [10, 30]}))
    frame = pd.DataFrame({"b": [30], "other": ["text"], "a": [1.0]})
    assert preprocessor.transform_frame(frame).to_numpy().tolist() == [[-1.0, 1.0]]
    with pytest.raises(DataError, match="The data lack a feature: Unknown column 'b'"):
        preprocessor.transform_frame(pd.DataFrame({"a": [1.0]}))


def test_truth_values_and_nullable_columns_are_prepared() -> None:
    preprocessor = Preprocessor().fit(_dataset({"a": [True, False]}))
    nullable = pd.DataFrame({"a": pd.array([1, None], dtype="Int64")})
    assert preprocessor.transform_frame(nullable)["a"].tolist() == [1.0, 0.0]


@pytest.mark.parametrize("constant", [0.0, 7.0, 0.1, 1e300, 5e-324, -1e-300])
def test_a_constant_column_becomes_0(constant: float) -> None:
    train = _dataset({"a": [constant] * 7})
    preprocessor = Preprocessor().fit(train)
    assert preprocessor.scale_ is not None
    assert preprocessor.scale_.tolist() == [1.0]
    assert preprocessor.transform(train).X.tolist() == [[0.0]] * 7


@pytest.mark.parametrize("factor", [1e-310, 1e-200, 1.0, 1e200, 8e307])
def test_columns_of_any_magnitude_are_scaled(factor: float) -> None:
    train = _dataset({"a": np.array([-2.0, -1.0, 1.0, 2.0]) * factor})
    prepared = Preprocessor().fit(train).transform(train)
    expected = np.array([-2, -1, 1, 2]) / np.sqrt(2.5)
    np.testing.assert_allclose(prepared.X[:, 0], expected, rtol=1e-5)


def test_a_column_without_values_becomes_0_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    train = _dataset({"a": [1.0, 2.0, 3.0], "void": [np.nan] * 3})
    prepared = Preprocessor().fit(train).transform(train)
    assert prepared.X[:, 1].tolist() == [0, 0, 0]
    assert "The feature 'void' has no value in any training row" in caplog.text


def test_nothing_is_done_where_nothing_is_asked_for() -> None:
    train = _dataset({"a": [1.0, np.nan, 3.0]})
    preprocessor = Preprocessor(impute=None, scale=None).fit(train)
    assert (preprocessor.fill_, preprocessor.mean_, preprocessor.scale_) == (None, None, None)
    np.testing.assert_array_equal(preprocessor.transform(train).X, [[1], [np.nan], [3]])


def test_scaling_without_imputing_leaves_missing_values_missing() -> None:
    train = _dataset({"a": [1.0, np.nan, 3.0]})
    prepared = Preprocessor(impute=None).fit(train).transform(train)
    np.testing.assert_array_equal(prepared.X, [[-1], [np.nan], [1]])


def test_missing_values_are_filled_even_where_training_had_none() -> None:
    preprocessor = Preprocessor().fit(_dataset({"a": [1.0, 3.0]}))
    assert preprocessor.transform_array(np.array([[np.nan]])).tolist() == [[0.0]]


def test_prepared_data_are_not_prepared_again() -> None:
    train = _dataset({"a": [1.0, 3.0]})
    prepared = Preprocessor().fit(train).transform(train)
    with pytest.raises(DataError, match="is prepared already; fit on the raw rows"):
        Preprocessor().fit(prepared)
    with pytest.raises(DataError, match="is prepared already; transform the raw rows"):
        Preprocessor().fit(train).transform(prepared)


def test_values_that_32_bits_cannot_hold_are_told_by_row_and_feature() -> None:
    train = _dataset({"a": [1.0] * 20_000, "b": [1.0, 3.0] * 10_000})
    preprocessor = Preprocessor().fit(train)
    with pytest.raises(DataError, match=r"Row 2: feature 'b': 1e\+300 is too large"):
        preprocessor.transform_array(np.array([[1, 1], [1, 1e300]]))
    frame = train.features.copy()
    frame.loc[17_000, "a"] = 1e300
    with pytest.raises(DataError, match=r"Row 17001: feature 'a'"):
        preprocessor.transform_frame(frame)


def test_rows_of_another_width_are_told() -> None:
    preprocessor = Preprocessor().fit(_dataset({"a": [1.0, 3.0]}))
    with pytest.raises(DataError, match=r"must have the shape \(n, 1\), got \(1, 2\)"):
        preprocessor.transform_array(np.zeros((1, 2)))


def test_an_unfitted_preprocessor_says_so() -> None:
    for use in (Preprocessor().to_dict, lambda: Preprocessor().transform_array(np.zeros((1, 1)))):
        with pytest.raises(DataError, match="not fitted; call fit on the training rows first"):
            use()


def test_settings_are_checked_and_told_back() -> None:
    assert Preprocessor().get_params() == {"impute": "mean", "scale": "standard"}
    assert repr(Preprocessor("zero", None)) == "Preprocessor(impute='zero', scale=None)"
    wrong: Any = "meen"
    with pytest.raises(ConfigError, match=r"Unknown way to impute 'meen'\. Did you mean 'mean'"):
        Preprocessor(impute=wrong)
    with pytest.raises(ConfigError, match="Unknown way to scale 'meen'"):
        Preprocessor(scale=wrong)


@pytest.mark.parametrize("impute", ["mean", "zero", None])
@pytest.mark.parametrize("scale", ["standard", None])
def test_the_state_survives_json_to_the_bit(impute: Any, scale: Any) -> None:
    train = _random(500, seed=0)
    preprocessor = Preprocessor(impute, scale).fit(train)
    state = json.loads(json.dumps(preprocessor.to_dict(), allow_nan=False))
    again = Preprocessor.from_dict(state)
    assert again.to_dict() == preprocessor.to_dict()
    assert again.transform(train).X.tobytes() == preprocessor.transform(train).X.tobytes()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("extra", 1, "Unknown key 'extra'"),
        ("impute", "meen", "preprocessing: Unknown way to impute 'meen'"),
        ("impute", ["mean"], "preprocessing: Unknown way to impute"),
        ("impute", None, "preprocessing.fill must be null"),
        ("feature_names", "a", "must be a list of names"),
        ("feature_names", ["a", "a"], "each once"),
        ("feature_names", [], "must be a list of names"),
        ("fill", None, "preprocessing.fill must be a list of 2 finite numbers"),
        ("fill", [1.0], "preprocessing.fill must be a list of 2"),
        ("mean", [1.0, float("nan")], "preprocessing.mean must be a list of 2 finite"),
        ("mean", [1.0, True], "preprocessing.mean must be a list of 2 finite"),
        ("std", [1.0, 0.0], "preprocessing.std must hold numbers greater than 0"),
        ("std", [1.0, "2"], "preprocessing.std must be a list of 2 finite"),
    ],
)
def test_a_damaged_state_is_told_in_one_line(key: str, value: object, message: str) -> None:
    state = Preprocessor().fit(_dataset({"a": [1.0, 3.0], "b": [1, 2]})).to_dict()
    state[key] = value
    with pytest.raises(DataError, match=message) as caught:
        Preprocessor.from_dict(state)
    assert "\n" not in str(caught.value)


def test_a_state_without_a_key_is_told() -> None:
    with pytest.raises(DataError, match="preprocessing: the key 'impute' is missing"):
        Preprocessor.from_dict({})
    wrong: Any = "text"
    with pytest.raises(DataError, match="preprocessing must be an object, got 'text'"):
        Preprocessor.from_dict(wrong)


# -- categories and dates --------------------------------------------------------------------------


def test_categories_become_codes_and_dates_become_parts(mixed: TabularDataset) -> None:
    preprocessor = Preprocessor(impute="zero", scale=None).fit(mixed)
    prepared = preprocessor.transform(mixed)
    assert prepared.feature_names == (
        *("size", "city", "sold.days", "sold.month", "sold.day", "sold.weekday"),
        "new",
    )
    assert prepared.cardinalities == (0, 2, 0, 0, 0, 0, 0)
    days = (np.array(["2024-01-31", "2023-12-01", "2024-02-29"], dtype="datetime64[D]")).astype(int)
    np.testing.assert_array_equal(
        prepared.X,
        [
            [1, 1, days[0], 1, 31, 2, 1],
            [0, 0, 0, 0, 0, 0, 0],
            [3, np.nan, days[1], 12, 1, 4, 1],
            [4, 1, days[2], 2, 29, 3, 1],
        ],
    )


def test_categories_are_neither_filled_nor_scaled(mixed: TabularDataset) -> None:
    prepared = Preprocessor().fit(mixed).transform(mixed)
    place = prepared.feature_names.index("city")
    np.testing.assert_array_equal(prepared.X[:, place], [1, 0, np.nan, 1])
    others = np.delete(prepared.X, place, axis=1)
    np.testing.assert_allclose(others.mean(axis=0), 0, atol=1e-6)


def test_dates_with_times_have_an_hour() -> None:
    table = pd.DataFrame({"at": ["2024-01-31T22:59:59+02:00", "2024-01-31T00:00:00Z"]})
    raw = TabularDataset(table, ["x", "y"], target_column="t")
    prepared = Preprocessor(None, None).fit(raw).transform(raw)
    assert prepared.feature_names[-1] == "at.hour"
    assert prepared.X[:, -1].tolist() == [20, 0]


def test_a_level_that_was_not_there_counts_as_missing(mixed: TabularDataset) -> None:
    preprocessor = Preprocessor().fit(mixed)
    other = TabularDataset(
        mixed.features.assign(city=["Paris", "Oslo", "Rome", np.nan]),
        ["yes", "no", "yes", "no"],
        target_column="dear",
    )
    place = preprocessor.output_names_.index("city")
    found = preprocessor.transform(other).X[:, place]
    np.testing.assert_array_equal(found, [np.nan, 0, 1, np.nan])


def test_the_state_of_categories_and_dates_is_plain_json(mixed: TabularDataset) -> None:
    preprocessor = Preprocessor().fit(mixed)
    state = json.loads(json.dumps(preprocessor.to_dict(), allow_nan=False))
    again = Preprocessor.from_dict(state)
    assert again.to_dict() == preprocessor.to_dict()
    assert again.transform(mixed).X.tobytes() == preprocessor.transform(mixed).X.tobytes()
    old = {key: value for key, value in state.items() if key not in {"levels", "dates"}}
    with pytest.raises(DataError, match="fill must be a list of 4"):
        Preprocessor.from_dict(old)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("levels", {"nope": ["a"]}, "Unknown feature 'nope'"),
        ("levels", {"city": ["a", "a"]}, "must be a list of texts, each once"),
        ("levels", {"city": [str(n) for n in range(300)]}, "must be 254 at most"),
        ("levels", {"sold": ["a"]}, "those of a category"),
        ("levels", [], "must be an object"),
        ("dates", {"sold": ["year"]}, "must be days, month, day, weekday, hour"),
    ],
)
def test_a_state_that_can_not_be_is_refused(
    mixed: TabularDataset, key: str, value: object, message: str
) -> None:
    state = Preprocessor().fit(mixed).to_dict()
    with pytest.raises(DataError, match=message):
        Preprocessor.from_dict({**state, key: value})
