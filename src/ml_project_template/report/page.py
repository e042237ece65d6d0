"""A page that shows a table, and a model if there is one, to somebody who has seen neither."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_project_template.report.columns import ColumnSummary, correlations, summarize_columns
from ml_project_template.report.explain import (
    Answers,
    Importance,
    partial_dependence,
    permutation_importances,
    slices,
    value_text,
    worst_rows,
)
from ml_project_template.utils.html import definition_list, page, table, text

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ml_project_template.data.tabular import TabularDataset
    from ml_project_template.predictor import Predictor

__all__ = ["report_page"]

_NOTHING: Mapping[str, str] = MappingProxyType({})
_MOST_COLUMNS = 300
_MOST_CLASSES = 50
_CURVES = 6
_SLICED_CATEGORIES, _SLICED_NUMBERS = 4, 2
_SHOWN_FEATURES = 8


def report_page(
    parts: Mapping[str, TabularDataset],
    *,
    title: str,
    predictor: Predictor | None = None,
    card: Mapping[str, str] = _NOTHING,
    facts: Mapping[str, str] = _NOTHING,
    seed: int = 0,
) -> str:
    """Make a page that needs neither a network nor another file.

    Args:
        parts: Raw rows by split, ``train`` among them.
        title: The heading.
        predictor: The model, if there is one to be shown.
        card: What the model card says, heading to text: what it is for, its limits.
        facts: Name to value of what else is worth knowing.
        seed: Of what is drawn.

    Returns:
        HTML.
    """
    parts = {split: parts[split] for split in ("train", "val", "test") if split in parts}
    sections = []
    if predictor is not None:
        sections += _model_sections(parts, predictor, card, seed)
    sections += _data_sections(parts)
    return page(title, "\n".join([definition_list(facts), *sections]), style=_STYLE)


# -- the data --------------------------------------------------------------------------------------


def _data_sections(parts: Mapping[str, TabularDataset]) -> list[str]:
    import pandas as pd

    train = parts["train"]
    features = pd.concat([part.features for part in parts.values()], ignore_index=True)
    y = np.concatenate([part.y for part in parts.values()])
    columns = summarize_columns(features, y, num_classes=train.num_classes)
    sections = ["<h2>Data</h2>", _target(parts), _columns(columns, train.dropped)]
    names, matrix = correlations(features)
    if names:
        from ml_project_template.report.figures import correlation_matrix

        sections.append(
            _figure(
                "Correlation of the numbers",
                "Pearson's correlation of all rows that have both values.",
                correlation_matrix(names, matrix),
            )
        )
    return sections


def _target(parts: Mapping[str, TabularDataset]) -> str:
    """Make the table of the target: how many rows of each class there are, or its range."""
    train = parts["train"]
    if train.task == "regression":
        rows = [
            [split, str(len(part)), *(f"{value:.5g}" for value in _spread(part.y))]
            for split, part in parts.items()
        ]
        header = ["split", "rows", "min", "25 %", "median", "75 %", "max", "mean"]
        return table(f"The target {train.target_column}", header, rows)
    counts = {
        split: np.bincount(part.y, minlength=train.num_classes) for split, part in parts.items()
    }
    total = np.sum(list(counts.values()), axis=0)
    order = np.argsort(-total, kind="stable")[:_MOST_CLASSES]
    rows = [
        [
            train.class_names[place],
            *(f"{count[place]} ({count[place] / count.sum():.1%})" for count in counts.values()),
            _bar(float(total[place] / total.max())),
        ]
        for place in order
    ]
    caption = f"The target {train.target_column}: {train.num_classes} classes"
    if len(rows) < train.num_classes:
        caption += f", the {len(rows)} most frequent"
    return table(caption, ["class", *counts, "share"], rows, markup=["share"])


def _spread(values: NDArray[Any]) -> list[float]:
    return [*np.quantile(values, [0, 0.25, 0.5, 0.75, 1]).tolist(), float(values.mean())]


def _columns(columns: Sequence[ColumnSummary], dropped: Mapping[str, str]) -> str:
    """Make the table of the columns, those first that say most about the target."""
    ordered = sorted(columns, key=lambda column: -(column.association or 0.0))
    rows = [
        [
            column.name,
            column.type,
            f"{column.missing:.1%}" if column.missing else "",
            str(column.different),
            column.values,
            _histogram(column),
            "" if column.association is None else f"{column.association:.2f}",
            "; ".join(column.notes),
        ]
        for column in ordered[:_MOST_COLUMNS]
    ]
    rows += [[name, "", "", "", "", "", "", f"left out: {why}"] for name, why in dropped.items()]
    header = ["column", "type", "missing", "different", "values", "rows", "target", "note"]
    caption = f"{len(columns)} columns; target: how much each says about it by itself, 0 to 1"
    if len(columns) > _MOST_COLUMNS:
        caption += f"; the first {_MOST_COLUMNS} are shown"
    return table(caption, header, rows, wide=["values", "note"], markup=["rows"])


def _histogram(column: ColumnSummary) -> str:
    """Draw counts as bars; a bar says what it is of when the mouse is on it."""
    if not column.counts:
        return ""
    width = 160 / len(column.counts)
    highest = max(column.counts)
    bars = "".join(
        f'<rect x="{place * width:.1f}" y="{32 - 32 * count / highest:.1f}" '
        f'width="{width - 1:.1f}" height="{32 * count / highest:.1f}">'
        f"<title>{text(label)}: {count} rows</title></rect>"
        for place, (count, label) in enumerate(zip(column.counts, column.labels, strict=True))
    )
    return f'<svg class="bars" viewBox="0 0 160 32" role="img" aria-label="rows">{bars}</svg>'


def _bar(part: float) -> str:
    bar = f'<rect width="{160 * part:.1f}" height="14"/>'
    return f'<svg class="bars" viewBox="0 0 160 14" aria-hidden="true">{bar}</svg>'


# -- the model -------------------------------------------------------------------------------------


def _model_sections(
    parts: Mapping[str, TabularDataset], predictor: Predictor, card: Mapping[str, str], seed: int
) -> list[str]:
    answers = {split: Answers(predictor, part) for split, part in parts.items()}
    # What the model has not learned from, if there is such a part.
    judged = next(split for split in ("test", "val", "train") if split in answers)
    found = permutation_importances(answers[judged], seed=seed)
    return [
        "<h2>Model card</h2>",
        _card(parts, predictor, card),
        "<h2>How good it is</h2>",
        _metrics({split: each.metrics() for split, each in answers.items()}),
        *_plots(answers[judged], judged),
        _slices(answers[judged], judged, found),
        _worst(answers[judged], judged, found),
        "<h2>What it goes by</h2>",
        *_explanations(answers[judged], judged, found),
    ]


def _card(
    parts: Mapping[str, TabularDataset], predictor: Predictor, card: Mapping[str, str]
) -> str:
    signature, metadata = predictor.signature, predictor.model.metadata
    if signature.task == "regression":
        what = f"the number {signature.target}"
    else:
        what = f"{signature.target}, one of {len(signature.class_names)} classes"
    data = metadata.get("data") or {}
    git = metadata.get("git") or {}
    versions = metadata.get("versions") or {}
    commit = f"commit {git['commit']}" if git.get("commit") else "no commit known"
    if git.get("dirty"):
        commit += " with uncommitted changes"
    lines = {
        "Predicts": f"{what}, from {len(signature.features)} features, by a {predictor.name}",
        **card,
        "Trained on": f"{signature.n_rows} rows of {data.get('name')} ({data.get('source')}), "
        f"SHA-256 {str(data.get('digest'))[:12]}",
        "Trained at": f"{metadata.get('created_at')}, {commit}",
        "Versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "Bounds": _bounds(parts, predictor),
    }
    if signature.threshold is not None:
        lines["Threshold"] = (
            f"{signature.class_names[1]} is predicted from a probability of "
            f"{signature.threshold:.4g}"
        )
    run = metadata.get("run_id")
    if run:
        lines["Reproduce"] = f"python -m entrypoints.reproduce run={run}"
    return definition_list(lines)


def _bounds(parts: Mapping[str, TabularDataset], predictor: Predictor) -> str:
    """Say what the model was never shown: beyond that, nothing is known of it."""
    signature = predictor.signature
    told = ["nothing is known of rows unlike those of the training: see the ranges below"]
    if any(feature.levels is not None for feature in signature.features):
        told.append("a level that the training rows do not have counts as missing")
    if signature.task == "classification":
        counts = np.bincount(parts["train"].y, minlength=len(signature.class_names))
        rare = int(counts.argmin())
        told.append(f"{signature.class_names[rare]} has {counts[rare]} training rows only")
    return "; ".join(told)


def _metrics(metrics: Mapping[str, Mapping[str, float]]) -> str:
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    rows = [
        [name, *(f"{values[name]:.4f}" if name in values else "" for values in metrics.values())]
        for name in names
    ]
    return table("Metrics by split", ["metric", *metrics], rows)


def _plots(answers: Answers, split: str) -> list[str]:
    from ml_project_template.training import plots

    y, outputs = answers.y, answers.outputs
    if answers.signature.task == "regression":
        drawn = {
            "Predicted against actual": plots.predicted_against_actual(y, outputs[:, 0]),
            "Residuals": plots.residuals(y, outputs[:, 0]),
        }
    else:
        names = answers.signature.class_names
        drawn = {
            "Confusion": plots.confusion_matrix(y, answers.signature.decide(outputs), names),
            "Receiver operating characteristic": plots.roc_curves(y, outputs, names),
            "Precision and recall": plots.precision_recall_curves(y, outputs, names),
            "Calibration": plots.calibration_curve(y, outputs),
        }
    rows = f"{len(y)} {split} rows."
    return ['<div class="pairs">', *(_figure(t, rows, f) for t, f in drawn.items()), "</div>"]


def _slices(answers: Answers, split: str, found: Sequence[Importance]) -> str:
    """Judge the model on parts of the rows, by the features that matter most."""
    features = {feature.name: feature for feature in answers.signature.features}
    ordered = [features[each.name] for each in found]
    categories = [each.name for each in ordered if each.levels is not None or each.type == "bool"]
    numbers = [each.name for each in ordered if each.levels is None and each.type != "bool"]
    names = [*categories[:_SLICED_CATEGORIES], *numbers[:_SLICED_NUMBERS]]
    cuts = slices(answers, names)
    if not cuts:
        return ""
    metrics = (
        ["rmse", "mae", "r2"]
        if answers.signature.task == "regression"
        else ["accuracy", "balanced_accuracy", "log_loss"]
    )
    rows = [
        [each.name, str(each.rows), *(_cell(each.metrics.get(name)) for name in metrics)]
        for each in cuts
    ]
    everything = answers.metrics()
    rows.insert(0, ["all", str(len(answers.y)), *(_cell(everything.get(n)) for n in metrics)])
    return table(f"Metrics by slice, {split} rows", ["rows with", "rows", *metrics], rows)


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _worst(answers: Answers, split: str, found: Sequence[Importance]) -> str:
    places = {name: place for place, name in enumerate(answers.signature.feature_names)}
    shown = [each.name for each in found[:_SHOWN_FEATURES]]
    features = answers.signature.features
    rows = []
    for row in worst_rows(answers).tolist():
        values = [value_text(features[places[n]], answers.rows[row, places[n]]) for n in shown]
        outputs = answers.outputs[row]
        if answers.signature.task == "regression":
            told = [f"{answers.y[row]:.5g}", f"{outputs[0]:.5g}"]
        else:
            names = answers.signature.class_names
            chosen = int(answers.signature.decide(outputs[None, :])[0])
            told = [
                names[answers.y[row]],
                f"{names[chosen]} ({outputs[chosen]:.1%})",
            ]
        rows.append([str(row + 1), *told, *values])
    header = ["row", "actual", "predicted", *shown]
    return table(f"The worst errors among the {split} rows", header, rows)


def _explanations(answers: Answers, split: str, found: Sequence[Importance]) -> list[str]:
    from ml_project_template.report.figures import importances, partial_dependences

    signature = answers.signature
    unit = f"RMSE, units of {signature.target}" if signature.task == "regression" else "nats"
    sections = [
        _figure(
            "Permutation importance",
            f"How much worse the model gets on the {split} rows when a feature is shuffled; the "
            "lines are standard deviations of five times. Features that tell the same share it.",
            importances(found, unit),
        )
    ]
    curves = [partial_dependence(answers, each.name) for each in found[:_CURVES]]
    curves = [each for each in curves if len(each.values) > 1]
    if curves:
        sections.append(
            _figure(
                "Partial dependence",
                "The mean answer when every row has the same value of one feature.",
                partial_dependences(curves, signature.class_names, signature.target),
            )
        )
    return sections


def _figure(title: str, caption: str, figure: Figure) -> str:
    from ml_project_template.training.plots import save_png

    data = base64.b64encode(save_png(figure)).decode()
    return (
        f"<figure><h3>{text(title)}</h3>\n<figcaption>{text(caption)}</figcaption>\n"
        f'<div class="card"><img alt="{text(title)}" src="data:image/png;base64,{data}"></div>'
        "</figure>"
    )


_STYLE = """
.bars { width: 160px; height: auto; display: block; fill: #4c78a8; }
.card { --columns: 1; }
.card img { max-width: 100%; height: auto; }
.pairs { display: grid; gap: 0 1rem; grid-template-columns: repeat(2, minmax(0, 1fr)); }
td:first-child, th:first-child { text-align: left; }
td.words { min-width: 12rem; }
@media (max-width: 48rem) { .pairs { grid-template-columns: minmax(0, 1fr); } }
"""
