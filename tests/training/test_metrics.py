"""Metrics, against scikit-learn's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as theirs
from sklearn.utils.class_weight import compute_class_weight

from ml_project_template.errors import ConfigError
from ml_project_template.training.metrics import (
    METRICS,
    better_direction,
    classification_metrics,
    confusion_counts,
    regression_metrics,
    resolve_class_weight,
    roc_curve,
    softmax,
)


def _case(classes: int, seed: int, *, ties: bool = False) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, 200)
    y[:classes] = np.arange(classes)
    scores = rng.normal(size=(200, classes))
    scores[np.arange(200), y] += 1
    return y, softmax(np.round(scores) if ties else scores)


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("ties", [False, True])
def test_they_are_those_of_scikit_learn(classes: int, ties: bool) -> None:
    y, chances = _case(classes, seed=classes, ties=ties)
    weights = np.linspace(0.5, 2, classes)
    found = classification_metrics(y, chances, class_weight=weights)
    scores = chances[:, 1] if classes == 2 else chances
    predicted = chances.argmax(axis=1)
    assert found == pytest.approx(
        {
            "loss": theirs.log_loss(y, chances, sample_weight=weights[y]),
            "log_loss": theirs.log_loss(y, chances),
            "accuracy": theirs.accuracy_score(y, predicted),
            "balanced_accuracy": theirs.balanced_accuracy_score(y, predicted),
            "average_precision": (
                theirs.average_precision_score(y, scores)
                if classes == 2
                else theirs.average_precision_score(np.eye(classes)[y], scores)
            ),
            "f1_macro": theirs.f1_score(y, predicted, average="macro"),
            "roc_auc": theirs.roc_auc_score(y, scores, multi_class="ovr"),
        }
    )


def test_without_weights_the_loss_is_the_log_loss() -> None:
    found = classification_metrics(*_case(3, seed=0))
    assert found["loss"] == found["log_loss"]


def test_the_area_is_left_out_where_a_class_has_no_row() -> None:
    y, chances = _case(3, seed=0)
    kept = y != 2
    found = classification_metrics(y[kept], chances[kept])
    assert "roc_auc" not in found
    predicted = chances[kept].argmax(axis=1)
    assert found["f1_macro"] == pytest.approx(theirs.f1_score(y[kept], predicted, average="macro"))


def test_a_sure_error_costs_much_but_not_infinitely_much() -> None:
    found = classification_metrics([0, 1], [[0.0, 1.0], [0.0, 1.0]])
    assert 15 < found["log_loss"] < 20


def test_softmax_takes_scores_of_any_size() -> None:
    chances = softmax(np.array([[1e4, 0, -1e4], [1, 1, 1]], dtype=np.float32))
    np.testing.assert_allclose(chances, np.array([[1, 0, 0], [1 / 3] * 3]))
    assert chances.dtype == np.float64


@pytest.mark.parametrize("score", [np.inf, np.nan])
def test_softmax_of_what_is_no_score_is_no_number(score: float) -> None:
    chances = softmax(np.array([[score, 0.0], [1.0, 1.0]]))
    np.testing.assert_array_equal(chances, [[np.nan, np.nan], [0.5, 0.5]])


def test_confusion_counts_are_those_of_scikit_learn() -> None:
    y, chances = _case(4, seed=1)
    predicted = chances.argmax(axis=1)
    np.testing.assert_array_equal(
        confusion_counts(y, predicted, 4), theirs.confusion_matrix(y, predicted)
    )


@pytest.mark.parametrize("ties", [False, True])
def test_the_roc_curve_is_that_of_scikit_learn(ties: bool) -> None:
    y, chances = _case(2, seed=3, ties=ties)
    false_rate, true_rate = roc_curve(y == 1, chances[:, 1])
    expected = theirs.roc_curve(y, chances[:, 1], drop_intermediate=False)
    np.testing.assert_allclose(false_rate, expected[0])
    np.testing.assert_allclose(true_rate, expected[1])


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    y = np.array([0] * 8 + [1] * 3 + [2])
    found = resolve_class_weight("balanced", y, 3)
    assert found is not None
    np.testing.assert_allclose(found, compute_class_weight("balanced", classes=np.arange(3), y=y))


def test_a_class_without_a_row_weighs_one() -> None:
    found = resolve_class_weight("balanced", np.array([0, 0, 2, 2]), 3)
    assert found is not None
    assert found.tolist() == [4 / 6, 1.0, 4 / 6]


def test_given_weights_are_kept_and_none_stays_none() -> None:
    y = np.array([0, 1])
    assert resolve_class_weight(None, y, 2) is None
    found = resolve_class_weight([1.0, 3], y, 2)
    assert found is not None
    assert found.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "has 1 weights for 2 classes"),
        ([1.0, 0.0], r"positive numbers, got \[1.0, 0.0\]"),
        ([1.0, float("nan")], "positive numbers"),
        ("equal", "must be balanced, null or a list of 2 numbers, got 'equal'"),
        (3.0, "must be balanced, null or a list of 2 numbers, got 3.0"),
    ],
)
def test_wrong_weights_are_told(weights: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve_class_weight(weights, np.array([0, 1]), 2)


def test_the_direction_of_every_metric_is_the_one_in_which_predictions_get_better() -> None:
    y, chances = _case(3, seed=0)
    right = np.eye(3)[y]
    worse = classification_metrics(y, chances)
    better = classification_metrics(y, 0.5 * chances + 0.5 * right)
    numbers = np.arange(9.0)
    worse |= {f"regression {k}": v for k, v in regression_metrics(numbers, numbers**1.2).items()}
    better |= {f"regression {k}": v for k, v in regression_metrics(numbers, numbers**1.1).items()}
    assert {name.removeprefix("regression ") for name in worse} == set(METRICS)
    for name, value in better.items():
        direction = "minimize" if value < worse[name] else "maximize"
        for prefix in ("", "train_", "val_", "test_", "cv_"):
            assert better_direction(f"{prefix}{name}") == direction


@pytest.mark.parametrize(
    "name", ["val_f1", "cv_loss_std", "cv_accuracy_std", "epochs", "loss_ratio", "seconds", ""]
)
def test_a_name_that_is_not_ours_has_no_direction(name: str) -> None:
    assert better_direction(name) is None
