"""Boosted trees for classification, by LightGBM."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ml_project_template.data.base import BaseDataset
from ml_project_template.models._lightgbm import LightGBM
from ml_project_template.models._targets import require_all_classes
from ml_project_template.models.base import SaveModel
from ml_project_template.models.registry import register
from ml_project_template.training.metrics import resolve_class_weight

__all__ = ["LightgbmClassifier"]


@register
class LightgbmClassifier(LightGBM):
    """Boosted trees that minimise the cross entropy, see `Boosting`."""

    def _fit(  # type: ignore[override]
        self,
        train_data: BaseDataset,
        val_data: BaseDataset | None = None,
        *,
        patience: Annotated[int, Field(gt=0)] | None = 20,
        tol: Annotated[float, Field(ge=0)] = 1e-7,
        class_weight: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = None,
        save_model: SaveModel = "best",
        seed: int | None = None,
    ) -> None:
        """Grow the trees.

        Args:
            train_data: Training rows, prepared or raw.
            val_data: Validation rows.
            patience: Stages without a lower loss (of the validation rows, or of the training rows
                without them) after which the fit ends; None never ends it.
            tol: How much lower a loss must be to count.
            class_weight: Weights of the classes in the loss: ``balanced``, one number for each
                class, or None.
            save_model: Keep the trees up to the stage of the lowest validation loss, or all.
            seed: Of the drawing of rows and features.

        Raises:
            DataError: A class without a training row.
        """
        require_all_classes(train_data)
        self._grow(
            train_data,
            val_data,
            resolve_class_weight(class_weight, train_data.y, len(train_data.class_names)),
            patience=patience,
            tol=tol,
            save_model=save_model,
            seed=seed,
        )
