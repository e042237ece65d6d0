"""Coding, filling and scaling of features, learned from the training rows and kept as JSON."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from ml_project_template.data.column_types import encode_categories, encode_dates
from ml_project_template.data.columns import harmless_factor, show
from ml_project_template.data.signature import MAX_LEVELS, Feature, Signature
from ml_project_template.errors import ConfigError, DataError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ml_project_template.data.tabular import TabularDataset

__all__ = ["LearnedColumn", "Preprocessor"]

logger = logging.getLogger(__name__)

_IMPUTE = ("mean", "median", "zero")
_SCALE = ("standard",)
_KEYS = ("impute", "scale", "feature_names", "levels", "dates", "fill", "mean", "std")
# Of a model that was saved before there were categories and dates.
_OPTIONAL: dict[str, Any] = {"levels": {}, "dates": {}}
_DATE_PARTS = ("days", "month", "day", "weekday", "hour")
_SECONDS_A_DAY = 86_400.0
# The years that a date can have, 1 to 9999, as days since 1970-01-01.
_FIRST_DAY, _LAST_DAY = -719_162.0, 2_932_896.0
# Columns are transformed in blocks of this many rows: a block stays in the processor's cache, and
# the float64 copy of a column is never in memory as a whole.
_BLOCK_ROWS = 16_384


@dataclass(frozen=True, slots=True)
class LearnedColumn:
    """What a `Preprocessor` has learned from one column.

    Attributes:
        name: The name of the raw feature.
        outputs: For each prepared feature that it becomes: what is filled in, subtracted and
            divided by.
        levels: The levels of a category; None for other columns.
        dates: The parts of a date; None for other columns.
    """

    name: str
    outputs: Sequence[tuple[float, float, float]]
    levels: tuple[str, ...] | None = None
    dates: tuple[str, ...] | None = None


class Preprocessor:
    """Turn raw rows into numbers: categories into codes, dates into parts, gaps into values.

    A category becomes the place of its level among those of the training rows, and stays missing
    where it is missing or unseen: what that means is up to the model. A date becomes its days since
    1970-01-01, month, day, weekday (Monday is 0) and, where the training rows have times, hour, in
    UTC. Gaps in numbers and in parts of dates are filled in, and both are brought to mean 0 and
    standard deviation 1: that arithmetic is scikit-learn's ``SimpleImputer`` and ``StandardScaler``
    in a row, in float64; the result is float32. Each value is treated by itself, so one row gives
    to the bit what it gives among many.

    Args:
        impute: What a missing number becomes: the mean or the median of the training rows, or 0.
            None leaves it missing.
        scale: ``"standard"`` or None, which leaves the values as they are.

    Attributes:
        feature_names_: The raw features in the order of the columns.
        output_names_: The prepared features in theirs; a part of a date is ``<feature>.<part>``.
        cardinalities_: The number of levels of each prepared feature that is a category, else 0.
        levels_: The levels of each raw feature that is a category, by its name.
        dates_: The parts of each raw feature that is a date, by its name.
        fill_: What a missing value becomes, of shape ``(n_outputs,)``; None without imputing.
        mean_: What is subtracted, of shape ``(n_outputs,)``; None without scaling.
        scale_: What is divided by, of shape ``(n_outputs,)``; 1 for a constant column. Categories
            are neither filled nor scaled.

    Raises:
        ConfigError: An unknown way to impute or to scale.
    """

    feature_names_: tuple[str, ...]
    levels_: dict[str, tuple[str, ...]]
    dates_: dict[str, tuple[str, ...]]
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
        signature = dataset.signature or Signature.from_dataset(dataset)
        self.set_columns(
            [self.learn(feature, dataset.features[feature.name]) for feature in signature.features]
        )
        return self

    def learn(self, feature: Feature, column: pd.Series[Any]) -> LearnedColumn:
        """Learn from one column; the others' make no difference.

        Args:
            feature: What the column is.
            column: Its training rows.
        """
        if feature.levels is not None:
            return LearnedColumn(feature.name, [(0.0, 0.0, 1.0)], levels=feature.levels)
        if feature.type != "date":
            values = column.to_numpy(dtype=np.float64)
            return LearnedColumn(feature.name, [self._fit_column(feature.name, values)])
        seconds = encode_dates(column, feature.name, "The data")
        parts = _parts_of(seconds)
        learned = [
            self._fit_column(f"{feature.name}.{part}", values)
            for part, values in zip(parts, _date_parts(seconds, parts), strict=True)
        ]
        return LearnedColumn(feature.name, learned, dates=parts)

    def set_columns(self, columns: Sequence[LearnedColumn]) -> None:
        """Put together what was learned column by column.

        Args:
            columns: What `learn` gave, in the order of the columns.
        """
        self.feature_names_ = tuple(column.name for column in columns)
        self.levels_ = {c.name: c.levels for c in columns if c.levels is not None}
        self.dates_ = {c.name: c.dates for c in columns if c.dates is not None}
        learned = [output for column in columns for output in column.outputs]
        fill, mean, scale = (
            np.asarray(values, dtype=np.float64) for values in zip(*learned, strict=True)
        )
        self.fill_ = fill if self.impute is not None else None
        self.mean_ = mean if self.scale is not None else None
        self.scale_ = scale if self.scale is not None else None

    @property
    def output_names_(self) -> tuple[str, ...]:
        """The names of the prepared features."""
        return tuple(name for raw in self.feature_names_ for name in self._outputs_of(raw))

    @property
    def cardinalities_(self) -> tuple[int, ...]:
        """The number of levels of each prepared feature, 0 for what is no category."""
        return tuple(
            # One that the training rows never have a value of is a category all the same.
            max(len(self.levels_[raw]), 1) if raw in self.levels_ else 0
            for raw in self.feature_names_
            for _ in self._outputs_of(raw)
        )

    @property
    def output_levels_(self) -> tuple[tuple[str, ...], ...]:
        """The levels of each prepared feature, none for what is no category."""
        return tuple(
            self.levels_.get(raw, ()) for raw in self.feature_names_ for _ in self._outputs_of(raw)
        )

    @property
    def is_category_(self) -> NDArray[np.bool_]:
        """Which prepared features are categories, of shape ``(n_outputs,)``."""
        return np.asarray(
            [raw in self.levels_ for raw in self.feature_names_ for _ in self._outputs_of(raw)]
        )

    def _outputs_of(self, raw: str) -> list[str]:
        if raw in self.dates_:
            return [f"{raw}.{part}" for part in self.dates_[raw]]
        return [raw]

    def _fit_column(self, name: str, values: NDArray[np.float64]) -> tuple[float, float, float]:
        """Learn fill, mean and scale of one column of shape ``(n_samples,)``."""
        missing = np.isnan(values)
        there = values[~missing] if missing.any() else values
        if len(there) == 0:
            logger.warning("The feature '%s' has no value in any training row.", name)
            return 0.0, 0.0, 1.0
        factor = harmless_factor(there)
        scaled = there if factor == 1.0 else there / factor
        fill = 0.0
        if self.impute == "mean":
            fill = _mean(scaled)
        elif self.impute == "median":
            fill = float(np.median(scaled))
        if self.impute is not None and len(there) < len(values):
            scaled = np.where(missing, fill, values / factor)
        mean = _mean(scaled)
        deviations = scaled - mean
        variance = float(np.mean(np.square(deviations, out=deviations)))
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
            frame: Raw columns, among them every learned feature; others are left out.

        Returns:
            Shape ``(n_samples, n_outputs)``, float32, in the learned order.

        Raises:
            DataError: As for ``transform``.
        """
        import pandas as pd

        self._check_fitted()
        for name in self.feature_names_:
            if name not in frame.columns:
                raise DataError(_lacks(name, frame))
        outputs: dict[str, NDArray[np.float32]] = {}
        for column in self._columns():
            outputs |= self.transform_column(column, frame[column.name])
        return pd.DataFrame(outputs, copy=False)

    def _columns(self) -> Iterator[LearnedColumn]:
        """Take apart what was learned."""
        place = 0
        for name in self.feature_names_:
            outputs = []
            for _ in self._outputs_of(name):
                outputs.append(
                    (
                        0.0 if self.fill_ is None else float(self.fill_[place]),
                        0.0 if self.mean_ is None else float(self.mean_[place]),
                        1.0 if self.scale_ is None else float(self.scale_[place]),
                    )
                )
                place += 1
            yield LearnedColumn(name, outputs, self.levels_.get(name), self.dates_.get(name))

    def transform_column(
        self,
        learned: LearnedColumn,
        column: pd.Series[Any],
        rows: NDArray[np.int64] | None = None,
    ) -> dict[str, NDArray[np.float32]]:
        """Prepare one raw column.

        Args:
            learned: What `learn` gave for it.
            column: Its values in any rows.
            rows: Where each of them stands in its table, for messages; None where it stands here.

        Returns:
            The prepared features that it becomes, by name, each of shape ``(n_samples,)``.

        Raises:
            DataError: A value can't be scaled to a 32-bit float.
        """
        name = learned.name
        if learned.levels is not None:
            return {name: encode_categories(column, learned.levels).astype(np.float32)}
        if learned.dates is not None:
            seconds = encode_dates(column, name, "The data")
            names = [f"{name}.{part}" for part in learned.dates]
            columns = _date_parts(seconds, learned.dates)
        else:
            names, columns = [name], [_numbers(column)]
        return {
            output: self._prepare(values, output, numbers, rows)
            for output, values, numbers in zip(names, columns, learned.outputs, strict=True)
        }

    def _prepare(
        self,
        values: NDArray[Any],
        name: str,
        learned: tuple[float, float, float],
        places: NDArray[np.int64] | None,
    ) -> NDArray[np.float32]:
        """Do with a column what `_transform` does with the columns of a row, to the bit."""
        fill, mean, scale = learned
        result = np.empty(len(values), dtype=np.float32)
        with np.errstate(over="ignore"):
            for start in range(0, len(values), _BLOCK_ROWS):
                rows = slice(start, start + _BLOCK_ROWS)
                block = values[rows].astype(np.float64)
                if self.impute is not None:
                    np.copyto(block, fill, where=np.isnan(block))
                if self.scale is not None:
                    block -= mean
                    block /= scale
                result[rows] = block
                infinite = np.isinf(result[rows])
                if infinite.any():
                    row = start + int(np.argmax(infinite))
                    place = row if places is None else int(places[row])
                    raise _too_large(place, name, float(values[row]))
        return result

    def transform_array(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Prepare raw rows in the learned order of the features.

        Args:
            values: Shape ``(n_samples, n_features)``, float64, NaN where missing; categories and
                dates as `Signature.rows_to_frame` writes them.

        Returns:
            Shape ``(n_samples, n_outputs)``, float32, C-contiguous.

        Raises:
            DataError: As for ``transform``.
        """
        self._check_fitted()
        values = np.asarray(values, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self.feature_names_):
            raise DataError(
                f"Rows must have the shape (n, {len(self.feature_names_)}), got {values.shape}."
            )
        return self._transform(values)

    def expand(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Put the parts of each date in its place; the first step of ``transform_array``.

        Args:
            values: As for ``transform_array``.

        Returns:
            Shape ``(n_samples, n_outputs)``, float64, C-contiguous; the same array where there is
            no date.
        """
        if not self.dates_:
            return values
        columns: list[NDArray[np.float64]] = []
        for index, name in enumerate(self.feature_names_):
            parts = self.dates_.get(name)
            columns += [values[:, index]] if parts is None else _date_parts(values[:, index], parts)
        return np.column_stack(columns)

    def _transform(self, values: NDArray[np.float64]) -> NDArray[np.float32]:
        """Prepare rows."""
        values = raw = self.expand(values)
        if self.fill_ is not None:
            missing = np.isnan(values)
            if self.levels_:
                missing &= ~self.is_category_
            values = np.where(missing, self.fill_, values)
        with np.errstate(over="ignore"):
            if self.mean_ is not None and self.scale_ is not None:
                values = (values - self.mean_) / self.scale_
            result = np.ascontiguousarray(values, dtype=np.float32)
        infinite = np.isinf(result)
        if infinite.any():
            row, column = (int(index[0]) for index in np.nonzero(infinite))
            raise _too_large(row, self.output_names_[column], float(raw[row, column]))
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
            "levels": {name: list(levels) for name, levels in self.levels_.items()},
            "dates": {name: list(parts) for name, parts in self.dates_.items()},
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
        state = {**_OPTIONAL, **state}
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
        preprocessor.levels_ = _lists(state, "levels", names)
        preprocessor.dates_ = _lists(state, "dates", names)
        for name, levels in preprocessor.levels_.items():
            if len(levels) > MAX_LEVELS or name in preprocessor.dates_:
                raise DataError(
                    f"preprocessing.levels of '{name}' must be {MAX_LEVELS} at most, and those of "
                    "a category."
                )
        for name, parts in preprocessor.dates_.items():
            if parts not in (_DATE_PARTS, _DATE_PARTS[:-1]):
                raise DataError(
                    f"preprocessing.dates of '{name}' must be {', '.join(_DATE_PARTS)}, or these "
                    "without the last."
                )
        length = len(preprocessor.output_names_)
        imputes, scales = preprocessor.impute is not None, preprocessor.scale is not None
        preprocessor.fill_ = _learned(state, "fill", length, expected=imputes)
        preprocessor.mean_ = _learned(state, "mean", length, expected=scales)
        preprocessor.scale_ = _learned(state, "std", length, expected=scales)
        if preprocessor.scale_ is not None and not (preprocessor.scale_ > 0).all():
            raise DataError("preprocessing.std must hold numbers greater than 0.")
        return preprocessor


def _numbers(column: pd.Series[Any]) -> NDArray[Any]:
    """Give a column as an array of numbers, as it is where it is one."""
    if column.dtype.kind in "biuf" and isinstance(column.dtype, np.dtype):
        return column.to_numpy()
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _too_large(row: int, name: str, value: float) -> DataError:
    return DataError(
        f"Row {row + 1}: feature '{name}': {show(value)} is too large to be prepared as a 32-bit "
        "float."
    )


def _mean(values: NDArray[np.float64]) -> float:
    """Average so that the mean of equal values is that value, to the bit, and not near it."""
    return float(np.clip(np.mean(values), values.min(), values.max()))


def _parts_of(seconds: NDArray[np.float64]) -> tuple[str, ...]:
    """Choose the parts of a date: the hour only where there are times."""
    has_times = bool(np.any(seconds[~np.isnan(seconds)] % _SECONDS_A_DAY))
    return _DATE_PARTS if has_times else _DATE_PARTS[:-1]


def _date_parts(seconds: NDArray[np.float64], parts: Sequence[str]) -> list[NDArray[np.float64]]:
    """Split seconds since 1970-01-01 into parts of the Gregorian calendar, NaN where missing.

    Args:
        seconds: Shape ``(n_samples,)``.
        parts: Names of parts.

    Returns:
        An array of shape ``(n_samples,)`` for each part.
    """
    missing = np.isnan(seconds)
    days = np.clip(np.where(missing, 0.0, seconds) / _SECONDS_A_DAY, _FIRST_DAY, _LAST_DAY)
    whole = np.floor(days)
    dates = whole.astype(np.int64).astype("datetime64[D]")
    months = dates.astype("datetime64[M]")
    found = {
        "days": days,
        "month": months.astype(np.int64) % 12 + 1.0,
        "day": (dates - months.astype("datetime64[D]")).astype(np.int64) + 1.0,
        # The first of January 1970 was a Thursday.
        "weekday": (whole + 3.0) % 7.0,
        "hour": np.floor((days - whole) * 24.0 + 1e-9),
    }
    return [np.where(missing, np.nan, found[part]) for part in parts]


def _lists(state: Mapping[str, Any], key: str, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Read lists of texts by feature name."""
    found = state[key]
    if not isinstance(found, Mapping):
        raise DataError(f"preprocessing.{key} must be an object, got {show(found)}.")
    for name, texts in found.items():
        if name not in names:
            raise DataError(f"preprocessing.{key}: {unknown('feature', str(name), names)}")
        if (
            not isinstance(texts, list)
            or not all(isinstance(text, str) for text in texts)
            or len(set(texts)) != len(texts)
        ):
            raise DataError(f"preprocessing.{key} of '{name}' must be a list of texts, each once.")
    return {name: tuple(texts) for name, texts in found.items()}


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
