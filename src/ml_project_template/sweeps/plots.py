"""Plots of a sweep, by Optuna on plotly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import optuna
import plotly.graph_objects as go
from optuna import visualization

from ml_project_template.sweeps.tables import format_value

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

    from ml_project_template.sweeps.results import SweepResults

__all__ = ["Plot", "sweep_plots"]

_LONGEST_LABEL = 18
_BLUE, _RED, _GREY = "#1f77b4", "#d62728", "#c4c9cf"


@dataclass(frozen=True)
class Plot:
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


def sweep_plots(results: SweepResults, study: optuna.Study) -> list[Plot]:
    """List the plots that suit a sweep, each with the reason where it can't be drawn.

    Args:
        results: What the sweep has found.
        study: Its study.
    """
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
        opening = Plot(
            "Pareto front",
            "Each point is a finished trial. No other trial is as good as a red one in every "
            "objective and better in one.",
            lambda: [_pareto_front(study, metrics)],
            few or many,
            height=480,
        )
    else:
        opening = Plot(
            "History",
            f"Each point is a finished trial; the line is the best {objective.metric} so far.",
            lambda: [_history(study, objective.metric)],
            few,
        )
    steps = any(trial.intermediate_values for trial in study.get_trials(deepcopy=False))
    plots = [
        opening,
        Plot(
            "Importance of the settings",
            f"How much the trials with the best {objective.metric} differ from all in each "
            "setting; the parts add up to 1. With few trials this is a rough guess.",
            lambda: [_importances(study, names, good)],
            few or constant or single or equal,
            height=120 + 32 * len(names),
        ),
        Plot(
            "Each setting by itself",
            f"{objective.metric} over the values of a setting. Darker points are later trials.",
            lambda: [_slice(study, name, shown) for name in names],
            few or constant,
            height=300,
            small=True,
        ),
        Plot(
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
            Plot(
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


def _cut(label: str) -> str:
    return format_value(label, _LONGEST_LABEL)
