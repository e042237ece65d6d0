"""What a fit asks of its target, and the weights of the rows by it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import DataError

__all__ = ["require_all_classes", "require_range", "row_weights"]


def require_all_classes(data: BaseDataset) -> None:
    """See to it that each class has a training row.

    Args:
        data: The training rows.

    Raises:
        DataError: Names the first class without any.
    """
    counts = np.bincount(data.y, minlength=len(data.class_names))
    if (counts == 0).any():
        missing = data.class_names[int(counts.argmin())]
        raise DataError(f"The class '{missing}' has no training row.")


def require_range(loss: str, *datasets: BaseDataset | None) -> None:
    """See to it that the numbers of a target are some that a loss is for.

    Args:
        loss: ``gamma`` is for numbers above 0, ``poisson`` for numbers from 0 on; others take any.
        *datasets: The training rows, and the validation rows if there are.

    Raises:
        DataError: Names the lowest number.
    """
    for data in datasets:
        if data is None:
            continue
        lowest = float(data.y.min())
        if loss == "gamma" and lowest <= 0:
            raise DataError(f"model.loss={loss}: the target must be above 0, not {lowest:g}.")
        if loss == "poisson" and (lowest < 0 or not data.y.any()):
            raise DataError(
                f"model.loss={loss}: the target must be 0 or more, and not always 0; its lowest is "
                f"{lowest:g}."
            )


def row_weights(weights: NDArray[np.float64] | None, y: NDArray[Any]) -> NDArray[np.float64] | None:
    """Give each row the weight of its class.

    Args:
        weights: Of each class; None weighs nothing.
        y: The class of each row.
    """
    return None if weights is None else weights[y]
