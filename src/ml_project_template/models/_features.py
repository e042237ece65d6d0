"""What models that can't take any number have done to their features."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["without_infinite"]

_BLOCK_ROWS = 4096  # so many stay in the processor's cache


def without_infinite(X: NDArray[np.float32]) -> NDArray[np.float32]:
    """Put the largest number in the place of an infinite one; a copy is made only if there is one.

    Args:
        X: Features of shape ``(n_samples, n_features)``.
    """
    blocks = (X[start : start + _BLOCK_ROWS] for start in range(0, len(X), _BLOCK_ROWS))
    return np.nan_to_num(X, nan=np.nan) if any(np.isinf(block).any() for block in blocks) else X
