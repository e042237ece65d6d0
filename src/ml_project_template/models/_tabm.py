"""What TabM for classes and for numbers have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from ml_project_template.models._encoding import NumericEmbedding
from ml_project_template.models._network import (
    Accelerator,
    Devices,
    Levels,
    NetworkModel,
    Precision,
    Width,
)
from ml_project_template.models._onnx import ScoreGraph, tabm_graph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ml_project_template.modules import TabM

__all__ = ["TabMModel"]


class TabMModel(NetworkModel):
    """An ensemble of networks in one, see `TabM`; and its subclasses.

    Args:
        layer_dims: Widths of the input, of each hidden layer and of the output. The first and the
            last may be None: they are filled in from the data. The first counts the features: what
            categories and embedded numbers add to it is worked out.
        variant: ``tabm``, in which the members have scales in each layer, or ``tabm-mini``, in
            which they have those of the input alone.
        members: How many networks there are, ``k``.
        activation: After each hidden layer.
        dropout: The part of the hidden values set to zero while training, in [0, 1).
        cardinalities: For each feature the number of its levels if it is a category, else 0; None
            is filled in from the data.
        one_hot_levels: A category with at most so many levels is one-hot, others are embedded; see
            `CategoryEmbedding`.
        numeric_embedding: What numbers become: None leaves them as they are, ``periodic`` is a
            `PeriodicEmbedding`, ``piecewise_linear`` a `PiecewiseLinearEncoding`.
        frequencies: Of a periodic embedding, for each number.
        frequency_scale: The standard deviation of these at first.
        frequency_width: The length of a vector of a periodic embedding.
        bins: Of a piecewise linear encoding, for each number.
        accelerator: Where it runs: ``auto``, ``cpu``, ``cuda`` or ``mps``. No part of a saved
            model.
        devices: On how many devices of this machine it is fitted; on the CPU processes. No part of
            a saved model.
        precision: Of the arithmetic of the fit; the weights are float32 in each of them. No part of
            a saved model.

    Attributes:
        fabric: Lightning's Fabric of this model.
        layer_dims_: The widths, with those of the data filled in.
        cardinalities_: Those of the data.
        module_: The network, once fitted or loaded.

    Raises:
        ConfigError: Fewer than two widths, or a hidden one left open; an accelerator that the
            machine doesn't have.
    """

    def __init__(
        self,
        layer_dims: list[Width | None],
        variant: Literal["tabm", "tabm-mini"] = "tabm",
        members: Width = 32,
        activation: Literal["elu", "gelu", "leaky_relu", "relu", "silu", "tanh"] = "relu",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1,
        *,
        cardinalities: list[Levels] | None = None,
        one_hot_levels: Annotated[int, Field(ge=0, le=16)] = 4,
        numeric_embedding: NumericEmbedding | None = None,
        frequencies: Width = 16,
        frequency_scale: Annotated[float, Field(gt=0)] = 0.1,
        frequency_width: Width = 16,
        bins: Width = 16,
        accelerator: Accelerator = "auto",
        devices: Devices = 1,
        precision: Precision = "32-true",
    ) -> None:
        super().__init__(
            layer_dims=layer_dims,
            cardinalities=cardinalities,
            one_hot_levels=one_hot_levels,
            numeric_embedding=numeric_embedding,
            frequencies=frequencies,
            frequency_scale=frequency_scale,
            frequency_width=frequency_width,
            bins=bins,
            accelerator=accelerator,
            devices=devices,
            precision=precision,
        )
        self.variant = variant
        self.members = members
        self.activation = activation
        self.dropout = dropout

    @classmethod
    def score_graph(
        cls,
        params: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        n_features: int,
        num_classes: int,
    ) -> ScoreGraph:
        """Write the network out as an ONNX graph; see `BaseModel.score_graph`."""
        widths, encoding = cls._graph_encoding(params, n_features, num_classes)
        return tabm_graph(
            widths,
            params["activation"],
            dropout=bool(params["dropout"]),
            members=params["members"],
            variant=params["variant"],
            tensors=tensors,
            encoding=encoding,
            regression=cls.task == "regression",
        )

    def _make_module(self) -> TabM:
        from ml_project_template.modules import TabM

        encoding = self._encoding()
        return TabM(
            [encoding.width, *(width for width in self.layer_dims_[1:] if width is not None)],
            self.activation,
            self.dropout,
            self.members,
            self.variant,
            "numbers" if self.task == "regression" else "probabilities",
            encoding.make_module(),
        )
