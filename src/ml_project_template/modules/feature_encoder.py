"""What stands before a network that reads numbers and categories."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from ml_project_template.modules.category_embedding import CategoryEmbedding
from ml_project_template.modules.periodic_embedding import PeriodicEmbedding
from ml_project_template.modules.piecewise_linear_encoding import PiecewiseLinearEncoding

__all__ = ["FeatureEncoder"]


class FeatureEncoder(nn.Module):
    """Put a vector in the place of each category, and of each number if wanted.

    Args:
        categories: Of each feature what embeds it; None for a number.
        numbers: What embeds the numbers, all at once; None leaves them as they are.

    Attributes:
        width: How many outputs there are: those of the numbers first, then those of the categories.
    """

    columns: torch.Tensor

    def __init__(
        self,
        categories: Sequence[CategoryEmbedding | None],
        numbers: PeriodicEmbedding | PiecewiseLinearEncoding | None = None,
    ) -> None:
        super().__init__()
        columns = [index for index, category in enumerate(categories) if category is None]
        self.category_columns = [index for index in range(len(categories)) if index not in columns]
        # On the CPU also where the rest has no memory yet: it is never loaded from a file.
        self.register_buffer(
            "columns", torch.tensor(columns, dtype=torch.int64, device="cpu"), persistent=False
        )
        self.categories = nn.ModuleList(category for category in categories if category is not None)
        self.numbers = numbers
        self.width = len(columns) if numbers is None else numbers.width
        self.width += sum(category.width for category in categories if category is not None)

    @property
    def is_fixed(self) -> bool:
        """Whether it is a function of the features alone that no gradient changes."""
        return not any(parameter.requires_grad for parameter in self.parameters())

    def learn(self, X: torch.Tensor) -> None:
        """Take from the training rows what is not learned by gradients.

        Args:
            X: Shape ``(n_samples, n_features)``.
        """
        for index, category in zip(self.category_columns, self.categories, strict=True):
            assert isinstance(category, CategoryEmbedding)
            category.learn(X[:, index])
        if isinstance(self.numbers, PiecewiseLinearEncoding):
            self.numbers.learn(X[:, self.columns])

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        """Map features to what a network reads.

        Args:
            X: Shape ``(n_samples, n_features)``; a category as its code, NaN where missing.

        Returns:
            Shape ``(n_samples, width)``.
        """
        parts = []
        if len(self.columns):
            numbers = X[:, self.columns]
            parts.append(numbers if self.numbers is None else self.numbers(numbers))
        parts += [
            category(X[:, index])
            for index, category in zip(self.category_columns, self.categories, strict=True)
        ]
        return torch.cat(parts, dim=1)
