"""A random forest for regression, by scikit-learn."""

from __future__ import annotations

from typing import ClassVar

from ml_project_template.data.base import BaseDataset
from ml_project_template.data.signature import Task
from ml_project_template.models._forest import RandomForest
from ml_project_template.models.registry import register

__all__ = ["RandomForestRegressor"]


@register
class RandomForestRegressor(RandomForest):
    """A random forest that predicts a number, see `RandomForest`."""

    task: ClassVar[Task] = "regression"

    def _fit(  # type: ignore[override]
        self,
        train_data: BaseDataset,
        val_data: BaseDataset | None = None,
        *,
        class_weight: None = None,  # noqa: ARG002 - the settings are those of both tasks
        seed: int | None = None,
    ) -> None:
        """Grow the trees.

        Args:
            train_data: Training rows, prepared or raw.
            val_data: Validation rows, to watch; nothing is chosen by them.
            class_weight: None: there are no classes.
            seed: Of the drawing of rows and features.
        """
        self._grow(train_data, val_data, None, seed)
