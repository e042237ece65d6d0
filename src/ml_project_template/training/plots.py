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

from ml_project_template.training.metrics import (
    confusion_counts,
    precision_recall_curve,
    roc_curve,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from numpy.typing import ArrayLike

    from ml_project_template.training.reporting import History

__all__ = [
    "calibration_curve",
    "confusion_matrix",
    "feature_importance",
    "loss_curve",
    "new_figure",
    "precision_recall_curves",
    "predicted_against_actual",
    "residuals",
    "roc_curves",
    "save_png",
    "short_labels",
]

_DPI = 120
# Of zlib: a third less time than the usual 6 takes, for files that are a fifth larger.
_COMPRESSION = 2
_MOST_FEATURES = 30
_MOST_CURVES = 10
_LONGEST_NAME = 26
# Counts are written into the cells up to this many classes; more would not be readable.
_MOST_NUMBERED_CLASSES = 25
_CALIBRATION_BINS = 10
# More points than this are a dark cloud and a large file.
_MOST_POINTS = 5_000


def loss_curve(history: History) -> Figure:
    """Draw each reported loss over the steps.

    Args:
        history: What a fit reported; every column whose name ends in ``loss`` is drawn, and the
            lowest ``val_loss`` is marked.

    Returns:
        The figure.
    """
    figure, axes = new_figure(7, 4.5, names=False)
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
    figure, axes = new_figure(side + 1, side)
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
    names = short_labels(class_names)
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
    names = short_labels(class_names)

    figure, axes = new_figure(6.5, 6, names=False)
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


def precision_recall_curves(
    y: ArrayLike, probabilities: ArrayLike, class_names: Sequence[str]
) -> Figure:
    """Draw precision over recall of each class against the rest: the plot for rare classes.

    Args:
        y: Class codes of shape ``(n_samples,)``.
        probabilities: Of shape ``(n_samples, n_classes)``.
        class_names: The names of the codes.

    Returns:
        The figure, with the curves of `roc_curves`. A dotted line is what guessing reaches, where
        there is one curve.
    """
    codes = np.asarray(y)
    chances = np.asarray(probabilities, dtype=np.float64)
    curves = []
    for code in [1] if len(class_names) == 2 else range(len(class_names)):
        positive = codes == code
        if positive.any() and not positive.all():
            recall, precision = precision_recall_curve(positive, chances[:, code])
            area = float(np.sum(np.diff(recall) * precision[1:]))
            curves.append((area, code, recall, precision, float(positive.mean())))
    curves.sort(key=lambda curve: curve[0])
    names = short_labels(class_names)
    figure, axes = new_figure(6.5, 6, names=False)
    for area, code, recall, precision, part in curves[:_MOST_CURVES]:
        label = f"{names[code]} (average precision {area:.3f})"
        axes.step(recall, precision, where="pre", label=label)
        if len(curves) == 1:
            axes.axhline(part, color="grey", linestyle=":", linewidth=1)
    title = "Precision and recall"
    if len(curves) > _MOST_CURVES:
        title += f": the {_MOST_CURVES} smallest areas of {len(curves)} classes"
    axes.set(
        title=title, xlabel="recall", ylabel="precision", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02)
    )
    if curves:
        axes.legend(loc="lower left", fontsize=9)
    return figure


def calibration_curve(y: ArrayLike, probabilities: ArrayLike) -> Figure:
    """Draw how often a class is right against the probability it was given.

    Args:
        y: Class codes of shape ``(n_samples,)``.
        probabilities: Of shape ``(n_samples, n_classes)``.

    Returns:
        The reliability diagram (DeGroot and Fienberg, 1983): of two classes for the second, of more
        for the most probable one (Guo et al., 2017). Ten bins of equal width; below them, how many
        rows each has.
    """
    codes = np.asarray(y)
    chances = np.asarray(probabilities, dtype=np.float64)
    if chances.shape[1] == 2:
        given, right = chances[:, 1], codes == 1
    else:
        given, right = chances.max(axis=1), codes == chances.argmax(axis=1)
    places = np.minimum((given * _CALIBRATION_BINS).astype(np.int64), _CALIBRATION_BINS - 1)
    counts = np.bincount(places, minlength=_CALIBRATION_BINS)
    used = counts > 0
    means, rates = (
        np.bincount(places, weights=values, minlength=_CALIBRATION_BINS)[used] / counts[used]
        for values in (given, right)
    )
    error = float(np.sum(counts[used] * np.abs(means - rates)) / len(codes))
    figure = Figure(figsize=(6.5, 6.5))
    _leave_room(figure)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    upper.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
    upper.plot(means, rates, marker="o", label=f"expected calibration error {error:.3f}")
    upper.set(title="Calibration", ylabel="part that is right", ylim=(-0.02, 1.02))
    upper.legend(loc="upper left", fontsize=9)
    edges = np.linspace(0, 1, _CALIBRATION_BINS + 1)
    lower.bar(edges[:-1], counts, width=1 / _CALIBRATION_BINS, align="edge", edgecolor="white")
    lower.set(xlabel="predicted probability", ylabel="rows", xlim=(-0.02, 1.02))
    return figure


def predicted_against_actual(y: ArrayLike, predictions: ArrayLike) -> Figure:
    """Draw each predicted number against the actual one; on the line, they are the same.

    Args:
        y: Actual numbers of shape ``(n_samples,)``.
        predictions: Predicted numbers of shape ``(n_samples,)``.

    Returns:
        The figure, with 5,000 of the rows at most.
    """
    actual, predicted = _points(y, predictions)
    figure, axes = new_figure(6.5, 6)
    ends = [min(actual.min(), predicted.min()), max(actual.max(), predicted.max())]
    axes.plot(ends, ends, color="grey", linestyle=":", linewidth=1)
    axes.scatter(actual, predicted, s=12, alpha=0.5, linewidths=0)
    axes.set(title="Predicted against actual", xlabel="actual", ylabel="predicted")
    return figure


def residuals(y: ArrayLike, predictions: ArrayLike) -> Figure:
    """Draw the errors over the predicted number, and how they are distributed.

    Args:
        y: Actual numbers of shape ``(n_samples,)``.
        predictions: Predicted numbers of shape ``(n_samples,)``.

    Returns:
        The figure, with 5,000 of the rows at most.
    """
    actual, predicted = _points(y, predictions)
    figure = Figure(figsize=(8, 5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[4, 1])
    left.axhline(0, color="grey", linestyle=":", linewidth=1)
    left.scatter(predicted, predicted - actual, s=12, alpha=0.5, linewidths=0)
    left.set(title="Residuals", xlabel="predicted", ylabel="predicted - actual")
    right.hist(predicted - actual, bins=30, orientation="horizontal")
    right.set(xlabel="rows")
    return figure


def _points(y: ArrayLike, predictions: ArrayLike) -> tuple[Any, Any]:
    actual = np.asarray(y, dtype=np.float64)
    predicted = np.asarray(predictions, dtype=np.float64)
    # Evenly from all over the table, so that the same rows are drawn each time.
    step = max(1, -(-len(actual) // _MOST_POINTS))
    return actual[::step], predicted[::step]


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
    labels = short_labels(names)
    figure, axes = new_figure(7.5, max(2.5, 0.28 * len(order) + 1.2))
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
    figure.set_dpi(_DPI)
    with warnings.catch_warnings():
        # A name in a script that the font lacks is drawn as boxes; that is no reason to complain.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        # `savefig` draws all of it twice.
        canvas: Any = FigureCanvasAgg(figure)
        canvas.print_png(buffer, pil_kwargs={"compress_level": _COMPRESSION})
    return buffer.getvalue()


def new_figure(width: float, height: float, *, names: bool = True) -> tuple[Figure, Axes]:
    """Make a figure with room for its labels.

    Args:
        width: In inches.
        height: In inches.
        names: Whether its ticks may have names of any length: then the room is worked out when it
            is drawn, which takes as long again as drawing it; that of numbers is known.
    """
    figure = Figure(figsize=(width, height), layout="constrained" if names else None)
    if not names:
        _leave_room(figure)
    axes: Any = figure.add_subplot()
    return figure, axes


def _leave_room(figure: Figure) -> None:
    """Set the margins to what a title, labels and ticks with numbers take."""
    width, height = figure.get_size_inches()
    figure.subplots_adjust(
        left=0.95 / width, right=1 - 0.2 / width, bottom=0.6 / height, top=1 - 0.45 / height
    )


def short_labels(names: Sequence[str]) -> list[str]:
    """Shorten long names in their middle; those that then look alike get their number.

    Args:
        names: The names.
    """
    cut = [_short(name) for name in names]
    return [f"{place}: {text}" if cut.count(text) > 1 else text for place, text in enumerate(cut)]


def _short(name: str) -> str:
    half = _LONGEST_NAME // 2
    text = name if len(name) <= _LONGEST_NAME else f"{name[:half]}…{name[1 - half :]}"
    # A dollar sign would start a formula.
    return text.replace("$", r"\$")
