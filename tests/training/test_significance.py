"""Paired tests, against published figures and SciPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from ml_project_template.errors import DataError
from ml_project_template.training.significance import (
    PairedDifference,
    mcnemar_test,
    paired_difference,
)


def _pairs(both: int, first: int, second: int, neither: int) -> tuple[Any, Any]:
    counts = [both, first, second, neither]
    return (
        np.repeat([True, True, False, False], counts),
        np.repeat([True, False, True, False], counts),
    )


@pytest.mark.parametrize(
    ("only_first", "only_second", "p_value"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        # By hand: twice the chance of at most one head in ten tosses, 2 * (1 + 10) / 2**10.
        (1, 9, 22 / 1024),
        (9, 0, 2 / 512),
        # Approval of a prime minister in two surveys (Agresti, Categorical Data Analysis, table
        # 10.1): 794, 150, 86 and 570 people; the exact test is that of the binomial.
        (150, 86, stats.binomtest(86, 236).pvalue),
        # Far more than a factorial of a float takes.
        (499_000, 501_000, stats.binomtest(499_000, 1_000_000).pvalue),
    ],
)
def test_mcnemar_is_exact(only_first: int, only_second: int, p_value: float) -> None:
    found = mcnemar_test(*_pairs(794, only_first, only_second, 570))
    assert (found.only_first, found.only_second) == (only_first, only_second)
    assert found.p_value == pytest.approx(p_value, rel=1e-6)


def test_an_interval_is_that_of_scipy_and_the_same_each_time() -> None:
    rng = np.random.default_rng(0)
    first = rng.exponential(size=200)
    second = first + rng.normal(0.1, 0.5, size=200)
    found = paired_difference(first, second)
    theirs = stats.bootstrap(
        (first - second,), np.mean, n_resamples=10_000, method="percentile", rng=rng
    ).confidence_interval
    assert found.value == pytest.approx(first.mean() - second.mean())
    # Two drawings of 10,000 differ in the third digit.
    assert (found.low, found.high) == pytest.approx(tuple(theirs), abs=0.01)
    assert paired_difference(first, second) == found
    assert paired_difference(first, second, seed=1) != found
    narrow = paired_difference(first, second, confidence=0.5)
    assert found.low < narrow.low < narrow.value < narrow.high < found.high


def test_pairs_tell_apart_what_two_separate_samples_would_not() -> None:
    rng = np.random.default_rng(0)
    hardness = rng.exponential(10, size=100)
    found = paired_difference(hardness + rng.normal(0.5, 0.1, size=100), hardness)
    assert not found.holds_zero
    assert stats.ttest_ind(hardness + 0.5, hardness).pvalue > 0.5


def test_a_model_does_not_differ_from_itself() -> None:
    losses = np.random.default_rng(0).exponential(size=50)
    found = paired_difference(losses, losses)
    assert (found, found.holds_zero) == (PairedDifference(0.0, 0.0, 0.0), True)


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1.0, 2.0], [1.0], r"got shapes \(2,\) and \(1,\)"),
        ([[1.0, 2.0]], [[1.0, 2.0]], r"got shapes \(1, 2\) and \(1, 2\)"),
        ([1.0], [2.0], "At least 2 rows are needed to compare two models, there are 1"),
        ([1.0, np.nan], [1.0, 2.0], "Row 2 can't be compared"),
    ],
)
def test_what_is_not_paired_is_refused(first: Any, second: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        paired_difference(first, second)
