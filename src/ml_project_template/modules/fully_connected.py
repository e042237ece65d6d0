"""A fully connected network."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import nn

from ml_project_template.errors import ConfigError, unknown

__all__ = ["Activation", "FullyConnected", "Normalization", "activation_class"]

Activation = Literal["elu", "gelu", "leaky_relu", "relu", "silu", "tanh"]
Normalization = Literal["batch", "layer"]

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "leaky_relu": nn.LeakyReLU,
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
}
_NORMALIZATIONS: dict[str, type[nn.BatchNorm1d] | type[nn.LayerNorm]] = {
    "batch": nn.BatchNorm1d,
    "layer": nn.LayerNorm,
}


def activation_class(name: Activation) -> type[nn.Module]:
    """Find an activation.

    Args:
        name: ``elu``, ``gelu``, ``leaky_relu``, ``relu``, ``silu`` or ``tanh``.

    Raises:
        ConfigError: An unknown name.
    """
    if name not in _ACTIVATIONS:
        raise ConfigError(unknown("model.activation", name, get_args(Activation)))
    return _ACTIVATIONS[name]


class FullyConnected(nn.Module):
    """Hidden layers of linear, normalisation, activation and dropout; a plain linear at the end.

    Args:
        layer_dims: Widths of the input, of each hidden layer and of the output; two at least.
        activation: After each hidden layer.
        normalization: ``batch`` (Ioffe and Szegedy, 2015), ``layer`` (Ba et al., 2016) or None.
        dropout: The part of the hidden values set to zero while training, in [0, 1).
        encoder: What features pass first; its output has the width of the input.

    Raises:
        ConfigError: Fewer than two widths, one that isn't positive, an unknown name, or a dropout
            out of its range.
    """

    def __init__(
        self,
        layer_dims: Sequence[int],
        activation: Activation = "relu",
        normalization: Normalization | None = None,
        dropout: float = 0.0,
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if len(layer_dims) < 2 or any(width < 1 for width in layer_dims):
            raise ConfigError(
                "model.layer_dims needs an input and an output width, each positive; "
                f"got {list(layer_dims)}."
            )
        make_activation = activation_class(activation)
        if normalization is not None and normalization not in _NORMALIZATIONS:
            raise ConfigError(
                unknown("model.normalization", normalization, [*_NORMALIZATIONS, "null"])
            )
        if not 0 <= dropout < 1:
            raise ConfigError(f"model.dropout must be in [0, 1), got {dropout}.")
        self.encoder = encoder
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(layer_dims[:-1]):
            layers.append(nn.Linear(inputs, outputs))
            if normalization is not None:
                layers.append(_NORMALIZATIONS[normalization](outputs))
            layers.append(make_activation())
            if dropout:
                layers.append(nn.Dropout(dropout))
        layers.append(nn.Linear(layer_dims[-2], layer_dims[-1]))
        self.layers = nn.Sequential(*layers)

    def stages(self) -> tuple[nn.Module | None, nn.Sequential]:
        """Give the encoder, and the layers after it: they are all that ``forward`` does."""
        return self.encoder, self.layers

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Map features to outputs.

        Args:
            X: Input tensor of shape ``(n_samples, layer_dims[0])``, or what the encoder takes.

        Returns:
            Output tensor of shape ``(n_samples, layer_dims[-1])``.
        """
        outputs: torch.Tensor = self.layers(X if self.encoder is None else self.encoder(X))
        return outputs
