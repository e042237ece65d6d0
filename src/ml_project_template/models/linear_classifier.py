"""Multinomial logistic regression: the baseline that other classifiers have to beat."""

from __future__ import annotations

import contextlib
import importlib
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import ArtifactError, DataError
from ml_project_template.models._linear import LinearMap, standardize
from ml_project_template.models.base import BaseModel
from ml_project_template.models.registry import register
from ml_project_template.training.metrics import (
    classification_metrics,
    resolve_class_weight,
    softmax,
)
from ml_project_template.training.reporting import StopTraining

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

    from ml_project_template.models._onnx import ScoreGraph

__all__ = ["LinearClassifier"]

_logger = logging.getLogger(__name__)

_MAX_ITER = 2_000
_TOL = 1e-6  # of the largest part of the gradient


@register
class LinearClassifier(BaseModel):
    """Multinomial logistic regression (Cox, 1958) with an L2 penalty, fitted by scikit-learn.

    It minimises the sum of the rows' cross entropies plus ``l2_regularization / 2`` times the
    squared coefficients of the standardised features: the units of the features, and whether the
    preprocessing has scaled them, make no difference. The intercepts are not penalised.

    Args:
        l2_regularization: The weight of the penalty: the larger, the smaller the coefficients.

    Attributes:
        map_: The fitted coefficients, for features as they come.
    """

    seed_matters: ClassVar[bool] = False

    def __init__(self, l2_regularization: Annotated[float, Field(gt=0)] = 1.0) -> None:
        super().__init__()
        self.l2_regularization = l2_regularization
        self.map_: LinearMap | None = None

    @classmethod
    def warm_up(cls) -> None:
        """Import scikit-learn's linear models, and what writes the weights."""
        importlib.import_module("sklearn.linear_model")
        super().warm_up()

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

        num_classes = len(train_data.class_names)
        counts = np.bincount(train_data.y, minlength=num_classes)
        if (counts == 0).any():
            missing = train_data.class_names[int(counts.argmin())]
            raise DataError(f"The class '{missing}' has no training row.")
        for data in (train_data, val_data):
            if data is not None:
                self._require_finite(data.X, data.feature_names)
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
                sample_weight=None if weights is None else weights[train_data.y],
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
        losses = {
            name: classification_metrics(data.y, softmax(self.map_(data.X)), class_weight=weights)[
                "loss"
            ]
            for name, data in (("train_loss", train_data), ("val_loss", val_data))
            if data is not None
        }
        # One who wants it to end is too late: there is one step.
        with contextlib.suppress(StopTraining):
            self.report(1, losses, total=1)

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
        features = self._features(X)
        self._require_finite(features, self._column_names())
        assert self.map_ is not None
        return self.map_(features)

    def feature_importances(self) -> NDArray[np.float64] | None:
        """Return the absolute coefficients of the standardised features, see `LinearMap`.

        Returns:
            Shape ``(n_features,)``; None where all coefficients are zero.
        """
        self._check_fitted()
        assert self.map_ is not None
        return self.map_.importances()

    @classmethod
    def accepts_missing(cls, params: Mapping[str, Any]) -> bool:  # noqa: ARG003
        """A sum with a gap in it is none."""
        return False

    @classmethod
    def score_graph(
        cls,
        params: Mapping[str, Any],  # noqa: ARG003
        tensors: Mapping[str, NDArray[Any]],
        n_features: int,
        num_classes: int,
    ) -> ScoreGraph:
        """Make an ONNX graph of the sums; see `BaseModel.score_graph`."""
        return LinearMap.from_tensors(tensors, num_classes, n_features).graph()

    def _save_weights(self, directory: Path) -> None:
        assert self.map_ is not None
        self.map_.save(directory)

    def _load_weights(self, directory: Path) -> None:
        if self.signature is None:
            raise ArtifactError("signature.json: it is needed to check the weights.")
        encoder = self._encoder()
        self.map_ = LinearMap.from_tensors(
            artifacts.load_tensors(directory / artifacts.WEIGHTS_SAFETENSORS),
            len(self.signature.class_names),
            self._check_fitted() if encoder is None else encoder.width,
        )
