"""Recording of constructor arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template.errors import ConfigError
from ml_project_template.models import BaseModel


class Stub(BaseModel):
    """A model that does nothing, to be subclassed."""

    def _fit(self, train_data: Any, val_data: Any = None, **arguments: Any) -> None:
        pass

    def predict(self, X: Any) -> Any:
        return X

    def _save_weights(self, directory: Path) -> None:
        pass

    def _load_weights(self, directory: Path) -> None:
        pass


class Wide(Stub):
    def __init__(self, width: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.size = (width, depth)


class Passing(Wide):
    def __init__(self, extra: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.extra = extra


class Fixing(Wide):
    def __init__(self, extra: int = 1, **kwargs: Any) -> None:
        super().__init__(width=8, **kwargs)
        self.extra = extra


class Closed(Passing):
    def __init__(self, name: str) -> None:
        super().__init__(extra=5)
        self.name = name


class Deep(Passing):
    def __init__(self, top: float = 0.5, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top = top


class Inheriting(Wide):
    pass


class Bare(Stub):
    pass


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (Wide(), {"width": 4, "depth": 2}),
        (Wide(7), {"width": 7, "depth": 2}),
        (Inheriting(depth=9), {"width": 4, "depth": 9}),
        (Passing(), {"extra": 1, "width": 4, "depth": 2}),
        (Passing(2, depth=3), {"extra": 2, "width": 4, "depth": 3}),
        # The parent's width is the child's own business: it can't be given again.
        (Fixing(depth=3), {"extra": 1, "depth": 3}),
        (Fixing(), {"extra": 1, "depth": 2}),
        # Nothing of the parents can be given through a constructor without **kwargs.
        (Closed("x"), {"name": "x"}),
        (Deep(width=3), {"top": 0.5, "extra": 1, "width": 3, "depth": 2}),
        (Bare(), {}),
    ],
)
def test_the_recorded_arguments_build_the_same_object(
    model: BaseModel, expected: dict[str, Any]
) -> None:
    assert model.get_params() == expected
    rebuilt = type(model)(**model.get_params())
    assert rebuilt.get_params() == expected
    assert getattr(rebuilt, "size", None) == getattr(model, "size", None)


def test_what_the_constructor_changes_later_is_not_recorded() -> None:
    class Changing(Stub):
        def __init__(self, layers: list[int], options: dict[str, Any] | None = None) -> None:
            super().__init__()
            layers.append(99)

    given = [1, 2]
    model = Changing(given, {"a": [1, (2, 3)]})
    assert given == [1, 2, 99]
    assert model.get_params() == {"layers": [1, 2], "options": {"a": [1, [2, 3]]}}


def test_a_caller_who_changes_the_answer_does_not_change_the_record() -> None:
    class Layered(Stub):
        def __init__(self, layers: list[int]) -> None:
            super().__init__()

    model = Layered([1, 2])
    model.get_params()["layers"].append(3)
    assert model.get_params() == {"layers": [1, 2]}


def test_where_a_model_runs_is_not_recorded() -> None:
    class Placed(Stub):
        def __init__(self, width: int = 1, *, accelerator: str = "auto") -> None:
            super().__init__()
            self.accelerator = accelerator

    model = Placed(accelerator="cuda")
    assert model.accelerator == "cuda"
    assert model.get_params() == {"width": 1}


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), [1.0, float("nan")], np.zeros(2), {1, 2}, object(), {1: "a"}],
    ids=["nan", "inf", "nan in a list", "array", "set", "object", "number as key"],
)
def test_a_value_that_json_lacks_is_refused_by_the_argument_name(value: Any) -> None:
    class Holding(Stub):
        def __init__(self, thing: Any) -> None:
            super().__init__()

    with pytest.raises(ConfigError, match="argument 'thing' must"):
        Holding(thing=value)


def test_such_a_value_within_kwargs_is_refused_too() -> None:
    with pytest.raises(ConfigError, match="argument 'depth' must be a finite number, got nan"):
        Passing(depth=float("nan"))


@pytest.mark.parametrize("star", ["*sizes", "size, /"])
def test_arguments_without_a_name_are_refused_when_the_class_is_made(star: str) -> None:
    code = f"class Nameless(Stub):\n    def __init__(self, {star}): ...\n"
    with pytest.raises(TypeError, match="has no name in config.json"):
        exec(code, {"Stub": Stub, "__name__": __name__})  # noqa: S102 - the class is the test


def test_a_failed_constructor_leaves_the_next_one_alone() -> None:
    class Fussy(Stub):
        def __init__(self, width: int = 1) -> None:
            super().__init__()
            if width < 0:
                raise ConfigError("negative")

    with pytest.raises(ConfigError, match="negative"):
        Fussy(-1)
    assert Fussy(3).get_params() == {"width": 3}


def test_wrong_arguments_are_pythons_own_error() -> None:
    with pytest.raises(TypeError, match="wdith"):
        Wide(wdith=3)  # type: ignore[call-arg]
