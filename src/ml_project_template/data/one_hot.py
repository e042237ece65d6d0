"""Categories as columns of zeros and ones, for a model that takes numbers alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ml_project_template.data.base import BaseDataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ml_project_template.data.signature import Task
    from ml_project_template.data.tabular import TabularDataset

__all__ = ["OneHot", "OneHotDataset"]


class OneHot:
    """Puts a column for each level in the place of each category.

    A value that is missing or unseen is zero in all of them.

    Args:
        cardinalities: For each feature the number of its levels, 0 for a number.

    Attributes:
        cardinalities: The same.
        width: How many columns there are in the end.
    """

    def __init__(self, cardinalities: Sequence[int]) -> None:
        self.cardinalities = tuple(cardinalities)
        # Of each column in the end: the feature it is made of, and the level; -1 for a number.
        self._sources: NDArray[np.int64] = np.repeat(
            np.arange(len(cardinalities)), [max(count, 1) for count in cardinalities]
        )
        self._levels: NDArray[np.int64] = np.concatenate(
            [np.arange(count) if count else np.full(1, -1) for count in cardinalities]
        )
        self.width = len(self._sources)

    @property
    def sources(self) -> NDArray[np.int64]:
        """The feature that each column is made of, of shape ``(width,)``."""
        return self._sources

    @property
    def codes(self) -> NDArray[np.int64]:
        """The level that each column stands for, -1 for a number, of shape ``(width,)``."""
        return self._levels

    def names(self, feature_names: Sequence[str], levels: Sequence[Sequence[str]]) -> list[str]:
        """Name the columns: ``city=Berlin`` for a level of ``city``.

        Args:
            feature_names: The names of the features.
            levels: The levels of each, none for a number.
        """
        names = []
        for source, level in zip(self._sources, self._levels, strict=True):
            name = feature_names[source]
            # Of a category without any level there is a column that is zero in all rows.
            known = levels[source][level] if 0 <= level < len(levels[source]) else ""
            names.append(name if level < 0 else f"{name}={known}")
        return names

    def transform(self, X: NDArray[np.float32]) -> NDArray[np.float32]:
        """Put the columns in the place of the categories.

        Args:
            X: Prepared features of shape ``(n_samples, n_features)``.

        Returns:
            Shape ``(n_samples, width)``, float32, C-contiguous.
        """
        result: NDArray[np.float32] = np.ascontiguousarray(X[:, self._sources])
        is_level = self._levels >= 0
        result[:, is_level] = result[:, is_level] == self._levels[is_level]
        return result

    def sum_by_feature(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up the values of the columns that were made of one feature.

        Args:
            values: Shape ``(width,)``.

        Returns:
            Shape ``(n_features,)``.
        """
        sums = np.bincount(self._sources, weights=values, minlength=len(self.cardinalities))
        return sums.astype(np.float64)


class OneHotDataset(BaseDataset):
    """A prepared data set whose categories are columns of zeros and ones.

    Args:
        data: The prepared data set.
        encoder: What makes the columns.
    """

    def __init__(self, data: TabularDataset, encoder: OneHot) -> None:
        self._data = data
        self._encoder = encoder
        self._matrix: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self._data)

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns, see `OneHot.names`."""
        preprocessor = self._data.preprocessor
        levels: Sequence[Sequence[str]] = (
            [()] * len(self._data.feature_names)
            if preprocessor is None
            else preprocessor.output_levels_
        )
        return tuple(self._encoder.names(self._data.feature_names, levels))

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; empty for a regression."""
        return self._data.class_names

    @property
    def task(self) -> Task:
        """Whether ``y`` holds classes or numbers."""
        return self._data.task

    @property
    def X(self) -> NDArray[np.float32]:
        """Features of shape ``(n_samples, width)``, float32, C-contiguous."""
        if self._matrix is None:
            self._matrix = self._encoder.transform(self._data.X)
        return self._matrix

    @property
    def y(self) -> NDArray[Any]:
        """The target of shape ``(n_samples,)``."""
        return self._data.y

    def split(self, test_size: float, random_state: int) -> tuple[Self, Self]:
        """Split the rows in two, see `TabularDataset.split`."""
        parts = self._data.split(test_size, random_state)
        first, second = (type(self)(part, self._encoder) for part in parts)
        return first, second
