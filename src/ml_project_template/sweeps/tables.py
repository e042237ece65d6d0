"""What a sweep has found, as text: for a terminal, for a spreadsheet, for MLflow's page."""

from __future__ import annotations

import csv
import io
import math
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ml_project_template.sweeps.results import SEED, Configuration, SweepResults, Trial

__all__ = [
    "failures_table",
    "format_score",
    "format_value",
    "results_table",
    "summary",
    "to_csv",
    "to_markdown",
]

_LONGEST_VALUE = 24
_SHORTEST_VALUE = 8
_LONGEST_OVERRIDES = 48
_LONGEST_ERROR = 80
_SPLITS = {
    "val_": "of the validation rows; test rows were not looked at to choose",
    "cv_": "the mean over the folds; test rows were not looked at to choose",
}


def format_value(value: object, longest: int = _LONGEST_VALUE) -> str:
    """Write a setting in short.

    Args:
        value: A value as the sweep chose it.
        longest: The number of characters from which on its middle is left out.

    Returns:
        The value as the command line takes it; a float with four significant digits.
    """
    if value is None or isinstance(value, bool):
        text = "null" if value is None else str(value).lower()
    elif isinstance(value, float):
        text = f"{value:.4g}"
    else:
        text = _one_line(str(value))
    return _cut(text, longest)


def format_score(mean: float, std: float | None = None, count: int = 1) -> str:
    """Write the value of an objective.

    Args:
        mean: The value, or the mean of several.
        std: Their standard deviation; None for a single one.
        count: How many trials there are.

    Returns:
        Such as ``0.031200``, or ``0.0312 ± 0.0021 (3)`` with the digits that the spread allows;
        the number is left out for one trial, which is a mean over folds or seeds itself.
    """
    if std is None:
        return f"{mean:#.5g}".rstrip(".")
    of = f" ({count})" if count > 1 else ""
    decimals = 1 - math.floor(math.log10(std)) if std > 0 and math.isfinite(std) else None
    if decimals is None or decimals > 7 or not math.isfinite(mean):
        return f"{mean:.5g} ± {std:.2g}{of}"
    return f"{mean:.{max(decimals, 0)}f} ± {std:.{max(decimals, 0)}f}{of}"


def results_table(
    results: SweepResults,
    *,
    limit: int = 10,
    width: int | None = None,
    beside: Sequence[str] = (),
) -> str:
    """Put the best trials in a table for a terminal.

    Args:
        results: What the sweep has found.
        limit: The most rows.
        width: The columns of the terminal; None if lines may be as long as they get. Values are
            cut, and then parameters left out, until the lines fit.
        beside: Other metrics to show, and ``seconds``; those that no trial has are left out.

    Returns:
        Lines of text, without a last line break: a row for each complete trial, or for each
        configuration if seeds were repeated.
    """
    if not results.complete:
        return "\n".join(["No trial has finished.", *_others(results, 0)])
    header, rows = _ranking(results, limit)
    first, last = 2, len(header) - len(results.objectives)
    for name in beside:
        cells = [_beside(each, name) for each in results.configurations()[:limit]]
        if name not in header and any(cells):
            header.append(name)
            rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    longest, hidden = _LONGEST_VALUE, 0
    while True:
        shown = [
            [
                _cut(cell, longest) if first <= place < last - hidden else cell
                for place, cell in enumerate(cells[: last - hidden] + cells[last:])
            ]
            for cells in [header, *rows]
        ]
        lines = _aligned(shown)
        if width is None or max(map(len, lines)) <= width or hidden == last - first:
            break
        if longest > _SHORTEST_VALUE:
            longest -= 2
        else:
            hidden += 1
    more = len(results.configurations()) - len(rows)
    notes = ["* Pareto-optimal"] if len(results.objectives) > 1 else []
    notes += _others(results, more)
    if hidden:
        notes.append(f"not shown for lack of room: {', '.join(header[last - hidden : last])}")
    return "\n".join([*lines, *notes])


def failures_table(results: SweepResults, *, limit: int = 10) -> str:
    """Put the failed trials in a table for a terminal.

    Args:
        results: What the sweep has found.
        limit: The most rows.

    Returns:
        Lines of text, without a last line break; nothing if no trial has failed.
    """
    if not results.failed:
        return ""
    rows = [
        [
            str(trial.number),
            _cut(_one_line(" ".join(trial.overrides)), _LONGEST_OVERRIDES),
            _cut(_one_line(trial.error or "unknown"), _LONGEST_ERROR),
        ]
        for trial in results.failed[:limit]
    ]
    lines = _aligned([["trial", "overrides", "error"], *rows], left=(1, 2))
    more = len(results.failed) - len(rows)
    return "\n".join([*lines, *([f"and {more} more"] if more else [])])


def to_csv(results: SweepResults) -> str:
    """Write all trials, whatever became of them, as comma-separated values.

    Args:
        results: What the sweep has found.

    Returns:
        A header and a row for each trial, in the order of their numbers. Floats have all their
        digits.
    """
    params = list(dict.fromkeys(name for trial in results.trials for name in trial.params))
    chosen_by = [objective.metric for objective in results.objectives]
    metrics = sorted({name for trial in results.trials for name in trial.metrics} - {*chosen_by})
    tail = ("seconds", "error", "model_path", "output_dir", "run_id")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["trial", "state", *params, *chosen_by, *metrics, *tail])
    for trial in results.trials:
        # A pruned trial has no values, though its run may have the metrics of its last step.
        values = trial.values or [trial.metrics.get(name) for name in chosen_by]
        writer.writerow(
            [
                trial.number,
                trial.state,
                *(_exact(trial.params[n]) if n in trial.params else "" for n in params),
                *values,
                *(trial.metrics.get(name) for name in metrics),
                *(getattr(trial, name) for name in tail),
            ]
        )
    return stream.getvalue()


def to_markdown(results: SweepResults, *, limit: int = 10) -> str:
    """Describe the sweep for the page of its run.

    Args:
        results: What the sweep has found.
        limit: The most rows of each table.

    Returns:
        Markdown: what was tried, what won, the best trials, and the failures if there are any.
    """
    blocks = [" ".join(summary(results, lambda text: f"`{_one_line(text).replace('`', chr(39))}`"))]
    if results.complete:
        header, rows = _ranking(results, limit)
        blocks.append(_markdown_table(header, rows, right=range(len(header))))
        notes = _others(results, len(results.configurations()) - len(rows))
        blocks += [_markdown(note) for note in notes]
    if results.failed:
        rows = [
            [
                str(trial.number),
                # A tracker limits the length of a description.
                _cut(" ".join(trial.overrides), 2 * _LONGEST_ERROR),
                _cut(trial.error or "unknown", 2 * _LONGEST_ERROR),
            ]
            for trial in results.failed[:limit]
        ]
        more = len(results.failed) - len(rows)
        heading = "**Failed**" + (f" (the first {len(rows)} of {len(rows) + more})" if more else "")
        blocks += [heading, _markdown_table(["trial", "overrides", "error"], rows, right=(0,))]
    return "\n\n".join(blocks) + "\n"


def summary(results: SweepResults, quote: Callable[[str], str]) -> list[str]:
    """Say in words what was tried and what won.

    Args:
        results: What the sweep has found.
        quote: Makes a name or a value part of the text; all that a user may have written passes
            through it.

    Returns:
        Sentences.
    """
    names = results.varying_params()
    over = f" over {_listed([quote(name) for name in names])}" if names else ""
    counts = [f"{len(results.complete)} finished", *_unranked(results)]
    planned = f" of {results.n_trials}" if len(results.trials) < results.n_trials else ""
    noun = "trial" if max(len(results.trials), results.n_trials) == 1 else "trials"
    sentences = [f"{len(results.trials)}{planned} {noun}{over}: {', '.join(counts)}."]
    measures = []
    for objective in results.objectives:
        better = "lower" if objective.direction == "minimize" else "higher"
        split = [text for start, text in _SPLITS.items() if objective.metric.startswith(start)]
        said = "; ".join([f"{better} is better", *split])
        measures.append(f"{quote(objective.metric)} ({said})")
    verb = "objective is" if len(measures) == 1 else "objectives are"
    sentences.append(f"The {verb} {_listed(measures)}.")
    if not results.complete:
        return sentences
    if len(results.objectives) > 1:
        return sentences + _tradeoff(results, quote)
    return [*sentences, _winner(results, quote)]


def _winner(results: SweepResults, quote: Callable[[str], str]) -> str:
    best, *others = results.configurations()
    numbers = _listed([str(trial.number) for trial in best.trials])
    if len(best.trials) > 1:
        who = f"Best on average over their seeds are trials {numbers}"
    else:
        who = f"Best is trial {numbers}"
    objective = results.objectives[0]
    score = _score(best, 0, objective.metric)
    sentence = f"{who}{_settings(best.params, quote)}: {quote(objective.metric)} {score}"
    if not others:
        return f"{sentence}; there is no other to compare it with."
    median = statistics.median(other.mean[0] for other in others)
    gap = abs(best.mean[0] - median)
    side = "below" if objective.direction == "minimize" else "above"
    part = f", {gap / abs(median):.1%}" if median and math.isfinite(gap / median) else ""
    whose = "the other one" if len(others) == 1 else f"the median of the {len(others)} others"
    return f"{sentence}, {gap:.4g} {side} {whose} ({format_score(median)}{part})."


def _tradeoff(results: SweepResults, quote: Callable[[str], str]) -> list[str]:
    front = results.pareto()
    sentences = [
        f"{len(front)} of the finished trials {'is' if len(front) == 1 else 'are'} Pareto-optimal: "
        "no other is as good in every objective and better in one."
    ]
    for place, objective in enumerate(results.objectives):
        trial = min(front, key=lambda each: results.losses(each.values or ())[place])
        what = f"{quote(objective.metric)} {format_score((trial.values or ())[place])}"
        who = f"trial {trial.number}{_settings(trial.params, quote)}"
        sentences.append(f"The best {what} is that of {who}.")
    return sentences


def _settings(params: Mapping[str, Any], quote: Callable[[str], str]) -> str:
    texts = [quote(f"{name}={format_value(value)}") for name, value in params.items()]
    return f" with {_listed(texts)}" if texts else ""


def _ranking(results: SweepResults, limit: int) -> tuple[list[str], list[list[str]]]:
    """Make the header and the best rows: rank, trial, a cell per parameter and per objective."""
    names = results.varying_params()
    found = results.configurations()
    repeated = results.is_repeated()
    if repeated:
        names = [name for name in names if name != SEED]
    front = set(results.front([each.mean for each in found]))
    several = len(results.objectives) > 1
    metrics = [objective.metric for objective in results.objectives]
    rows = [
        [
            # A star tells those that no other dominates.
            f"{place + 1}{' *' if several and place in front else ''}",
            _cut(",".join(str(trial.number) for trial in each.trials), _LONGEST_VALUE),
            *(_cell(each.trials[0], name) for name in names),
            *(_score(each, column, metric) for column, metric in enumerate(metrics)),
        ]
        for place, each in enumerate(found[:limit])
    ]
    return ["rank", "trials" if repeated else "trial", *names, *metrics], rows


def _cell(trial: Trial, name: str) -> str:
    return format_value(trial.params[name]) if name in trial.params else ""


def _score(configuration: Configuration, place: int, metric: str) -> str:
    spread = configuration.spread(place, metric)
    return format_score(configuration.mean[place], spread, len(configuration.trials))


def _beside(configuration: Configuration, name: str) -> str:
    """Write a metric that was not chosen by; the mean over the trials, nothing if one lacks it."""
    trials = configuration.trials
    if name == "seconds":
        seconds = [trial.seconds for trial in trials if trial.seconds is not None]
        return f"{statistics.fmean(seconds):.1f}" if seconds else ""
    if not all(name in trial.metrics for trial in trials):
        return ""
    values = [trial.metrics[name] for trial in trials]
    std = statistics.stdev(values) if len(values) > 1 else trials[0].metrics.get(f"{name}_std")
    return format_score(statistics.fmean(values), std)


def _unranked(results: SweepResults) -> list[str]:
    """Count the trials that have no rank, by their state; states without a trial are left out."""
    counts = {"pruned": len(results.pruned), "failed": len(results.failed)}
    open_trials = len(results.trials) - len(results.complete) - sum(counts.values())
    counts["yet to end"] = open_trials
    return [f"{count} {state}" for state, count in counts.items() if count]


def _others(results: SweepResults, more: int) -> list[str]:
    """Say in a line what a table of the best leaves out; no line if that is nothing."""
    notes = [f"and {more} more"] if more else []
    unranked = ", ".join(_unranked(results))
    text = "; ".join([*notes, *([unranked] if unranked else [])])
    return [text] if text else []


def _aligned(rows: Sequence[Sequence[str]], left: Sequence[int] = ()) -> list[str]:
    """Lay cells out in columns, aligned to the right but for those named."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            f"{cell:<{width}}" if place in left else f"{cell:>{width}}"
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _markdown_table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]
) -> str:
    rule = ["---:" if place in right else "---" for place in range(len(header))]
    escaped = [[_markdown(cell) for cell in row] for row in rows]
    lines = [[_markdown(cell) for cell in header], rule, *escaped]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _markdown(text: str) -> str:
    """Take their meaning from the characters that Markdown, a table and HTML give one."""
    escaped = re.sub(r"([\\`*|\[\]])", r"\\\1", _one_line(text))
    return escaped.replace("&", "&amp;").replace("<", "&lt;")


def _exact(value: object) -> object:
    return value if isinstance(value, float) else format_value(value, sys.maxsize)


def _listed(texts: Sequence[str]) -> str:
    *most, last = texts
    return f"{', '.join(most)} and {last}" if most else last


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _cut(text: str, longest: int) -> str:
    """Leave the middle of a long text out."""
    if len(text) <= longest:
        return text
    head = longest // 2
    return f"{text[:head]}…{text[len(text) - (longest - head - 1) :]}"
