"""Metrics of classifications and regressions, on numpy arrays alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ml_project_template.errors import ConfigError

__all__ = [
    "CLASSIFICATION_METRICS",
    "METRICS",
    "REGRESSION_METRICS",
    "ClassWeight",
    "better_direction",
    "classification_metrics",
    "confusion_counts",
    "log_losses",
    "precision_recall_curve",
    "regression_metrics",
    "resolve_class_weight",
    "roc_curve",
    "softmax",
]

ClassWeight = Literal["balanced"] | list[float] | None

CLASSIFICATION_METRICS = (
    "accuracy",
    "average_precision",
    "balanced_accuracy",
    "f1_macro",
    "log_loss",
    "loss",
    "roc_auc",
)
"""What `classification_metrics` computes."""

REGRESSION_METRICS = ("loss", "mae", "r2", "rmse")
"""What `regression_metrics` computes."""

METRICS = tuple(sorted({*CLASSIFICATION_METRICS, *REGRESSION_METRICS}))
"""All of them."""

_MINIMIZED = ("loss", "mae", "rmse")
_MAXIMIZED = ("accuracy", "average_precision", "f1_macro", "r2", "roc_auc")


def better_direction(metric: str) -> Literal["minimize", "maximize"] | None:
    """Say which way a metric gets better.

    Args:
        metric: Its name, with or without a split before it, such as ``val_loss``.

    Returns:
        ``minimize`` for losses and errors, ``maximize`` for scores; None for a name that isn't
        ours.
    """
    if metric.endswith(_MINIMIZED):
        return "minimize"
    return "maximize" if metric.endswith(_MAXIMIZED) else None


def softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    """Turn raw scores into probabilities.

    Args:
        scores: Raw scores of shape ``(n_samples, n_classes)``.

    Returns:
        Probabilities of the same shape, float64; each row sums to 1. Of a row with a score that
        is NaN or plus infinity they are NaN.
    """
    # The row's maximum is taken off first, so that no exponential overflows.
    with np.errstate(invalid="ignore"):
        distances = scores.astype(np.float64) - scores.max(axis=1, keepdims=True)
    exponentials = np.exp(distances)
    result: NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result


def resolve_class_weight(
    class_weight: ClassWeight, y: NDArray[np.int64], num_classes: int
) -> NDArray[np.float64] | None:
    """Work out a weight for each class.

    Args:
        class_weight: ``balanced`` gives class ``c`` the weight ``n / (num_classes * n_c)`` (King
            and Zeng, 2001); a list gives a weight for each class, in the order of the class names;
            None weighs all rows alike.
        y: Class codes of the training rows, of shape ``(n_samples,)``.
        num_classes: How many classes there are.

    Returns:
        Weights of shape ``(num_classes,)``, or None. A class without a row weighs 1.

    Raises:
        ConfigError: A list of another length, or with a weight that isn't positive.
    """
    if class_weight is None:
        return None
    if class_weight == "balanced":
        counts = np.bincount(y, minlength=num_classes)
        return np.where(counts > 0, len(y) / (num_classes * np.maximum(counts, 1)), 1.0)
    if not isinstance(class_weight, Sequence) or isinstance(class_weight, str):
        raise ConfigError(
            f"training.class_weight must be balanced, null or a list of {num_classes} numbers, "
            f"got {class_weight!r}."
        )
    weights = np.asarray(class_weight, dtype=np.float64)
    if weights.shape != (num_classes,):
        raise ConfigError(
            f"training.class_weight has {weights.size} weights for {num_classes} classes: "
            "give one for each class."
        )
    if not (np.isfinite(weights).all() and (weights > 0).all()):
        raise ConfigError(
            f"training.class_weight must hold positive numbers, got {list(class_weight)}."
        )
    return weights


def classification_metrics(
    y: ArrayLike,
    probabilities: ArrayLike,
    *,
    class_weight: ArrayLike | None = None,
    predicted: NDArray[np.integer[Any]] | None = None,
) -> dict[str, float]:
    """Score predicted probabilities.

    Args:
        y: Class codes of shape ``(n_samples,)``.
        probabilities: Of shape ``(n_samples, n_classes)``.
        class_weight: Weights of shape ``(n_classes,)`` for ``loss``; None weighs all rows alike.
        predicted: Predicted class codes of shape ``(n_samples,)``; None takes the most probable.

    Returns:
        ``loss``, the log loss weighted by class, as a fit minimises it; ``log_loss``, the same
        unweighted, in nats; ``accuracy``; ``balanced_accuracy``, the mean over the classes that
        have a row of the part of their rows that is found; ``f1_macro``, the mean F1 over the
        classes that occur in the labels or the predictions; ``roc_auc``, the area under the ROC
        curve (of class 1 for two classes, the mean over one class against the rest for more; Hand
        and Till call it macro one-vs-rest), and ``average_precision``, the area under the steps of
        precision over recall, of the same classes; both left out if a class has no row.
    """
    codes = np.asarray(y, dtype=np.int64)
    chances = np.asarray(probabilities, dtype=np.float64)
    n_rows, n_classes = chances.shape
    losses = log_losses(codes, chances)
    weights = None if class_weight is None else np.asarray(class_weight, dtype=np.float64)[codes]

    chosen = chances.argmax(axis=1) if predicted is None else predicted
    counts = confusion_counts(codes, chosen, n_classes)
    hits, actual, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    occurring = (actual + predicted) > 0
    f1 = 2 * hits[occurring] / (actual + predicted)[occurring]
    metrics = {
        "loss": float(np.average(losses, weights=weights)),
        "log_loss": float(losses.mean()),
        "accuracy": float(hits.sum() / n_rows),
        "balanced_accuracy": float((hits[actual > 0] / actual[actual > 0]).mean()),
        "f1_macro": float(f1.mean()),
    }
    if n_classes > 1 and (actual > 0).all():
        positives = [1] if n_classes == 2 else range(n_classes)
        areas = [_areas(codes == k, chances[:, k]) for k in positives]
        metrics["roc_auc"], metrics["average_precision"] = np.mean(areas, axis=0).tolist()
    return metrics


def regression_metrics(y: ArrayLike, predictions: ArrayLike) -> dict[str, float]:
    """Score predicted numbers.

    Args:
        y: Actual numbers of shape ``(n_samples,)``.
        predictions: Predicted numbers of shape ``(n_samples,)``.

    Returns:
        ``loss``, the mean squared error; ``rmse``, its root; ``mae``, the mean absolute error;
        ``r2``, the part of the variance that is explained, left out if all actual numbers are the
        same.
    """
    actual = np.asarray(y, dtype=np.float64)
    errors = np.asarray(predictions, dtype=np.float64) - actual
    mse = float(np.mean(np.square(errors)))
    metrics = {"loss": mse, "rmse": float(np.sqrt(mse)), "mae": float(np.mean(np.abs(errors)))}
    spread = float(np.mean(np.square(actual - actual.mean())))
    if spread > 0:
        metrics["r2"] = 1.0 - mse / spread
    return metrics


def log_losses(y: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give the log loss of each row.

    Args:
        y: Class codes of shape ``(n_samples,)``.
        probabilities: Of shape ``(n_samples, n_classes)``.

    Returns:
        Losses of shape ``(n_samples,)``, in nats.
    """
    # Clipped as scikit-learn does: a confident error costs much, but not infinitely much.
    eps = np.finfo(np.float64).eps
    losses: NDArray[np.float64] = -np.log(np.clip(probabilities[np.arange(len(y)), y], eps, 1.0))
    return losses


def confusion_counts(
    y: NDArray[np.integer[Any]], predicted: NDArray[np.integer[Any]], num_classes: int
) -> NDArray[np.int64]:
    """Count the pairs of actual and predicted class.

    Args:
        y: Class codes of shape ``(n_samples,)``.
        predicted: Predicted class codes of shape ``(n_samples,)``.
        num_classes: How many classes there are.

    Returns:
        Counts of shape ``(num_classes, num_classes)``: row = actual, column = predicted.
    """
    pairs = np.bincount(y * num_classes + predicted, minlength=num_classes**2)
    return pairs.reshape(num_classes, num_classes).astype(np.int64)


def roc_curve(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Trace the receiver operating characteristic.

    Args:
        positive: Which rows are positive, of shape ``(n_samples,)``; both kinds must occur.
        scores: Of shape ``(n_samples,)``: the higher, the more likely positive.

    Returns:
        False and true positive rates at each distinct threshold, from (0, 0) to (1, 1).
    """
    true, passed = _passed(positive, scores)
    false = passed - true
    return (
        np.concatenate([[0.0], false / max(false[-1], 1)]),
        np.concatenate([[0.0], true / max(true[-1], 1)]),
    )


def precision_recall_curve(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Trace precision over recall.

    Args:
        positive: Which rows are positive, of shape ``(n_samples,)``; there must be some.
        scores: Of shape ``(n_samples,)``: the higher, the more likely positive.

    Returns:
        Recall and precision at each distinct threshold, from the highest one down, after the point
        (0, 1).
    """
    true, passed = _passed(positive, scores)
    return (
        np.concatenate([[0.0], true / true[-1]]),
        np.concatenate([[1.0], true / passed]),
    )


def _passed(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Count the positive rows, and all rows, that pass each distinct threshold, highest first."""
    order = np.argsort(-scores, kind="stable")
    # Rows of equal score pass a threshold together: only the last of them is a point.
    last = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    return np.cumsum(positive[order])[last], last + 1


def _areas(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[float, float]:
    """Give the areas under the ROC curve and under the steps of precision over recall.

    Both are of the same counts, and the sorting of the scores is most of the work.
    """
    true, passed = _passed(positive, scores)
    false = passed - true
    true_rate, false_rate = (np.concatenate([[0.0], n / max(n[-1], 1)]) for n in (true, false))
    area = float(np.trapezoid(true_rate, false_rate))
    return area, float(np.sum(np.diff(true_rate) * (true / passed)))
