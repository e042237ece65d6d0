"""A random forest for classification, by scikit-learn."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ml_project_template.data.base import BaseDataset
from ml_project_template.models._forest import RandomForest
from ml_project_template.models._targets import require_all_classes
from ml_project_template.models.registry import register
from ml_project_template.training.metrics import resolve_class_weight

__all__ = ["RandomForestClassifier"]


@register
class RandomForestClassifier(RandomForest):
    """A random forest that predicts classes, see `RandomForest`."""

    def _fit(  # type: ignore[override]
        self,
        train_data: BaseDataset,
        val_data: BaseDataset | None = None,
        *,
        class_weight: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = None,
        seed: int | None = None,
    ) -> None:
        """Grow the trees.

        Args:
            train_data: Training rows, prepared or raw.
            val_data: Validation rows, to watch; nothing is chosen by them.
            class_weight: Weights of the classes: ``balanced``, one number for each class, or
                None.
            seed: Of the drawing of rows and features.

        Raises:
            DataError: A class without a training row.
        """
        require_all_classes(train_data)
        num_classes = len(train_data.class_names)
        weights = resolve_class_weight(class_weight, train_data.y, num_classes)
        self._grow(train_data, val_data, weights, seed)
