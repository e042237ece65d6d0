"""What a model makes of its rows: which features matter, how, and where it errs."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_project_template.data.column_types import date_text
from ml_project_template.training.metrics import (
    classification_metrics,
    log_losses,
    regression_metrics,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ml_project_template.data.signature import Feature
    from ml_project_template.data.tabular import TabularDataset
    from ml_project_template.predictor import Predictor

__all__ = [
    "Answers",
    "Importance",
    "PartialDependence",
    "Slice",
    "partial_dependence",
    "permutation_importances",
    "slices",
    "worst_rows",
]

_REPEATS = 5
# Rows that are answered for all permutations together: a page is to be there in seconds.
_MOST_ANSWERS = 1_000_000
_FEWEST_ROWS, _MOST_ROWS = 100, 2_000
_GRID = 20
_LEVELS = 12
_FEWEST_OF_A_SLICE = 5
_SECONDS_A_DAY = 86_400


class Answers:
    """A model and rows of a known target, as numbers.

    Args:
        predictor: The model.
        data: Raw rows.

    Attributes:
        rows: What the model takes, of shape ``(n_rows, n_features)``, float64, see
            `Signature.rows_to_frame`.
        y: The target of shape ``(n_rows,)``.
        outputs: Probabilities of shape ``(n_rows, n_classes)``, or numbers of shape
            ``(n_rows, 1)``.
    """

    def __init__(self, predictor: Predictor, data: TabularDataset) -> None:
        self.predictor = predictor
        self.signature = predictor.signature
        self.rows = self.signature.rows_to_frame(data.features).to_numpy(dtype=np.float64)
        self.y = data.y
        self.outputs = self.answer(self.rows)

    def answer(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Answer rows, see `Predictor.answer`."""
        return self.predictor.answer(rows)

    def losses(self, outputs: NDArray[np.float64], y: NDArray[Any]) -> NDArray[np.float64]:
        """Give the loss of each row: log loss in nats, or squared error."""
        if self.signature.task == "classification":
            return log_losses(y, outputs)
        errors: NDArray[np.float64] = outputs[:, 0] - y
        return np.square(errors)

    def metrics(self, chosen: NDArray[np.bool_] | None = None) -> dict[str, float]:
        """Judge the model on some of the rows, or on all."""
        everything = np.ones(len(self.y), dtype=bool)
        rows = everything if chosen is None else chosen
        outputs, y = self.outputs[rows], self.y[rows]
        if self.signature.task == "regression":
            return regression_metrics(y, outputs[:, 0])
        predicted = self.signature.decide(outputs)
        return classification_metrics(y, outputs, predicted=predicted)


@dataclass(frozen=True)
class Importance:
    """How much worse a model gets without one feature.

    Attributes:
        name: The feature.
        mean: The mean increase of the loss over the permutations: log loss in nats, or the root of
            the mean squared error in units of the target.
        std: Its standard deviation.
    """

    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class PartialDependence:
    """What a model answers on average where one feature has a value.

    Attributes:
        name: The feature.
        values: The values in words.
        positions: The values as numbers; None for levels.
        outputs: Mean answers of shape ``(n_values, n_outputs)``.
    """

    name: str
    values: tuple[str, ...]
    positions: tuple[float, ...] | None
    outputs: NDArray[np.float64]


@dataclass(frozen=True)
class Slice:
    """How good a model is on some of the rows.

    Attributes:
        name: Which rows.
        rows: How many there are.
        metrics: Metric name to value.
    """

    name: str
    rows: int
    metrics: dict[str, float]


def permutation_importances(answers: Answers, *, seed: int = 0) -> list[Importance]:
    """Measure how much the loss grows when the values of one feature are shuffled.

    After Breiman, "Random Forests" (2001), for any model. Features that tell the same stand in for
    one another: each of them then looks less important than both are.

    Args:
        answers: The model and rows that it has not learned from.
        seed: Of the shuffling.

    Returns:
        The features, the most important first.
    """
    generator = np.random.default_rng(seed)
    count = answers.rows.shape[1]
    size = min(max(_MOST_ANSWERS // (count * _REPEATS), _FEWEST_ROWS), _MOST_ROWS)
    chosen = _evenly(len(answers.y), size)
    rows, y = answers.rows[chosen], answers.y[chosen]
    regression = answers.signature.task == "regression"

    def loss(outputs: NDArray[np.float64]) -> float:
        mean = float(answers.losses(outputs, y).mean())
        return float(np.sqrt(mean)) if regression else mean

    present = loss(answers.outputs[chosen])
    found = []
    for column, name in enumerate(answers.signature.feature_names):
        increases = []
        for _ in range(_REPEATS):
            shuffled = rows.copy()
            shuffled[:, column] = generator.permutation(rows[:, column])
            increases.append(loss(answers.answer(shuffled)) - present)
        found.append(Importance(name, float(np.mean(increases)), float(np.std(increases))))
    return sorted(found, key=lambda each: (-each.mean, each.name))


def partial_dependence(answers: Answers, name: str, *, rows: int = 500) -> PartialDependence:
    """Average what a model answers when every row has the same value of one feature.

    After Friedman, "Greedy function approximation" (2001). It may show rows that can't occur where
    features depend on one another.

    Args:
        answers: The model and its rows.
        name: The feature.
        rows: How many rows are averaged over, at most.

    Returns:
        Answers at up to 20 quantiles of the feature, or at its 12 most frequent levels.
    """
    column = answers.signature.feature_names.index(name)
    feature = answers.signature.features[column]
    background = answers.rows[_evenly(len(answers.rows), rows)]
    grid = _grid(feature, answers.rows[:, column])
    outputs = []
    for value in grid:
        changed = background.copy()
        changed[:, column] = value
        outputs.append(answers.answer(changed).mean(axis=0))
    return PartialDependence(
        name,
        tuple(value_text(feature, value) for value in grid),
        None if feature.levels is not None else tuple(grid),
        np.asarray(outputs).reshape(len(grid), -1),
    )


def _grid(feature: Feature, column: NDArray[np.float64]) -> list[float]:
    there = column[~np.isnan(column)]
    if feature.levels is not None:
        codes, counts = np.unique(there, return_counts=True)
        kept = codes[np.argsort(-counts, kind="stable")[:_LEVELS]]
        return sorted(float(code) for code in kept)
    if len(there) == 0:
        return []
    values = np.unique(there)
    if len(values) > _GRID:
        # Not the last percent on either side: there are hardly any rows to tell of.
        values = np.quantile(there, np.linspace(0.01, 0.99, _GRID))
        if feature.type == "date":
            values = values // _SECONDS_A_DAY * _SECONDS_A_DAY
        values = np.unique(values)
    return [float(value) for value in values]


def value_text(feature: Feature, value: float) -> str:
    """Write a value of the numeric matrix as it stands in a table.

    Args:
        feature: Whose value it is.
        value: The number, see `Feature.encode`.
    """
    if np.isnan(value):
        return "missing"
    if feature.levels is not None:
        return feature.levels[int(value)]
    if feature.type == "date":
        return date_text(value)
    if feature.type == "bool":
        return str(bool(value))
    return f"{value:.4g}"


def slices(answers: Answers, names: Sequence[str]) -> list[Slice]:
    """Judge a model on the rows of each level, or of each quarter, of some features.

    Args:
        answers: The model and its rows.
        names: The features.

    Returns:
        The slices of five rows or more, feature by feature.
    """
    found = []
    for name in names:
        place = answers.signature.feature_names.index(name)
        feature, column = answers.signature.features[place], answers.rows[:, place]
        for label, chosen in _cuts(feature, column):
            rows = int(chosen.sum())
            if rows >= _FEWEST_OF_A_SLICE:
                found.append(Slice(label, rows, answers.metrics(chosen)))
    return found


def _cuts(feature: Feature, column: NDArray[np.float64]) -> list[tuple[str, NDArray[np.bool_]]]:
    name = feature.name
    missing = np.isnan(column)
    cuts = []
    values, counts = np.unique(column[~missing], return_counts=True)
    if feature.levels is not None or len(values) <= 4:
        kept = values[np.argsort(-counts, kind="stable")[:_LEVELS]]
        cuts = [(f"{name} = {value_text(feature, v)}", column == v) for v in np.sort(kept)]
    else:
        edges = np.unique(np.quantile(column[~missing], [0, 0.25, 0.5, 0.75, 1]))
        for low, high in itertools.pairwise(edges):
            inside = (column > low if low > edges[0] else column >= low) & (column <= high)
            shown = f"{name} in {value_text(feature, low)} to {value_text(feature, high)}"
            cuts.append((shown, inside))
    if missing.any():
        cuts.append((f"{name} missing", missing))
    return cuts


def worst_rows(answers: Answers, count: int = 10) -> NDArray[np.int64]:
    """Find the rows with the greatest losses.

    Args:
        answers: The model and its rows.
        count: How many.

    Returns:
        Their positions, the worst first.
    """
    losses = answers.losses(answers.outputs, answers.y)
    return np.argsort(-losses, kind="stable")[:count]


def _evenly(total: int, count: int) -> NDArray[np.int64]:
    """Choose rows from all over a table, the same each time."""
    if total <= count:
        return np.arange(total)
    return np.linspace(0, total - 1, count).astype(np.int64)
