"""Plots of a training, as figures without a window.

``matplotlib.figure.Figure`` is used directly: ``pyplot`` keeps every figure alive, and asks for a
display.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ml_project_template.training.metrics import confusion_counts, roc_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from ml_project_template.training.reporting import History

__all__ = ["confusion_matrix", "feature_importance", "loss_curve", "roc_curves", "save_png"]

_DPI = 120
_MOST_FEATURES = 30
_MOST_CURVES = 10
_LONGEST_NAME = 26
# Counts are written into the cells up to this many classes; more would not be readable.
_MOST_NUMBERED_CLASSES = 25


def loss_curve(history: History) -> Figure:
    """Draw each reported loss over the steps.

    Args:
        history: What a fit reported; every column whose name ends in ``loss`` is drawn, and the
            lowest ``val_loss`` is marked.

    Returns:
        The figure.
    """
    figure, axes = _figure(7, 4.5)
    for column in (name for name in history.columns if name.endswith("loss")):
        rows = [row for row in history.rows if column in row]
        steps = [row["step"] for row in rows]
        marker = "o" if len(rows) == 1 else None
        axes.plot(steps, [row[column] for row in rows], label=column, marker=marker)
    best = history.best("val_loss")
    if best is not None:
        axes.axvline(best["step"], color="grey", linestyle=":", linewidth=1)
        axes.plot(
            best["step"],
            best["val_loss"],
            "o",
            color="grey",
            label=f"lowest val_loss {best['val_loss']:.4g} at {best['step']:g}",
        )
    axes.set(title="Loss", xlabel="epoch or boosting stage", ylabel="loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.has_data():
        axes.legend()
    return figure


def confusion_matrix(y: ArrayLike, predicted: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw how often each class was taken for each other.

    Args:
        y: Actual class codes of shape ``(n_samples,)``.
        predicted: Predicted class codes of shape ``(n_samples,)``.
        class_names: The names of the codes.

    Returns:
        The figure: counts in the cells, colours by the part of the actual class.
    """
    count = len(class_names)
    counts = confusion_counts(np.asarray(y), np.asarray(predicted), count)
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(max(4.5, 0.55 * count + 2), 14)
    figure, axes = _figure(side + 1, side)
    image = axes.imshow(parts, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, ax=axes, label="part of the actual class", shrink=0.8)
    if count <= _MOST_NUMBERED_CLASSES:
        size = 11 if count <= 10 else 7
        for row, column in np.ndindex(counts.shape):
            if counts[row, column]:
                shade = "white" if parts[row, column] > 0.5 else "black"
                axes.text(
                    column,
                    row,
                    str(counts[row, column]),
                    ha="center",
                    va="center",
                    color=shade,
                    fontsize=size,
                )
    names = _labels(class_names)
    small = 10 if count <= 20 else 7
    wide = max(map(len, names)) > 3 or count > 15
    axes.set_xticks(
        range(count),
        names,
        rotation=45 if wide else 0,
        ha="right" if wide else "center",
        rotation_mode="anchor" if wide else "default",
        fontsize=small,
    )
    axes.set_yticks(range(count), names, fontsize=small)
    axes.set(title="Confusion matrix", xlabel="predicted", ylabel="actual")
    return figure


def roc_curves(y: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str]) -> Figure:
    """Draw the receiver operating characteristic of each class against the rest.

    Args:
        y: Class codes of shape ``(n_samples,)``.
        probabilities: Of shape ``(n_samples, n_classes)``.
        class_names: The names of the codes.

    Returns:
        The figure. Two classes have one curve, that of the second. Of more than ten, the ten with
        the smallest areas have a colour and a name. A class without a row, or with all rows, has
        no curve.
    """
    codes = np.asarray(y)
    chances = np.asarray(probabilities, dtype=np.float64)
    curves = []
    for code in [1] if len(class_names) == 2 else range(len(class_names)):
        positive = codes == code
        if positive.any() and not positive.all():
            false_rate, true_rate = roc_curve(positive, chances[:, code])
            area = float(np.trapezoid(true_rate, false_rate))
            curves.append((area, code, false_rate, true_rate))
    if len(curves) > _MOST_CURVES:
        curves.sort(key=lambda curve: curve[0])
    names = _labels(class_names)

    figure, axes = _figure(6.5, 6)
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    for rank, (area, code, false_rate, true_rate) in enumerate(curves):
        if rank < _MOST_CURVES:
            label = f"{names[code]} (area {area:.3f})"
            axes.plot(false_rate, true_rate, label=label, zorder=3)
        else:
            axes.plot(false_rate, true_rate, color="lightgrey", linewidth=0.8, zorder=1)
    if len(curves) > _MOST_CURVES:
        title = f"ROC: the {_MOST_CURVES} smallest areas of {len(curves)} classes"
    else:
        title = "ROC: each class against the rest" if len(class_names) > 2 else "ROC"
    axes.set(
        title=title,
        xlabel="false positive rate",
        ylabel="true positive rate",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
        aspect="equal",
    )
    if curves:
        axes.legend(loc="lower right", fontsize=9)
    return figure


def feature_importance(names: Sequence[str], values: ArrayLike) -> Figure:
    """Draw the importance of each feature, the greatest on top.

    Args:
        names: The names of the features.
        values: Importances of shape ``(n_features,)``.

    Returns:
        The figure, with the thirty most important features at most.
    """
    importances = np.asarray(values, dtype=np.float64)
    order = np.argsort(-importances, kind="stable")[:_MOST_FEATURES]
    labels = _labels(names)
    figure, axes = _figure(7.5, max(2.5, 0.28 * len(order) + 1.2))
    axes.barh(range(len(order)), importances[order])
    axes.set_yticks(range(len(order)), [labels[place] for place in order], fontsize=9)
    axes.invert_yaxis()
    title = "Feature importance"
    if len(importances) > len(order):
        title += f": the first {len(order)} of {len(importances)}"
    axes.set(title=title, xlabel="importance")
    return figure


def save_png(figure: Figure) -> bytes:
    """Render a figure.

    Args:
        figure: The figure.

    Returns:
        The bytes of a PNG.
    """
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no reason to complain.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=_DPI)
    return buffer.getvalue()


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Make a figure of a size in inches that gives its labels the room they need."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes: Any = figure.add_subplot()
    return figure, axes


def _labels(names: Sequence[str]) -> list[str]:
    """Shorten long names in their middle; those that then look alike get their number."""
    cut = [_short(name) for name in names]
    return [f"{place}: {text}" if cut.count(text) > 1 else text for place, text in enumerate(cut)]


def _short(name: str) -> str:
    half = _LONGEST_NAME // 2
    text = name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"
    # A dollar sign would start a formula.
    return text.replace("$", r"\$")
