"""Optuna's samplers and pruners by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from ml_project_template.errors import ConfigError
from ml_project_template.sweeps.samplers import (
    GRID,
    PRUNERS,
    SAMPLERS,
    make_pruner,
    make_sampler,
)

_SPACE = {
    "lr": FloatDistribution(1e-4, 1e-1, log=True),
    "depth": IntDistribution(1, 8),
    "act": CategoricalDistribution(["relu", "gelu"]),
}
# Options with which a sampler leaves its first, random draws behind early.
_EARLY = {"tpe": {"n_startup_trials": 2}, "gp": {"n_startup_trials": 2}}


def _draws(name: str, seed: int | None, options: Mapping[str, Any] | None = None) -> list[Any]:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = make_sampler(name, _EARLY.get(name, {}) if options is None else options, seed)
    study = optuna.create_study(sampler=sampler)
    drawn = []
    with warnings.catch_warnings():
        # The numerical libraries of some samplers speak to those who write them.
        warnings.simplefilter("ignore")
        for number in range(4):
            trial = study.ask(_SPACE)
            drawn.append(trial.params)
            study.tell(trial, trial.params["lr"] * number)
    return drawn


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_each_sampler_is_the_class_of_its_name_and_draws(name: str) -> None:
    sampler = make_sampler(name, {}, 1)
    assert type(sampler) is getattr(optuna.samplers, SAMPLERS[name])
    drawn = _draws(name, 1)
    assert len({params["lr"] for params in drawn}) > 1
    for params in drawn:
        assert all(
            space._contains(space.to_internal_repr(params[k])) for k, space in _SPACE.items()
        )


@pytest.mark.parametrize("name", list(SAMPLERS))
def test_draws_depend_on_the_seed_alone(name: str) -> None:
    assert _draws(name, 5) == _draws(name, 5)
    assert _draws(name, 5) != _draws(name, 6)


def test_without_a_seed_draws_are_new_each_time() -> None:
    assert _draws("random", None) != _draws("random", None)


@pytest.mark.parametrize(
    ("name", "options", "attribute", "value"),
    [
        ("tpe", {}, "_constant_liar", True),
        ("tpe", {"constant_liar": False}, "_constant_liar", False),
        ("tpe", {"n_startup_trials": 3}, "_n_startup_trials", 3),
        ("nsgaii", {"population_size": 7}, "_population_size", 7),
    ],
)
def test_options_reach_the_sampler(
    name: str, options: Mapping[str, Any], attribute: str, value: object
) -> None:
    sampler = make_sampler(name, options, 1)
    found = getattr(sampler, attribute)
    assert found == value


def test_an_unknown_sampler_is_told_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="Did you mean 'random'") as caught:
        make_sampler("randm", {}, None)
    assert str(caught.value).startswith("sweep.sampler: Unknown sampler 'randm'.")
    assert all(name in str(caught.value) for name in (GRID, *SAMPLERS))


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"n_startup": 3}, "n_startup: unknown key. Did you mean 'n_startup_trials'? Available: "),
        ({"n_startup_trials": 3, "nonsense": 1}, "nonsense: unknown key. Available: "),
        ({"n_startup_trials": "3"}, "n_startup_trials: must be a whole number, got '3'"),
        ({"constant_liar": "yes"}, "constant_liar: must be true or false, got 'yes'"),
        # It has a setting of its own.
        ({"seed": 3}, "seed: unknown key. Available: "),
    ],
)
def test_a_wrong_option_of_a_sampler_is_told(options: Mapping[str, Any], why: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_sampler("tpe", options, 1)
    (line,) = str(caught.value).splitlines()
    assert line.startswith(f"sweep.sampler_options.tpe.{why}")
    assert " seed" not in line


def test_all_wrong_options_of_a_sampler_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_sampler("tpe", {"n_startup": 3, "seed": 3, "group": 1}, 1)
    found = [line.split(":")[0].rpartition(".")[2] for line in str(caught.value).splitlines()]
    assert found == ["n_startup", "seed", "group"]


def test_a_value_that_a_sampler_refuses_is_told() -> None:
    with pytest.raises(ConfigError, match=r"^sweep\.sampler_options\.nsgaii: .*population_size"):
        make_sampler("nsgaii", {"population_size": 1}, 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("none", {}),
        ("median", {"n_startup_trials": 1, "n_warmup_steps": 2}),
        ("percentile", {"percentile": 25.0}),
        ("halving", {"min_resource": 1, "reduction_factor": 2}),
        ("hyperband", {"min_resource": 1, "max_resource": 9}),
    ],
)
def test_each_pruner_is_the_class_of_its_name_and_judges(
    name: str, options: Mapping[str, Any]
) -> None:
    pruner = make_pruner(name, options)
    assert type(pruner) is getattr(optuna.pruners, PRUNERS[name])
    study = optuna.create_study(pruner=pruner, sampler=make_sampler("random", {}, 1))
    pruned = []
    for number in range(6):
        trial = study.ask(_SPACE)
        for step in range(1, 10):
            trial.report(float(number), step)
            if trial.should_prune():
                pruned.append(number)
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                break
        else:
            study.tell(trial, float(number))
    assert bool(pruned) == (name != "none")
    # The best of all, and the first, is never given up.
    assert 0 not in pruned


@pytest.mark.parametrize(
    ("name", "options", "why"),
    [
        ("medien", {}, r"^sweep\.pruner: Unknown pruner 'medien'\. Did you mean 'median'\?"),
        (
            "median",
            {"warmup": 1},
            r"^sweep\.pruner_options\.median\.warmup: unknown key.* mean 'n_warmup_steps'\?",
        ),
        ("percentile", {}, r"^sweep\.pruner_options\.percentile\.percentile: is required$"),
        (
            "percentile",
            {"percentile": "25"},
            r"^sweep\.pruner_options\.percentile\.percentile: must be a number, got '25'$",
        ),
        (
            "median",
            {"n_warmup_steps": -1},
            r"^sweep\.pruner_options\.median: .*warmup steps cannot be negative",
        ),
        ("median", {"seed": 1}, r"^sweep\.pruner_options\.median\.seed: unknown key"),
    ],
)
def test_what_is_wrong_with_a_pruner_is_told(
    name: str, options: Mapping[str, Any], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        make_pruner(name, options)
