"""Optuna's samplers and pruners by name."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import ConfigError, unknown
from ml_project_template.utils.arguments import check_arguments

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler

__all__ = [
    "GRID",
    "LEARNING_NOTHING",
    "ONE_SEQUENCE",
    "PRUNERS",
    "SAMPLERS",
    "make_pruner",
    "make_sampler",
]

# No sampler of Optuna's: every combination is a trial of its own.
GRID = "grid"

SAMPLERS: Mapping[str, str] = {
    "tpe": "TPESampler",
    "random": "RandomSampler",
    "cmaes": "CmaEsSampler",
    "gp": "GPSampler",
    "qmc": "QMCSampler",
    "nsgaii": "NSGAIISampler",
}

# These take the next point of one sequence: another seed for each trial would make it another one.
ONE_SEQUENCE = frozenset({"qmc"})

# These draw without a look at how others have done.
LEARNING_NOTHING = frozenset({"qmc", "random"})

PRUNERS: Mapping[str, str] = {
    "none": "NopPruner",
    "median": "MedianPruner",
    "percentile": "PercentilePruner",
    "halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
}

# What differs from Optuna's own defaults: running trials count as poor ones, so that workers that
# ask at the same time get different points.
_DEFAULTS: Mapping[str, Mapping[str, Any]] = {"tpe": {"constant_liar": True}}


def make_sampler(name: str, options: Mapping[str, Any], seed: int | None) -> BaseSampler:
    """Make a sampler.

    Args:
        name: One of `SAMPLERS`.
        options: Arguments of its class besides the seed.
        seed: Makes its draws reproducible; None draws anew each time.

    Raises:
        ConfigError: An unknown name or option, or a value that the class refuses.
    """
    if name not in SAMPLERS:
        raise ConfigError(f"sweep.sampler: {unknown('sampler', name, [GRID, *SAMPLERS])}")
    import optuna

    kind = getattr(optuna.samplers, SAMPLERS[name])
    made: BaseSampler = _make(
        kind, {**_DEFAULTS.get(name, {}), **options}, f"sweep.sampler_options.{name}", seed=seed
    )
    return made


def make_pruner(name: str, options: Mapping[str, Any]) -> BasePruner:
    """Make a pruner.

    Args:
        name: One of `PRUNERS`.
        options: Arguments of its class.

    Raises:
        ConfigError: An unknown name or option, or a value that the class refuses.
    """
    if name not in PRUNERS:
        raise ConfigError(f"sweep.pruner: {unknown('pruner', name, PRUNERS)}")
    import optuna

    kind = getattr(optuna.pruners, PRUNERS[name])
    made: BasePruner = _make(kind, options, f"sweep.pruner_options.{name}")
    return made


def _make(kind: Any, options: Mapping[str, Any], where: str, **own: Any) -> Any:
    problems = check_arguments(kind, options, where=where, ignore=own)
    if problems:
        raise ConfigError("\n".join(problems))
    with warnings.catch_warnings():
        # That an option is experimental is Optuna's word to those who write code with it.
        warnings.simplefilter("ignore")
        try:
            return kind(**options, **own)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {error}") from error
