"""Sines and cosines of numbers, with frequencies that are learned."""

from __future__ import annotations

import math

import torch
from torch import nn

__all__ = ["PeriodicEmbedding"]


class PeriodicEmbedding(nn.Module):
    """Turn each number into a vector, by waves of learned frequencies.

    The "PLR" of Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in Tabular
    Deep Learning" (NeurIPS 2022). For the number ``x`` of a feature, with frequencies ``c``,
    weights ``W`` and a bias ``b`` of its own:

        v = [cos(2 pi c_1 x), ..., cos(2 pi c_F x), sin(2 pi c_1 x), ..., sin(2 pi c_F x)]
        embedding = relu(v W + b)

    Args:
        features: How many numbers a row has.
        frequencies: How many frequencies each has, ``F``.
        frequency_scale: The standard deviation of the frequencies at first, drawn from a normal
            distribution that is cut off at three of it.
        width: The length of a vector.
    """

    def __init__(
        self, features: int, frequencies: int = 16, frequency_scale: float = 0.1, width: int = 16
    ) -> None:
        super().__init__()
        self.width = features * width
        self.frequencies = nn.Parameter(torch.empty(features, frequencies))
        bound = 3 * frequency_scale
        nn.init.trunc_normal_(self.frequencies, 0.0, frequency_scale, -bound, bound)
        bound = 1 / math.sqrt(2 * frequencies)
        shape = (features, 2 * frequencies, width)
        self.weight = nn.Parameter(torch.empty(shape).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(features, width).uniform_(-bound, bound))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Map numbers to vectors, one behind the other.

        Args:
            X: Shape ``(n_samples, features)``.

        Returns:
            Shape ``(n_samples, features * width)``.
        """
        angles = X[:, :, None] * (2 * math.pi * self.frequencies)
        waves = torch.cat([angles.cos(), angles.sin()], dim=2)
        # A product of matrices for each feature.
        linear = (waves.transpose(0, 1) @ self.weight).transpose(0, 1) + self.bias
        return torch.relu(linear).flatten(1)
