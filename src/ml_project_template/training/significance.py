"""Whether two models differ on the same rows, or by chance alone; on numpy arrays.

Both models answer the same rows, so everything here works on pairs: what one row is to the one
model and to the other. A split that happens to be easy is easy for both, and counts for neither.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field

from ml_project_template.errors import DataError

__all__ = ["McNemar", "PairedDifference", "mcnemar_test", "paired_difference"]

_DRAWN_AT_ONCE = 2**22


@dataclass(frozen=True, slots=True)
class McNemar:
    """What McNemar's exact test says of two classifiers.

    Attributes:
        only_first: How many rows the first one alone has right.
        only_second: How many rows the second one alone has right.
        p_value: How likely counts at least so unequal are, were both right equally often.
    """

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """The mean difference between two models, with a bootstrap interval.

    Attributes:
        value: The mean of the first less that of the second.
        low: Where the interval begins.
        high: Where it ends.
    """

    value: float
    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether no difference at all is within the interval."""
        return self.low <= 0.0 <= self.high


def mcnemar_test(first: ArrayLike, second: ArrayLike) -> McNemar:
    """Test whether two classifiers are right equally often.

    Rows that both have right, or both have wrong, say nothing of it. Of the others as many should
    be right by either one: their number follows a binomial distribution with probability 1/2, which
    is taken as it is, two-sided, not by its chi-squared approximation.

    McNemar (1947), "Note on the sampling error of the difference between correlated proportions or
    percentages", Psychometrika 12. Dietterich (1998), "Approximate statistical tests for comparing
    supervised classification learning algorithms", Neural Computation 10, recommends it for models
    that were trained once.

    Args:
        first: Which rows the first one has right, of shape ``(n_samples,)``.
        second: The same of the second one.

    Raises:
        DataError: The rows are not paired.
    """
    a, b = (np.asarray(side, dtype=np.bool_) for side in (first, second))
    _check_paired(a, b)
    only_first, only_second = int((a & ~b).sum()), int((b & ~a).sum())
    p_value = _two_sided(only_first, only_second)
    return McNemar(only_first, only_second, p_value)


def paired_difference(
    first: ArrayLike,
    second: ArrayLike,
    *,
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95,
    resamples: Annotated[int, Field(ge=100)] = 10_000,
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0,
) -> PairedDifference:
    """Give the mean difference between two models, and where it might lie on other rows.

    Whatever is a mean over rows can be compared: correct or not, log loss, squared error. The rows
    are drawn again with replacement, each with what it is to both models, and the interval holds
    the middle part of the means (the percentile method: Efron (1979), "Bootstrap methods: another
    look at the jackknife", Annals of Statistics 7; Efron and Tibshirani (1993), "An Introduction to
    the Bootstrap", chapter 13). It speaks of other rows, not of another training.

    Args:
        first: What each row is to the first model, such as its loss, of shape ``(n_samples,)``.
        second: The same of the second model.
        confidence: The part of the means that the interval holds, in (0, 1).
        resamples: How often the rows are drawn again.
        seed: Of the draws: the same rows give the same interval.

    Raises:
        DataError: The rows are not paired, too few, or a value is no finite number.
    """
    a, b = (np.asarray(side, dtype=np.float64) for side in (first, second))
    _check_paired(a, b)
    if len(a) < 2:
        raise DataError(f"At least 2 rows are needed to compare two models, there are {len(a)}.")
    differences = a - b
    if not np.isfinite(differences).all():
        row = int(np.flatnonzero(~np.isfinite(differences))[0])
        raise DataError(f"Row {row + 1} can't be compared: a model's value of it is not finite.")
    means = _bootstrap_means(differences, resamples, np.random.default_rng(seed))
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return PairedDifference(float(differences.mean()), float(low), float(high))


def _bootstrap_means(
    values: NDArray[np.float64], resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Draw the rows again and again, in blocks that fit into memory; the mean of each draw."""
    means = np.empty(resamples)
    # Of many rows one draw is a block.
    block = max(1, _DRAWN_AT_ONCE // len(values))
    for start in range(0, resamples, block):
        shape = (min(block, resamples - start), len(values))
        drawn = rng.integers(0, len(values), size=shape, dtype=np.uint32)
        means[start : start + block] = values[drawn].mean(axis=1)
    return means


def _two_sided(heads: int, tails: int) -> float:
    """How likely a fair coin falls at least so unevenly."""
    tosses, fewer = heads + tails, min(heads, tails)
    # The logarithm of each term of the lower tail out of that before it: no term overflows.
    counts = np.arange(1, fewer + 1)
    ratios = np.log((tosses - counts + 1) / counts)
    logs = -tosses * math.log(2) + np.concatenate([[0.0], np.cumsum(ratios)])
    return min(1.0, 2 * float(np.exp(logs).sum()))


def _check_paired(first: NDArray[np.generic], second: NDArray[np.generic]) -> None:
    if first.ndim != 1 or first.shape != second.shape:
        raise DataError(
            f"Two models are compared row by row: got shapes {first.shape} and {second.shape}."
        )
