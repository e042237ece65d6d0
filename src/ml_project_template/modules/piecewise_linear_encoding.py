"""Numbers as how far they have come through each of some bins."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

__all__ = ["PiecewiseLinearEncoding"]


class PiecewiseLinearEncoding(nn.Module):
    """Turn each number into a vector, by bins between quantiles of the training rows.

    The "PLE" of Gorishniy, Rubachev and Babenko, "On Embeddings for Numerical Features in Tabular
    Deep Learning" (NeurIPS 2022), with their quantile bins. For the number ``x`` of a feature with
    the edges ``b_0 < ... < b_T`` the vector has, for ``t`` from 1 to ``T``:

        e_t = 0                                    if x < b_(t-1) and t > 1
              1                                    if x >= b_t and t < T
              (x - b_(t-1)) / (b_t - b_(t-1))      otherwise

    so that it goes on below the first edge and above the last. The layer that reads it is linear in
    each bin. Quantiles that are equal make one edge: what is left of the vector is 0.

    Args:
        features: How many numbers a row has.
        bins: How many bins each has at most, ``T``.

    Attributes:
        edges: Of shape ``(features, bins + 1)``; the last one of a feature is repeated.
    """

    edges: torch.Tensor

    def __init__(self, features: int, bins: int = 16) -> None:
        super().__init__()
        self.bins = bins
        self.width = features * bins
        self.register_buffer("edges", torch.zeros(features, bins + 1))

    def learn(self, X: torch.Tensor) -> None:
        """Find the edges.

        Args:
            X: The training rows, of shape ``(n_samples, features)``.
        """
        shares = np.linspace(0.0, 1.0, self.bins + 1)
        for edges, column in zip(self.edges, X.unbind(dim=1), strict=True):
            found = np.unique(np.quantile(column.cpu().numpy(), shares).astype(np.float32))
            edges.fill_(float(found[-1]))
            edges[: len(found)] = torch.from_numpy(found)

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Map numbers to vectors, one behind the other.

        Args:
            X: Shape ``(n_samples, features)``.

        Returns:
            Shape ``(n_samples, features * bins)``.
        """
        start, size = self.edges[:, :-1], self.edges.diff(dim=1)
        real = size > 0
        place = torch.arange(self.bins, device=X.device)
        is_last = place == real.sum(dim=1, keepdim=True) - 1
        lowest = torch.where(place == 0, -torch.inf, 0.0)
        highest = torch.where(is_last, torch.inf, 1.0)
        way = (X[:, :, None] - start) / torch.where(real, size, 1.0)
        encoded = torch.minimum(torch.maximum(way, lowest), highest)
        return torch.where(real, encoded, 0.0).flatten(1)
