"""What linear models have in common: a weighted sum of the features for each output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ml_project_template import artifacts
from ml_project_template.errors import ArtifactError
from ml_project_template.models._onnx import PREPARED, SCORES, ScoreGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["LinearMap", "standardize"]


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
