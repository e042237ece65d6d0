"""Checks of a target before a fit."""

from __future__ import annotations

import numpy as np

from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import DataError

__all__ = ["require_all_classes", "require_range"]


def require_all_classes(data: BaseDataset) -> None:
    """See to it that each class has a training row.

    Args:
        data: The training rows.

    Raises:
        DataError: Names the first class without any.
    """
    counts = np.bincount(data.y, minlength=len(data.class_names))
    if (counts == 0).any():
        raise DataError(
            f"The class '{data.class_names[int(counts.argmin())]}' has no training row."
        )


def require_range(loss: str, *datasets: BaseDataset | None) -> None:
    """See to it that the numbers of a target are some that a loss is for.

    Args:
        loss: ``gamma`` is for numbers above 0, ``poisson`` for numbers from 0 on; others take any.
        *datasets: The training rows, and the validation rows if there are.

    Raises:
        DataError: Names the lowest number.
    """
    for data in datasets:
        lowest = 0.0 if data is None else float(data.y.min())
        if data is not None and loss == "gamma" and lowest <= 0:
            raise DataError(
                f"model.loss=gamma: the target must be above 0, its lowest is {lowest:g}."
            )
        if data is not None and loss == "poisson" and (lowest < 0 or not data.y.any()):
            raise DataError(
                f"model.loss=poisson: the target must not be below 0, nor 0 everywhere; its lowest "
                f"is {lowest:g}."
            )
