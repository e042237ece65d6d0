"""A vector for each level of a category."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

__all__ = ["CategoryEmbedding"]


class CategoryEmbedding(nn.Module):
    """Look up a vector for each code, and one for what is missing or unseen.

    Each level has a row of ``weight``: learned (Guo and Berkhahn, "Entity Embeddings of Categorical
    Variables", 2016), or a row of the identity matrix, which is one-hot coding. What is missing is

        missing = sum over the levels of share[level] * weight[level] + offset

    the average row of the training and a learned offset. The offset starts at 0 and stays there if
    no training row has a gap: a level that is unseen then counts as the average one.

    Args:
        levels: How many levels there are.
        width: The length of the vectors; None for one-hot coding, of length ``levels``.
    """

    weight: torch.Tensor
    shares: torch.Tensor

    def __init__(self, levels: int, width: int | None = None) -> None:
        super().__init__()
        self.levels = levels
        self.width = levels if width is None else width
        if width is None:
            # Known by its size, so never saved; on the CPU also where the rest has no memory yet.
            self.register_buffer("weight", torch.eye(levels, device="cpu"), persistent=False)
        else:
            # As Gorishniy et al., "Revisiting Deep Learning Models for Tabular Data" (2021).
            bound = 1 / math.sqrt(width)
            self.weight = nn.Parameter(torch.empty(levels, width).uniform_(-bound, bound))
        self.offset = nn.Parameter(torch.zeros(self.width))
        self.register_buffer("shares", torch.full((levels,), 1 / levels))

    def learn(self, codes: torch.Tensor) -> None:
        """Count how often each level occurs.

        Args:
            codes: The training rows, of shape ``(n_samples,)``; NaN where missing.
        """
        there = codes[~codes.isnan()].long()
        if len(there):
            counts = torch.bincount(there, minlength=self.levels)
            self.shares.copy_(counts / len(there))
        # Without a gap its gradient is zero: a one-hot coding then has nothing to learn.
        self.offset.requires_grad_(not bool(self._are_known(codes).all()))

    def forward(self, codes: torch.Tensor) -> torch.Tensor:
        """Map codes to vectors.

        Args:
            codes: Shape ``(n_samples,)``, float; NaN, or out of range, where missing or unseen.

        Returns:
            Shape ``(n_samples, width)``.
        """
        missing = self.shares @ self.weight + self.offset
        table = torch.cat([self.weight, missing[None]])
        known = self._are_known(codes)
        return functional.embedding(torch.where(known, codes, self.levels).long(), table)

    def _are_known(self, codes: torch.Tensor) -> torch.Tensor:
        return (codes >= 0) & (codes < self.levels)
