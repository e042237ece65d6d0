"""Filling and scaling of features, learned from the training rows and kept as plain JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from ml_project_template.data.columns import power_of_two, show
from ml_project_template.data.signature import Signature
from ml_project_template.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ml_project_template.data.tabular import TabularDataset

__all__ = ["Preprocessor"]

logger = logging.getLogger(__name__)

_IMPUTE = ("mean", "median", "zero")
_SCALE = ("standard",)
_KEYS = ("impute", "scale", "feature_names", "fill", "mean", "std")
# Rows are transformed in blocks of this many: a block stays in the processor's cache, and the
# float64 copy of a large table is never in memory as a whole.
_BLOCK_ROWS = 16_384


class Preprocessor:
    """Fill in missing values, then bring each feature to mean 0 and standard deviation 1.

    The arithmetic is that of scikit-learn's ``SimpleImputer`` and ``StandardScaler`` in a row, in
    float64; the result is float32. Each value is treated by itself, so one row gives to the bit
    what it gives among many.

    Args:
        impute: What a missing value becomes: the mean or the median of the training rows, or 0.
            None leaves it missing.
        scale: ``"standard"`` or None, which leaves the values as they are.

    Attributes:
        feature_names_: The features in the order of the columns.
        fill_: What a missing value becomes, of shape ``(n_features,)``; None without imputing.
        mean_: What is subtracted, of shape ``(n_features,)``; None without scaling.
        scale_: What is divided by, of shape ``(n_features,)``; 1 for a constant column.

    Raises:
        ConfigError: An unknown way to impute or to scale.
    """

    feature_names_: tuple[str, ...]
    fill_: NDArray[np.float64] | None
    mean_: NDArray[np.float64] | None
    scale_: NDArray[np.float64] | None

    def __init__(
        self,
        impute: Literal["mean", "median", "zero"] | None = "mean",
        scale: Literal["standard"] | None = "standard",
    ) -> None:
        if impute is not None and impute not in _IMPUTE:
            raise ConfigError(unknown("way to impute", str(impute), [*_IMPUTE, "null"]))
        if scale is not None and scale not in _SCALE:
            raise ConfigError(unknown("way to scale", str(scale), [*_SCALE, "null"]))
        self.impute = impute
        self.scale = scale

    def __repr__(self) -> str:
        return f"Preprocessor(impute={self.impute!r}, scale={self.scale!r})"

    @property
    def is_fitted(self) -> bool:
        """Whether ``fit`` was called."""
        return hasattr(self, "feature_names_")

    def get_params(self) -> dict[str, Any]:
        """Name the constructor's arguments and their values."""
        return {"impute": self.impute, "scale": self.scale}

    def fit(self, dataset: TabularDataset) -> Self:
        """Learn what to fill in and how to scale.

        Args:
            dataset: The raw training rows, and no others: the statistics of rows that are used to
                judge the model would leak into it.

        Returns:
            This object.

        Raises:
            DataError: The data are prepared already.
        """
        if dataset.preprocessor is not None:
            raise DataError(f"'{dataset.name}' is prepared already; fit on the raw rows.")
        learned = [
            self._fit_column(name, dataset.features.iloc[:, index].to_numpy(dtype=np.float64))
            for index, name in enumerate(dataset.feature_names)
        ]
        fill, mean, scale = (
            np.asarray(values, dtype=np.float64) for values in zip(*learned, strict=True)
        )
        self.feature_names_ = dataset.feature_names
        self.fill_ = fill if self.impute is not None else None
        self.mean_ = mean if self.scale is not None else None
        self.scale_ = scale if self.scale is not None else None
        return self

    def _fit_column(self, name: str, values: NDArray[np.float64]) -> tuple[float, float, float]:
        """Learn fill, mean and scale of one column of shape ``(n_samples,)``."""
        missing = np.isnan(values)
        there = values[~missing] if missing.any() else values
        if len(there) == 0:
            logger.warning("The feature '%s' has no value in any training row.", name)
            return 0.0, 0.0, 1.0
        factor = power_of_two(there)
        scaled = there / factor
        fill = 0.0
        if self.impute == "mean":
            fill = _mean(scaled)
        elif self.impute == "median":
            fill = float(np.median(scaled))
        if self.impute is not None and len(there) < len(values):
            scaled = np.where(missing, fill, values / factor)
        mean = _mean(scaled)
        variance = float(np.mean(np.square(scaled - mean)))
        # A column whose spread is nothing but rounding is constant: dividing by it would blow the
        # rounding up. The bound is that of scikit-learn's StandardScaler, after Chan, Golub and
        # LeVeque, "Algorithms for computing the sample variance" (1983).
        epsilon = float(np.finfo(np.float64).eps)
        count = len(scaled)
        constant = variance <= count * epsilon * variance + (count * mean * epsilon) ** 2
        scale = 1.0 if constant else math.sqrt(variance) * factor
        # A spread below the smallest float can't be divided by.
        return fill * factor, mean * factor, scale or 1.0

    def transform(self, dataset: TabularDataset) -> TabularDataset:
        """Prepare a data set with what was learned.

        Args:
            dataset: Raw rows that hold the learned features, in any order.

        Returns:
            The same rows with float32 features, and with this preprocessor and the signature of
            the raw rows (that of the data set where it has one).

        Raises:
            DataError: A feature is missing, the data are prepared already, or a value can't be
                scaled to a 32-bit float.
        """
        if dataset.preprocessor is not None:
            raise DataError(f"'{dataset.name}' is prepared already; transform the raw rows.")
        return dataset.with_features(
            self.transform_frame(dataset.features),
            signature=dataset.signature or Signature.from_dataset(dataset),
            preprocessor=self,
        )

    def transform_frame(self, frame: pd.DataFrame) -> pd.DataFrame:
        """Prepare raw rows by the names of their columns.

        Args:
            frame: Numeric columns, among them every learned feature; others are left out.

        Returns:
            Shape ``(n_samples, n_features)``, float32, in the learned order.

        Raises:
            DataError: As for ``transform``.
        """
        import pandas as pd

        self._check_fitted()
        for name in self.feature_names_:
            if name not in frame.columns:
                raise DataError(_lacks(name, frame))
        frame = frame[list(self.feature_names_)]
        result = np.empty(frame.shape, dtype=np.float32)
        for start in range(0, len(frame), _BLOCK_ROWS):
            block = slice(start, start + _BLOCK_ROWS)
            result[block] = self._transform(
                frame.iloc[block].to_numpy(dtype=np.float64, na_value=np.nan), start
            )
        return pd.DataFrame(result, columns=list(self.feature_names_), copy=False)

    def transform_array(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Prepare raw rows in the learned order of the features.

        Args:
            values: Shape ``(n_samples, n_features)``, float64, NaN where missing.

        Returns:
            The same shape, float32, C-contiguous.

        Raises:
            DataError: As for ``transform``.
        """
        self._check_fitted()
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.feature_names_):
            raise DataError(
                f"Rows must have the shape (n, {len(self.feature_names_)}), got {values.shape}."
            )
        return self._transform(values, 0)

    def _transform(self, values: NDArray[np.float64], start: int) -> NDArray[np.float32]:
        """Prepare a block of rows; ``start`` is the position of its first, for messages."""
        raw = values
        if self.fill_ is not None:
            values = np.where(np.isnan(values), self.fill_, values)
        with np.errstate(over="ignore"):
            if self.mean_ is not None and self.scale_ is not None:
                values = (values - self.mean_) / self.scale_
            result = np.ascontiguousarray(values, dtype=np.float32)
        infinite = np.isinf(result)
        if infinite.any():
            row, column = (int(index[0]) for index in np.nonzero(infinite))
            raise DataError(
                f"Row {start + row + 1}: feature '{self.feature_names_[column]}': "
                f"{show(float(raw[row, column]))} is too large to be prepared as a 32-bit float."
            )
        return result

    def _check_fitted(self) -> None:
        if not self.is_fitted:
            raise DataError("The preprocessor is not fitted; call fit on the training rows first.")

    def to_dict(self) -> dict[str, Any]:
        """Write settings and learned state as plain JSON values; floats keep every bit.

        Raises:
            DataError: The preprocessor is not fitted.
        """
        self._check_fitted()
        return {
            "impute": self.impute,
            "scale": self.scale,
            "feature_names": list(self.feature_names_),
            "fill": None if self.fill_ is None else self.fill_.tolist(),
            "mean": None if self.mean_ is None else self.mean_.tolist(),
            "std": None if self.scale_ is None else self.scale_.tolist(),
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote.

        Args:
            state: Plain JSON values.

        Raises:
            DataError: A key is missing or unknown, or a value is of the wrong kind.
        """
        if not isinstance(state, Mapping):
            raise DataError(f"preprocessing must be an object, got {show(state)}.")
        for key in state:
            if key not in _KEYS:
                raise DataError(f"preprocessing: {unknown('key', str(key), _KEYS)}")
        for key in _KEYS:
            if key not in state:
                raise DataError(f"preprocessing: the key '{key}' is missing.")
        names = state["feature_names"]
        if (
            not isinstance(names, list)
            or not names
            or not all(isinstance(name, str) for name in names)
            or len(set(names)) != len(names)
        ):
            raise DataError("preprocessing.feature_names must be a list of names, each once.")
        try:
            preprocessor = cls(state["impute"], state["scale"])
        except (ConfigError, TypeError) as error:
            raise DataError(f"preprocessing: {error}") from error
        preprocessor.feature_names_ = tuple(names)
        imputes, scales = preprocessor.impute is not None, preprocessor.scale is not None
        preprocessor.fill_ = _learned(state, "fill", len(names), expected=imputes)
        preprocessor.mean_ = _learned(state, "mean", len(names), expected=scales)
        preprocessor.scale_ = _learned(state, "std", len(names), expected=scales)
        if preprocessor.scale_ is not None and not (preprocessor.scale_ > 0).all():
            raise DataError("preprocessing.std must hold numbers greater than 0.")
        return preprocessor


def _mean(values: NDArray[np.float64]) -> float:
    """Average so that the mean of equal values is that value, to the bit, and not near it."""
    return float(np.clip(np.mean(values), values.min(), values.max()))


def _lacks(name: str, frame: pd.DataFrame) -> str:
    """Say that a learned feature is not among the columns of a table."""
    columns = [str(column) for column in frame.columns]
    return f"The data lack a feature: {unknown('column', name, columns)}"


def _learned(
    state: Mapping[str, Any], key: str, length: int, *, expected: bool
) -> NDArray[np.float64] | None:
    """Read one learned array, or None where the settings have no use for it."""
    values = state[key]
    if not expected:
        if values is not None:
            raise DataError(f"preprocessing.{key} must be null with these settings.")
        return None
    if (
        not isinstance(values, list)
        or len(values) != length
        or not all(
            isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
            for value in values
        )
    ):
        raise DataError(f"preprocessing.{key} must be a list of {length} finite numbers.")
    return np.asarray(values, dtype=np.float64)
