"""What may be sent to ``/predict``, what is told of what may not, and that the schema says so."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest

from ml_project_template.data.signature import Feature, FeatureType, Signature
from ml_project_template.serving.contract import UNSEEN, Contract
from ml_project_template.serving.http import RefusalError, problem


def _contract(
    names: tuple[str, ...] = ("width", "height", "on"),
    *,
    bools: tuple[str, ...] = ("on",),
    missing: bool = False,
    classes: tuple[str, ...] = ("small", "large"),
    max_rows: int = 4,
    sample: tuple[dict[str, Any], ...] = (),
) -> Contract:
    deciles = tuple(np.linspace(0, 1, 11).tolist())

    def feature(name: str) -> Feature:
        kind: FeatureType = "bool" if name in bools else "float"
        return Feature(name, kind, 0.0, 1.0, 0.5, 0.0, deciles)

    signature = Signature(tuple(map(feature, names)), "y", classes, sample, 10)
    return Contract(signature, accepts_missing=missing, max_rows=max_rows)


def _body(*rows: Any) -> bytes:
    return json.dumps({"features": rows}).encode()


def _refusal(contract: Contract, body: bytes) -> RefusalError:
    with pytest.raises(RefusalError) as caught:
        contract.decode(body)
    assert len(problem(caught.value).body) < 2_000
    assert "\n" not in caught.value.detail
    return caught.value


GOOD: list[tuple[bytes, list[list[float]]]] = [
    (_body([1, 2.5, True]), [[1, 2.5, 1]]),
    (_body([1, 2.5, 0]), [[1, 2.5, 0]]),
    (_body([1, 2], [3, 4]).replace(b"]", b",1]", 2), [[1, 2, 1], [3, 4, 1]]),
    (_body({"on": False, "height": -1e308, "width": 5e-324}), [[5e-324, -1e308, 0]]),
    (_body({"on": 1, "height": 2, "width": 3}, [4, 5, 6]), [[3, 2, 1], [4, 5, 6]]),
    (_body([4, 5, 6], {"on": 1, "height": 2, "width": 3}), [[4, 5, 6], [3, 2, 1]]),
    (b' \n{ "features" : [ [ -0.0 , 1E2 , 1e-400 ] ] } ', [[-0.0, 100, 0]]),
    (_body([2**53, 2**64, 10**300]), [[2.0**53, 2.0**64, 1e300]]),
    (b'{"features":[[1,2,3]],"features":[[4,5,6]]}', [[4, 5, 6]]),
    (b'{"f\\u0065atures":[{"\\u0077idth":1,"height":2,"on":3}]}', [[1, 2, 3]]),
]


@pytest.mark.parametrize(("body", "expected"), GOOD, ids=range(len(GOOD)))
def test_rows_of_every_form_become_numbers(body: bytes, expected: list[list[float]]) -> None:
    values = _contract().decode(body)
    assert values.dtype == np.float64
    assert values.flags.c_contiguous
    np.testing.assert_array_equal(values, expected)


NUMBER = "it must be a finite number"
BAD: list[tuple[bytes, int, str]] = [
    (_body([1, 2, 3], [1, "canary", 3]), 422, f"Row 2: feature 'height': {NUMBER}, got str."),
    (_body({"width": "1", "height": 2, "on": 3}), 422, f"'width': {NUMBER}, got str."),
    (_body([1, None, 3]), 422, f"Row 1: feature 'height': {NUMBER}, got null."),
    (_body({"width": True, "height": 2, "on": 3}), 422, f"'width': {NUMBER}, got bool."),
    (_body([1, [2], 3]), 422, f"Row 1: feature 'height': {NUMBER}, got array."),
    (_body([1, {"a": 1}, 3]), 422, f"Row 1: feature 'height': {NUMBER}, got object."),
    (b'{"features":[[1,1e999,3]]}', 422, f"Row 1: feature 'height': {NUMBER}."),
    (b'{"features":[[1,2,-1e999]]}', 422, f"Row 1: feature 'on': {NUMBER}."),
    (_body([1, 10**400, 3]), 422, f"Row 1: feature 'height': {NUMBER}."),
    (b'{"features":[[1,' + b"9" * 100_000 + b",3]]}", 422, f"Row 1: feature 'height': {NUMBER}."),
    (_body([1, 2]), 422, "Row 1 has 2 values; 3 are needed: width, height, on."),
    (_body([1, 2, 3], [1, 2, 3, 4]), 422, "Row 2 has 4 values; 3 are needed: width, height, on."),
    (_body([]), 422, "Row 1 has 0 values; 3 are needed: width, height, on."),
    (_body([[1, 2, 3]]), 422, f"Row 1: feature 'width': {NUMBER}, got array."),
    (_body([1, 2, 3, "x"]), 422, "Row 1 has more than the 3 values that are needed."),
    (_body({}), 422, "Row 1: the feature 'width' is missing."),
    (_body([1, 2, 3], {"width": 1, "on": 1}), 422, "Row 2: the feature 'height' is missing."),
    (
        _body({"width": 1, "heigth": 2, "on": 3}),
        422,
        "Row 1: Unknown feature 'heigth'. Did you mean 'height'? Available: height, on, width.",
    ),
    (_body(5), 422, "Row 1 must be a list of values or an object by feature name, got int."),
    (_body([1, 2, 3], "x"), 422, "Row 2 must be a list of values or an object by feature name"),
    (_body(), 422, "features: there must be at least one row."),
    (_body(*[[1, 2, 3]] * 5), 422, "There are 5 rows; a request may have 4 at most."),
    (b"{}", 422, "'features' is missing."),
    (b'{"feature":[]}', 422, "The body: Unknown key 'feature'. Did you mean 'features'?"),
    (b'{"features":[[1,2,3]],"more":1}', 422, "The body: Unknown key 'more'."),
    (b'{"features":null}', 422, "features must be a list of rows, got null."),
    (b'{"features":{"0":[1,2,3]}}', 422, "features must be a list of rows, got object."),
    (b"null", 422, 'The body must be an object {"features": [row, ...]}, got null.'),
    (b"[[1,2,3]]", 422, 'The body must be an object {"features": [row, ...]}, got array.'),
    (b'"features"', 422, 'The body must be an object {"features": [row, ...]}, got str.'),
    (b"", 400, "The body is no JSON: Input data was truncated."),
    (b"width=1", 400, "The body is no JSON:"),
    (b'{"features":[[1,2,3]', 400, "The body is no JSON: Input data was truncated."),
    (b'{"features":[[1,2,3]]}{}', 400, "The body is no JSON:"),
    (b'{"features":[[1,NaN,3]]}', 400, "The body is no JSON:"),
    (b'{"features":[[1,Infinity,3]]}', 400, "The body is no JSON:"),
    (b'{"features":[[1,.5,3]]}', 400, "The body is no JSON:"),
    (b'{"features":[[1,01,3]]}', 400, "The body is no JSON:"),
    (b'{"features":[[1,2,3],]}', 400, "The body is no JSON:"),
    (b"{'features':[[1,2,3]]}", 400, "The body is no JSON:"),
    (b'\xef\xbb\xbf{"features":[[1,2,3]]}', 400, "The body is no JSON:"),
    (b"\xff\xfe\x00", 400, "The body is no JSON:"),
    (b'{"features":[{"width\xff":1}]}', 400, "The body is no JSON:"),
    (b'{"features":[{"\\ud800":1}]}', 400, "The body is no JSON:"),
    (b'{"features":[["\\udfff",2,3]]}', 400, "The body is no JSON:"),
    # Told while it is read, before the end is reached.
    (b'{"features":[[1,2,3,"x"', 422, "Row 1 has more than the 3 values"),
    (b'{"features":[[1,2,3,"x"]],"features":5}', 422, "Row 1 has more than the 3 values"),
    (_body({"width": 1, "height": 2, "on": 3}, [1, 2, 3, "x"]), 422, "Row 2 has more than the 3"),
    (b"[" * 100_000, 422, "The body must be an object"),
    (b'{"features":' + b"[" * 100_000, 422, f"Row 1: feature 'width': {NUMBER}, got array."),
    (b'{"features":[[1,2,3,' + b"[" * 100_000, 422, "Row 1 has more than the 3 values"),
    (b'{"features":[{"width":' + b'{"a":' * 100_000, 422, f"'width': {NUMBER}, got object."),
    (b'{"more":' + b"[" * 100_000, 422, "The body: Unknown key 'more'."),
]


@pytest.mark.parametrize(("body", "status", "detail"), BAD, ids=range(len(BAD)))
def test_whatever_is_wrong_is_told_by_row_and_feature(
    body: bytes, status: int, detail: str
) -> None:
    refusal = _refusal(_contract(), body)
    assert detail in refusal.detail
    assert refusal.status == status
    assert "canary" not in refusal.detail


def test_a_key_is_never_repeated_at_length() -> None:
    key = "canary" * 100_000
    for row in ({key: 1}, {"width": 1, "height": 2, "on": 3, key: 4}):
        assert len(_refusal(_contract(), _body(row)).detail) < 300
    assert len(_refusal(_contract(), json.dumps({key: []}).encode()).detail) < 300


def test_a_key_that_looks_like_a_place_moves_no_row() -> None:
    row = {"width": 1, "height": 2, "on": 3, "x` - at `$.features[7].height": 4}
    assert _refusal(_contract(), _body(row)).detail.startswith("Row 1: Unknown feature 'x` - at")
    detail = _refusal(_contract(), b'{"x - at `$.features[7]":1}').detail
    assert detail.startswith("The body: Unknown key 'x - at")


def test_null_is_a_gap_where_the_model_takes_gaps() -> None:
    contract = _contract(missing=True)
    gaps = contract.decode(_body([None, 2, None], {"width": 1, "height": None, "on": None}))
    np.testing.assert_array_equal(gaps, [[np.nan, 2, np.nan], [1, np.nan, np.nan]])
    np.testing.assert_array_equal(contract.decode(_body([None] * 3)), [[np.nan] * 3])
    # A gap is told as null: who leaves a feature out may have misspelt it.
    assert "'height' is missing" in _refusal(contract, _body({"width": 1, "on": 1})).detail
    detail = _refusal(contract, _body(["", 2, 3])).detail
    assert detail == "Row 1: feature 'width': it must be a finite number or null, got str."


def test_truth_values_are_taken_only_where_the_training_had_some() -> None:
    plain = _contract(bools=())
    for row in ([True, 2, 3], {"width": 1, "height": 2, "on": False}):
        assert "got bool." in _refusal(plain, _body(row)).detail


STRANGE = [
    ("feature_0", "feature_1", "feature_2"),
    ("feature_2", "feature_0", "feature_1"),
    ("features", "type", "__class__"),
    ("", " ", "  "),
    ("a.b", "a[0]", "[0]"),
    ("$.features[0]", "$", "`"),
    ("x - at `$.features[9].y", "x`", "` - at `$"),
    ("größe", "長さ", "👍🏽"),
    ("e\u0301", "é", "e"),
    ("x" * 10_000, "x" * 10_001, "y" * 10_000),
    ('5" pipe', "back\\slash", "plain"),
    ("tab\there", 'say "hi"', "\x00"),
    ("def", "None", "self"),
    ("a\u2028b", "\x7f", "\ufeff"),
]


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("names", STRANGE, ids=range(len(STRANGE)))
def test_features_may_be_called_anything(names: tuple[str, ...], missing: bool) -> None:
    contract = _contract(names, bools=names[2:], missing=missing)
    row = dict(zip(reversed(names), (True, 2, 1), strict=True))
    values = contract.decode(_body(row, [4, 5, 6], row))
    np.testing.assert_array_equal(values, [[1, 2, 1], [4, 5, 6], [1, 2, 1]])
    jsonschema.validate({"features": [row]}, contract.request_schema())
    for wrong, expected in [
        ({**row, names[0]: "x"}, "it must be a finite number"),
        ({**row, names[1]: True}, "it must be a finite number"),
        ({name: row[name] for name in names[1:]}, f"the feature '{names[0][:60]}"),
        ({**row, "another": 1}, "Unknown feature 'another'."),
    ]:
        with pytest.raises(RefusalError, match="^Row 2: ") as caught:
            contract.decode(_body(row, wrong))
        assert expected in caught.value.detail
        assert caught.value.status == 422
        assert len(problem(caught.value).body) < 2_000


@pytest.mark.parametrize("name", ["x - at `$.features[9].y", "b`", "c[1].d", ".", "[0]"])
def test_a_wrong_value_is_told_by_a_name_that_looks_like_a_place(name: str) -> None:
    contract = _contract((name, "other"), bools=())
    detail = _refusal(contract, _body({name: "x", "other": 1})).detail
    assert detail == f"Row 1: feature '{name}': it must be a finite number, got str."
    detail = _refusal(contract, _body({"other": 1})).detail
    assert detail == f"Row 1: the feature '{name}' is missing."


def test_three_hundred_features_are_no_matter() -> None:
    names = tuple(f"a rather long name of a feature {i}" for i in range(300))
    contract = _contract(names, bools=())
    row = dict(zip(names, range(300), strict=True))
    np.testing.assert_array_equal(contract.decode(_body(row)), [list(range(300))])
    np.testing.assert_array_equal(contract.decode(_body(list(range(300)))), [list(range(300))])
    for wrong in ([1, 2], {**row, "another": 1}, {}, {**row, names[299]: None}):
        _refusal(contract, _body(wrong))
    assert "feature 299'" in _refusal(contract, _body({**row, names[299]: None})).detail


def test_an_answer_in_any_script_stays_small() -> None:
    names = tuple(f"{'長' * 100}{i}" for i in range(50))
    _refusal(_contract(names, bools=()), _body([1]))
    answer = problem(RefusalError(422, '"\x00\ud800' * 10_000))
    assert len(answer.body) < 2_000
    assert json.loads(answer.body)["detail"].startswith('"\x00')


def test_values_of_other_forms_of_requests_are_checked_too() -> None:
    rows = np.array([[1.0, 2, 3], [4, np.inf, 6]])
    for missing in (False, True):
        with pytest.raises(RefusalError, match="Row 2: feature 'height' is infinite"):
            _contract(missing=missing).check_values(rows)
    rows[1, 1] = np.nan
    with pytest.raises(RefusalError, match="Row 2: feature 'height' is missing"):
        _contract().check_values(rows)
    _contract(missing=True).check_values(rows)


# ---- categories and dates

YEAR_1990 = 631_152_000.0


def _mixed(
    names: tuple[str, ...] = ("city", "when", "size"), *, missing: bool = False, **changes: Any
) -> Contract:
    """Make the contract of a category, a date and a number."""
    deciles = tuple(np.linspace(0, YEAR_1990, 11).tolist())
    features = (
        Feature(names[0], "category", None, None, None, 0.0, None, ("1", "Bonn", "True"), None),
        Feature(names[1], "date", 0.0, YEAR_1990, 0.5, 0.0, deciles),
        Feature(names[2], "float", 0.0, 1.0, 0.5, 0.0, tuple(np.linspace(0, 1, 11).tolist())),
    )
    sample: tuple[dict[str, Any], ...] = (
        {names[0]: "Bonn", names[1]: "1990-01-01", names[2]: 0.5},
    )
    signature = Signature(features, "y", ("no", "yes"), sample, 10)
    return Contract(replace(signature, **changes), accepts_missing=missing, max_rows=4)


@pytest.mark.parametrize("names", [("city", "when", "size"), ('5"', "\\", "\n")])
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["Bonn", "1990-01-01", 2], [1, YEAR_1990, 2]),
        ([1, "1990-01-01T01:00:00+01:00", 2.5], [0, YEAR_1990, 2.5]),
        ([1.0, "1990-01-01 00:00", 0], [0, YEAR_1990, 0]),
        ([True, " 1970-01-01T00:00:01.5Z ", -1], [2, 1.5, -1]),
        ([None, "0001-01-01", 1], [np.nan, -62_135_596_800, 1]),
        (["Paris", "9999-12-31", 1], [UNSEEN, 253_402_214_400, 1]),
        ([10**300, "1970-01-01", 1], [UNSEEN, 0, 1]),
        (["", "1970-01-01", 1], [UNSEEN, 0, 1]),
    ],
)
def test_texts_are_read_as_the_training_read_them(
    values: list[Any], expected: list[float], names: tuple[str, ...]
) -> None:
    contract = _mixed(names)
    row = dict(zip(names, values, strict=True))
    for body in (_body(values), _body(row), _body(values, row), _body(row, values)):
        decoded = contract.decode(body)
        assert decoded.flags.c_contiguous
        for found in decoded:
            np.testing.assert_array_equal(found, expected)
            # Missing and unseen are the same to the model, and not to the metrics.
            assert np.signbit(found).tolist() == np.signbit(expected).tolist()
    columns = [[value, value] for value in values]
    np.testing.assert_array_equal(contract.read_columns(columns), [expected, expected])
    jsonschema.validate({"features": [values, row]}, contract.request_schema())


CATEGORY = "it must be a text of at most 1000 characters or null"
DATE = "it must be a date such as 2024-01-31"


@pytest.mark.parametrize(
    ("row", "detail"),
    [
        ([[], "1990-01-01", 1], f"Row 2: feature 'city': {CATEGORY}, got array."),
        ([{}, "1990-01-01", 1], f"Row 2: feature 'city': {CATEGORY}, got object."),
        (["x" * 1_001, "1990-01-01", 1], f"Row 2: feature 'city': {CATEGORY}."),
        (["Bonn", "yesterday", 1], f"Row 2: feature 'when': {DATE}."),
        (["Bonn", "", 1], f"Row 2: feature 'when': {DATE}."),
        (["Bonn", "0000-01-01", 1], f"Row 2: feature 'when': {DATE}."),
        (["Bonn", "99999-01-01", 1], f"Row 2: feature 'when': {DATE}."),
        (["Bonn", "1990-02-30", 1], f"Row 2: feature 'when': {DATE}."),
        (["Bonn", "1990-01-01T25:00", 1], f"Row 2: feature 'when': {DATE}."),
        (["Bonn", "1" * 100_000, 1], f"Row 2: feature 'when': {DATE}."),
        (["Bonn", 631152000, 1], f"Row 2: feature 'when': {DATE}, got int."),
        (["Bonn", None, 1], f"Row 2: feature 'when': {DATE}, got null."),
        (["Bonn", "1990-01-01", "1"], f"Row 2: feature 'size': {NUMBER}, got str."),
        (["Bonn", "1990-01-01", True], f"Row 2: feature 'size': {NUMBER}, got bool."),
        (["Bonn", "1990-01-01", None], f"Row 2: feature 'size': {NUMBER}, got null."),
        (["Bonn", "1990-01-01"], "Row 2 must have 3 values: city, when, size."),
        (["Bonn", "1990-01-01", 1, 2], "Row 2 must have 3 values: city, when, size."),
        ({"city": "Bonn", "when": "soon", "size": 1}, f"Row 2: feature 'when': {DATE}."),
        ({"city": [], "when": "1990-01-01", "size": 1}, f"'city': {CATEGORY}, got array."),
        ({"city": "Bonn", "size": 1}, "Row 2: the feature 'when' is missing."),
        ({"town": "Bonn", "when": "1990-01-01", "size": 1}, "Row 2: Unknown feature 'town'."),
    ],
)
def test_a_wrong_text_is_told_by_row_and_feature(row: Any, detail: str) -> None:
    refusal = _refusal(_mixed(), _body(["Bonn", "1990-01-01", 1], row))
    assert detail in refusal.detail
    assert refusal.status == 422


def test_names_that_are_no_fields_change_nothing_of_that() -> None:
    contract = _mixed(('c"', 'w"', 's"'))
    good: dict[str, Any] = {'c"': None, 'w"': "1990-01-01", 's"': 1}
    cases: list[tuple[dict[str, Any], str]] = [
        ({'w"': "soon"}, f"Row 2: feature 'w\"': {DATE}."),
        ({'s"': "1"}, f"Row 2: feature 's\"': {NUMBER}, got str."),
        ({'s"': None}, f"Row 2: feature 's\"' is missing: {NUMBER}."),
        ({'c"': []}, "Row 2: a value: it must be a number, a truth value, a text or null"),
    ]
    for changes, detail in cases:
        assert detail in _refusal(contract, _body(good, {**good, **changes})).detail
    assert "at least one row" in _refusal(contract, _body()).detail
    assert "There are 5 rows" in _refusal(contract, _body(*[good] * 5)).detail


def test_a_date_may_be_missing_where_a_number_may_be() -> None:
    values = _mixed(missing=True).decode(_body([None, None, None]))
    assert np.isnan(values).all()
    assert not np.signbit(values).any()
    columns: list[list[Any]] = [[np.nan, "Bonn"], [np.nan, None], [None, 1]]
    np.testing.assert_array_equal(
        _mixed(missing=True).read_columns(columns), [[np.nan] * 3, [1, np.nan, 1]]
    )
    with pytest.raises(RefusalError, match="Row 1: feature 'when' is missing"):
        _mixed().read_columns(columns)
    with pytest.raises(RefusalError, match="Row 2: feature 'city' is infinite"):
        _mixed().read_columns([["Bonn", np.inf], ["1990-01-01"] * 2, [1, 2]])


@pytest.mark.parametrize("missing", [False, True])
def test_the_schema_of_a_mixed_table_is_that_of_its_decoder(missing: bool) -> None:
    contract = _mixed(missing=missing)
    schema = contract.request_schema()
    validator = jsonschema.Draft202012Validator(schema)
    good = {"city": "Bonn", "when": "1990-01-01T10:00:00Z", "size": 1}
    values = ["Bonn", "1990-01-01", 1, 1.5, True, None, [], {}, "x" * 1_001]
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(300):
        row: Any = {
            name: value if rng.random() < 0.6 else values[rng.integers(0, len(values))]
            for name, value in good.items()
        }
        if rng.random() < 0.5:
            row = list(row.values())
        taken = _is_taken(contract, _body(row))
        assert validator.is_valid({"features": [row]}) == taken, row
        verdicts.append(taken)
    assert 40 < sum(verdicts) < 260
    assert contract.decode(json.dumps(schema["example"]).encode()).shape == (1, 3)
    text = json.dumps(schema)
    assert "1, Bonn, True; any other value counts as missing" in text
    assert "1970-01-01 to 1990-01-01 in training" in text


def test_without_a_sample_there_is_a_row_that_works_all_the_same() -> None:
    contract = _mixed(sample=())
    assert contract.sample_row() == {"city": "1", "when": "1980-01-01T12:00:00", "size": 0.5}
    assert contract.decode(_body(contract.sample_row())).shape == (1, 3)


# ---- the answer


def test_the_class_is_chosen_by_the_threshold() -> None:
    contract = _mixed(threshold=0.3)
    chances = np.array([[0.7, 0.3], [0.71, 0.29]])
    both, first, second = (
        json.loads(contract.encode(rows))["predictions"]
        for rows in (chances, chances[:1], chances[1:])
    )
    assert both == first + second == ["yes", "no"]
    text = contract.response_schema()["properties"]["predictions"]["description"]
    assert text == "The class of each row: 'yes' from a probability of 0.3 on, else 'no'"


def test_a_regression_answers_with_numbers_alone() -> None:
    contract = _mixed(task="regression", class_names=())
    for numbers in ([12.3], [-1e300, 0.1]):
        answer = json.loads(contract.encode(np.array(numbers)[:, None]))
        assert answer == {"predictions": numbers}
        jsonschema.validate(answer, contract.response_schema())


@pytest.mark.parametrize(
    "classes", [("small", "large"), ("0", "1", "2"), ('5"', "\\", "\n"), ("é", "", "class_0")]
)
@pytest.mark.parametrize("n_rows", [1, 3])
def test_an_answer_is_as_its_schema_says(classes: tuple[str, ...], n_rows: int) -> None:
    contract = _contract(classes=classes)
    chances = np.random.default_rng(0).dirichlet(np.ones(len(classes)), n_rows)
    answer = json.loads(contract.encode(chances))
    jsonschema.validate(answer, contract.response_schema())
    assert answer["predictions"] == [classes[index] for index in chances.argmax(axis=1)]
    assert [list(row) for row in answer["probabilities"]] == [list(classes)] * n_rows
    # To the bit: what is written is read back as the same number.
    assert [list(row.values()) for row in answer["probabilities"]] == chances.tolist()


def test_of_equal_chances_the_first_wins_in_every_form() -> None:
    contract = _contract()
    for rows in (1, 2):
        answer = json.loads(contract.encode(np.full((rows, 2), 0.5)))
        assert answer["predictions"] == ["small"] * rows


# ---- the schema


def _random_value(rng: np.random.Generator) -> Any:
    values = [0, 1.5, -2, 1e300, True, False, None, "1", "", [], [1], {}, {"width": 1}]
    weights = np.array([30, 30, 10, 5, 4, 4, 4, 1, 1, 1, 1, 1, 1], dtype=float)
    return values[rng.choice(len(values), p=weights / weights.sum())]


def _random_row(rng: np.random.Generator, names: tuple[str, ...]) -> Any:
    if rng.random() < 0.05:
        return _random_value(rng)
    row = {name: _random_value(rng) for name in rng.permutation(names)}
    if rng.random() < 0.1:
        del row[str(rng.choice(names))]
    if rng.random() < 0.1:
        row["another"] = _random_value(rng)
    return list(row.values()) if rng.random() < 0.5 else row


def _random_body(rng: np.random.Generator, names: tuple[str, ...]) -> Any:
    kind = rng.random()
    rows: Any = [_random_row(rng, names) for _ in range(rng.choice([0, 1, 1, 1, 2, 3, 4, 5]))]
    if kind < 0.03:
        return rows
    if kind < 0.06:
        return {"features": rows, "more": 1}
    if kind < 0.09:
        return {"feature": rows}
    return {"features": _random_value(rng) if kind < 0.12 else rows}


def _is_taken(contract: Contract, body: bytes) -> bool:
    with contextlib.suppress(RefusalError):
        contract.decode(body)
        return True
    assert _refusal(contract, body).status == 422
    return False


@pytest.mark.parametrize("missing", [False, True])
@pytest.mark.parametrize("bools", [(), ("on",)])
@pytest.mark.parametrize("names", [("width", "height", "on"), ("width", '"', "on")])
def test_the_schema_and_the_decoder_agree(
    names: tuple[str, ...], bools: tuple[str, ...], missing: bool
) -> None:
    contract = _contract(names, bools=bools, missing=missing)
    schema = contract.request_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(400):
        body = _random_body(rng, names)
        taken = _is_taken(contract, json.dumps(body).encode())
        assert validator.is_valid(body) == taken, body
        verdicts.append(taken)
    assert 40 < sum(verdicts) < 360


@pytest.mark.parametrize("missing", [False, True])
def test_the_sample_of_the_schema_is_taken(missing: bool) -> None:
    samples: list[tuple[dict[str, Any], ...]] = [
        (),
        ({"width": None, "height": 1, "on": True}, {"width": 0.5, "height": 2, "on": False}),
        ({"width": None, "height": 1, "on": True},),
    ]
    for sample in samples:
        contract = _contract(missing=missing, sample=sample)
        schema = contract.request_schema()
        assert contract.decode(json.dumps(schema["example"]).encode()).shape == (1, 3)
        jsonschema.validate(schema["example"], schema)


def test_half_a_character_among_numbers_is_refused_with_its_row() -> None:
    columns: list[list[Any]] = [["Bonn", "Bonn"], ["1990-01-01"] * 2, [1, "a\ud800"]]
    with pytest.raises(RefusalError, match="Row 2: feature"):
        _mixed().read_columns(columns)
