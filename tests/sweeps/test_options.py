"""The settings of a sweep: all that is wrong is told at once, before anything is run."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from ml_project_template.errors import ConfigError
from ml_project_template.sweeps.options import SweepOptions, read_options
from ml_project_template.sweeps.results import Objective
from tests.conftest import ROOT

_LEAST: dict[str, Any] = {"search_space": {}, "metric": "val_loss", "sampler": "grid"}


def _read(**settings: Any) -> SweepOptions:
    return read_options({**_LEAST, **settings})


def _problems(**settings: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        _read(**settings)
    return str(caught.value).splitlines()


def test_little_has_to_be_said() -> None:
    options = _read()
    assert options.is_grid
    assert options.n_trials is None
    assert options.own_options("sampler") == options.own_options("pruner") == {}
    assert options.objectives() == (Objective("val_loss", "minimize"),)


@pytest.mark.parametrize("name", ["grid", "mlp", "gb"])
def test_the_configurations_of_the_project_are_sound(name: str) -> None:
    settings: dict[str, Any] = {}
    for part in ("grid", name):
        text = (ROOT / "conf" / "sweep" / f"{part}.yaml").read_text(encoding="utf-8")
        settings |= yaml.safe_load(text)
    settings.pop("defaults", None)
    options = read_options({**settings, "seed": 1})
    assert options.is_grid == (name == "grid")


def test_all_that_is_wrong_is_told_at_once() -> None:
    lines = _problems(
        metrics="val_loss",
        n_trials=0,
        n_jobs=1.5,
        seed=-1,
        max_failure_rate=2,
        resume="yes",
        study_name="a/b",
        storage="",
        heartbeat=0,
        direction="down",
        search_space=[],
        sampler="tpee",
        pruner="hyperbnd",
    )
    assert [line.split(":")[0] for line in lines] == [
        *("sweep.search_space", "sweep.metrics", "sweep.n_trials", "sweep.n_jobs"),
        *("sweep.seed", "sweep.max_failure_rate", "sweep.resume", "sweep.study_name"),
        *("sweep.storage", "sweep.heartbeat", "sweep.direction", "sweep.sampler", "sweep.pruner"),
    ]
    text = "\n".join(lines)
    assert "sweep.metrics: unknown key. Did you mean 'metric'?" in text
    assert "sweep.n_trials: must be greater than 0, got 0" in text
    assert "sweep.n_jobs: must be a whole number, got 1.5" in text
    assert "sweep.seed: must be at least 0, got -1" in text
    assert "sweep.direction: must be " in text
    assert "Unknown sampler 'tpee'. Did you mean 'tpe'?" in text
    assert "Unknown pruner 'hyperbnd'. Did you mean 'hyperband'?" in text


def test_what_is_required_is_said() -> None:
    with pytest.raises(ConfigError) as caught:
        read_options({"metric": "val_loss"})
    assert str(caught.value).splitlines() == [
        "sweep.search_space: is required",
        "sweep.sampler: is required",
    ]


@pytest.mark.parametrize(
    ("kind", "choice"),
    [
        ("sampler", "cmaes, gp, grid, nsgaii, qmc, random, tpe"),
        ("pruner", "halving, hyperband, median"),
    ],
)
def test_options_must_be_of_a_sampler_or_a_pruner_that_there_is(kind: str, choice: str) -> None:
    (line,) = _problems(**{f"{kind}_options": {"nonesuch": {}}})
    assert line.startswith(f"sweep.{kind}_options: Unknown {kind} 'nonesuch'.")
    assert choice in line


@pytest.mark.parametrize("kind", ["sampler", "pruner"])
def test_options_under_a_number_are_those_of_nothing_that_there_is(kind: str) -> None:
    lines = _problems(**{f"{kind}_options": {1: {}}})
    assert all(line.startswith(f"sweep.{kind}_options") for line in lines)
    assert any(f"Unknown {kind} '1'." in line for line in lines)


@pytest.mark.parametrize(
    ("settings", "where"),
    [
        (
            {"sampler": "tpe", "sampler_options": {"tpe": {"n_startup": 1}}},
            "sweep.sampler_options.tpe.n_startup: unknown key. Did you mean 'n_startup_trials'? ",
        ),
        (
            {"sampler": "tpe", "sampler_options": {"tpe": {"seed": 1}}},
            "sweep.sampler_options.tpe.seed: unknown key. ",
        ),
        (
            {"pruner": "percentile"},
            "sweep.pruner_options.percentile.percentile: is required",
        ),
        (
            {"pruner": "median", "pruner_options": {"median": {"n_warmup_steps": -1}}},
            "sweep.pruner_options.median: ",
        ),
    ],
)
def test_options_are_tried_out_before_anything_is_run(settings: Any, where: str) -> None:
    (line,) = _problems(**settings)
    assert line.startswith(where)


def test_options_of_what_is_not_used_are_kept_for_later() -> None:
    options = _read(
        sampler="random",
        pruner="median",
        sampler_options={"tpe": {"n_startup_trials": 3}},
        pruner_options={"median": {"n_startup_trials": 3}},
    )
    assert options.own_options("sampler") == {}
    assert options.own_options("pruner") == {"n_startup_trials": 3}


@pytest.mark.parametrize(
    ("metric", "direction", "expected"),
    [
        ("val_loss", None, ["minimize"]),
        ("val_log_loss", None, ["minimize"]),
        ("val_accuracy", None, ["maximize"]),
        ("val_f1_macro", None, ["maximize"]),
        ("val_roc_auc", None, ["maximize"]),
        ("val_accuracy", "minimize", ["minimize"]),
        ("val_mine", "maximize", ["maximize"]),
        (["val_loss", "val_accuracy"], None, ["minimize", "maximize"]),
        (["val_loss", "val_accuracy"], "maximize", ["maximize", "maximize"]),
        (["val_loss", "val_mine"], ["minimize", "maximize"], ["minimize", "maximize"]),
    ],
)
def test_directions_are_those_that_are_given_or_known(
    metric: str | list[str], direction: str | list[str] | None, expected: list[str]
) -> None:
    options = _read(metric=metric, direction=direction)
    assert options.metrics == ([metric] if isinstance(metric, str) else metric)
    assert [each.metric for each in options.objectives()] == options.metrics
    assert [each.direction for each in options.objectives()] == expected


def test_the_test_rows_must_not_choose() -> None:
    for metric in ("test_accuracy", ["val_loss", "test_loss"]):
        (line,) = _problems(metric=metric)
        assert line.startswith("sweep.metric: must be measured on the validation rows")
        assert "the test rows must not choose, got 'test_" in line


def test_a_metric_of_other_rows_is_refused() -> None:
    (line,) = _problems(metric="train_loss")
    assert line.endswith("such as val_loss or val_accuracy, got 'train_loss'")


def test_a_metric_that_nobody_knows_needs_a_direction() -> None:
    (line,) = _problems(metric=["val_loss", "val_mine"])
    assert line == "sweep.direction: is required for 'val_mine': minimize or maximize"


@pytest.mark.parametrize("direction", [["minimize"], ["minimize"] * 3, []])
def test_there_is_a_direction_for_each_metric(direction: list[str]) -> None:
    (line,) = _problems(metric=["val_loss", "val_accuracy"], direction=direction)
    assert line == f"sweep.direction: {len(direction)} directions for 2 metrics"


def test_a_sampler_for_one_metric_is_refused_with_two() -> None:
    (line,) = _problems(metric=["val_loss", "val_accuracy"], sampler="cmaes")
    assert line == "sweep.sampler: cmaes takes one metric; choose tpe, gp or nsgaii"
    assert _read(metric="val_loss", sampler="cmaes").sampler == "cmaes"


def test_without_a_metric_there_is_nothing_to_compare_by() -> None:
    assert len(_problems(metric=[])) == 1


@pytest.mark.parametrize(
    ("settings", "rows", "trials", "fits", "together"),
    [
        # Of fifty trials two workers know how most others have done when they ask for the next.
        ({"sampler": "tpe", "n_jobs": 2}, 100, 50, 1, 3),
        ({"sampler": "tpe", "n_jobs": 0}, 100, 50, 1, 6),
        ({"sampler": "tpe", "n_jobs": 2}, 100, 240, 1, 15),
        ({"sampler": "tpe", "n_jobs": 1}, 100, 5, 1, 1),
        ({"sampler": "tpe", "n_jobs": 1}, 100, 10_000, 1, 32),
        # These learn nothing.
        ({"sampler": "grid", "n_jobs": 2}, 100, 50, 1, 32),
        ({"sampler": "random"}, 100, 50, 1, 32),
        # A trial may be many fits, which are together before trials are.
        ({"sampler": "random"}, 100, 50, 5, 6),
        ({"sampler": "random"}, 100, 50, 100, 1),
        # One fit of many rows uses the machine by itself.
        ({"sampler": "random"}, 1_000_000, 50, 1, 1),
        ({"sampler": "tpe", "together": 20}, 1_000_000, 50, 1, 20),
        ({"sampler": "random", "together": False}, 100, 50, 1, 1),
    ],
)
def test_trials_are_trained_together_as_far_as_that_is_of_use(
    settings: dict[str, Any], rows: int, trials: int, fits: int, together: int
) -> None:
    assert _read(**settings).trials_together(rows, trials, fits) == together


@pytest.mark.parametrize("value", [True, -1, "all", 1.5])
def test_how_many_are_trained_together_is_a_number_auto_or_false(value: Any) -> None:
    (line,) = _problems(together=value)
    assert line.startswith("sweep.together: must be ")
