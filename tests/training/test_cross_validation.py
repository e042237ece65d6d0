"""The mean over the folds and how far they differ."""

from __future__ import annotations

import statistics

import pytest

from ml_project_template.errors import ConfigError
from ml_project_template.training.cross_validation import summarize_folds


def test_validation_metrics_are_averaged_with_their_sample_standard_deviation() -> None:
    losses, accuracies = [0.5, 0.25, 0.75], [0.9, 0.8, 0.95]
    summary = summarize_folds(
        [
            {"train_loss": 0.1, "val_loss": loss, "val_accuracy": accuracy}
            for loss, accuracy in zip(losses, accuracies, strict=True)
        ]
    )
    assert summary == pytest.approx(
        {
            "cv_loss": 0.5,
            "cv_loss_std": 0.25,
            "cv_accuracy": statistics.mean(accuracies),
            "cv_accuracy_std": statistics.stdev(accuracies),
        }
    )


def test_values_are_plain_floats() -> None:
    summary = summarize_folds([{"val_loss": 1}, {"val_loss": 2}])
    assert [type(value) for value in summary.values()] == [float, float]


@pytest.mark.parametrize("lacking", [0, 1, 2])
def test_a_metric_that_some_fold_lacks_is_left_out(lacking: int) -> None:
    metrics = [{"val_loss": 1.0, "val_roc_auc": 0.9} for _ in range(3)]
    del metrics[lacking]["val_roc_auc"]
    assert summarize_folds(metrics) == {"cv_loss": 1.0, "cv_loss_std": 0.0}


def test_only_the_beginning_of_a_name_is_replaced() -> None:
    metrics = {"val_val_loss": 1.0, "interval_loss": 2.0, "best_val_loss": 3.0, "epochs": 4.0}
    assert summarize_folds([metrics, metrics]) == {"cv_val_loss": 1.0, "cv_val_loss_std": 0.0}


@pytest.mark.parametrize("folds", [0, 1])
def test_fewer_than_two_folds_are_told(folds: int) -> None:
    with pytest.raises(ConfigError, match=f"metrics of at least 2 folds, got {folds}"):
        summarize_folds([{"val_loss": 1.0}] * folds)
