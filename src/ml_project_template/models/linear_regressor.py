"""Ridge regression: the baseline that other regressors have to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from ml_project_template.data.base import BaseDataset
from ml_project_template.models._linear import LinearMap, LinearModel, standardize
from ml_project_template.models.registry import register
from ml_project_template.training.metrics import regression_metrics

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

    from ml_project_template.data.signature import Task

__all__ = ["LinearRegressor"]


@register
class LinearRegressor(LinearModel):
    """Ridge regression (Hoerl and Kennard, 1970), fitted by scikit-learn.

    It minimises half the sum of the squared errors plus ``l2_regularization / 2`` times the squared
    coefficients of the standardised features: the units of the features, and whether the
    preprocessing has scaled them, make no difference. The intercept is not penalised.

    Args:
        l2_regularization: The weight of the penalty: the larger, the smaller the coefficients.
    """

    task: ClassVar[Task] = "regression"

    def _fit(  # type: ignore[override]
        self,
        train_data: BaseDataset,
        val_data: BaseDataset | None = None,
        *,
        class_weight: None = None,  # noqa: ARG002
    ) -> None:
        """Find the coefficients, in closed form.

        Args:
            train_data: Training rows, prepared or raw.
            val_data: Validation rows; only judged.
            class_weight: None: a regression has no classes, and shares the settings of the
                classifier.

        Raises:
            DataError: Missing values.
        """
        from sklearn.linear_model import Ridge

        self._require_all_finite(train_data, val_data)
        features, mean, scale = standardize(train_data.X)
        estimator = Ridge(alpha=self.l2_regularization).fit(features, train_data.y)
        self.map_ = LinearMap.of_standardized(
            estimator.coef_[None, :], np.array([estimator.intercept_]), mean, scale
        )
        self._report_once(
            train_data,
            val_data,
            lambda data, outputs: regression_metrics(data.y, outputs[:, 0])["loss"],
        )

    def predict(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float64]:
        """Predict numbers.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``; a DataFrame is read by the
                names of its columns.

        Returns:
            Numbers of shape ``(n_samples,)``, float64.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another number of features, or values that are no finite numbers.
        """
        return self._outputs(X)[:, 0]
