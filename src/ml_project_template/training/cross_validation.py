"""What the folds of a cross-validation say together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ml_project_template.errors import ConfigError

__all__ = ["summarize_folds"]

_PREFIX = "val_"


def summarize_folds(metrics: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Average the validation metrics over the folds, and say how far the folds differ.

    The standard deviation is that of the folds' values: how much one fold's result varies. It is
    not divided by the square root of the number of folds, as a standard error would be: a row that
    validates in one fold trains in all others, so the values are not independent, and that quotient
    would mostly be too small. Nor is there a formula to put in its place: no estimator of the
    variance of the mean is unbiased for every distribution (Bengio and Grandvalet, "No unbiased
    estimator of the variance of K-fold cross-validation", JMLR 5, 2004).

    Args:
        metrics: The final metrics of each fold's training, such as ``train_loss``, ``val_loss``
            and ``val_accuracy``.

    Returns:
        For each ``val_<name>`` that every fold has: ``cv_<name>``, the mean, and
        ``cv_<name>_std``, the sample standard deviation (n - 1 in the denominator). Each fold
        counts the same. A metric that some fold lacks is left out, such as ``roc_auc`` where a
        class has no row in a fold: the mean of the others would be of another table.

    Raises:
        ConfigError: There are fewer than two folds.
    """
    if len(metrics) < 2:
        raise ConfigError(f"A summary needs the metrics of at least 2 folds, got {len(metrics)}.")
    summary: dict[str, float] = {}
    for key in metrics[0]:
        if key.startswith(_PREFIX) and all(key in fold for fold in metrics):
            values = np.asarray([fold[key] for fold in metrics], dtype=np.float64)
            name = f"cv_{key.removeprefix(_PREFIX)}"
            summary[name] = float(values.mean())
            summary[f"{name}_std"] = float(values.std(ddof=1))
    return summary
