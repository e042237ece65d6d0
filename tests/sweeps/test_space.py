"""What a sweep tries: Hydra's grammar as distributions, and values as overrides again."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ml_project_template.errors import ConfigError
from ml_project_template.sweeps.space import (
    Distribution,
    combinations,
    describe,
    extremes,
    grid,
    override_text,
    parse_space,
)


def _read(search_space: Mapping[str, Any], *overrides: str) -> dict[str, Distribution]:
    return parse_space(search_space, overrides).distributions


def _choices(values: Any) -> list[Any]:
    distribution = _read({"key": values})["key"]
    assert isinstance(distribution, CategoricalDistribution)
    return list(distribution.choices)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ("choice(relu, gelu)", CategoricalDistribution(["relu", "gelu"])),
        ("relu,gelu", CategoricalDistribution(["relu", "gelu"])),
        ("16,32", CategoricalDistribution([16, 32])),
        ("range(1, 5)", IntDistribution(1, 4)),
        ("range(4)", IntDistribution(0, 3)),
        ("range(2, 31, 4)", IntDistribution(2, 30, step=4)),
        ("range(0.0, 1.0, 0.25)", FloatDistribution(0.0, 0.75, step=0.25)),
        ("interval(0, 0.5)", FloatDistribution(0.0, 0.5)),
        ("interval(1, 8)", FloatDistribution(1.0, 8.0)),
        ("int(interval(1, 8))", IntDistribution(1, 8)),
        ("tag(log, interval(1e-4, 1e-1))", FloatDistribution(1e-4, 1e-1, log=True)),
        ("tag(log, int(interval(1, 128)))", IntDistribution(1, 128, log=True)),
    ],
)
def test_the_words_of_hydra_are_distributions(values: str, expected: Distribution) -> None:
    assert _read({"key": values}) == {"key": expected}
    assert _read({}, f"key={values}") == {"key": expected}


def test_values_keep_their_types() -> None:
    found = _choices("0.1,3,true,relu,1e-05,-3,007")
    expected = [0.1, 3, True, "relu", 1e-05, -3, "007"]
    assert found == expected
    assert [type(value) for value in found] == [type(value) for value in expected]


def test_a_value_that_is_given_twice_is_tried_once() -> None:
    assert _choices("a,b,a") == ["a", "b"]


@pytest.mark.parametrize(
    "value",
    [
        "a b",
        "'a b'",
        '"x,y"',
        "'null'",
        "'true'",
        "'1'",
        "''",
        '"it\'s"',
        r"'a\'b'",
        "'[1,2]'",
        "'a=b'",
        "'é#\n'",
        r"'a\\'",
        r"a\\",
        r"a\,b",
        r"a\=b",
        r"\ a",
        r"\(x\)",
        "${other.key}",
        "/data/t.csv",
        "'s3://b/k?x=1'",
        "-a",
        "007",
        "0x10",
        "null",
        "NULL",
        "true",
        "False",
        "-3",
        "+1",
        "1_000",
        "1.",
        "0.1",
        "1e-05",
        "-1.5e300",
        "0.30000000000000004",
        "inf",
        "nan",
        "[null,32,null]",
        "[[1,2],[null,true]]",
        "[true,'null',\"x,y\",'b c']",
        "[-1e-07]",
        "[]",
        "{}",
        "{a:1,b:null,c:[x]}",
    ],
)
def test_what_is_tried_is_what_hydra_reads_from_the_override_again(value: str) -> None:
    parser = OverridesParser.create()
    sweep = parser.parse_override(f"key={value},end").value()
    assert isinstance(sweep, ChoiceSweep)
    meant = [Override._convert_value(item) for item in sweep.list]
    overrides = [parser.parse_override(override_text("key", v)) for v in _choices(f"{value},end")]
    assert not any(override.is_sweep_override() for override in overrides)
    # By their text: nan is unlike itself, and True like 1.
    assert repr([override.value() for override in overrides]) == repr(meant)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "key=null"),
        (True, "key=true"),
        (False, "key=false"),
        (3, "key=3"),
        (0.1, "key=0.1"),
        (1e-05, "key=1e-05"),
        (1 / 3, "key=0.3333333333333333"),
        ("[null,32]", "key=[null,32]"),
        ("null", "key=null"),
    ],
)
def test_values_are_written_as_the_command_line_takes_them(value: Any, text: str) -> None:
    assert override_text("key", value) == text


def test_the_search_space_may_be_nested_and_null_is_nothing() -> None:
    nested = {"training": {"lr": "0.1,0.2", "more": {"a": "1,2"}, "off": None}, "model.b": "3,4"}
    assert list(_read(nested)) == ["training.lr", "training.more.a", "model.b"]


def test_a_list_is_a_choice() -> None:
    assert _choices([16, 0.5, True, "relu"]) == [16, 0.5, True, "relu"]


@pytest.mark.parametrize(
    "items",
    [
        [16],
        [None, 32],
        [[None, 32, None], [None, 64]],
        [["null", "x, y"], [True, 0.5], []],
        ["x, y", "b"],
        ["", "b"],
        ["1", "2"],
        ["null", "true"],
        ["it's", 'say "b"', "a\\", "a\\'b"],
        ["s3://b/k?x=1", "b"],
        [{"a": None, "b": "1"}, {"a": [1]}],
    ],
)
def test_items_of_a_list_are_what_hydra_reads_from_the_override_again(items: list[Any]) -> None:
    texts = [override_text("key", choice) for choice in _choices(items)]
    overrides = [OverridesParser.create().parse_override(text) for text in texts]
    assert repr([override.value() for override in overrides]) == repr(items)


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ("1,true", ["key=1", "key=true"]),
        ("0.0,false", ["key=0.0", "key=false"]),
        ("1,1.0,1", ["key=1", "key=1.0"]),
        ([True, 1], ["key=true", "key=1"]),
    ],
)
def test_values_that_python_takes_for_equal_are_tried_each(values: Any, texts: list[str]) -> None:
    assert [override_text("key", choice) for choice in _choices(values)] == texts


def test_the_order_of_values_is_the_one_that_was_written() -> None:
    assert _choices("shuffle(choice(3,1,2,5,4))") == [3, 1, 2, 5, 4]
    assert _read({"key": "shuffle(range(1,9))"}) == {"key": IntDistribution(1, 8)}


def test_the_command_line_replaces_values_of_the_search_space() -> None:
    space = parse_space({"a": "1,2", "b": "range(1,5)"}, ["a=interval(0.0,1.0)", "c=x,y"])
    assert space.distributions == {
        "b": IntDistribution(1, 4),
        "a": FloatDistribution(0.0, 1.0),
        "c": CategoricalDistribution(["x", "y"]),
    }
    assert space.fixed == ()


def test_a_single_value_on_the_command_line_fixes_a_key() -> None:
    space = parse_space({"a": "1,2", "b": "1,2"}, ["a=7", "other='x y'", "~gone"])
    assert list(space.distributions) == ["b"]
    assert space.fixed == ("a=7", "other='x y'", "~gone")


@pytest.mark.parametrize(("known", "given"), list(itertools.product(["a", "+a", "++a"], repeat=2)))
def test_a_plus_before_a_key_leaves_it_the_same_key(known: str, given: str) -> None:
    replaced = parse_space({known: "1,2"}, [f"{given}=3,4"])
    assert replaced.distributions == {given: CategoricalDistribution([3, 4])}
    fixed = parse_space({known: "1,2"}, [f"{given}=3"])
    assert (fixed.distributions, fixed.fixed) == ({}, (f"{given}=3",))


def test_a_key_that_only_begins_alike_is_left_alone() -> None:
    assert list(_read({"model.lr": "1,2"}, "model.lr_decay=1", "model=mlp")) == ["model.lr"]


@pytest.mark.parametrize("value", ["0.1", "relu", "[1,2]", "''"])
def test_a_single_value_in_the_search_space_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.search_space\.training\.lr: .* single value"):
        parse_space({"training": {"lr": value}}, [])


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ("interval(1,0)", "low <= high"),
        ("tag(log,interval(0,1))", "low > 0"),
        ("range(5,1)", "at least one value"),
        ("range(1,5,0)", "nonzero step"),
    ],
)
def test_values_that_cannot_be_tried_are_refused_by_their_key(values: str, why: str) -> None:
    for search_space, overrides in (({"some.key": values}, []), ({}, [f"some.key={values}"])):
        with pytest.raises(ConfigError, match=rf"^some\.key: can't be tried: .*{why}"):
            parse_space(search_space, overrides)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ("choice(1,", r"sweep\.search_space\.some\.key: can't read 'choice\(1,': "),
        ("choice()", r"(sweep\.search_space\.)?some\.key: can't "),
        ("glob(*)", r"some\.key: can't be tried: "),
        ([], r"some\.key: can't be tried: there is no value$"),
    ],
)
def test_values_that_cannot_be_read_are_told_in_one_line(values: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=f"^{why}") as caught:
        parse_space({"some.key": values}, [])
    assert len(str(caught.value).splitlines()) == 1


def test_combinations_change_the_last_key_first() -> None:
    found = combinations(_read({"a": "x,y", "b": "range(1,6,2)"}))
    assert [(point["a"], point["b"]) for point in found] == [
        *(("x", 1), ("x", 3), ("x", 5)),
        *(("y", 1), ("y", 3), ("y", 5)),
    ]


def test_numbers_of_a_range_are_those_that_were_written() -> None:
    found = [point["a"] for point in combinations(_read({"a": "range(0.1, 1.0, 0.1)"}))]
    assert found == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    small = [point["a"] for point in combinations(_read({"a": "range(1e-13,4e-13,1e-13)"}))]
    assert small == [1e-13, 2e-13, 3e-13]
    whole = [point["a"] for point in combinations(_read({"a": "range(1,4)"}))]
    assert whole == [1, 2, 3]
    assert all(type(value) is int for value in whole)


def test_without_anything_to_try_there_is_one_combination() -> None:
    assert combinations({}) == [{}]


@pytest.mark.parametrize(
    "values",
    ["interval(0.0,1.0)", "tag(log,interval(0.1,1.0))", "tag(log,int(interval(1,9)))"],
)
def test_a_grid_of_an_interval_is_refused(values: str) -> None:
    distributions = _read({"a": "1,2", "b": values})
    for make in (combinations, grid):
        with pytest.raises(ConfigError, match=r"^b: a grid takes listed values"):
            make(distributions)


def test_a_grid_has_its_points_and_a_choice_for_each_key() -> None:
    points, distributions = grid(_read({"a": "x,y", "b": "range(1,3)"}))
    assert [tuple(point.items()) for point in points] == [
        *((("a", "x"), ("b", 1)), (("a", "x"), ("b", 2))),
        *((("a", "y"), ("b", 1)), (("a", "y"), ("b", 2))),
    ]
    assert distributions == {
        "a": CategoricalDistribution(["x", "y"]),
        "b": CategoricalDistribution([1, 2]),
    }


def test_a_description_is_plain_json() -> None:
    distributions = _read({"a": "x,null,[1,2]", "b": "interval(0.0,1.0)", "c": "range(1,9,2)"})
    described = describe(distributions)
    assert json.loads(json.dumps(described)) == described
    assert described["a"]["attributes"]["choices"] == ["x", "null", "[1,2]"]
    assert described["c"] == {
        "name": "IntDistribution",
        "attributes": {"log": False, "step": 2, "low": 1, "high": 7},
    }
    assert describe(_read({"b": "interval(0.0,0.5)"}))["b"] != described["b"]


def test_extremes_are_all_choices_or_both_bounds() -> None:
    found = _read({"a": "x,y,z", "b": "interval(0.0,1.0)", "c": "range(1,9,2)"})
    assert [extremes(each) for each in found.values()] == [["x", "y", "z"], [0.0, 1.0], [1, 7]]
