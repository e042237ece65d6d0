"""A page that shows a sweep to somebody who has not seen it: words, tables and plots."""

from __future__ import annotations

import html
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import optuna
import plotly.graph_objects as go
from optuna import visualization
from plotly.io import to_html
from plotly.offline import get_plotlyjs

from ml_project_template.sweeps.results import (
    Configuration,
    SweepResults,
    Trial,
    format_score,
    format_value,
    summary,
)

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

__all__ = ["sweep_page"]

_NO_FACTS: Mapping[str, str] = MappingProxyType({})
_LONGEST_LABEL = 18
_BLUE, _RED, _GREY = "#1f77b4", "#d62728", "#c4c9cf"
_RUNNERS_UP = 3
_COLUMNS = 3


@dataclass(frozen=True)
class _Plot:
    """A plot, or a row of small ones.

    Attributes:
        title: Its heading.
        caption: How to read it.
        draw: Draws the figures.
        missing: Why it can't be drawn; empty if it can.
        height: Of each figure in pixels.
        small: Whether it is one of several in a row.
        width: The least width of each in pixels: on a narrower page its box scrolls.
    """

    title: str
    caption: str
    draw: Callable[[], list[go.Figure]]
    missing: str = ""
    height: int = 420
    width: int = 0
    small: bool = False


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
        plots = "\n".join(_section(n, plot) for n, plot in enumerate(_plots(results, study)))
    words = [*summary(results, _code), *_doubts(results)]
    terms = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in facts.items())
    repeated = results.is_repeated()
    return _PAGE.format(
        title=_text(title),
        style=_STYLE,
        summary="\n".join(f"<p>{sentence}</p>" for sentence in words),
        facts=f"<dl>{terms}</dl>" if terms else "",
        configurations=_configurations(results) if repeated else "",
        trials=_trials(results),
        # A library in a page is not markup; none of its text may end the element.
        plotly=get_plotlyjs().replace("</script", r"<\/script"),
        plots=plots,
    )


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
    return _table(caption, ["rank", "trials", *names, *metrics], rows)


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
    return _table(f"All trials ({len(rows)}), {first} first", header, rows)


def _param(params: Mapping[str, Any], name: str) -> str:
    return format_value(params[name]) if name in params else ""


def _value(trial: Trial, place: int, metric: str) -> str:
    if trial.values is None:
        return ""
    return format_score(trial.values[place], trial.metrics.get(f"{metric}_std"))


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    heads = "".join(f'<th scope="col">{_text(cell)}</th>' for cell in header)
    wide = ' class="words"'
    lines = [
        "<tr>"
        + "".join(
            f"<td{wide if name == 'error' and cell else ''}>{_text(cell)}</td>"
            for name, cell in zip(header, row, strict=True)
        )
        + "</tr>"
        for row in rows
    ]
    # Who has no mouse scrolls a box by the arrow keys, if it can have the focus.
    return (
        f'<div class="box" tabindex="0" role="region" aria-label="{_text(caption)}"><table>\n'
        f"<caption>{_text(caption)}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n"
        + "\n".join(lines)
        + "\n</tbody></table></div>"
    )


def _plots(results: SweepResults, study: optuna.Study) -> list[_Plot]:
    """List the plots that suit the sweep, each with the reason where it can't be drawn."""
    objective = results.objectives[0]
    several = len(results.objectives) > 1
    first = [trial.values[0] for trial in results.complete if trial.values is not None]
    finite = [value for value in first if math.isfinite(value)]
    few = "" if len(finite) > 1 else "fewer than two trials have finished."
    names = [name for name in results.varying_params() if len(_choices(study, name)) > 1]
    constant = "" if names else "no setting differs between the finished trials."
    single = "" if len(names) > 1 else "it takes two settings that differ."
    equal = "" if len(set(finite)) > 1 else f"{objective.metric} is the same in all trials."
    # Optuna asks for a target exactly if there are several objectives.
    shown: dict[str, Any] = {"target_name": objective.metric}
    # It takes low values of a target of one's own for good ones.
    sign = -1 if objective.direction == "maximize" else 1
    good = dict(shown)
    if several:
        shown["target"] = _first
        good["target"] = lambda trial: sign * _first(trial)
    metrics = [each.metric for each in results.objectives]
    if several:
        many = (
            ""
            if len(metrics) <= 3
            else f"it takes 2 or 3 objectives, and there are {len(metrics)}."
        )
        opening = _Plot(
            "Pareto front",
            "Each point is a finished trial. No other trial is as good as a red one in every "
            "objective and better in one.",
            lambda: [_pareto_front(study, metrics)],
            few or many,
            height=480,
        )
    else:
        opening = _Plot(
            "History",
            f"Each point is a finished trial; the line is the best {objective.metric} so far.",
            lambda: [_history(study, objective.metric)],
            few,
        )
    steps = any(trial.intermediate_values for trial in study.get_trials(deepcopy=False))
    plots = [
        opening,
        _Plot(
            "Importance of the settings",
            f"How much the trials with the best {objective.metric} differ from all in each "
            "setting; the parts add up to 1. With few trials this is a rough guess.",
            lambda: [_importances(study, names, good)],
            few or constant or single or equal,
            height=120 + 32 * len(names),
        ),
        _Plot(
            "Each setting by itself",
            f"{objective.metric} over the values of a setting. Darker points are later trials.",
            lambda: [_slice(study, name, shown) for name in names],
            few or constant,
            height=300,
            small=True,
        ),
        _Plot(
            "All settings together",
            f"Each line is a finished trial, coloured by its {objective.metric}.",
            lambda: [_parallel(study, names, shown)],
            few or constant or single,
            width=130 * (len(names) + 2),
        ),
    ]
    if steps:
        best = None if results.best is None else results.best.number
        plots.append(
            _Plot(
                "On the way",
                "What the trials reported while they were trained. Red is the winner, blue are "
                "other finished trials, grey those that were pruned or have not ended.",
                lambda: [_intermediate(study, best)],
            )
        )
    return plots


def _first(trial: FrozenTrial) -> float:
    return float(trial.values[0])


def _choices(study: optuna.Study, name: str) -> set[str]:
    """Find the values of a setting that the finished trials of a study have."""
    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    return {repr(trial.params[name]) for trial in done if name in trial.params}


def _history(study: optuna.Study, metric: str) -> go.Figure:
    figure = visualization.plot_optimization_history(study, target_name=metric)
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    figure.update_traces(marker_color=_BLUE, line_color=_RED)
    return figure


def _pareto_front(study: optuna.Study, metrics: list[str]) -> go.Figure:
    figure = visualization.plot_pareto_front(study, target_names=metrics)
    looks = [("dominated", _GREY), ("Pareto-optimal", _RED)]
    for trace, (name, color) in zip(figure.data, looks, strict=True):
        size = 4 if len(metrics) == 3 else 9
        trace.update(name=name, showlegend=True, marker={"size": size, "showscale": False})
        trace.marker.update(color=color, colorscale=None, colorbar=None)
        # Optuna puts all that a trial has into the hint; its number finds it in the table.
        numbers = [re.search(r'"number": (\d+)', text) for text in trace.text]
        trace.text = [f"trial {found[1]}" if found else "" for found in numbers]
        axes = "".join(f"<br>{axis}: %{{{axis}:.5g}}" for axis in "xyz"[: len(metrics)])
        trace.hovertemplate = f"%{{text}}{axes}<extra></extra>"
    figure.update_layout(legend={"orientation": "h", "y": 1.02, "yanchor": "bottom"})
    return figure


def _slice(study: optuna.Study, name: str, options: Mapping[str, Any]) -> go.Figure:
    figure = visualization.plot_slice(study, [name], **options)
    figure.update_traces(marker_showscale=False)
    axis = figure.layout.xaxis
    if axis.type == "category":
        # A choice of words is shown in quotation marks, and long ones would fill the plot.
        texts = [value.strip("'\"") for value in axis.categoryarray]
        short = [_cut(text) for text in texts]
        axis.update(tickmode="array", tickvals=axis.categoryarray, ticktext=short)
    elif axis.type == "log":
        decades = math.log10(max(figure.data[0].x) / min(figure.data[0].x))
        # Whole powers alone: those between them would run into each other.
        axis.update(exponentformat="power", dtick=math.ceil(decades / 5) if decades > 2 else None)
    return figure


def _importances(study: optuna.Study, names: list[str], options: Mapping[str, Any]) -> go.Figure:
    figure = visualization.plot_param_importances(study, params=names, **options)
    figure.update_traces(marker_color=_BLUE)
    figure.update_layout(xaxis_title="importance", yaxis_title=None)
    return figure


def _parallel(study: optuna.Study, names: list[str], options: Mapping[str, Any]) -> go.Figure:
    figure = visualization.plot_parallel_coordinate(study, names, **options)
    # The lines run through the ticks, which are annotations.
    for tick in figure.layout.annotations:
        tick.update(text=_cut(tick.text), bgcolor="rgba(255,255,255,.75)", font_color="#222")
    return figure


def _intermediate(study: optuna.Study, best: int | None) -> go.Figure:
    figure = visualization.plot_intermediate_values(study)
    done = study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.COMPLETE,))
    finished = {f"Trial{trial.number}" for trial in done}
    for trace in figure.data:
        color = _BLUE if trace.name in finished else _GREY
        trace.update(line={"color": color, "width": 1}, opacity=0.7)
        if trace.name == f"Trial{best}":
            trace.update(line={"color": _RED, "width": 3}, opacity=1)
    # What is drawn last lies on top.
    figure.data = sorted(figure.data, key=lambda trace: trace.line.width)
    figure.update_yaxes(title="reported value")
    return figure


def _section(number: int, plot: _Plot) -> str:
    heading = f'<h3 id="plot-{number}">{_text(plot.title)}</h3>'
    reason, drawings = plot.missing, []
    if not reason:
        try:
            drawings = [
                _drawing(f, f"figure-{number}-{n}", plot) for n, f in enumerate(plot.draw())
            ]
        except Exception as error:  # a plot is worth less than the page, whatever Optuna can't draw
            reason = f"{type(error).__name__}: {error}"
    if reason:
        return f"{heading}\n<p>Left out: {_text(reason)}</p>"
    # The number of columns is told: a plot takes its width before the next one is there.
    columns = f"--columns:{min(len(drawings), _COLUMNS)}"
    return (
        f'<figure aria-labelledby="plot-{number}">{heading}\n'
        f"<figcaption>{_text(plot.caption)}</figcaption>\n"
        f'<div class="card" style="{columns}">{"".join(drawings)}</div></figure>'
    )


def _drawing(figure: go.Figure, name: str, plot: _Plot) -> str:
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


def _cut(label: str) -> str:
    return format_value(label, _LONGEST_LABEL)


def _text(text: str) -> str:
    return html.escape(text)


def _code(text: str) -> str:
    return f"<code>{_text(text)}</code>"


_STYLE = """
:root { color-scheme: light dark; --text: #1c1e21; --soft: #5a626b; --page: #fbfbfc;
  --box: #fff; --line: #d9dde2; --head: #f0f2f5; }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6e8eb; --soft: #a3abb5; --page: #15181c; --box: #1c2026; --line: #363c45;
    --head: #262b33; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 2.2rem 0 .6rem; }
h3 { font-size: 1.05rem; margin: 1.6rem 0 .2rem; }
p { margin: .4rem 0; max-width: 48rem; overflow-wrap: anywhere; }
code { font-size: .9em; padding: .1em .3em; border-radius: 3px; background: var(--head); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem; margin: 1rem 0; }
dt { color: var(--soft); }
dd { margin: 0; overflow-wrap: anywhere; }
.box { overflow: auto; max-height: 34rem; margin: 0 0 1.2rem; border: 1px solid var(--line);
  border-radius: 6px; background: var(--box); }
table { border-collapse: collapse; width: 100%; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
caption { padding: .5rem .7rem; color: var(--soft); text-align: left; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap;
  border-top: 1px solid var(--line); }
th { position: sticky; top: 0; background: var(--head); }
td.words { min-width: 24rem; text-align: left; white-space: normal; overflow-wrap: anywhere; }
figure { margin: 0; }
figcaption { color: var(--soft); font-size: .9rem; max-width: 48rem; margin-bottom: .5rem; }
.card { display: grid; gap: .5rem; grid-template-columns: repeat(var(--columns), minmax(0, 1fr));
  padding: .5rem; border: 1px solid var(--line); border-radius: 6px; background: #fff;
  overflow-x: auto; color-scheme: light; }
@media (max-width: 48rem) { .card { grid-template-columns: minmax(0, 1fr); } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{summary}
{facts}
<h2>Results</h2>
{configurations}
{trials}
<h2>Plots</h2>
<noscript><p>The plots need JavaScript.</p></noscript>
<script>{plotly}</script>
{plots}
</main>
</body>
</html>
"""
