"""Sweeps whose order of merit is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ml_project_template.sweeps.results import Objective, SweepResults, Trial

LOSS = Objective("val_loss", "minimize")
ACCURACY = Objective("val_accuracy", "maximize")


def done(number: int, *values: float, **params: Any) -> Trial:
    """Make a complete trial."""
    return Trial(number, "complete", params, values)


def sweep(trials: Sequence[Trial], *objectives: Objective, n_trials: int = 0) -> SweepResults:
    """Make the results of a study with these trials."""
    chosen = objectives or (LOSS,)
    return SweepResults("study", chosen, tuple(trials), n_trials or len(trials))


def seeded() -> SweepResults:
    """Two settings with three seeds each: the second has the best trial, the first the best mean.

    Trials of both end without a value.
    """
    values = {0.1: [0.2, 0.3, 0.25], 0.01: [0.1, 0.6, 0.5]}
    trials = [
        done(3 * place + seed, value, lr=lr, act="relu", seed=seed)
        for place, (lr, of_lr) in enumerate(values.items())
        for seed, value in enumerate(of_lr)
    ]
    trials.append(Trial(6, "pruned", {"lr": 0.01, "act": "relu", "seed": 3}))
    trials.append(Trial(7, "failed", {"lr": 0.1, "act": "relu", "seed": 3}, error="no memory"))
    return sweep(trials, n_trials=8)


def two_objectives() -> SweepResults:
    """Five trials, some of which others dominate."""
    points = [(0.5, 0.9), (0.1, 0.6), (0.3, 0.6), (0.2, 0.8), (0.6, 0.9)]
    trials = [done(number, *values, a=number) for number, values in enumerate(points)]
    return sweep(trials, LOSS, ACCURACY)
