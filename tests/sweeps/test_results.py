"""The order of merit of a sweep, and the tables and words that tell it."""

from __future__ import annotations

import csv
import io
import math
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from ml_project_template.sweeps.results import (
    Objective,
    SweepResults,
    Trial,
    failures_table,
    format_score,
    format_value,
    results_table,
    summary,
    to_csv,
    to_markdown,
)

_LOSS = Objective("val_loss", "minimize")
_ACCURACY = Objective("val_accuracy", "maximize")


def _trial(number: int, *values: float, **params: Any) -> Trial:
    return Trial(number, "complete", params, values)


def _sweep(trials: Sequence[Trial], *objectives: Objective, n_trials: int = 0) -> SweepResults:
    chosen = objectives or (_LOSS,)
    return SweepResults("study", chosen, tuple(trials), n_trials or len(trials))


def _seeded() -> SweepResults:
    """Two settings with three seeds each: the second has the best trial, the first the best mean.

    Trials of both end without a value.
    """
    values = {0.1: [0.2, 0.3, 0.25], 0.01: [0.1, 0.6, 0.5]}
    trials = [
        _trial(3 * place + seed, value, lr=lr, act="relu", seed=seed)
        for place, (lr, of_lr) in enumerate(values.items())
        for seed, value in enumerate(of_lr)
    ]
    trials.append(Trial(6, "pruned", {"lr": 0.01, "act": "relu", "seed": 3}))
    trials.append(Trial(7, "failed", {"lr": 0.1, "act": "relu", "seed": 3}, error="no memory"))
    return _sweep(trials, n_trials=8)


def _two_objectives() -> SweepResults:
    points = [(0.5, 0.9), (0.1, 0.6), (0.3, 0.6), (0.2, 0.8), (0.6, 0.9)]
    trials = [_trial(number, *values, a=number) for number, values in enumerate(points)]
    return _sweep(trials, _LOSS, _ACCURACY)


def _words(results: SweepResults) -> str:
    return " ".join(summary(results, lambda text: f"<{text}>"))


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
    results = _sweep(trials)
    assert [trial.number for trial in results.complete] == [0]
    assert [trial.number for trial in results.pruned] == [1]
    assert [trial.number for trial in results.failed] == [2, 3]
    assert results.failure_rate == 0.5


def test_an_empty_sweep_has_no_failure_rate_and_no_best() -> None:
    results = _sweep([], n_trials=3)
    assert results.failure_rate == 0.0
    assert results.best is None
    assert results.configurations() == []
    assert results.pareto() == []
    assert results.varying_params() == []


def test_seeds_are_averaged_and_the_best_mean_wins() -> None:
    results = _seeded()
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
    results = _sweep([_trial(0, 0.2, a=1), _trial(1, 0.1, a=1)])
    assert [(each.mean, each.std) for each in results.configurations()] == [
        ((0.1,), None),
        ((0.2,), None),
    ]
    assert not results.is_repeated()


def test_settings_are_compared_by_value_and_type() -> None:
    trials = [_trial(0, 1.0, a=1, seed=1), _trial(1, 2.0, a="1", seed=2)]
    trials += [_trial(2, 3.0, a=[1, 2], seed=1), _trial(3, 5.0, a=[1, 2], seed=2)]
    found = _sweep(trials).configurations()
    assert [each.mean for each in found] == [(1.0,), (2.0,), (4.0,)]


def test_the_direction_decides_what_is_best() -> None:
    trials = [_trial(0, 0.2), _trial(1, 0.9), _trial(2, 0.5)]
    assert [t.number for t in _sweep(trials, _ACCURACY).ranked()] == [1, 2, 0]
    assert [t.number for t in _sweep(trials, _LOSS).ranked()] == [0, 2, 1]


@pytest.mark.parametrize("objective", [_LOSS, _ACCURACY])
def test_what_is_not_a_number_comes_last(objective: Objective) -> None:
    results = _sweep([_trial(0, math.nan), _trial(1, 0.9)], objective)
    assert [trial.number for trial in results.ranked()] == [1, 0]


def test_values_without_bounds_spread_without_bounds() -> None:
    trials = [_trial(0, math.inf, seed=1), _trial(1, 1.0, seed=2)]
    trials += [_trial(2, 1e300, a=1, seed=1), _trial(3, -1e300, a=1, seed=2)]
    huge, endless = _sweep(trials).configurations()
    assert endless.mean == (math.inf,)
    assert huge.std == pytest.approx((math.sqrt(2) * 1e300,))


def test_the_pareto_front_has_what_no_other_dominates() -> None:
    results = _two_objectives()
    assert [trial.number for trial in results.pareto()] == [1, 3, 0]
    assert [trial.number for trial in results.ranked()] == [1, 3, 0, 2, 4]
    assert results.best is None


def test_equal_trials_share_the_pareto_front() -> None:
    results = _sweep([_trial(0, 1.0, 1.0), _trial(1, 1.0, 1.0)], _LOSS, _ACCURACY)
    assert [trial.number for trial in results.pareto()] == [0, 1]


def test_settings_vary_if_they_differ_or_are_missing() -> None:
    trials = [_trial(0, 1.0, same=1, differs=1), _trial(1, 1.0, same=1, differs=2, some=None)]
    assert _sweep(trials).varying_params() == ["differs", "some"]
    assert _sweep(trials[:1]).varying_params() == ["same", "differs"]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.000123456, "0.0001235"),
        (3, "3"),
        ("0.0001234567", "0.0001234567"),
        (None, "null"),
        (True, "true"),
        ("two\nlines", "two lines"),
        ("a" * 20 + "b" * 20, "a" * 12 + "…" + "b" * 11),
    ],
)
def test_values_are_short(value: object, text: str) -> None:
    assert format_value(value) == text


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((0.5,), "0.50000"),
        ((12345.6,), "12346"),
        ((0.03123, 0.00213, 3), "0.0312 ± 0.0021 (3)"),
        ((0.11623, 0.0123), "0.116 ± 0.012"),
        ((0.5, 0.0), "0.5 ± 0"),
        ((1234.5, 321.0, 2), "1234 ± 321 (2)"),
        ((0.5, 0.0, 2), "0.5 ± 0 (2)"),
        ((1e-9, 2e-10, 2), "1e-09 ± 2e-10 (2)"),
        ((math.inf, math.inf, 2), "inf ± inf (2)"),
    ],
)
def test_scores_have_the_digits_that_their_spread_allows(
    arguments: tuple[float, ...], text: str
) -> None:
    assert format_score(*arguments) == text  # type: ignore[arg-type]


def test_the_table_has_the_best_first_and_what_varies() -> None:
    trials = [_trial(n, n / 10, lr=1.0 / (n + 1), depth=2, act="relu") for n in range(5)]
    trials[0] = Trial(0, "pruned", {"lr": 1.0, "depth": 2, "act": "relu"})
    trials[4] = Trial(4, "failed", {"lr": 0.2, "depth": 2, "act": "gelu"})
    assert results_table(_sweep(trials), limit=2).splitlines() == [
        "rank  trial      lr   act  val_loss",
        "   1      1     0.5  relu   0.10000",
        "   2      2  0.3333  relu   0.20000",
        "and 1 more; 1 pruned, 1 failed",
    ]


def test_the_table_has_a_row_for_each_configuration_with_seeds() -> None:
    assert results_table(_seeded()).splitlines() == [
        "rank  trials    lr           val_loss",
        "   1   0,1,2   0.1  0.250 ± 0.050 (3)",
        "   2   3,4,5  0.01    0.40 ± 0.26 (3)",
        "1 pruned, 1 failed",
    ]


def _within() -> SweepResults:
    """Trials that are a mean over folds each, but for one that says nothing of them."""
    stds = [{"val_loss_std": 0.0123}, {"val_loss_std": 0.5, "val_f1_std": 0.1}, {"val_f1": 0.5}]
    losses = [0.11623, 0.4, 0.5]
    trials = [
        Trial(n, "complete", {"lr": n / 10}, (loss,), {"val_loss": loss, **std})
        for n, (loss, std) in enumerate(zip(losses, stds, strict=True))
    ]
    return _sweep(trials)


def test_a_trial_that_is_a_mean_itself_has_its_own_spread_and_no_number() -> None:
    assert results_table(_within()).splitlines() == [
        "rank  trial   lr       val_loss",
        "   1      0    0  0.116 ± 0.012",
        "   2      1  0.1    0.40 ± 0.50",
        "   3      2  0.2        0.50000",
    ]
    assert "| 1 | 0 | 0 | 0.116 ± 0.012 |" in to_markdown(_within()).splitlines()
    assert "<lr=0>: <val_loss> 0.116 ± 0.012, " in _words(_within())
    assert [each.spread(0, "val_loss") for each in _within().configurations()] == [
        *(0.0123, 0.5, None)
    ]


def test_each_objective_has_its_own_spread() -> None:
    metrics = {"val_loss_std": 0.01, "val_accuracy_std": 0.02}
    trials = [Trial(0, "complete", {"a": 1}, (0.5, 0.75), metrics), _trial(1, 0.6, 0.5, a=2)]
    lines = results_table(_sweep(trials, _LOSS, _ACCURACY)).splitlines()
    assert "  0.500 ± 0.010  0.750 ± 0.020" in lines[1]
    assert "±" not in lines[2]


def test_the_spread_over_seeds_is_the_one_between_them() -> None:
    trials = [
        Trial(n, "complete", {"seed": n}, (value,), {"val_loss_std": 9.0})
        for n, value in enumerate([0.2, 0.3, 0.25])
    ]
    assert "0.250 ± 0.050 (3)" in results_table(_sweep(trials))


def test_the_table_marks_the_pareto_front() -> None:
    lines = results_table(_two_objectives(), limit=4).splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["1", "*"], ["2", "*"], ["3", "*"]]
    assert lines[4].split()[:2] == ["4", "2"]
    assert lines[5:] == ["* Pareto-optimal", "and 1 more"]


def test_the_table_fits_a_narrow_terminal() -> None:
    trials = [_trial(n, n / 10, name="x" * 10 + str(n) * 30, other="y" * n) for n in range(3)]
    results = _sweep(trials)
    wide, narrow = results_table(results), results_table(results, width=44)
    assert max(map(len, wide.splitlines())) > 44 >= max(map(len, narrow.splitlines()))
    assert "xxxx" in narrow
    tiny = results_table(results, width=24).splitlines()
    assert tiny[0] == "rank  trial  val_loss"
    assert tiny[-1] == "not shown for lack of room: name, other"
    assert tiny[1].split() == ["1", "0", "0.0000"]


def test_the_table_has_no_room_to_hide_an_objective() -> None:
    assert results_table(_seeded(), width=33).splitlines() == [
        "rank  trials           val_loss",
        "   1   0,1,2  0.250 ± 0.050 (3)",
        "   2   3,4,5    0.40 ± 0.26 (3)",
        "1 pruned, 1 failed",
        "not shown for lack of room: lr",
    ]


def test_the_table_says_that_no_trial_has_finished() -> None:
    trials = [Trial(0, "failed"), Trial(1, "pruned"), Trial(2, "running")]
    expected = "No trial has finished.\n1 pruned, 1 failed, 1 yet to end"
    assert results_table(_sweep(trials)) == expected
    assert results_table(_sweep([])) == "No trial has finished."


def test_failures_are_listed_one_by_one_in_a_line_each() -> None:
    trials = [
        Trial(n, "failed", error="ValueError:\n no " + "x" * 200, overrides=(f"lr={n}", "a=b"))
        for n in range(3)
    ]
    lines = failures_table(_sweep([*trials, _trial(3, 1.0)]), limit=2).splitlines()
    assert lines[0].split() == ["trial", "overrides", "error"]
    assert [line.split()[:3] for line in lines[1:3]] == [["0", "lr=0", "a=b"], ["1", "lr=1", "a=b"]]
    assert "ValueError: no xxx" in lines[1]
    assert len(lines[1]) < 120
    assert lines[3:] == ["and 1 more"]


def test_a_failure_may_have_no_message_and_there_may_be_none() -> None:
    assert failures_table(_sweep([Trial(0, "failed")])).splitlines()[1].split() == ["0", "unknown"]
    assert failures_table(_sweep([_trial(0, 1.0)])) == ""


def test_the_csv_loses_nothing() -> None:
    third = 1 / 3
    trials = [
        Trial(
            0,
            "complete",
            {"lr": third, "name": 'a,"b"'},
            (0.1 + 0.2,),
            {"val_loss": 0.1 + 0.2, "val_b": 1e-17, "val_a": 2.0},
            seconds=1.5,
            model_path="s3://m",
            output_dir="out",
            run_id="r",
        ),
        Trial(1, "pruned", {"lr": 0.5, "name": "x" * 99, "k": None}, metrics={"val_loss": 0.75}),
        Trial(2, "failed", {"flag": False}, error="two\nlines"),
    ]
    rows = list(csv.DictReader(io.StringIO(to_csv(_sweep(trials)))))
    assert list(rows[0]) == [
        *("trial", "state", "lr", "name", "k", "flag", "val_loss", "val_a", "val_b"),
        *("seconds", "error", "model_path", "output_dir", "run_id"),
    ]
    assert float(rows[0]["lr"]) == third
    assert float(rows[0]["val_loss"]) == 0.1 + 0.2
    assert rows[0]["name"] == 'a,"b"'
    assert list(rows[0].values())[7:] == ["2.0", "1e-17", "1.5", "", "s3://m", "out", "r"]
    assert rows[1]["name"] == "x" * 99
    assert (rows[1]["k"], rows[1]["val_loss"], rows[1]["val_a"]) == ("null", "0.75", "")
    assert (rows[2]["state"], rows[2]["flag"], rows[2]["lr"]) == ("failed", "false", "")
    assert rows[2]["error"] == "two\nlines"


def test_the_summary_says_what_was_tried_and_what_won() -> None:
    trials = [_trial(n, value, lr=n / 10, act="relu") for n, value in enumerate([0.4, 0.1, 0.3])]
    trials.append(Trial(3, "pruned", {"lr": 0.3, "act": "relu"}))
    text = _words(_sweep(trials, n_trials=9))
    assert text.startswith("4 of 9 trials over <lr>: 3 finished, 1 pruned.")
    assert "<val_loss> (lower is better; of the validation rows; test rows were not" in text
    won = "Best is trial 1 with <lr=0.1> and <act=relu>: <val_loss> 0.10000, 0.25 below "
    assert text.endswith(won + "the median of the 2 others (0.35000, 71.4%).")


def test_the_summary_tells_the_mean_over_the_seeds() -> None:
    text = _words(_seeded())
    assert "8 trials over <lr> and <seed>: 6 finished, 1 pruned, 1 failed." in text
    assert "Best on average over their seeds are trials 0, 1 and 2 with <lr=0.1>" in text
    assert text.endswith("0.250 ± 0.050 (3), 0.15 below the other one (0.40000, 37.5%).")


@pytest.mark.parametrize(
    ("metric", "said"),
    [
        ("val_f1", "(higher is better; of the validation rows; test rows were not looked at to"),
        ("cv_f1", "(higher is better; the mean over the folds; test rows were not looked at to"),
        ("train_f1", "(higher is better)"),
    ],
)
def test_the_summary_says_what_the_objective_is_measured_on(metric: str, said: str) -> None:
    text = _words(_sweep([_trial(0, 0.5), _trial(1, 0.0)], Objective(metric, "maximize")))
    assert said in text
    # Nothing is a part of a median of zero.
    assert text.endswith("0.50000, 0.5 above the other one (0.0000).")


def test_the_summary_of_a_single_trial_compares_it_with_nothing() -> None:
    text = _words(_sweep([_trial(0, 0.5)]))
    assert text.startswith("1 trial: 1 finished.")
    assert text.endswith("there is no other to compare it with.")
    unfinished = _words(_sweep([Trial(0, "running")]))
    assert unfinished.startswith("1 trial: 0 finished, 1 yet to end.")
    assert "Best" not in unfinished


def test_the_summary_of_several_objectives_names_the_best_of_each() -> None:
    text = _words(_two_objectives())
    assert "3 of the finished trials are Pareto-optimal" in text
    assert "The best <val_loss> 0.10000 is that of trial 1 with <a=1>." in text
    assert "The best <val_accuracy> 0.90000 is that of trial 0 with <a=0>." in text


def test_the_markdown_has_a_table_that_user_text_does_not_break() -> None:
    trials = [_trial(n, float(n), name=f"a|`{n}`<b>") for n in range(3)]
    trials.append(Trial(3, "failed", {"name": "x"}, error="a | b\n<script>", overrides=("c=|",)))
    text = to_markdown(_sweep(trials), limit=2)
    assert text.splitlines()[2:6] == [
        "| rank | trial | name | val_loss |",
        "| ---: | ---: | ---: | ---: |",
        r"| 1 | 0 | a\|\`0\`&lt;b> | 0.0000 |",
        r"| 2 | 1 | a\|\`1\`&lt;b> | 1.0000 |",
    ]
    assert "`name=a|'0'<b>`" in text.splitlines()[0]
    assert "\n\nand 1 more; 1 failed\n\n**Failed**\n\n" in text
    assert text.endswith("| 3 | c=\\| | a \\| b &lt;script> |\n")


def test_the_markdown_is_short_enough_for_a_tracker() -> None:
    trials = [_trial(n, n / 7, **{f"some.key_{k}": "x" * 99 for k in range(3)}) for n in range(50)]
    trials += [
        Trial(50 + n, "failed", error="e" * 5000, overrides=("o" * 5000,)) for n in range(50)
    ]
    text = to_markdown(_sweep(trials))
    assert "**Failed** (the first 10 of 50)" in text
    # The longest description that MLflow takes.
    assert len(text) < 8000


def test_the_markdown_of_nothing_is_a_sentence() -> None:
    text = to_markdown(_sweep([Trial(0, "pruned", {"a": 1})], n_trials=2))
    assert text.startswith("1 of 2 trials over `a`: 0 finished, 1 pruned.")
    assert "|" not in text
