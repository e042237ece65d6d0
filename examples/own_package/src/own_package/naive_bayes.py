"""Gaussian naive Bayes: each feature of a class is normal and independent of the others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
from pydantic import Field

from ml_project_template.artifacts import WEIGHTS_SAFETENSORS, load_tensors, save_tensors
from ml_project_template.errors import ArtifactError
from ml_project_template.models import BaseModel, register

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

    from ml_project_template.data import BaseDataset

__all__ = ["NaiveBayesClassifier"]


@register
class NaiveBayesClassifier(BaseModel):
    """Classes by Bayes' rule, with the features of each class as independent normals.

    Source: Hastie, Tibshirani, Friedman, The Elements of Statistical Learning, section 6.6.3.

    Args:
        smoothing: Added to each variance, as a part of the largest variance of a feature: a
            feature that is constant in a class would rule out every other value of it.
    """

    def __init__(self, smoothing: Annotated[float, Field(gt=0)] = 1e-9) -> None:
        self.smoothing = smoothing

    def _fit(  # type: ignore[override]
        self,
        train_data: BaseDataset,
        val_data: BaseDataset | None = None,  # noqa: ARG002 - nothing is chosen by it
        *,
        use_priors: bool = True,
    ) -> None:
        """Learn the mean and the variance of each feature in each class.

        Args:
            train_data: Prepared training rows.
            val_data: Prepared validation rows.
            use_priors: Whether a class is as likely as it is frequent; otherwise all are alike.
        """
        X, y = train_data.X.astype(np.float64), train_data.y
        self._require_finite(train_data.X, train_data.feature_names)
        rows = [X[y == code] for code in range(len(train_data.class_names))]
        counts = np.array([len(part) for part in rows], dtype=np.float64)
        self.means_ = np.stack([part.mean(axis=0) for part in rows])
        variances = np.stack([part.var(axis=0) for part in rows])
        self.variances_ = variances + self.smoothing * max(float(X.var(axis=0).max()), 1e-12)
        self.priors_ = counts / counts.sum() if use_priors else np.full(len(rows), 1 / len(rows))

    def predict(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float64]:
        """Give the logarithm of prior times likelihood, of shape ``(n_samples, n_classes)``."""
        features = self._features(X)
        self._require_finite(features)
        distances = (features[:, None].astype(np.float64) - self.means_) ** 2 / self.variances_
        constants = np.log(self.priors_) - 0.5 * np.log(2 * np.pi * self.variances_).sum(axis=1)
        scores: NDArray[np.float64] = constants - 0.5 * distances.sum(axis=2)
        return scores

    @classmethod
    def accepts_missing(cls, params: object) -> bool:  # noqa: ARG003
        """Say no: a row with a gap has no likelihood."""
        return False

    def _save_weights(self, directory: Path) -> None:
        learned = {"means": self.means_, "variances": self.variances_, "priors": self.priors_}
        save_tensors(directory / WEIGHTS_SAFETENSORS, learned)

    def _load_weights(self, directory: Path) -> None:
        learned = load_tensors(directory / WEIGHTS_SAFETENSORS)
        try:
            self.means_, self.variances_ = learned["means"], learned["variances"]
            self.priors_ = learned["priors"]
        except KeyError as error:
            raise ArtifactError(f"{WEIGHTS_SAFETENSORS}: lacks the array {error}") from error
        shape = (len(self.priors_), self._check_fitted())
        if not self.means_.shape == self.variances_.shape == shape:
            raise ArtifactError(f"{WEIGHTS_SAFETENSORS}: the arrays are not of the shape {shape}")
