"""What every data set of this package can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ml_project_template.data.signature import Task

__all__ = ["BaseDataset"]


class BaseDataset(ABC):
    """Examples with a class or a number each, held in memory.

    A model reads ``X``, ``y``, ``feature_names``, ``class_names``, ``task`` and ``cardinalities``
    and nothing else.
    """

    @abstractmethod
    def __len__(self) -> int:
        """The number of rows."""

    @property
    @abstractmethod
    def feature_names(self) -> tuple[str, ...]:
        """The names of the columns of ``X``, in their order."""

    @property
    @abstractmethod
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes: ``class_names[y[i]]`` is the label of row ``i``.

        Empty for a regression.
        """

    @property
    def num_features(self) -> int:
        """The number of features."""
        return len(self.feature_names)

    @property
    def num_classes(self) -> int:
        """The number of classes, those included that no row here belongs to; 0 for a regression."""
        return len(self.class_names)

    @property
    def task(self) -> Task:
        """Whether ``y`` holds classes or numbers."""
        return "classification"

    @property
    def cardinalities(self) -> tuple[int, ...]:
        """For each feature, how many levels it has if it is a category, else 0.

        A category is in ``X`` as a code from 0 on, and NaN where it is missing or unseen.
        """
        return (0,) * len(self.feature_names)

    @property
    @abstractmethod
    def X(self) -> NDArray[np.float32]:
        """Features of shape ``(n_samples, n_features)``, float32, C-contiguous."""

    @property
    @abstractmethod
    def y(self) -> NDArray[Any]:
        """The target of shape ``(n_samples,)``.

        Class codes, int64, each an index into ``class_names``; float64 for a regression.
        """

    @abstractmethod
    def split(self, test_size: float, random_state: int) -> tuple[Self, Self]:
        """Split the rows in two, with the classes in the same proportions.

        Args:
            test_size: The part of the rows that goes to the second data set, in (0, 1).
            random_state: The seed of the draw; the same seed draws the same rows.

        Returns:
            The training part and the test part.
        """
