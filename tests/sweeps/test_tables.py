"""The tables and words that tell what a sweep has found."""

from __future__ import annotations

import csv
import io
import math

import pytest

from ml_project_template.sweeps.results import Objective, SweepResults, Trial
from ml_project_template.sweeps.tables import (
    failures_table,
    format_score,
    format_value,
    results_table,
    summary,
    to_csv,
    to_markdown,
)
from tests.sweeps.samples import ACCURACY, LOSS, done, seeded, sweep, two_objectives


def _words(results: SweepResults) -> str:
    return " ".join(summary(results, lambda text: f"<{text}>"))


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
    trials = [done(n, n / 10, lr=1.0 / (n + 1), depth=2, act="relu") for n in range(5)]
    trials[0] = Trial(0, "pruned", {"lr": 1.0, "depth": 2, "act": "relu"})
    trials[4] = Trial(4, "failed", {"lr": 0.2, "depth": 2, "act": "gelu"})
    assert results_table(sweep(trials), limit=2).splitlines() == [
        "rank  trial      lr   act  val_loss",
        "   1      1     0.5  relu   0.10000",
        "   2      2  0.3333  relu   0.20000",
        "and 1 more; 1 pruned, 1 failed",
    ]


def test_the_table_has_a_row_for_each_configuration_with_seeds() -> None:
    assert results_table(seeded()).splitlines() == [
        "rank  trials    lr           val_loss",
        "   1   0,1,2   0.1  0.250 ± 0.050 (3)",
        "   2   3,4,5  0.01    0.40 ± 0.26 (3)",
        "1 pruned, 1 failed",
    ]


def test_other_metrics_stand_beside_the_one_that_was_chosen_by() -> None:
    trials = [
        Trial(
            number,
            "complete",
            {"model": "gb" if number < 2 else "mlp", "seed": number},
            (0.5 - number / 10,),
            {"val_loss": 9.0, "accuracy": 0.5 + number / 10} | ({"r2": 0.5} if number == 2 else {}),
            seconds=number + 1.0,
        )
        for number in range(3)
    ]
    beside = ("val_loss", "accuracy", "r2", "absent", "seconds")
    assert results_table(sweep(trials), beside=beside).splitlines() == [
        "rank  trials  model           val_loss       accuracy       r2  seconds",
        "   1       2    mlp            0.30000        0.70000  0.50000      3.0",
        "   2     0,1     gb  0.450 ± 0.071 (2)  0.550 ± 0.071               1.5",
    ]


def _within() -> SweepResults:
    """Trials that are a mean over folds each, but for one that says nothing of them."""
    stds = [{"val_loss_std": 0.0123}, {"val_loss_std": 0.5, "val_f1_std": 0.1}, {"val_f1": 0.5}]
    losses = [0.11623, 0.4, 0.5]
    trials = [
        Trial(n, "complete", {"lr": n / 10}, (loss,), {"val_loss": loss, **std})
        for n, (loss, std) in enumerate(zip(losses, stds, strict=True))
    ]
    return sweep(trials)


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
    trials = [Trial(0, "complete", {"a": 1}, (0.5, 0.75), metrics), done(1, 0.6, 0.5, a=2)]
    lines = results_table(sweep(trials, LOSS, ACCURACY)).splitlines()
    assert "  0.500 ± 0.010  0.750 ± 0.020" in lines[1]
    assert "±" not in lines[2]


def test_the_spread_over_seeds_is_the_one_between_them() -> None:
    trials = [
        Trial(n, "complete", {"seed": n}, (value,), {"val_loss_std": 9.0})
        for n, value in enumerate([0.2, 0.3, 0.25])
    ]
    assert "0.250 ± 0.050 (3)" in results_table(sweep(trials))


def test_the_table_marks_the_pareto_front() -> None:
    lines = results_table(two_objectives(), limit=4).splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [["1", "*"], ["2", "*"], ["3", "*"]]
    assert lines[4].split()[:2] == ["4", "2"]
    assert lines[5:] == ["* Pareto-optimal", "and 1 more"]


def test_the_table_fits_a_narrow_terminal() -> None:
    trials = [done(n, n / 10, name="x" * 10 + str(n) * 30, other="y" * n) for n in range(3)]
    results = sweep(trials)
    wide, narrow = results_table(results), results_table(results, width=44)
    assert max(map(len, wide.splitlines())) > 44 >= max(map(len, narrow.splitlines()))
    assert "xxxx" in narrow
    tiny = results_table(results, width=24).splitlines()
    assert tiny[0] == "rank  trial  val_loss"
    assert tiny[-1] == "not shown for lack of room: name, other"
    assert tiny[1].split() == ["1", "0", "0.0000"]


def test_the_table_has_no_room_to_hide_an_objective() -> None:
    assert results_table(seeded(), width=33).splitlines() == [
        "rank  trials           val_loss",
        "   1   0,1,2  0.250 ± 0.050 (3)",
        "   2   3,4,5    0.40 ± 0.26 (3)",
        "1 pruned, 1 failed",
        "not shown for lack of room: lr",
    ]


def test_the_table_says_that_no_trial_has_finished() -> None:
    trials = [Trial(0, "failed"), Trial(1, "pruned"), Trial(2, "running")]
    expected = "No trial has finished.\n1 pruned, 1 failed, 1 yet to end"
    assert results_table(sweep(trials)) == expected
    assert results_table(sweep([])) == "No trial has finished."


def test_failures_are_listed_one_by_one_in_a_line_each() -> None:
    trials = [
        Trial(n, "failed", error="ValueError:\n no " + "x" * 200, overrides=(f"lr={n}", "a=b"))
        for n in range(3)
    ]
    lines = failures_table(sweep([*trials, done(3, 1.0)]), limit=2).splitlines()
    assert lines[0].split() == ["trial", "overrides", "error"]
    assert [line.split()[:3] for line in lines[1:3]] == [["0", "lr=0", "a=b"], ["1", "lr=1", "a=b"]]
    assert "ValueError: no xxx" in lines[1]
    assert len(lines[1]) < 120
    assert lines[3:] == ["and 1 more"]


def test_a_failure_may_have_no_message_and_there_may_be_none() -> None:
    assert failures_table(sweep([Trial(0, "failed")])).splitlines()[1].split() == [
        "0",
        "unknown",
    ]
    assert failures_table(sweep([done(0, 1.0)])) == ""


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
    rows = list(csv.DictReader(io.StringIO(to_csv(sweep(trials)))))
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
    trials = [done(n, value, lr=n / 10, act="relu") for n, value in enumerate([0.4, 0.1, 0.3])]
    trials.append(Trial(3, "pruned", {"lr": 0.3, "act": "relu"}))
    text = _words(sweep(trials, n_trials=9))
    assert text.startswith("4 of 9 trials over <lr>: 3 finished, 1 pruned.")
    assert "<val_loss> (lower is better; of the validation rows; test rows were not" in text
    won = "Best is trial 1 with <lr=0.1> and <act=relu>: <val_loss> 0.10000, 0.25 below "
    assert text.endswith(won + "the median of the 2 others (0.35000, 71.4%).")


def test_the_summary_tells_the_mean_over_the_seeds() -> None:
    text = _words(seeded())
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
    text = _words(sweep([done(0, 0.5), done(1, 0.0)], Objective(metric, "maximize")))
    assert said in text
    # Nothing is a part of a median of zero.
    assert text.endswith("0.50000, 0.5 above the other one (0.0000).")


def test_the_summary_of_a_single_trial_compares_it_with_nothing() -> None:
    text = _words(sweep([done(0, 0.5)]))
    assert text.startswith("1 trial: 1 finished.")
    assert text.endswith("there is no other to compare it with.")
    unfinished = _words(sweep([Trial(0, "running")]))
    assert unfinished.startswith("1 trial: 0 finished, 1 yet to end.")
    assert "Best" not in unfinished


def test_the_summary_of_several_objectives_names_the_best_of_each() -> None:
    text = _words(two_objectives())
    assert "3 of the finished trials are Pareto-optimal" in text
    assert "The best <val_loss> 0.10000 is that of trial 1 with <a=1>." in text
    assert "The best <val_accuracy> 0.90000 is that of trial 0 with <a=0>." in text


def test_the_markdown_has_a_table_that_user_text_does_not_break() -> None:
    trials = [done(n, float(n), name=f"a|`{n}`<b>") for n in range(3)]
    trials.append(Trial(3, "failed", {"name": "x"}, error="a | b\n<script>", overrides=("c=|",)))
    text = to_markdown(sweep(trials), limit=2)
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
    trials = [done(n, n / 7, **{f"some.key_{k}": "x" * 99 for k in range(3)}) for n in range(50)]
    trials += [
        Trial(50 + n, "failed", error="e" * 5000, overrides=("o" * 5000,)) for n in range(50)
    ]
    text = to_markdown(sweep(trials))
    assert "**Failed** (the first 10 of 50)" in text
    # The longest description that MLflow takes.
    assert len(text) < 8000


def test_the_markdown_of_nothing_is_a_sentence() -> None:
    text = to_markdown(sweep([Trial(0, "pruned", {"a": 1})], n_trials=2))
    assert text.startswith("1 of 2 trials over `a`: 0 finished, 1 pruned.")
    assert "|" not in text
