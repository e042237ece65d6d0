"""How boosted trees are fitted, for classes and for numbers, whoever grows them."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from ml_project_template.data.base import BaseDataset
from ml_project_template.data.signature import Task
from ml_project_template.models._targets import require_all_classes, require_range
from ml_project_template.models.base import BaseModel, SaveModel
from ml_project_template.training.metrics import resolve_class_weight

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Boosted", "BoostedClasses", "BoostedNumbers"]


class Boosted(BaseModel):
    """Boosted trees of any library."""

    @abstractmethod
    def _grow(
        self,
        train: BaseDataset,
        val: BaseDataset | None,
        weights: NDArray[np.float64] | None,
        *,
        patience: int | None,
        tol: float,
        save_model: SaveModel,
        seed: int | None,
    ) -> None:
        """Grow the trees, with a weight for each class; for the rest see ``_fit``."""

    @abstractmethod
    def _loss(self) -> str:
        """Name the loss that the trees minimise."""


class BoostedClasses(Boosted):
    """The fit of a classification. It stands before the booster among the bases of a model."""

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
            DataError: A class without a training row, or missing values that the booster can't
                take.
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


class BoostedNumbers(Boosted):
    """The fit of a regression. It stands before the booster among the bases of a model."""

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
            DataError: Numbers that the loss is not for, or missing values that the booster can't
                take.
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
