"""How good a model is: metrics and plots of what it gives, by the task it is for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_project_template.errors import DataError, DivergenceError
from ml_project_template.training.metrics import (
    classification_metrics,
    confusion_counts,
    regression_metrics,
    softmax,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

    from ml_project_template.data.signature import Signature
    from ml_project_template.data.tabular import TabularDataset
    from ml_project_template.models.base import BaseModel
    from ml_project_template.training.reporting import History

__all__ = ["check_splits", "draw", "judge", "measure"]


def check_splits(splits: Mapping[str, TabularDataset]) -> None:
    """See to it that all splits have the columns and the classes of the training rows.

    Raises:
        DataError: One has not.
    """
    train = splits["train"]
    for split, data in splits.items():
        if data.feature_names != train.feature_names:
            raise DataError(
                f"The {split} data have other features ({', '.join(data.feature_names)}) than the "
                f"training data ({', '.join(train.feature_names)})."
            )
        if data.task != train.task:
            raise DataError(
                f"The target of the {split} data is one for {data.task}, that of the training data "
                f"for {train.task}."
            )
        if data.class_names != train.class_names:
            raise DataError(
                f"The {split} data have other classes ({', '.join(data.class_names)}) than the "
                f"training data ({', '.join(train.class_names)})."
            )
        if (data.preprocessor is None) != (train.preprocessor is None):
            raise DataError(
                f"The {split} data and the training data must both be prepared, or both be raw."
            )


def measure(
    data: TabularDataset,
    outputs: NDArray[Any],
    signature: Signature,
    weights: NDArray[np.float64] | None,
) -> dict[str, float]:
    """Compute the metrics of what ``predict`` has given.

    Args:
        data: The rows.
        outputs: What it has given.
        signature: Decides between classes.
        weights: Of the classes in the loss, of shape ``(n_classes,)``.
    """
    if data.task == "regression":
        return regression_metrics(data.y, outputs)
    chances = softmax(outputs)
    return classification_metrics(
        data.y, chances, class_weight=weights, predicted=signature.decide(chances)
    )


def judge(
    model: BaseModel,
    splits: Mapping[str, TabularDataset],
    weights: NDArray[np.float64] | None,
) -> tuple[dict[str, float], dict[str, list[list[int]]]]:
    """Measure a trained model on each split.

    Args:
        model: The model.
        splits: Prepared rows.
        weights: Of the classes in the loss.

    Returns:
        ``<split>_<metric>`` to value, and the confusion matrix of each split of a classification.

    Raises:
        DivergenceError: An output is no finite number.
    """
    assert model.signature is not None
    metrics: dict[str, float] = {}
    confusion = {}
    for split, data in splits.items():
        outputs = model.predict(data)
        if not np.isfinite(outputs).all():
            raise DivergenceError(
                f"The model's scores on the {split} rows are not all finite numbers: the "
                "training diverged."
            )
        found = measure(data, outputs, model.signature, weights)
        metrics |= {f"{split}_{name}": value for name, value in found.items()}
        if data.task == "classification":
            predicted = model.signature.decide(softmax(outputs))
            confusion[split] = confusion_counts(data.y, predicted, data.num_classes).tolist()
    return metrics, confusion


def draw(
    model: BaseModel, splits: Mapping[str, TabularDataset], history: History
) -> dict[str, Figure]:
    """Draw the fit, and what the model gives on the rows that it has not learned from.

    Args:
        model: The model.
        splits: Prepared rows.
        history: What the fit reported.

    Returns:
        Name to figure.
    """
    from ml_project_template.training import plots

    assert model.signature is not None
    figures = {}
    if history.rows:
        figures["loss_curve"] = plots.loss_curve(history)
    for split in [split for split in splits if split != "train"] or ["train"]:
        data = splits[split]
        if data.task == "regression":
            predicted = model.predict(data)
            figures[f"{split}_residuals"] = plots.residuals(data.y, predicted)
            figures[f"{split}_predicted_against_actual"] = plots.predicted_against_actual(
                data.y, predicted
            )
            continue
        chances = model.predict_proba(data)
        figures[f"{split}_confusion_matrix"] = plots.confusion_matrix(
            data.y, model.signature.decide(chances), data.class_names
        )
        figures[f"{split}_roc"] = plots.roc_curves(data.y, chances, data.class_names)
        figures[f"{split}_precision_recall"] = plots.precision_recall_curves(
            data.y, chances, data.class_names
        )
        figures[f"{split}_calibration"] = plots.calibration_curve(data.y, chances)
    return figures
