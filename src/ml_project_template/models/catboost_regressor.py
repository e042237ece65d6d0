"""Boosted trees for regression, by CatBoost."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from ml_project_template.data.base import BaseDataset
from ml_project_template.data.signature import Task
from ml_project_template.models._catboost import CatBoost
from ml_project_template.models._targets import require_range
from ml_project_template.models.base import SaveModel
from ml_project_template.models.registry import register

__all__ = ["CatboostRegressor"]


@register
class CatboostRegressor(CatBoost):
    """Boosted trees that predict a number, see `Boosting`."""

    task: ClassVar[Task] = "regression"

    def _fit(  # type: ignore[override]
        self,
        train_data: BaseDataset,
        val_data: BaseDataset | None = None,
        *,
        patience: Annotated[int, Field(gt=0)] | None = 20,
        tol: Annotated[float, Field(ge=0)] = 1e-7,
        class_weight: None = None,  # noqa: ARG002 - the settings are those of both tasks
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
            class_weight: None: there are no classes.
            save_model: Keep the trees up to the stage of the lowest validation loss, or all.
            seed: Of the drawing of rows and features.

        Raises:
            DataError: Numbers that the loss is not for.
        """
        require_range(self._loss(), train_data, val_data)
        self._grow(
            train_data,
            val_data,
            None,
            patience=patience,
            tol=tol,
            save_model=save_model,
            seed=seed,
        )
