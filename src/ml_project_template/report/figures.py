"""The figures that a report has besides those of a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ml_project_template.training.plots import new_figure, short_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ml_project_template.report.explain import Importance, PartialDependence

__all__ = ["correlation_matrix", "importances", "partial_dependences"]

_MOST_FEATURES = 30
_MOST_CLASSES = 5
_NUMBERED = 12


def correlation_matrix(names: Sequence[str], matrix: NDArray[np.float64]) -> Figure:
    """Draw correlations as colours, and as numbers where there are few.

    Args:
        names: The names of the columns.
        matrix: Shape ``(n, n)``.

    Returns:
        The figure.
    """
    count = len(names)
    side = min(max(4.5, 0.45 * count + 2), 12)
    figure, axes = new_figure(side + 1, side)
    image = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    figure.colorbar(image, ax=axes, label="correlation", shrink=0.8)
    if count <= _NUMBERED:
        for row, column in np.ndindex(matrix.shape):
            shade = "white" if abs(matrix[row, column]) > 0.6 else "black"
            text = f"{matrix[row, column]:.2f}"
            axes.text(column, row, text, ha="center", va="center", color=shade, fontsize=8)
    labels = short_labels(names)
    axes.set_xticks(range(count), labels, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), labels)
    axes.tick_params(labelsize=9 if count <= _NUMBERED else 7)
    return figure


def importances(found: Sequence[Importance], unit: str) -> Figure:
    """Draw how much the loss grows without each feature, the most important on top.

    Args:
        found: The features, the most important first.
        unit: What the loss is measured in.

    Returns:
        The figure, with the thirty most important features at most.
    """
    shown = found[:_MOST_FEATURES]
    figure, axes = new_figure(7.5, max(2.5, 0.3 * len(shown) + 1.2))
    places = range(len(shown))
    axes.barh(places, [each.mean for each in shown], xerr=[each.std for each in shown])
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_yticks(places, short_labels([each.name for each in shown]), fontsize=9)
    axes.invert_yaxis()
    axes.set(xlabel=f"increase of the loss ({unit}) when the feature is shuffled")
    return figure


def partial_dependences(
    found: Sequence[PartialDependence], class_names: Sequence[str], target: str
) -> Figure:
    """Draw the mean answer over the values of each feature, side by side on one scale.

    Args:
        found: Some features.
        class_names: The classes; none for a regression.
        target: The name of the target.

    Returns:
        The figure. Two classes have one curve, that of the second; of more, five are drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(found), 3)
    rows = -(-len(found) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.0 * rows + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    curves = [(0, target)]
    if class_names:
        codes = [1] if len(class_names) == 2 else range(min(len(class_names), _MOST_CLASSES))
        curves = [(code, class_names[code]) for code in codes]
    labels = short_labels([name for _, name in curves])
    for place, axes in enumerate(grid.ravel()):
        if place >= len(found):
            axes.set_axis_off()
            continue
        each = found[place]
        for (code, _), label in zip(curves, labels, strict=True):
            if each.positions is None:
                axes.plot(range(len(each.values)), each.outputs[:, code], "o", label=label)
            else:
                axes.plot(each.positions, each.outputs[:, code], label=label, marker=".")
        if each.positions is None:
            axes.set_xticks(
                range(len(each.values)), short_labels(each.values), rotation=45, ha="right"
            )
        elif len(each.positions) > 1:
            last = len(each.positions) - 1
            ends = sorted({0, (last + 1) // 2, last})
            axes.set_xticks([each.positions[n] for n in ends], [each.values[n] for n in ends])
        axes.tick_params(labelsize=8)
        axes.set_xlabel(short_labels([each.name])[0], fontsize=9)
    what = "probability" if class_names else short_labels([target])[0]
    for axes in grid[:, 0]:
        axes.set_ylabel(f"mean {what}", fontsize=9)
    if len(curves) > 1 or class_names:
        handles, names = grid[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside upper center", ncols=len(curves), fontsize=9)
    return figure
