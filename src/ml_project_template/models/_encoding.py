"""How a network reads prepared features: categories as vectors, numbers as they are or embedded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ml_project_template.modules import FeatureEncoder

__all__ = ["Encoding", "NumericEmbedding"]

NumericEmbedding = Literal["periodic", "piecewise_linear"]


@dataclass(frozen=True, slots=True)
class Encoding:
    """The settings of a `FeatureEncoder`, known without PyTorch.

    Attributes:
        cardinalities: For each feature the number of its levels, 0 for a number.
        one_hot_levels: A category with at most so many levels is one-hot, others are embedded.
        numeric_embedding: What numbers become; None leaves them as they are.
        frequencies: Of a periodic embedding, for each number.
        frequency_scale: The standard deviation of these at first.
        frequency_width: The length of a vector of a periodic embedding.
        bins: Of a piecewise linear encoding, for each number.
    """

    cardinalities: Sequence[int]
    one_hot_levels: int
    numeric_embedding: NumericEmbedding | None
    frequencies: int
    frequency_scale: float
    frequency_width: int
    bins: int

    @property
    def numbers(self) -> list[int]:
        """The places of the numbers among the features."""
        return [index for index, levels in enumerate(self.cardinalities) if not levels]

    @property
    def categories(self) -> list[tuple[int, int]]:
        """The place of each category, and the number of its levels."""
        return [(index, levels) for index, levels in enumerate(self.cardinalities) if levels]

    @property
    def is_plain(self) -> bool:
        """Whether features pass as they are."""
        return not self.categories and self.numeric_embedding is None

    @property
    def width(self) -> int:
        """How many values the network reads."""
        of_each = {None: 1, "periodic": self.frequency_width, "piecewise_linear": self.bins}
        return len(self.numbers) * of_each[self.numeric_embedding] + sum(
            self.embedding_width(levels) or levels for _, levels in self.categories
        )

    def embedding_width(self, levels: int) -> int | None:
        """Choose the length of the vectors of a category.

        The rule is fastai's (Howard and Gugger, "fastai: A Layered API for Deep Learning", 2020):
        ``min(600, round(1.6 * levels ** 0.56))``.

        Args:
            levels: How many levels it has.

        Returns:
            The length; None for one-hot coding.
        """
        if levels <= self.one_hot_levels:
            return None
        return min(600, round(1.6 * math.pow(levels, 0.56)))

    def make_module(self) -> FeatureEncoder | None:
        """Make what does so; None if features pass as they are."""
        from ml_project_template.modules import (
            CategoryEmbedding,
            FeatureEncoder,
            PeriodicEmbedding,
            PiecewiseLinearEncoding,
        )

        if self.is_plain:
            return None
        numbers: PeriodicEmbedding | PiecewiseLinearEncoding | None = None
        if self.numbers and self.numeric_embedding == "periodic":
            numbers = PeriodicEmbedding(
                len(self.numbers), self.frequencies, self.frequency_scale, self.frequency_width
            )
        elif self.numbers and self.numeric_embedding == "piecewise_linear":
            numbers = PiecewiseLinearEncoding(len(self.numbers), self.bins)
        return FeatureEncoder(
            [
                CategoryEmbedding(levels, self.embedding_width(levels)) if levels else None
                for levels in self.cardinalities
            ],
            numbers,
        )
