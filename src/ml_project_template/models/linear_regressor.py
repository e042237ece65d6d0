"""Ridge regression: the baseline that other regressors have to beat."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.models._linear import LinearMap, standardize
from ml_project_template.models.base import BaseModel
from ml_project_template.models.registry import register
from ml_project_template.training.metrics import regression_metrics
from ml_project_template.training.reporting import StopTraining

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

    from ml_project_template.data.signature import Task
    from ml_project_template.models._onnx import ScoreGraph

__all__ = ["LinearRegressor"]


@register
class LinearRegressor(BaseModel):
    """Ridge regression (Hoerl and Kennard, 1970), fitted by scikit-learn.

    It minimises half the sum of the squared errors plus ``l2_regularization / 2`` times the squared
    coefficients of the standardised features: the units of the features, and whether the
    preprocessing has scaled them, make no difference. The intercept is not penalised.

    Args:
        l2_regularization: The weight of the penalty: the larger, the smaller the coefficients.

    Attributes:
        map_: The fitted coefficients, for features as they come.
    """

    task: ClassVar[Task] = "regression"
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

        for data in (train_data, val_data):
            if data is not None:
                self._require_finite(data.X, data.feature_names)
        features, mean, scale = standardize(train_data.X)
        estimator = Ridge(alpha=self.l2_regularization).fit(features, train_data.y)
        self.map_ = LinearMap.of_standardized(
            estimator.coef_[None, :], np.array([estimator.intercept_]), mean, scale
        )
        losses = {
            name: regression_metrics(data.y, self.map_(data.X)[:, 0])["loss"]
            for name, data in (("train_loss", train_data), ("val_loss", val_data))
            if data is not None
        }
        # One who wants it to end is too late: there is one step.
        with contextlib.suppress(StopTraining):
            self.report(1, losses, total=1)

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
        features = self._features(X)
        self._require_finite(features, self._column_names())
        assert self.map_ is not None
        return self.map_(features)[:, 0]

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
        num_classes: int,  # noqa: ARG003
    ) -> ScoreGraph:
        """Make an ONNX graph of the sum; see `BaseModel.score_graph`."""
        return LinearMap.from_tensors(tensors, 1, n_features).graph()

    def _save_weights(self, directory: Path) -> None:
        assert self.map_ is not None
        self.map_.save(directory)

    def _load_weights(self, directory: Path) -> None:
        encoder = self._encoder()
        self.map_ = LinearMap.from_tensors(
            artifacts.load_tensors(directory / artifacts.WEIGHTS_SAFETENSORS),
            1,
            self._check_fitted() if encoder is None else encoder.width,
        )
