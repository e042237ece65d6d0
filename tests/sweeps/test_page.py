"""The page of a sweep, from studies as Optuna keeps them."""

from __future__ import annotations

import logging.handlers
import re
import warnings
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import TrialState, create_trial
from plotly.offline import get_plotlyjs

from ml_project_template.sweeps.page import sweep_page
from ml_project_template.sweeps.results import Direction, Objective, SweepResults, Trial

_LOSS = Objective("val_loss", "minimize")
_STATES: dict[TrialState, Any] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
}


@pytest.fixture(autouse=True)
def _silent_optuna() -> Iterator[None]:
    """Keep the log of the studies made here out of the output that a test looks at."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(verbosity)


def _study(
    objective: Callable[[optuna.Trial], Any], n_trials: int, *directions: Direction, **options: Any
) -> optuna.Study:
    options.setdefault("sampler", optuna.samplers.RandomSampler(seed=0))
    study = optuna.create_study(directions=directions or ("minimize",), **options)
    study.optimize(objective, n_trials=n_trials, catch=(RuntimeError,))
    return study


def _results(study: optuna.Study, *objectives: Objective) -> SweepResults:
    trials = tuple(
        Trial(
            number=trial.number,
            state=_STATES[trial.state],
            params=trial.params,
            values=tuple(trial.values) if trial.state is TrialState.COMPLETE else None,
            intermediate=trial.intermediate_values,
            error=trial.user_attrs.get("error"),
            seconds=1.25,
        )
        for trial in study.trials
        if not trial.user_attrs.get("cut_off")
    )
    return SweepResults(study.study_name, objectives or (_LOSS,), trials, len(trials))


def _searched(trial: optuna.Trial) -> float:
    """Complete, pruned and failed trials, one of which was cut off and stands for nothing."""
    lr = trial.suggest_float("lr", 1e-4, 1e-1, log=True)
    name = trial.suggest_categorical("name", ["<script>alert(1)", "plain"])
    trial.report(lr + 1, step=1)
    if trial.number == 3:
        raise optuna.TrialPruned
    if trial.number == 4:
        trial.set_user_attr("error", "ValueError: <script>alert(2)</script> & more")
        raise RuntimeError
    if trial.number == 5:
        trial.set_user_attr("cut_off", True)
        raise RuntimeError
    return lr + (name == "plain")


class _Reader(HTMLParser):
    """Take a page apart: its tags, its text, its table rows and what stands below each heading."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.rows: list[list[str]] = []
        self.below: dict[str, str] = {}
        self.words: list[str] = []
        self._open = ""
        self._heading = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag in ("h1", "h2", "h3"):
            self._heading = ""

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open == "script":
            self.scripts.append(data)
            if data.lstrip().startswith("window.PLOTLYENV"):
                self.below[self._heading] += data
            return
        self.words.append(data)
        if self._open in ("td", "th"):
            self.rows[-1][-1] += data
        elif self._open in ("h1", "h2", "h3"):
            self._heading += data
            self.below[self._heading] = ""
        elif self._heading:
            self.below[self._heading] += data

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).split())

    def names(self) -> list[str]:
        return [tag for tag, _ in self.tags]


@pytest.fixture(scope="module")
def searched() -> tuple[str, _Reader]:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    study = _study(_searched, 12)
    optuna.logging.set_verbosity(verbosity)
    facts = {"data <set>": "digits & co", "storage": "http://example.org/study"}
    page = sweep_page(_results(study), study, title="Sweep <one>", facts=facts)
    return page, _Reader(page)


def _grid() -> optuna.Study:
    space: dict[str, list[str]] = {
        "lr": ["0.1", "0.01"],
        "dims": ["[8]", "[8,8]"],
        "seed": ["1", "2"],
    }

    def objective(trial: optuna.Trial) -> float:
        chosen = {name: trial.suggest_categorical(name, space[name]) for name in space}
        return float(chosen["lr"]) + len(chosen["dims"]) / 100 + int(chosen["seed"]) / 1000

    sampler = optuna.samplers.GridSampler(space, seed=0)
    return _study(objective, 8, sampler=sampler)


def test_the_page_needs_nothing_from_outside(searched: tuple[str, _Reader]) -> None:
    page, reader = searched
    assert page.count(get_plotlyjs()) == 1
    without = page.replace(get_plotlyjs(), "")
    assert "plotly.js v" not in without
    assert not re.search(r"""(?:src|href|action|data)\s*=\s*["']?\s*(?:https?:)?//""", without)
    assert not re.search(r"@import|url\(", without)
    assert not {"link", "iframe", "img", "object"} & set(reader.names())
    assert all("src" not in attributes for _, attributes in reader.tags)


def test_no_plot_offers_to_send_itself_away(searched: tuple[str, _Reader]) -> None:
    page, _ = searched
    drawn = page.count("Plotly.newPlot(", page.index(get_plotlyjs()) + len(get_plotlyjs()))
    assert drawn == page.count('"showSendToCloud": false') == 6
    assert "cloud.plotly" not in page.replace(get_plotlyjs(), "")


def test_what_a_user_wrote_is_text(searched: tuple[str, _Reader]) -> None:
    page, reader = searched
    assert "<script>alert" not in page
    # The library, and one for each figure.
    assert reader.names().count("script") == 7
    assert "Sweep <one>" in reader.below
    assert "data <set>" in reader.text
    assert "ValueError: <script>alert(2)</script> & more" in reader.text
    assert "name=<script>alert(1)" in reader.text
    # Plotly reads markup of its own in what it draws.
    slices = reader.below["Each setting by itself"]
    assert "&lt;script\\u003ealert(1)" in slices


def test_the_table_has_all_trials_the_best_first(searched: tuple[str, _Reader]) -> None:
    _, reader = searched
    header, *rows = reader.rows
    assert header == ["rank", "trial", "state", "lr", "name", "val_loss", "seconds", "error"]
    assert [row[0] for row in rows] == [*map(str, range(1, 10)), "", ""]
    assert [row[2] for row in rows] == ["complete"] * 9 + ["pruned", "failed"]
    values = [float(row[5]) for row in rows[:9]]
    assert values == sorted(values)
    assert [row[1] for row in rows[9:]] == ["3", "4"]
    assert rows[9][5] == ""
    assert rows[10][-1].startswith("ValueError")
    assert all(row[6] == "1.2" for row in rows)


def test_the_page_can_be_read_by_all(searched: tuple[str, _Reader]) -> None:
    page, reader = searched
    assert ("html", {"lang": "en"}) in reader.tags
    headings = [int(tag[1]) for tag in reader.names() if re.fullmatch(r"h\d", tag)]
    assert headings[0] == 1
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))
    heads = [attributes for tag, attributes in reader.tags if tag == "th"]
    assert heads
    assert all(attributes.get("scope") == "col" for attributes in heads)
    assert reader.names().count("caption") == reader.names().count("table") == 1
    ids = [attributes["id"] for _, attributes in reader.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labels = [attributes["aria-labelledby"] for tag, attributes in reader.tags if tag == "figure"]
    assert len(labels) == 5
    assert set(labels) <= set(ids)
    assert "prefers-color-scheme: dark" in page


def test_all_plots_of_a_search_are_drawn(searched: tuple[str, _Reader]) -> None:
    _, reader = searched
    assert "Left out" not in reader.text
    for title in (
        "History",
        "Importance of the settings",
        "Each setting by itself",
        "All settings together",
        "On the way",
    ):
        assert "Plotly.newPlot(" in reader.below[title], title
    assert reader.below["Each setting by itself"].count("Plotly.newPlot(") == 2
    assert '"type":"log"' in reader.below["Each setting by itself"]
    assert reader.below["On the way"].count('"mode":"lines+markers"') == 10


def test_the_summary_says_what_won_and_how_far_to_believe_it(
    searched: tuple[str, _Reader],
) -> None:
    _, reader = searched
    best = reader.rows[1]
    later = sum(n > int(best[1]) for n in range(12) if n not in (4, 5))
    assert "11 trials over lr and name: 9 finished, 1 pruned, 1 failed." in reader.text
    assert f"Best is trial {best[1]} with lr={best[3]}" in reader.text
    assert "without more seeds of both, a small distance may be chance" in reader.text
    since = f"The lowest single value, {best[5]}, came with trial {best[1]}; none of the {later} "
    assert since in reader.text
    assert "As the best of 9 it is a little too good to be true" in reader.text


def test_a_grid_with_seeds_has_a_table_of_its_means() -> None:
    study = _grid()
    reader = _Reader(sweep_page(_results(study), study, title="Grid"))
    assert reader.names().count("table") == 2
    assert reader.rows[0] == ["rank", "trials", "lr", "dims", "val_loss"]
    assert reader.rows[1][2:] == ["0.01", "[8]", "0.04150 ± 0.00071 (2)"]
    assert len(reader.rows) == 1 + 4 + 1 + 8
    assert "the distance to the runner-up is more than twice its standard error" in reader.text
    slices = reader.below["Each setting by itself"]
    assert slices.count("Plotly.newPlot(") == 3
    assert re.search(r'"ticktext":\["0\.1","0\.01"\]', slices)
    assert "On the way" not in reader.below
    assert "Left out" not in reader.text


def test_a_trial_that_is_a_mean_itself_has_its_own_spread() -> None:
    trials = (
        Trial(0, "complete", {"a": 1}, (0.4,), {"val_loss": 0.4}),
        Trial(1, "complete", {"a": 2}, (0.11623,), {"val_loss": 0.11623, "val_loss_std": 0.0123}),
    )
    results = SweepResults("s", (_LOSS,), trials, 2)
    reader = _Reader(sweep_page(results, optuna.create_study(), title="Folds"))
    assert reader.names().count("table") == 1
    assert [row[:5] for row in reader.rows[1:]] == [
        ["1", "1", "complete", "2", "0.116 ± 0.012"],
        ["2", "0", "complete", "1", "0.40000"],
    ]


def test_a_distance_within_the_noise_of_the_seeds_is_called_so() -> None:
    trials = tuple(
        Trial(n, "complete", {"a": n % 2, "seed": n // 2}, (value,))
        for n, value in enumerate([1.0, 1.1, 2.0, 2.1, 3.0, 3.1])
    )
    results = SweepResults("s", (_LOSS,), trials, 6)
    reader = _Reader(sweep_page(results, optuna.create_study(), title="Noise"))
    assert "less than twice its standard error over the seeds, so it may well be" in reader.text


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_two_objectives_have_a_front_instead_of_a_history(direction: Direction) -> None:
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        a, b = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)
        return a + 0.001 * b, (a - 0.5) ** 2 + b

    objectives = (Objective("val_f1", direction), Objective("seconds", "minimize"))
    study = _study(objective, 60, direction, "minimize")
    results = _results(study, *objectives)
    reader = _Reader(sweep_page(results, study, title="Two"))
    front = reader.below["Pareto front"]
    assert '"name":"Pareto-optimal"' in front
    assert front.count('"trial ') == 60
    assert '"user_attrs' not in front
    assert "History" not in reader.below
    assert "Left out" not in reader.text
    starred = [row[1] for row in reader.rows[1:] if row[0].endswith(" *")]
    assert starred == [str(trial.number) for trial in results.pareto()]
    assert '"text":"val_f1"' in reader.below["Each setting by itself"]
    assert "Pareto-optimal" in reader.text


def test_importances_of_two_objectives_follow_the_direction_of_the_first() -> None:
    # High values ask something of `a` alone, low ones far more of `b`.
    def objective(trial: optuna.Trial) -> tuple[float, float]:
        a, b = trial.suggest_float("a", 0, 1), trial.suggest_float("b", 0, 1)
        return 1.0 if a > 0.8 else -1.0 if b > 0.8 else 0.0, a

    orders = []
    directions: tuple[Direction, ...] = ("maximize", "minimize")
    for direction in directions:
        objectives = (Objective("f1", direction), Objective("seconds", "minimize"))
        study = _study(objective, 150, direction, "minimize")
        reader = _Reader(sweep_page(_results(study, *objectives), study, title="Two"))
        found = re.search(r'"y":\["(\w)","(\w)"\]', reader.below["Importance of the settings"])
        assert found is not None
        orders.append(found[2])
    # The last bar is on top.
    assert orders == ["a", "b"]


def test_three_objectives_have_a_front_in_space_and_four_have_none() -> None:
    for count in (3, 4):

        def objective(trial: optuna.Trial, count: int = count) -> list[float]:
            return [trial.suggest_float(name, 0, 1) for name in "abcd"][:count]

        directions: list[Direction] = ["minimize"] * count
        study = _study(objective, 5, *directions)
        objectives = [Objective(name, "minimize") for name in "wxyz"[:count]]
        reader = _Reader(sweep_page(_results(study, *objectives), study, title="Many"))
        drawn = '"type":"scatter3d"' in reader.below["Pareto front"]
        assert drawn == (count == 3)
        left_out = "Left out: it takes 2 or 3 objectives, and there are 4." in reader.text
        assert left_out == (count == 4)


def test_a_study_with_one_trial_says_why_it_has_no_plots() -> None:
    study = _study(lambda trial: trial.suggest_float("a", 0, 1), 1)
    page = sweep_page(_results(study), study, title="One")
    reader = _Reader(page)
    assert reader.text.count("Left out: fewer than two trials have finished.") == 4
    assert "there is no other to compare it with" in reader.text
    assert "too good to be true" not in reader.text
    assert "<figure" not in page.replace(get_plotlyjs(), "")


def test_a_sweep_without_a_finished_trial_has_a_page() -> None:
    def fail(trial: optuna.Trial) -> float:
        trial.suggest_float("a", 0, 1)
        trial.set_user_attr("error", "RuntimeError: no")
        raise RuntimeError

    study = _study(fail, 2)
    reader = _Reader(sweep_page(_results(study), study, title="None"))
    assert "2 trials over a: 0 finished, 2 failed." in reader.text
    assert [row[-1] for row in reader.rows[1:]] == ["RuntimeError: no"] * 2


def test_plots_that_would_say_nothing_are_left_out() -> None:
    study = _study(lambda trial: trial.suggest_float("a", 0, 1), 5)
    reader = _Reader(sweep_page(_results(study), study, title="One setting"))
    assert reader.text.count("Left out: it takes two settings that differ.") == 2
    assert "Plotly.newPlot(" in reader.below["Each setting by itself"]

    study = _study(lambda trial: 0 * sum(trial.suggest_float(n, 0, 1) for n in "ab"), 5)
    reader = _Reader(sweep_page(_results(study), study, title="Constant"))
    assert "Left out: val_loss is the same in all trials." in reader.text
    assert "Plotly.newPlot(" in reader.below["All settings together"]

    study = _study(lambda trial: trial.number, 5)
    reader = _Reader(sweep_page(_results(study), study, title="No setting"))
    assert reader.text.count("Left out: no setting differs between the finished trials.") == 3


def test_a_plot_that_optuna_fails_to_draw_costs_only_itself() -> None:
    study = optuna.create_study()
    # The space was changed between two runs of the study: Optuna takes a logarithm of "auto".
    for value, space in ((0.1, FloatDistribution(0.01, 1, log=True)), ("auto", None)):
        distribution = space or CategoricalDistribution(["auto", "off"])
        for b in (0.0, 1.0):
            study.add_trial(
                create_trial(
                    params={"a": value, "b": b},
                    distributions={"a": distribution, "b": FloatDistribution(0, 1)},
                    value=b,
                )
            )
    reader = _Reader(sweep_page(_results(study), study, title="Changed"))
    assert reader.below["All settings together"].strip().startswith("Left out: TypeError:")
    assert "Plotly.newPlot(" in reader.below["History"]


def test_optuna_says_nothing_and_keeps_its_verbosity() -> None:
    study = _grid()
    study.add_trial(create_trial(value=float("inf")))
    optuna.logging.set_verbosity(optuna.logging.INFO)
    said = logging.handlers.BufferingHandler(100)
    logging.getLogger("optuna").addHandler(said)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            sweep_page(_results(study), study, title="Quiet")
    finally:
        logging.getLogger("optuna").removeHandler(said)
    assert optuna.logging.get_verbosity() == optuna.logging.INFO
    assert caught == []
    assert said.buffer == []


def test_trials_under_way_come_last() -> None:
    study = _study(lambda trial: trial.suggest_float("a", 0, 1), 2)
    study.ask()
    reader = _Reader(sweep_page(_results(study), study, title="Going on"))
    assert [row[2] for row in reader.rows[1:]] == ["complete", "complete", "running"]
