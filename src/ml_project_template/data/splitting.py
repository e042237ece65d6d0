"""Which rows go to which part of a data set."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

import numpy as np

from ml_project_template.errors import ConfigError, DataError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["num_rows_of", "split_indices"]

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
    if isinstance(random_state, bool) or not 0 <= random_state < 2**32:
        raise ConfigError(f"random_state must be a whole number in [0, 2**32), got {random_state}.")
    from sklearn.model_selection import train_test_split

    num_rows = len(codes)
    counts = np.bincount(codes, minlength=len(class_names))
    rare = np.flatnonzero(counts == 1)
    kept = np.flatnonzero(np.isin(codes, rare))
    rest = np.flatnonzero(~np.isin(codes, rare))
    common = int(np.count_nonzero(counts > 1))
    stratify: NDArray[np.int64] | None = codes[rest]
    if len(rare):
        logger.warning(
            "%s: the only row of %s is kept for training.",
            name,
            _listed([class_names[int(code)] for code in rare]),
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
    if num_test == len(rest):
        test = rest
    else:
        _, test = train_test_split(
            rest, test_size=num_test, random_state=random_state, stratify=stratify
        )
    chosen = np.zeros(num_rows, dtype=bool)
    chosen[test] = True
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def num_rows_of(size: float, num_rows: int) -> int:
    """Count the rows that a fraction of a table stands for, rounded up.

    Args:
        size: A fraction in (0, 1).
        num_rows: All rows.
    """
    # 0.07 * 100 is 7.000000000000001: that is seven rows, not eight.
    return math.ceil(size * num_rows - 1e-9)


def _listed(labels: Sequence[str], limit: int = 5) -> str:
    """Name the first classes and count the rest."""
    text = ", ".join(f"'{label}'" for label in labels[:limit])
    more = len(labels) - limit
    return f"class {text}" if more <= 0 else f"class {text} and {more} more"
