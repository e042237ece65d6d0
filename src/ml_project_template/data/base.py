"""What every data set of this package can do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["BaseDataset"]


class BaseDataset(ABC):
    """Labelled examples for classification, held in memory.

    A model reads ``X``, ``y``, ``feature_names`` and ``class_names`` and nothing else.
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
        """The names of the classes: ``class_names[y[i]]`` is the label of row ``i``."""

    @property
    @abstractmethod
    def X(self) -> NDArray[np.float32]:
        """Features of shape ``(n_samples, n_features)``, float32, C-contiguous."""

    @property
    @abstractmethod
    def y(self) -> NDArray[np.int64]:
        """Class codes of shape ``(n_samples,)``, int64, each an index into ``class_names``."""

    @abstractmethod
    def split(self, test_size: float, random_state: int) -> tuple[Self, Self]:
        """Split the rows in two, with the classes in the same proportions.

        Args:
            test_size: The part of the rows that goes to the second data set, in (0, 1).
            random_state: The seed of the draw; the same seed draws the same rows.

        Returns:
            The training part and the test part.
        """
