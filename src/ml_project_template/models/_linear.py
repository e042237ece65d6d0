"""What linear models have in common: a weighted sum of the features for each output."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.data.base import BaseDataset
from ml_project_template.errors import ArtifactError
from ml_project_template.models._onnx import PREPARED, SCORES, ScoreGraph
from ml_project_template.models.base import BaseModel
from ml_project_template.training.reporting import StopTraining

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray
    from pandas import DataFrame

__all__ = ["LinearMap", "LinearModel", "standardize"]


@dataclass(frozen=True, slots=True)
class LinearMap:
    """Weighted sums of the features.

    Attributes:
        coefficients: Of shape ``(n_outputs, n_features)``, float64.
        intercept: Of shape ``(n_outputs,)``, float64.
        scale: The spread of each feature in the training rows, of shape ``(n_features,)``: what
            makes the coefficients of features of different units comparable.
    """

    coefficients: NDArray[np.float64]
    intercept: NDArray[np.float64]
    scale: NDArray[np.float64]

    @classmethod
    def of_standardized(
        cls,
        coefficients: NDArray[np.float64],
        intercept: NDArray[np.float64],
        mean: NDArray[np.float64],
        scale: NDArray[np.float64],
    ) -> Self:
        """Take over what was fitted on standardised features, for features as they come.

        Args:
            coefficients: Of shape ``(n_outputs, n_features)``.
            intercept: Of shape ``(n_outputs,)``.
            mean: What `standardize` took off.
            scale: What `standardize` divided by.
        """
        own = coefficients / scale
        return cls(own, intercept - own @ mean, scale)

    @classmethod
    def from_tensors(
        cls, tensors: Mapping[str, NDArray[Any]], n_outputs: int, n_features: int
    ) -> Self:
        """Check what came out of a file.

        Args:
            tensors: The arrays of ``weights.safetensors``.
            n_outputs: How many outputs there are to be.
            n_features: How many features the model takes.

        Raises:
            ArtifactError: An array is missing, or of another shape or type.
        """
        shapes = {
            "coefficients": (n_outputs, n_features),
            "intercept": (n_outputs,),
            "scale": (n_features,),
        }
        for name, shape in shapes.items():
            found = tensors.get(name)
            if found is None or found.shape != shape or found.dtype != np.float64:
                raise ArtifactError(f"weights.safetensors: '{name}' must be float64{list(shape)}.")
        return cls(**{name: tensors[name] for name in shapes})

    def __call__(self, X: NDArray[np.float32]) -> NDArray[np.float64]:
        """Compute the outputs of rows, of shape ``(n_samples, n_outputs)``."""
        return X.astype(np.float64) @ self.coefficients.T + self.intercept

    def importances(self) -> NDArray[np.float64] | None:
        """Say how far each feature moves the outputs over its spread.

        Returns:
            The absolute standardised coefficients, summed over the outputs and divided by their
            total, of shape ``(n_features,)``; None where all of them are zero.
        """
        sizes: NDArray[np.float64] = np.abs(self.coefficients * self.scale).sum(axis=0)
        total = sizes.sum()
        return sizes / total if total > 0 else None

    def save(self, directory: Path) -> None:
        """Write the arrays into a model directory."""
        artifacts.save_tensors(
            directory / artifacts.WEIGHTS_SAFETENSORS,
            {
                "coefficients": self.coefficients,
                "intercept": self.intercept,
                "scale": self.scale,
            },
        )

    def graph(self) -> ScoreGraph:
        """Write the sums as an ONNX graph."""
        from onnx import TensorProto, helper

        nodes = [
            helper.make_node("Cast", [PREPARED], ["prepared_double"], to=TensorProto.DOUBLE),
            helper.make_node(
                "Gemm", ["prepared_double", "coefficients", "intercept"], [SCORES], transB=1
            ),
        ]
        return ScoreGraph(
            nodes, {"coefficients": self.coefficients, "intercept": self.intercept[None, :]}
        )


class LinearModel(BaseModel):
    """A model whose outputs are weighted sums; see its subclasses.

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

    def _require_all_finite(self, *datasets: BaseDataset | None) -> None:
        """Refuse missing and infinite values in any of the data sets that are there."""
        for data in datasets:
            if data is not None:
                self._require_finite(data.X, data.feature_names)

    def _report_once(
        self,
        train: BaseDataset,
        val: BaseDataset | None,
        loss: Callable[[BaseDataset, NDArray[np.float64]], float],
    ) -> None:
        """Report the one step that the fit has.

        Args:
            train: Training rows.
            val: Validation rows.
            loss: Of rows and their outputs, of shape ``(n_samples, n_outputs)``.
        """
        assert self.map_ is not None
        losses = {
            name: loss(data, self.map_(data.X))
            for name, data in (("train_loss", train), ("val_loss", val))
            if data is not None
        }
        # One who wants it to end is too late: there is one step.
        with contextlib.suppress(StopTraining):
            self.report(1, losses, total=1)

    def _outputs(self, X: ArrayLike | DataFrame | BaseDataset) -> NDArray[np.float64]:
        """Compute the sums for what ``predict`` was given, of shape ``(n_samples, n_outputs)``."""
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
        # A regression has no classes, and one sum.
        n_outputs = 1 if cls.task == "regression" else num_classes
        return LinearMap.from_tensors(tensors, n_outputs, n_features).graph()

    def _save_weights(self, directory: Path) -> None:
        assert self.map_ is not None
        self.map_.save(directory)

    def _load_weights(self, directory: Path) -> None:
        if self.signature is None:
            raise ArtifactError("signature.json: it is needed to check the weights.")
        self.map_ = LinearMap.from_tensors(
            artifacts.load_tensors(directory / artifacts.WEIGHTS_SAFETENSORS),
            1 if self.task == "regression" else len(self.signature.class_names),
            self._width(),
        )


def standardize(
    X: NDArray[np.float32],
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Bring features to mean 0 and spread 1: a penalty then treats all units alike.

    Args:
        X: Features of shape ``(n_samples, n_features)``.

    Returns:
        The features, float64; what was taken off, and what they were divided by, both of shape
        ``(n_features,)``. A constant feature is zero and divided by 1.
    """
    values = X.astype(np.float64)
    mean = values.mean(axis=0)
    values -= mean
    # By the values themselves: rounding gives the spread of a constant column a trace of its size.
    constant = X.max(axis=0) == X.min(axis=0)
    scale = np.where(constant, 1.0, values.std(axis=0))
    values[:, constant] = 0.0
    return values / scale, mean, scale
