"""The order of merit of a sweep."""

from __future__ import annotations

import math
import subprocess
import sys

import pytest

from ml_project_template.sweeps.results import Objective, Trial
from tests.sweeps.samples import ACCURACY, LOSS, done, seeded, sweep, two_objectives


def test_the_module_needs_none_of_the_heavy_libraries() -> None:
    code = (
        "import sys, ml_project_template.sweeps.results\n"
        "heavy = {'optuna', 'hydra', 'mlflow', 'torch', 'pandas', 'numpy', 'plotly'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_trials_are_told_apart_by_their_state() -> None:
    states = ["complete", "pruned", "failed", "failed", "running", "waiting"]
    trials = [Trial(n, state, values=(1.0,)) for n, state in enumerate(states)]  # type: ignore[arg-type]
    results = sweep(trials)
    assert [trial.number for trial in results.complete] == [0]
    assert [trial.number for trial in results.pruned] == [1]
    assert [trial.number for trial in results.failed] == [2, 3]
    assert results.failure_rate == 0.5


def test_an_empty_sweep_has_no_failure_rate_and_no_best() -> None:
    results = sweep([], n_trials=3)
    assert results.failure_rate == 0.0
    assert results.best is None
    assert results.configurations() == []
    assert results.pareto() == []
    assert results.varying_params() == []


def test_seeds_are_averaged_and_the_best_mean_wins() -> None:
    results = seeded()
    first, second = results.configurations()
    assert first.params == {"lr": 0.1, "act": "relu"}
    assert [trial.number for trial in first.trials] == [0, 1, 2]
    assert first.mean == pytest.approx((0.25,))
    assert first.std == pytest.approx((0.05,))
    assert second.mean == pytest.approx((0.4,))
    assert second.std == pytest.approx((math.sqrt(0.07),))
    assert results.best is not None
    # Trial 3 is lower, but its settings aren't on average.
    assert results.best.number == 0
    assert [trial.number for trial in results.ranked()] == [3, 0, 2, 1, 5, 4]


def test_equal_settings_without_a_seed_are_trials_of_their_own() -> None:
    results = sweep([done(0, 0.2, a=1), done(1, 0.1, a=1)])
    assert [(each.mean, each.std) for each in results.configurations()] == [
        ((0.1,), None),
        ((0.2,), None),
    ]
    assert not results.is_repeated()


def test_settings_are_compared_by_value_and_type() -> None:
    trials = [done(0, 1.0, a=1, seed=1), done(1, 2.0, a="1", seed=2)]
    trials += [done(2, 3.0, a=[1, 2], seed=1), done(3, 5.0, a=[1, 2], seed=2)]
    found = sweep(trials).configurations()
    assert [each.mean for each in found] == [(1.0,), (2.0,), (4.0,)]


def test_the_direction_decides_what_is_best() -> None:
    trials = [done(0, 0.2), done(1, 0.9), done(2, 0.5)]
    assert [t.number for t in sweep(trials, ACCURACY).ranked()] == [1, 2, 0]
    assert [t.number for t in sweep(trials, LOSS).ranked()] == [0, 2, 1]


@pytest.mark.parametrize("objective", [LOSS, ACCURACY])
def test_what_is_not_a_number_comes_last(objective: Objective) -> None:
    results = sweep([done(0, math.nan), done(1, 0.9)], objective)
    assert [trial.number for trial in results.ranked()] == [1, 0]


def test_values_without_bounds_spread_without_bounds() -> None:
    trials = [done(0, math.inf, seed=1), done(1, 1.0, seed=2)]
    trials += [done(2, 1e300, a=1, seed=1), done(3, -1e300, a=1, seed=2)]
    huge, endless = sweep(trials).configurations()
    assert endless.mean == (math.inf,)
    assert huge.std == pytest.approx((math.sqrt(2) * 1e300,))


def test_the_pareto_front_has_what_no_other_dominates() -> None:
    results = two_objectives()
    assert [trial.number for trial in results.pareto()] == [1, 3, 0]
    assert [trial.number for trial in results.ranked()] == [1, 3, 0, 2, 4]
    assert results.best is None


def test_equal_trials_share_the_pareto_front() -> None:
    results = sweep([done(0, 1.0, 1.0), done(1, 1.0, 1.0)], LOSS, ACCURACY)
    assert [trial.number for trial in results.pareto()] == [0, 1]


def test_settings_vary_if_they_differ_or_are_missing() -> None:
    trials = [
        done(0, 1.0, same=1, differs=1),
        done(1, 1.0, same=1, differs=2, some=None),
    ]
    assert sweep(trials).varying_params() == ["differs", "some"]
    assert sweep(trials[:1]).varying_params() == ["same", "differs"]
