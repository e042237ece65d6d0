from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

import numpy as np
import pytest
from pydantic import Field

from ml_project_template.utils.arguments import check_arguments

if TYPE_CHECKING:
    from nowhere import NotImported  # type: ignore[import-not-found]


class Quacks(Protocol):
    def quack(self) -> None: ...


class Model:
    def __init__(
        self,
        layer_dims: list[int | None],
        activation: Literal["relu", "gelu"] = "relu",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    ) -> None: ...


def fit(  # type: ignore[no-untyped-def]
    train_data: NotImported,
    val_data: NotImported | None = None,
    *,
    lr: Annotated[float, Field(gt=0)] = 1e-3,
    max_epochs: Annotated[int, Field(ge=1)] = 10,
    patience: int | None = None,
    shuffle: bool = True,
    name: str = "x",
    betas: tuple[float, float] = (0.9, 0.999),
    class_weight: Literal["balanced"] | list[float] | None = None,
    extra: dict[str, int] | None = None,
    anything=None,
    duck: Quacks | None = None,
    callback: Callable[[], None] | None = None,
    place: Path | None = None,
    even: Annotated[int, Field(multiple_of=2)] = 2,
    word: Annotated[str, Field(pattern="^[a-z]+$")] = "a",
    names: Annotated[list[str], Field(min_length=1, max_length=2)] | None = None,
) -> None: ...


def problems(**arguments: Any) -> list[str]:
    return check_arguments(fit, arguments, where="training", ignore=("train_data", "val_data"))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"lr": 1, "max_epochs": 3, "patience": None, "shuffle": False},
        {"lr": np.float32(0.5), "max_epochs": np.int64(3)},
        {"betas": [0.5, 0.9]},
        {"betas": (0.5, 1)},
        {"class_weight": "balanced"},
        {"class_weight": (1, 2.5)},
        {"extra": {"a": 1}},
        {"anything": object(), "duck": 3, "callback": print},
    ],
)
def test_right_arguments_have_no_problems(arguments: dict[str, Any]) -> None:
    assert problems(**arguments) == []


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"lr": "abc"}, "training.lr: must be a number, got 'abc'"),
        ({"lr": "0.1"}, "training.lr: must be a number, got '0.1'"),
        ({"lr": True}, "training.lr: must be a number, got True"),
        ({"lr": -1.0}, "training.lr: must be greater than 0, got -1.0"),
        ({"lr": float("nan")}, "training.lr: must be a finite number, got nan"),
        ({"lr": None}, "training.lr: must be a number, got None"),
        ({"max_epochs": 0}, "training.max_epochs: must be at least 1, got 0"),
        ({"max_epochs": 1.5}, "training.max_epochs: must be a whole number, got 1.5"),
        ({"max_epochs": True}, "training.max_epochs: must be a whole number, got True"),
        ({"patience": "a"}, "training.patience: must be a whole number or null, got 'a'"),
        ({"shuffle": 1}, "training.shuffle: must be true or false, got 1"),
        ({"name": 1}, "training.name: must be text, got 1"),
        ({"betas": [1, "a"]}, "training.betas[1]: must be a number, got 'a'"),
        (
            {"class_weight": "b"},
            "training.class_weight: must be 'balanced', a list or null, got 'b'",
        ),
        (
            {"class_weight": [1.0, "b"]},
            "training.class_weight[1]: must be a number, got 'b'",
        ),
        ({"extra": {"a": "b"}}, "training.extra.a: must be a whole number, got 'b'"),
        ({"callback": 1}, "training.callback: must be a function or null, got 1"),
        ({"place": Path}, f"training.place: must be a Path or null, got {Path}"),
        ({"even": 3}, "training.even: must be a multiple of 2, got 3"),
        ({"word": "A"}, "training.word: must match pattern '^[a-z]+$', got 'A'"),
        ({"names": []}, "training.names: must have at least 1 item, got []"),
        (
            {"names": ["a", "b", "c"]},
            "training.names: must have at most 2 items, got ['a', 'b', 'c']",
        ),
    ],
)
def test_a_wrong_value_is_named_with_its_rule(arguments: dict[str, Any], expected: str) -> None:
    assert problems(**arguments) == [expected]


def test_too_few_items_of_a_pair_are_a_problem() -> None:
    assert problems(betas=[0.5]) == ["training.betas: must have at least 2 items, got [0.5]"]


def test_an_unknown_key_comes_with_the_likely_one_and_all_choices() -> None:
    (problem,) = problems(lrr=1)
    assert problem.startswith("training.lrr: unknown key. Did you mean 'lr'? Available: anything,")
    assert "train_data" not in problem


def test_a_key_without_a_likely_one_has_no_hint() -> None:
    (problem,) = check_arguments(lambda: None, {"q": 1}, where="model")
    assert problem == "model.q: unknown key. Available: none."


def test_everything_wrong_is_told_at_once() -> None:
    told = problems(lr="abc", lrr=1, max_epochs=0)
    assert [line.split(":")[0] for line in told] == [
        "training.lr",
        "training.lrr",
        "training.max_epochs",
    ]


def test_a_missing_argument_is_named() -> None:
    assert check_arguments(Model, {}, where="model") == ["model.layer_dims: is required"]


def test_the_constructor_of_a_class_is_checked_without_self() -> None:
    told = check_arguments(
        Model, {"layer_dims": [4, None, "3"], "activation": "rlu", "dropout": 1}, where="model"
    )
    assert told == [
        "model.layer_dims[2]: must be a whole number, got '3'",
        "model.activation: must be one of 'relu' or 'gelu', got 'rlu'",
        "model.dropout: must be less than 1, got 1",
    ]


def test_a_parameter_that_somebody_else_fills_is_neither_required_nor_accepted() -> None:
    (problem,) = problems(train_data=1)
    assert problem.startswith("training.train_data: unknown key.")


def test_a_key_that_somebody_else_reads_is_passed_over() -> None:
    arguments = {"_target_": "some.Model", "layer_dims": [1]}
    assert check_arguments(Model, arguments, where="model", ignore=("_target_",)) == []


def test_a_function_that_takes_any_keyword_takes_any_key() -> None:
    def open_ended(a: int = 1, **kwargs: Any) -> None: ...

    assert check_arguments(open_ended, {"b": object()}, where="x") == []
    assert check_arguments(open_ended, {"a": "1"}, where="x") == [
        "x.a: must be a whole number, got '1'"
    ]


def test_a_wrapped_constructor_is_read_through_its_wrapper() -> None:
    @functools.wraps(fit)
    def wrapper(*args: Any, **kwargs: Any) -> None: ...

    assert check_arguments(wrapper, {"lr": "a"}, where="t", ignore=("train_data",)) == [
        "t.lr: must be a number, got 'a'"
    ]


def test_a_long_value_is_shortened() -> None:
    (problem,) = problems(lr="a" * 1000)
    assert problem.endswith("aaa...")
    assert len(problem) < 130
