"""Multinomial logistic regression: the baseline that other classifiers have to beat."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from ml_project_template.data.base import BaseDataset
from ml_project_template.models._linear import LinearMap, LinearModel, standardize
from ml_project_template.models._targets import require_all_classes, row_weights
from ml_project_template.models.registry import register
from ml_project_template.training.metrics import (
    classification_metrics,
    resolve_class_weight,
    softmax,
)

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

__all__ = ["LinearClassifier"]

_logger = logging.getLogger(__name__)

_MAX_ITER = 2_000
_TOL = 1e-6  # of the largest part of the gradient


@register
class LinearClassifier(LinearModel):
    """Multinomial logistic regression (Cox, 1958) with an L2 penalty, fitted by scikit-learn.

    It minimises the sum of the rows' cross entropies plus ``l2_regularization / 2`` times the
    squared coefficients of the standardised features: the units of the features, and whether the
    preprocessing has scaled them, make no difference. The intercepts are not penalised.

    Args:
        l2_regularization: The weight of the penalty: the larger, the smaller the coefficients.
    """

    def _fit(  # type: ignore[override]
        self,
        train_data: BaseDataset,
        val_data: BaseDataset | None = None,
        *,
        class_weight: Literal["balanced"] | list[Annotated[float, Field(gt=0)]] | None = None,
    ) -> None:
        """Find the coefficients, by L-BFGS.

        Args:
            train_data: Training rows, prepared or raw.
            val_data: Validation rows; only judged.
            class_weight: Weights of the classes in the loss: ``balanced``, one number for each
                class, or None.

        Raises:
            DataError: A class without a training row, or missing values.
        """
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from threadpoolctl import threadpool_limits

        require_all_classes(train_data)
        self._require_all_finite(train_data, val_data)
        num_classes = len(train_data.class_names)
        weights = resolve_class_weight(class_weight, train_data.y, num_classes)
        features, mean, scale = standardize(train_data.X)
        estimator = LogisticRegression(C=1 / self.l2_regularization, max_iter=_MAX_ITER, tol=_TOL)
        # Products of a matrix with few columns: on a busy machine several threads take many times
        # as long as one.
        with threadpool_limits(1), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", ConvergenceWarning)
            estimator.fit(
                features,
                train_data.y,
                sample_weight=row_weights(weights, train_data.y),
            )
        if caught:
            _logger.warning(
                "The coefficients still change after %d iterations: a larger "
                "model.l2_regularization makes them settle.",
                _MAX_ITER,
            )
        coefficients, intercept = estimator.coef_, estimator.intercept_
        if num_classes == 2:
            # The log odds s as (-s/2, s/2): their softmax are the probabilities.
            halves = np.array([-0.5, 0.5])
            coefficients, intercept = halves[:, None] * coefficients, halves * intercept
        self.map_ = LinearMap.of_standardized(coefficients, intercept, mean, scale)
        self._report_once(
            train_data,
            val_data,
            lambda data, outputs: classification_metrics(
                data.y, softmax(outputs), class_weight=weights
            )["loss"],
        )

    def predict(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float64]:
        """Predict raw scores.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``; a DataFrame is read by the
                names of its columns.

        Returns:
            Scores of shape ``(n_samples, n_classes)``, float64. For two classes the log odds ``s``
            are split into ``(-s/2, s/2)``, so that their softmax are the probabilities.

        Raises:
            ModelError: The model is not fitted.
            DataError: Another number of features, or values that are no finite numbers.
        """
        return self._outputs(X)
