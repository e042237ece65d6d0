"""A page that shows a sweep to somebody who has not seen it: words, tables and plots."""

from __future__ import annotations

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import optuna
import plotly.graph_objects as go
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from ml_project_template.sweeps.plots import Plot, sweep_plots
from ml_project_template.sweeps.results import Configuration, SweepResults, Trial
from ml_project_template.sweeps.tables import format_score, format_value, summary
from ml_project_template.utils.html import code, definition_list, page, table, text

__all__ = ["sweep_page"]

_NO_FACTS: Mapping[str, str] = MappingProxyType({})
_RUNNERS_UP = 3
_COLUMNS = 3


def sweep_page(
    results: SweepResults,
    study: optuna.Study,
    *,
    title: str,
    facts: Mapping[str, str] = _NO_FACTS,
) -> str:
    """Make a page of a sweep that needs neither a network nor another file.

    Args:
        results: What the sweep has found.
        study: The study that the plots are drawn from.
        title: The heading.
        facts: Name to value of what else is worth knowing, such as the data set.

    Returns:
        HTML.
    """
    with _quiet():
        plots = "\n".join(_section(n, plot) for n, plot in enumerate(sweep_plots(results, study)))
    words = [*summary(results, code), *_doubts(results)]
    content = [
        *(f"<p>{sentence}</p>" for sentence in words),
        definition_list(facts),
        "<h2>Results</h2>",
        _configurations(results) if results.is_repeated() else "",
        _trials(results),
        "<h2>Plots</h2>",
        "<noscript><p>The plots need JavaScript.</p></noscript>",
        # A library in a page is not markup; none of its text may end the element.
        "<script>{}</script>".format(get_plotlyjs().replace("</script", r"<\/script")),
        plots,
    ]
    return page(title, "\n".join(content))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what Optuna says of a study to itself: the page says it in its own words."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def _doubts(results: SweepResults) -> list[str]:
    """Say why to believe the winner, and how far."""
    best = results.best
    if best is None:
        return []
    metric = results.objectives[0].metric
    extreme = "lowest" if results.objectives[0].direction == "minimize" else "highest"
    first, *others = results.configurations()
    sentences = []
    if others:
        sentences.append(_runners_up(first, others))
    top = results.ranked()[0]
    ended = [*results.complete, *results.pruned]
    later = sum(trial.number > top.number for trial in ended)
    since = f"none of the {later} trials after it was better" if later else "it was the last"
    value = _value(top, 0, metric)
    sentences.append(f"The {extreme} single value, {value}, came with trial {top.number}; {since}.")
    if metric.startswith(("val_", "cv_")) and others:
        sentences.append(
            f"As the best of {len(results.complete)} it is a little too good to be true: "
            "evaluate the winner once on the test rows."
        )
    return sentences


def _runners_up(first: Configuration, others: Sequence[Configuration]) -> str:
    """Compare the winner with the next, by the noise between seeds where it is known."""
    second = others[0]
    gap = abs(second.mean[0] - first.mean[0])
    gaps = [f"{abs(each.mean[0] - first.mean[0]):.3g}" for each in others[:_RUNNERS_UP]]
    if len(gaps) == 1:
        sentence = f"The runner-up is {gaps[0]} behind"
    else:
        sentence = f"The next {len(gaps)} are {', '.join(gaps[:-1])} and {gaps[-1]} behind"
    if first.std is None or second.std is None:
        return f"{sentence}; without more seeds of both, a small distance may be chance."
    error = math.hypot(
        first.std[0] / math.sqrt(len(first.trials)), second.std[0] / math.sqrt(len(second.trials))
    )
    if gap < 2 * error:
        verdict = "less than twice its standard error over the seeds, so it may well be chance"
    else:
        verdict = "more than twice its standard error over the seeds"
    return f"{sentence}; the distance to the runner-up is {verdict} ({error:.2g})."


def _configurations(results: SweepResults) -> str:
    """Make the table of what was trained with several seeds, by the mean."""
    found = results.configurations()
    names = [name for name in results.varying_params() if name != "seed"]
    metrics = [objective.metric for objective in results.objectives]
    rows = [
        [
            str(place),
            ", ".join(str(trial.number) for trial in each.trials),
            *(_param(each.params, name) for name in names),
            *(
                format_score(each.mean[column], each.spread(column, metric), len(each.trials))
                for column, metric in enumerate(metrics)
            ),
        ]
        for place, each in enumerate(found, start=1)
    ]
    caption = "Configurations: mean ± standard deviation (number of seeds)"
    return table(caption, ["rank", "trials", *names, *metrics], rows)


def _trials(results: SweepResults) -> str:
    """Make the table of all trials: the best first, those without a value last."""
    names = results.varying_params()
    metrics = [objective.metric for objective in results.objectives]
    ranked = results.ranked()
    still = tuple(trial for trial in results.trials if trial.state in ("running", "waiting"))
    front = {trial.number for trial in results.pareto()} if len(metrics) > 1 else set()
    rows = [
        [
            f"{place}{' *' * (trial.number in front)}" if trial.state == "complete" else "",
            str(trial.number),
            trial.state,
            *(_param(trial.params, name) for name in names),
            *(_value(trial, column, metric) for column, metric in enumerate(metrics)),
            "" if trial.seconds is None else f"{trial.seconds:.1f}",
            trial.error or "",
        ]
        for place, trial in enumerate([*ranked, *results.pruned, *results.failed, *still], start=1)
    ]
    header = ["rank", "trial", "state", *names, *metrics, "seconds", "error"]
    if not any(row[-1] for row in rows):
        header, rows = header[:-1], [row[:-1] for row in rows]
    first = "the Pareto-optimal (*)" if front else "the best"
    return table(f"All trials ({len(rows)}), {first} first", header, rows, wide=["error"])


def _param(params: Mapping[str, Any], name: str) -> str:
    return format_value(params[name]) if name in params else ""


def _value(trial: Trial, place: int, metric: str) -> str:
    if trial.values is None:
        return ""
    return format_score(trial.values[place], trial.metrics.get(f"{metric}_std"))


def _section(number: int, plot: Plot) -> str:
    heading = f'<h3 id="plot-{number}">{text(plot.title)}</h3>'
    reason, drawings = plot.missing, []
    if not reason:
        try:
            drawings = [
                _drawing(f, f"figure-{number}-{n}", plot) for n, f in enumerate(plot.draw())
            ]
        except Exception as error:  # a plot is worth less than the page, whatever Optuna can't draw
            reason = f"{type(error).__name__}: {error}"
    if reason:
        return f"{heading}\n<p>Left out: {text(reason)}</p>"
    # The number of columns is told: a plot takes its width before the next one is there.
    columns = f"--columns:{min(len(drawings), _COLUMNS)}"
    return (
        f'<figure aria-labelledby="plot-{number}">{heading}\n'
        f"<figcaption>{text(plot.caption)}</figcaption>\n"
        f'<div class="card" style="{columns}">{"".join(drawings)}</div></figure>'
    )


def _drawing(figure: go.Figure, name: str, plot: Plot) -> str:
    figure.update_layout(
        title=None,
        template="plotly_white",
        margin={"l": 60, "r": 20, "t": 12 if plot.small else 40, "b": 50},
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    shown = _literal(json.loads(figure.to_json()))
    # The tools of a small plot would cover it; the mouse zooms without them.
    tools = False if plot.small else "hover"
    config: dict[str, Any] = {"displaylogo": False, "responsive": True, "displayModeBar": tools}
    # Plotly would offer to send the plot to a service of its own.
    config["showSendToCloud"] = False
    size = {"default_height": f"{plot.height}px", "div_id": name}
    drawn = to_html(shown, config, include_plotlyjs=False, full_html=False, validate=False, **size)
    return f'<div style="min-width:{plot.width}px">{drawn}</div>'


def _literal(value: Any) -> Any:
    """Take the meaning of markup from the text of users, which plotly would follow."""
    if isinstance(value, str):
        return re.sub(r"<(?!br>|/?extra>)", "&lt;", value)
    if isinstance(value, dict):
        return {key: _literal(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_literal(item) for item in value]
    return value
