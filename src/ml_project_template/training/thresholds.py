"""From which probability on the second of two classes is predicted."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ml_project_template.errors import ConfigError, unknown

__all__ = ["Threshold", "ThresholdMetric", "choose_threshold"]

ThresholdMetric = Literal["balanced_accuracy", "f1"]
Threshold = float | ThresholdMetric | None


def choose_threshold(
    threshold: Threshold, y: NDArray[np.int64], probabilities: NDArray[np.float64]
) -> float | None:
    """Work out a decision threshold.

    Args:
        threshold: A probability in [0, 1]; or the metric that it shall make largest, ``f1`` (of the
            second class; van Rijsbergen, 1979) or ``balanced_accuracy`` (Youden's index, 1950);
            or None, which has none.
        y: Class codes of shape ``(n_samples,)``, of rows that the model has not learned from.
        probabilities: Of shape ``(n_samples, n_classes)``.

    Returns:
        The threshold. One that is chosen lies in the middle between two probabilities that occur,
        and of equally good ones nearest to one half.

    Raises:
        ConfigError: Not two classes, a number out of [0, 1], or an unknown metric.
    """
    if threshold is None:
        return None
    if probabilities.shape[1] != 2:
        raise ConfigError(
            f"threshold={threshold} is for two classes, and there are {probabilities.shape[1]}."
        )
    if isinstance(threshold, str):
        if threshold not in get_args(ThresholdMetric):
            raise ConfigError(unknown("threshold", threshold, get_args(ThresholdMetric)))
        return _best(threshold, y == 1, probabilities[:, 1])
    if not 0.0 <= threshold <= 1.0:
        raise ConfigError(f"threshold must be a probability in [0, 1], got {threshold}.")
    return float(threshold)


def _best(
    metric: ThresholdMetric, positive: NDArray[np.bool_], chances: NDArray[np.float64]
) -> float:
    values = np.unique(chances)
    cuts = np.concatenate([[values[0] / 2], (values[1:] + values[:-1]) / 2])
    order = np.argsort(chances, kind="stable")
    below = np.searchsorted(chances[order], cuts)
    found_below = np.concatenate([[0], np.cumsum(positive[order])])[below]
    true = positive.sum() - found_below
    false = (len(chances) - below) - true
    if metric == "f1":
        scores = 2 * true / np.maximum(2 * true + false + found_below, 1)
    else:
        negatives = np.maximum((~positive).sum(), 1)
        scores = true / np.maximum(positive.sum(), 1) - false / negatives
    best = np.flatnonzero(scores == scores.max())
    return float(cuts[best[np.argmin(np.abs(cuts[best] - 0.5))]])
