"""Many networks in one, that share most of their weights."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from ml_project_template.errors import ConfigError
from ml_project_template.modules.fully_connected import Activation, activation_class

__all__ = ["EnsembleLinear", "TabM"]


class EnsembleLinear(nn.Module):
    """A linear layer of ``k`` members that share the weights and have scales and a bias each.

    BatchEnsemble (Wen, Tran and Ba, ICLR 2020): for the member ``i`` and its input ``x``

        y = s_i * (W (r_i * x)) + b_i

    Args:
        inputs: The width of the input.
        outputs: The width of the output.
        members: How many members there are, ``k``.
        random_scales: Draw each ``r_i`` as signs, so that the members differ; else they are 1.
    """

    def __init__(
        self, inputs: int, outputs: int, members: int, *, random_scales: bool = False
    ) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.input_scale = nn.Parameter(_scales(members, inputs, random=random_scales))
        self.output_scale = nn.Parameter(torch.ones(members, outputs))
        # The members begin alike, up to the scales.
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound).repeat(members, 1))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Map the input of each member to its output.

        Args:
            X: Shape ``(n_samples, members, inputs)``.

        Returns:
            Shape ``(n_samples, members, outputs)``.
        """
        return (X * self.input_scale) @ self.weight.T * self.output_scale + self.bias


class TabM(nn.Module):
    """An ensemble of fully connected networks, trained side by side as one.

    Gorishniy, Kotelnikov and Babenko, "TabM: Advancing Tabular Deep Learning with
    Parameter-Efficient Ensembling" (ICLR 2025). Each of ``k`` members sees the same row. In
    ``tabm`` each hidden layer is an `EnsembleLinear`; in ``tabm-mini`` the members share the hidden
    layers and differ in the scales of their input alone, ``r_i * x``. The last layer is a plain
    linear one for each member. The first scales are random signs, so that the members differ.

    Args:
        layer_dims: Widths of the input, of each hidden layer and of the output; two at least.
        activation: After each hidden layer.
        dropout: The part of the hidden values set to zero while training, in [0, 1).
        members: How many members there are, ``k``.
        variant: ``tabm`` or ``tabm-mini``.
        average: What the members' outputs are averaged as: ``probabilities``, of which they are
            scores, or the ``numbers`` that they are.
        encoder: What features pass first; its output has the width of the input.

    Attributes:
        chunk_rows: How many rows should pass at once at most, for the members multiply them.

    Raises:
        ConfigError: Fewer than two widths, one that isn't positive, or an unknown activation.
    """

    def __init__(
        self,
        layer_dims: Sequence[int],
        activation: Activation = "relu",
        dropout: float = 0.0,
        members: int = 32,
        variant: Literal["tabm", "tabm-mini"] = "tabm",
        average: Literal["probabilities", "numbers"] = "probabilities",
        encoder: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if len(layer_dims) < 2 or any(width < 1 for width in layer_dims):
            raise ConfigError(
                "model.layer_dims needs an input and an output width, each positive; "
                f"got {list(layer_dims)}."
            )
        make_activation = activation_class(activation)
        self.encoder = encoder
        self.members = members
        self.average = average
        self.chunk_rows = max(65_536 // members, 1)
        self.input_scale: nn.Parameter | None = None
        if variant == "tabm-mini":
            self.input_scale = nn.Parameter(_scales(members, layer_dims[0], random=True))
        layers: list[nn.Module] = []
        for place, (inputs, outputs) in enumerate(itertools.pairwise(layer_dims[:-1])):
            if variant == "tabm":
                layers.append(EnsembleLinear(inputs, outputs, members, random_scales=place == 0))
            else:
                layers.append(nn.Linear(inputs, outputs))
            layers.append(make_activation())
            if dropout:
                layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        inputs, outputs = layer_dims[-2:]
        bound = 1 / math.sqrt(inputs)
        self.head = nn.Parameter(torch.empty(members, inputs, outputs).uniform_(-bound, bound))
        self.head_bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Map features to outputs: of each member while training, of all together after it.

        Args:
            X: Input tensor of shape ``(n_samples, n_features)``.

        Returns:
            Shape ``(n_samples, members, layer_dims[-1])`` while training: each member has its own
            loss. Else ``(n_samples, layer_dims[-1])``: the mean of the numbers, or the logarithm of
            the mean of the probabilities.
        """
        if self.encoder is not None:
            X = self.encoder(X)
        values: torch.Tensor = X[:, None].expand(-1, self.members, -1)
        if self.input_scale is not None:
            values = values * self.input_scale
        values = self.layers(values)
        # A product of matrices for each member.
        outputs: torch.Tensor = (values.transpose(0, 1) @ self.head).transpose(
            0, 1
        ) + self.head_bias
        if self.training:
            return outputs
        if self.average == "numbers":
            return outputs.mean(dim=1)
        chances = torch.log_softmax(outputs, dim=2)
        return torch.logsumexp(chances, dim=1) - math.log(self.members)


def _scales(members: int, width: int, *, random: bool) -> torch.Tensor:
    scales = torch.ones(members, width)
    return torch.where(torch.rand_like(scales) < 0.5, -scales, scales) if random else scales
