"""Which rows go to which part of a data set."""

from __future__ import annotations

import logging
import math
import warnings
from typing import TYPE_CHECKING

import numpy as np

from ml_project_template.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["check_seed", "fold_indices", "listed_classes", "num_rows_of", "split_indices"]

logger = logging.getLogger(__name__)


def split_indices(
    codes: NDArray[np.int64],
    class_names: Sequence[str],
    num_test: int,
    random_state: int,
    name: str,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Draw the rows of a test part, stratified by class as far as the rows allow.

    Args:
        codes: The class of each row, of shape ``(n_samples,)``.
        class_names: The names of the classes, for messages.
        num_test: How many rows the test part should have.
        random_state: The seed of the draw.
        name: The name of the data set, for messages.

    Returns:
        The sorted positions of the training rows and of the test rows.

    Raises:
        ConfigError: The seed is out of range.
        DataError: A part would be empty.
    """
    check_seed(random_state)
    num_rows = len(codes)
    counts = np.bincount(codes, minlength=len(class_names))
    rare = np.flatnonzero(counts == 1)
    is_rare = (counts == 1)[codes]
    kept, rest = np.flatnonzero(is_rare), np.flatnonzero(~is_rare)
    common = int(np.count_nonzero(counts > 1))
    stratify: NDArray[np.int64] | None = codes[rest]
    if len(rare):
        logger.warning(
            "%s: the only row of %s is kept for training.",
            name,
            listed_classes([class_names[int(code)] for code in rare]),
        )
    if num_test < common or len(rest) - num_test < common:
        # Too few rows to give each class its share on both sides: keep one row of each class for
        # training, so that none is lost there, and draw the test rows from the others.
        generator = np.random.default_rng(random_state)
        shuffled = generator.permutation(rest)
        _, first = np.unique(codes[shuffled], return_index=True)
        kept = np.concatenate([kept, shuffled[first]])
        rest = np.setdiff1d(rest, kept)
        stratify = None
        if len(rest):
            logger.warning(
                "%s: %d rows are too few to hold the proportions of %d classes in both parts; "
                "each class keeps a row for training.",
                name,
                num_rows,
                common,
            )
    # A part of what is left may have to stay as well, or there would be nothing to draw from.
    available = len(rest) - (0 if len(kept) else 1)
    num_test = min(num_test, available)
    if num_test < 1:
        raise DataError(
            f"{name}: {num_rows} rows of {common + len(rare)} classes are too few to split: "
            "training keeps a row of each class, and no row is left for the other part."
        )
    test = (
        rest if num_test == len(rest) else rest[_drawn(len(rest), num_test, random_state, stratify)]
    )
    chosen = np.zeros(num_rows, dtype=bool)
    chosen[test] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _drawn(
    num_rows: int, num_test: int, random_state: int, stratify: NDArray[np.int64] | None
) -> NDArray[np.int64]:
    """Draw the places that scikit-learn's ``train_test_split`` draws for the test, in any order.

    It deals out the rows as Python's numbers, and shuffles both parts once more: ten times the
    work, and for millions of rows hundreds of megabytes, for the same rows.
    """
    generator = np.random.RandomState(random_state)
    if stratify is None:
        return generator.permutation(num_rows)[:num_test]
    counts = np.bincount(stratify)
    # Of few bits, so that they are sorted by radix.
    order = np.argsort(stratify.astype(np.min_scalar_type(len(counts))), kind="stable")
    counts = counts[counts > 0]
    for_train = _shares(counts, num_rows - num_test, generator)
    for_test = _shares(counts - for_train, num_test, generator)
    places = [
        rows[generator.permutation(len(rows))[skipped : skipped + number]]
        for rows, skipped, number in zip(
            np.split(order, np.cumsum(counts)[:-1]), for_train, for_test, strict=True
        )
    ]
    return np.concatenate(places)


def _shares(
    counts: NDArray[np.int64], num_drawn: int, generator: np.random.RandomState
) -> NDArray[np.int64]:
    """Say how many rows of each class are drawn: the most probable numbers, ties at random."""
    exact = counts / counts.sum() * num_drawn
    shares: NDArray[np.int64] = np.floor(exact).astype(np.int64)
    lacking = int(num_drawn - shares.sum())
    remainder = exact - shares
    for value in np.sort(np.unique(remainder))[::-1]:
        if lacking == 0:
            break
        tied = np.flatnonzero(remainder == value)
        number = min(len(tied), lacking)
        shares[generator.choice(tied, size=number, replace=False)] += 1
        lacking -= number
    return shares


def fold_indices(
    codes: NDArray[np.int64],
    class_names: Sequence[str],
    num_folds: int,
    random_state: int,
    name: str,
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Cut rows into folds, with the classes in the same proportions, for k-fold cross-validation.

    The folds are those of scikit-learn's ``StratifiedKFold``. It deals the rows out class by
    class, one to each fold in turn, so that at least two folds validate on a class of two rows or
    more: such a class is in every training part, however many folds there are.

    Args:
        codes: The class of each row, of shape ``(n_samples,)``.
        class_names: The names of the classes, for messages.
        num_folds: How many folds to make; the setting is called ``cv``.
        random_state: The seed of the draw; the same seed draws the same folds.
        name: The name of the data set, for messages.

    Returns:
        For each fold, the sorted positions of its training rows and of its validation rows. Each
        row is in the validation part of exactly one fold.

    Raises:
        ConfigError: ``num_folds`` is no whole number of at least 2, or the seed is out of range.
        DataError: A class has one row only, or the largest class has fewer rows than folds.
    """
    # True counts as 1, so that it is refused as well.
    if not isinstance(num_folds, int) or num_folds < 2:
        raise ConfigError(f"cv must be a whole number of at least 2, got {num_folds!r}.")
    check_seed(random_state)
    from sklearn.model_selection import StratifiedKFold

    counts = np.bincount(codes, minlength=len(class_names))
    if len(class_names) == 1 and len(codes) < num_folds:
        raise DataError(f"{name}: {len(codes)} rows are too few for cv={num_folds}.")
    single = [class_names[int(code)] for code in np.flatnonzero(counts == 1)]
    if single:
        raise DataError(
            f"{name}: only one row of {listed_classes(single)} is left to cut into {num_folds} "
            "folds; each class needs at least two, or a fold would train without it."
        )
    largest = int(counts.max())
    if largest < num_folds:
        raise DataError(
            f"{name}: {len(codes)} rows are too few for cv={num_folds}: the largest class, "
            f"'{class_names[int(counts.argmax())]}', must have a row for each fold and has "
            f"{largest}; choose cv of at most {largest}."
        )
    rare = np.flatnonzero((counts > 0) & (counts < num_folds))
    if len(rare):
        logger.warning(
            "%s: fewer than %d rows of %s: some of the %d folds validate without it.",
            name,
            num_folds,
            listed_classes([class_names[int(code)] for code in rare]),
            num_folds,
        )
    splitter = StratifiedKFold(num_folds, shuffle=True, random_state=random_state)
    with warnings.catch_warnings():
        # It warns of what was just logged.
        warnings.filterwarnings("ignore", message="The least populated class", category=UserWarning)
        # It reads no more of the features than how many rows there are.
        return [
            (train.astype(np.int64), val.astype(np.int64))
            for train, val in splitter.split(codes, codes)
        ]


def num_rows_of(size: float, num_rows: int) -> int:
    """Count the rows that a fraction of a table stands for, rounded up.

    Args:
        size: A fraction in (0, 1).
        num_rows: All rows.
    """
    # 0.07 * 100 is 7.000000000000001: that is seven rows, not eight.
    return math.ceil(size * num_rows - 1e-9)


def check_seed(random_state: int) -> None:
    """Refuse a seed that is out of range.

    Args:
        random_state: A whole number in [0, 2**32).

    Raises:
        ConfigError: It is not.
    """
    if isinstance(random_state, bool) or not 0 <= random_state < 2**32:
        raise ConfigError(f"random_state must be a whole number in [0, 2**32), got {random_state}.")


def listed_classes(labels: Sequence[str], limit: int = 5) -> str:
    """Name the first classes and count the rest.

    Args:
        labels: Names of classes.
        limit: How many are named.
    """
    text = ", ".join(f"'{label}'" for label in labels[:limit])
    more = len(labels) - limit
    return f"class {text}" if more <= 0 else f"class {text} and {more} more"
