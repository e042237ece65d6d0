"""Plots of a training."""

from __future__ import annotations

import io
import subprocess
import sys
from collections import Counter
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from ml_project_template.training.plots import (
    confusion_matrix,
    feature_importance,
    loss_curve,
    roc_curves,
    save_png,
)
from ml_project_template.training.reporting import History


def _classes(count: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(count)
    y = rng.integers(0, count, 300)
    y[:count] = np.arange(count)
    chances = rng.random((300, count))
    chances[np.arange(300), y] += 0.5
    return y, chances / chances.sum(axis=1, keepdims=True)


def _size(figure: Figure) -> tuple[int, int]:
    with Image.open(io.BytesIO(save_png(figure))) as image:
        assert image.format == "PNG"
        return image.size


def _legend(figure: Figure) -> list[str]:
    legend = figure.axes[0].get_legend()
    return [] if legend is None else [text.get_text() for text in legend.get_texts()]


def test_the_loss_curve_draws_losses_and_marks_the_lowest() -> None:
    history = History()
    for step, loss in enumerate([3.0, 1.0, 2.0], start=1):
        history.report(step, {"train_loss": loss / 2, "val_loss": loss, "lr": 0.1})
    figure = loss_curve(history)
    assert _legend(figure) == ["train_loss", "val_loss", "lowest val_loss 1 at 2"]
    assert np.asarray(figure.axes[0].lines[1].get_xydata()).tolist() == [[1, 3], [2, 1], [3, 2]]
    assert _size(figure) > (400, 300)


def test_a_single_epoch_is_a_point_and_none_an_empty_plot() -> None:
    history = History()
    assert _size(loss_curve(history)) > (400, 300)
    history.report(1, {"train_loss": 1.0})
    assert loss_curve(history).axes[0].lines[0].get_marker() == "o"


@pytest.mark.parametrize("count", [2, 3, 12, 50])
def test_a_confusion_matrix_shows_every_count(count: int) -> None:
    y, chances = _classes(count)
    names = [f"class {code}" for code in range(count)]
    figure = confusion_matrix(y, chances.argmax(axis=1), names)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == names
    shown = sum(int(text.get_text()) for text in axes.texts)
    # From some size on the numbers would cover one another, and colours alone are shown.
    assert shown == (300 if count <= 25 else 0)
    assert max(_size(figure)) < 2000


@pytest.mark.parametrize("count", [2, 3, 12, 50])
def test_roc_curves_name_ten_classes_at_most(count: int) -> None:
    y, chances = _classes(count)
    figure = roc_curves(y, chances, [f"class {code}" for code in range(count)])
    curves = 1 if count == 2 else count
    assert len(figure.axes[0].lines) == curves + 1
    assert len(_legend(figure)) == min(curves, 10)
    if count == 3:
        assert _legend(figure)[0].startswith("class 0 (area 0.")
    _size(figure)


def test_a_class_without_a_row_has_no_roc_curve() -> None:
    y, chances = _classes(3)
    kept = y != 1
    figure = roc_curves(y[kept], chances[kept], ["a", "b", "c"])
    assert [label[0] for label in _legend(figure)] == ["a", "c"]
    only = y == 1
    assert _legend(roc_curves(y[only], chances[only], ["a", "b", "c"])) == []


def test_the_most_important_feature_is_on_top() -> None:
    figure = feature_importance(["a", "b", "c"], [0.2, 0.5, 0.3])
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["b", "c", "a"]
    assert axes.yaxis_inverted()
    _size(figure)


def test_of_many_features_the_first_thirty_are_drawn() -> None:
    figure = feature_importance([f"f{code}" for code in range(300)], np.arange(300) / 300)
    assert figure.axes[0].get_title() == "Feature importance: the first 30 of 300"
    assert len(figure.axes[0].patches) == 30


def test_long_names_are_cut_in_their_middle_and_stay_different() -> None:
    names = [f"{'x' * 30}{code}" for code in range(2)] + ["y" * 20 + c + "y" * 20 for c in "ab"]
    figure = feature_importance(names, [0.4, 0.3, 0.2, 0.1])
    shown = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert len(set(shown)) == 4
    assert all(len(label) <= 30 for label in shown)
    assert shown[0].endswith("x0")


def test_names_in_any_script_and_with_dollar_signs_are_drawn() -> None:
    figure = feature_importance(["価格", "$a$", "x_1^2", "naïve"], [0.4, 0.3, 0.2, 0.1])
    _size(figure)
    assert figure.axes[0].get_yticklabels()[1].get_text() == r"\$a\$"


def test_a_figure_is_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    figure = feature_importance(["a", "b"], [0.4, 0.6])
    draw = Figure.draw
    counts: Counter[Figure] = Counter()

    def counted(self: Figure, *arguments: Any) -> None:
        counts[self] += 1
        draw(self, *arguments)

    monkeypatch.setattr(Figure, "draw", counted)
    _size(figure)
    assert counts == {figure: 1}


@pytest.mark.parametrize("largest", [1e-5, 0.9, 123456.7, 1e9])
def test_numbers_of_any_size_have_the_room_they_take(largest: float) -> None:
    history = History()
    for step in (1, 99_999):
        history.report(step, {"train_loss": largest / step})
    figure = loss_curve(history)
    assert figure.get_layout_engine() is None
    _size(figure)
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    drawn = figure.axes[0].get_tightbbox(renderer)
    assert drawn is not None
    width, height = figure.bbox.size
    assert drawn.x0 >= 0
    assert drawn.y0 >= 0
    assert drawn.x1 <= width
    assert drawn.y1 <= height


def test_no_window_system_is_asked_for() -> None:
    code = (
        "import sys\n"
        "from ml_project_template.training.plots import feature_importance, save_png\n"
        "save_png(feature_importance(['a'], [1.0]))\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
