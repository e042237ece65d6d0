"""What a model takes and gives: names, types and ranges of the features, and the classes.

It is computed once, from the raw training rows, and travels with the model, so that whoever sends
rows later is told what is wrong with them in the words of the table that the model learned from.
"""

from __future__ import annotations

import datetime
import difflib
import functools
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

import numpy as np

from ml_project_template.data.column_types import (
    date_text,
    encode_categories,
    encode_dates,
    parse_date,
)
from ml_project_template.data.columns import harmless_factor, label_text, show, sort_labels
from ml_project_template.errors import DataError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ml_project_template.data.tabular import TabularDataset

    Rows = pd.DataFrame | Sequence[Mapping[str, object]] | Sequence[Sequence[object]]

__all__ = [
    "MAX_LEVELS",
    "Feature",
    "FeatureType",
    "Signature",
    "Task",
    "Value",
    "check_answers",
    "describe",
    "sample_rows",
    "sample_value",
]

FeatureType = Literal["float", "int", "bool", "category", "date"]
Task = Literal["classification", "regression"]
Value = bool | int | float | str | None

MAX_LEVELS = 254
"""How many levels of a category are told apart; rarer ones count as missing.

The histogram booster has 255 bins for a feature, one of them for what is missing.
"""

_NUM_SAMPLE_ROWS = 5
_NUM_BUCKETS = 4096
_FEW_TO_SORT = 20_000
_DECILES = np.linspace(0.0, 1.0, 11)
_NUM_GAPS = 8


@dataclass(frozen=True)
class Feature:
    """One raw feature as the training rows showed it.

    Attributes:
        name: The name of the column.
        type: ``"bool"``, ``"int"`` or ``"float"`` (a column of numbers with missing values is
            ``"float"``), ``"category"`` or ``"date"``.
        min: The smallest value, or None where every value is missing, and for a category. That of
            a date is in seconds since 1970-01-01.
        max: The largest value, likewise.
        mean: The mean of the values that are there, likewise.
        missing: The part of the rows where the value is missing, in [0, 1].
        quantiles: The 11 deciles from minimum to maximum, likewise None.
        levels: The values of a category in the order of their codes; None for other types.
        shares: The part of the rows that has each level, in [0, 1]; None for other types.
    """

    name: str
    type: FeatureType
    min: float | None
    max: float | None
    mean: float | None
    missing: float
    quantiles: tuple[float, ...] | None
    levels: tuple[str, ...] | None = None
    shares: tuple[float, ...] | None = None

    def encode(self, value: object) -> float | None:
        """Write one value as a number: a category as the place of its level, a date in seconds.

        Args:
            value: As it stands in a row.

        Returns:
            The number, which may be infinite; NaN where the value is missing, or a level that the
            training rows do not have; None where it is not of this type.
        """
        if value is None or _is_pandas_gap(value):
            return math.nan
        if self.levels is not None:
            return self._code(value)
        if self.type == "date":
            return parse_date(value)
        if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            try:
                return float(value)
            except OverflowError:
                return math.inf
        return None

    def _code(self, value: object) -> float | None:
        if isinstance(value, float) and math.isnan(value):
            return math.nan
        if not isinstance(value, (str, bool, int, float, np.bool_, np.integer, np.floating)):
            return None
        return self._places.get(label_text(value), math.nan)

    @functools.cached_property
    def _places(self) -> dict[str, float]:
        return {level: float(place) for place, level in enumerate(self.levels or ())}

    @property
    def rule(self) -> str:
        """What a value has to be, in words."""
        if self.type == "category":
            return "a text"
        return "a date such as 2024-01-31" if self.type == "date" else "a finite number"


@dataclass(frozen=True)
class Signature:
    """The contract of a model with those who send it rows.

    Attributes:
        features: The raw features in the order of the columns.
        target: The name of the target column.
        class_names: The classes in the order of the columns of a prediction; none for a regression.
        sample: Up to 5 raw training rows by feature name, of as many classes as possible.
        n_rows: How many rows the ranges were taken from.
        task: Whether the target is a class or a number.
        target_quantiles: The 11 deciles of a numeric target, from minimum to maximum.
        threshold: The probability of the second of two classes from which on it is predicted; None
            predicts the more probable one.
    """

    features: tuple[Feature, ...]
    target: str
    class_names: tuple[str, ...]
    sample: tuple[dict[str, Value], ...]
    n_rows: int
    task: Task = "classification"
    target_quantiles: tuple[float, ...] | None = None
    threshold: float | None = None

    @classmethod
    def from_dataset(cls, dataset: TabularDataset) -> Self:
        """Describe raw rows.

        Args:
            dataset: The training rows, not yet prepared.
        """
        columns = [
            (name, dataset.features.iloc[:, index])
            for index, name in enumerate(dataset.feature_names)
        ]
        sample = sample_rows(dataset.y if dataset.has_target else None, dataset.task, len(dataset))
        return cls.of_features(
            [describe(name, column) for name, column in columns],
            [{name: sample_value(column.iloc[row]) for name, column in columns} for row in sample],
            y=dataset.y if dataset.has_target else None,
            n_rows=len(dataset),
            target=dataset.target_column,
            task=dataset.task,
            class_names=dataset.class_names,
        )

    @classmethod
    def of_features(
        cls,
        features: Sequence[Feature],
        sample: Sequence[dict[str, Value]],
        *,
        y: NDArray[Any] | None,
        n_rows: int,
        target: str,
        task: Task,
        class_names: tuple[str, ...],
    ) -> Self:
        """Put together what was found out column by column.

        Args:
            features: What `describe` says of each column.
            sample: The values of `sample_rows`.
            y: The target of the training rows; None where it is not known.
            n_rows: How many training rows there are.
            target: The attribute of the class.
            task: The attribute of the class.
            class_names: The attribute of the class.
        """
        return cls(
            features=tuple(features),
            target=target,
            class_names=class_names,
            sample=tuple(sample),
            n_rows=n_rows,
            task=task,
            target_quantiles=_quantiles(y) if task == "regression" and y is not None else None,
        )

    @property
    def num_outputs(self) -> int:
        """How many numbers a prediction has: one for each class, or one."""
        return 1 if self.task == "regression" else len(self.class_names)

    @property
    def column_types(self) -> dict[str, str]:
        """What each feature was read as, in the words of ``data.columns``."""
        return {
            feature.name: feature.type if feature.type in {"category", "date"} else "numeric"
            for feature in self.features
        }

    def decide(self, probabilities: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Choose a class for each row.

        Args:
            probabilities: Shape ``(n_rows, n_classes)``.

        Returns:
            Class codes of shape ``(n_rows,)``: the most probable class, or where there is a
            threshold, the second of two from that probability on.
        """
        codes: NDArray[np.int64] = probabilities.argmax(axis=1)
        if self.threshold is not None:
            codes = (probabilities[:, 1] >= self.threshold).astype(np.int64)
        return codes

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features in their order."""
        return tuple(feature.name for feature in self.features)

    def probe_rows(self, *, missing: bool = False) -> NDArray[np.float64]:
        """Make raw rows on which two ways to compute a model can be compared.

        They are the sample, and rows that mix the deciles of the features: row ``i`` takes decile
        ``i * (j + 1)`` of feature ``j``, modulo eleven, and a second round runs the other way.

        Args:
            missing: Also leave out each of the first features once, and all of them.

        Returns:
            Shape ``(n_rows, n_features)``, float64; the same rows for the same signature.
        """
        names = self.feature_names
        sample = [
            [_known(feature.encode(row[feature.name])) for feature in self.features]
            for row in self.sample
        ]
        deciles = np.array([_spread(feature) for feature in self.features])
        columns = np.arange(len(names))
        mixed = [
            deciles[columns, (step * turn * (columns + 1)) % len(_DECILES)]
            for turn in (1, -1)
            for step in range(len(_DECILES))
        ]
        rows = np.array([*sample, *mixed], dtype=np.float64)
        if not missing:
            needed = [feature.levels is None for feature in self.features]
            return np.where(np.isnan(rows) & needed, 0.0, rows)
        gaps = rows[-1:].repeat(min(len(names), _NUM_GAPS) + 1, axis=0)
        gaps[-1] = np.nan
        np.fill_diagonal(gaps[:-1], np.nan)
        return np.concatenate([rows, gaps])

    def to_dict(self) -> dict[str, Any]:
        """Write the signature as plain JSON values."""
        return {
            "features": [
                {
                    **{field.name: getattr(feature, field.name) for field in fields(feature)},
                    "quantiles": None if feature.quantiles is None else list(feature.quantiles),
                    "levels": None if feature.levels is None else list(feature.levels),
                    "shares": None if feature.shares is None else list(feature.shares),
                }
                for feature in self.features
            ],
            "target": self.target,
            "class_names": list(self.class_names),
            "sample": [dict(row) for row in self.sample],
            "n_rows": self.n_rows,
            "task": self.task,
            "target_quantiles": (
                None if self.target_quantiles is None else list(self.target_quantiles)
            ),
            "threshold": self.threshold,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote.

        Args:
            state: Plain JSON values.

        Raises:
            DataError: A key is missing or unknown, or a value is of the wrong kind.
        """
        # A model that was saved before there were these keys has what they say without a word.
        optional = {"task": "classification", "target_quantiles": None, "threshold": None}
        if isinstance(state, Mapping):
            state = {**optional, **state}
        _check_keys(state, {field.name for field in fields(cls)}, "signature")
        if state["task"] not in get_args(Task):
            raise DataError(f"signature: {unknown('task', str(state['task']), get_args(Task))}")
        features = tuple(
            _feature_from_dict(item) for item in _list(state["features"], "signature.features")
        )
        names = [feature.name for feature in features]
        if not names or len(set(names)) != len(names):
            raise DataError("signature.features must name at least one feature, each once.")
        sample = tuple(
            _sample_from_dict(row, features) for row in _list(state["sample"], "signature.sample")
        )
        class_names = tuple(
            _text(label, "signature.class_names")
            for label in _list(state["class_names"], "signature.class_names")
        )
        threshold = _number(state["threshold"], "signature.threshold")
        if threshold is not None and not (0.0 <= threshold <= 1.0 and len(class_names) == 2):
            raise DataError(
                "signature.threshold must be in [0, 1], and is for two classes; got "
                f"{show(threshold)} and {len(class_names)} classes."
            )
        return cls(
            features=features,
            target=_text(state["target"], "signature.target"),
            class_names=class_names,
            sample=sample,
            n_rows=_integer(state["n_rows"], "signature.n_rows"),
            task=state["task"],
            target_quantiles=_deciles(state["target_quantiles"], "signature.target_quantiles"),
            threshold=threshold,
        )

    def rows_to_frame(self, rows: Rows | NDArray[Any], *, strict: bool = False) -> pd.DataFrame:
        """Bring raw rows of any form into the order of the features.

        Args:
            rows: A DataFrame with a column for each feature; or an array or a list of lists of
                shape ``(n, n_features)`` in the order of the features; or a list of mappings from
                feature name to value. None and NaN are missing values.
            strict: Refuse columns of a DataFrame that are no features. By default they are
                ignored, as is the target among the keys of a mapping.

        Returns:
            Shape ``(n, n_features)``, float64, columns in the order of the features: a category as
            the place of its level, a date in seconds since 1970-01-01. A level that the training
            rows do not have is NaN, as what is missing.

        Raises:
            DataError: A feature is missing or unknown, or a value is neither of the feature's type
                nor missing; the message names the row, counted from 1, and the feature.
        """
        import pandas as pd

        if isinstance(rows, pd.DataFrame):
            values = self._from_frame(rows, strict)
        elif isinstance(rows, np.ndarray):
            values = self._from_array(rows)
        else:
            values = self._from_list(rows, strict)
        infinite = np.isinf(values)
        if infinite.any():
            row, column = (int(index[0]) for index in np.nonzero(infinite))
            raise _wrong(row, self.features[column], float(values[row, column]))
        return pd.DataFrame(values, columns=list(self.feature_names), copy=False)

    def _from_frame(self, frame: pd.DataFrame, strict: bool) -> NDArray[np.float64]:
        import pandas as pd

        names = [str(column) for column in frame.columns]
        for name in self.feature_names:
            if names.count(name) > 1:
                raise DataError(f"The column '{name}' stands more than once.")
            if name not in names:
                surplus = set(names) - set(self.feature_names)
                raise DataError(f"The table: {_missing(name, surplus)}")
        if strict:
            for name in names:
                if name not in self.feature_names:
                    raise DataError(unknown("feature", name, self.feature_names))
        values = np.empty((len(frame), len(self.features)), dtype=np.float64)
        for index, feature in enumerate(self.features):
            column = frame.iloc[:, names.index(feature.name)]
            if feature.levels is not None:
                values[:, index] = encode_categories(column, feature.levels)
            elif feature.type == "date":
                values[:, index] = encode_dates(column, feature.name, "The table")
            elif pd.api.types.is_any_real_numeric_dtype(column.dtype) or (
                pd.api.types.is_bool_dtype(column.dtype) and column.dtype != object
            ):
                values[:, index] = column.to_numpy(dtype=np.float64, na_value=np.nan)
            else:
                missing = column.isna().to_numpy()
                for row, value in enumerate(column.to_numpy(dtype=object)):
                    values[row, index] = np.nan if missing[row] else _value(row, feature, value)
        return values

    def _from_array(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        if rows.ndim != 2 or rows.shape[1] != len(self.features):
            raise DataError(
                f"Rows must have the shape (n, {len(self.features)}), one value for each of "
                f"{', '.join(self.feature_names)}; got the shape {rows.shape}."
            )
        if rows.dtype.kind in "biuf" and all(f.type in _NUMERIC for f in self.features):
            return rows.astype(np.float64)
        return self._from_list(rows.tolist(), strict=False)

    def _from_list(self, rows: object, strict: bool) -> NDArray[np.float64]:
        if isinstance(rows, (str, bytes, Mapping)) or not isinstance(rows, Sequence):
            raise DataError(f"Rows must be a table or a list of rows, got {show(rows)}.")
        names = self.feature_names
        values = np.empty((len(rows), len(names)), dtype=np.float64)
        for index, row in enumerate(rows):
            if isinstance(row, Mapping):
                items = self._items_by_name(index, row, strict)
            elif isinstance(row, np.ndarray) and row.ndim == 1:
                items = row.tolist()
            elif isinstance(row, Sequence) and not isinstance(row, (str, bytes)):
                items = row
            else:
                raise DataError(
                    f"Row {index + 1} must be a list of values or an object by feature name, "
                    f"got {show(row)}."
                )
            if len(items) != len(names):
                raise DataError(
                    f"Row {index + 1} has {len(items)} values; {len(names)} are needed: "
                    f"{', '.join(names)}."
                )
            for position, value in enumerate(items):
                values[index, position] = _value(index, self.features[position], value)
        return values

    def _items_by_name(
        self, index: int, row: Mapping[str, object], strict: bool
    ) -> Sequence[object]:
        names = self.feature_names
        surplus = [str(key) for key in row if key not in names]
        for name in names:
            if name not in row:
                raise DataError(f"Row {index + 1}: {_missing(name, set(surplus))}")
        for key in surplus:
            if strict or key != self.target:
                raise DataError(f"Row {index + 1}: {unknown('feature', key, names)}")
        return [row[name] for name in names]


_NUMERIC = frozenset({"bool", "int", "float"})


def _value(row: int, feature: Feature, value: object) -> float:
    number = feature.encode(value)
    if number is None:
        raise _wrong(row, feature, value)
    return number


def _wrong(row: int, feature: Feature, value: object) -> DataError:
    return DataError(
        f"Row {row + 1}: feature '{feature.name}' must be {feature.rule}, got {show(value)}."
    )


def _is_pandas_gap(value: object) -> bool:
    """Recognise ``pd.NA`` and ``pd.NaT``, which nobody has who has not imported pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def _known(number: float | None) -> float:
    return math.nan if number is None else number


def _spread(feature: Feature) -> list[float]:
    """Give as many values as there are deciles, from all over what a feature can be."""
    if feature.levels is not None:
        return [float(step % max(len(feature.levels), 1)) for step in range(len(_DECILES))]
    return list(feature.quantiles or [0.0] * len(_DECILES))


def _missing(name: str, surplus: set[str]) -> str:
    """Say that a feature is missing, and which of the surplus names may stand for it."""
    close = difflib.get_close_matches(name, sorted(surplus), n=1, cutoff=0.5)
    hint = f"; is it '{close[0]}'?" if close else "."
    return f"the feature '{name}' is missing{hint}"


def check_answers(answers: NDArray[np.float64]) -> NDArray[np.float64]:
    """See that a model's answers are numbers: a class that is picked from NaN looks like one.

    Args:
        answers: Probabilities or numbers, of shape ``(n_rows, n_outputs)``.

    Returns:
        The answers.

    Raises:
        DataError: One is NaN or infinite; names the row.
    """
    finite = np.isfinite(answers)
    if not finite.all():
        row = int(np.flatnonzero(~finite.all(axis=1))[0])
        raise DataError(f"Row {row + 1}: the model has no finite answer to its values.")
    return answers


def describe(name: str, column: pd.Series[Any]) -> Feature:
    """Describe a raw column.

    Args:
        name: Its name.
        column: As `typed_column` gives it, of the training rows.
    """
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        missing = float(column.isna().mean())
        levels, shares = _levels(column)
        return Feature(name, "category", None, None, None, missing, None, levels, shares)
    kind: FeatureType = "float"
    if column.dtype.kind in "bi":
        kind = "bool" if column.dtype.kind == "b" else "int"
    if column.dtype.kind == "M":
        kind = "date"
        values = encode_dates(column, name, "The table")
    else:
        values = column.to_numpy(dtype=np.float64)
    is_missing = np.isnan(values)
    missing = float(is_missing.mean())
    there = values[~is_missing] if missing else values
    if len(there) == 0:
        return Feature(name, kind, None, None, None, missing, None)
    factor = harmless_factor(there)
    return Feature(
        name=name,
        type=kind,
        min=float(there.min()),
        max=float(there.max()),
        mean=float(np.mean(there if factor == 1.0 else there / factor) * factor),
        missing=missing,
        quantiles=_quantiles(there),
    )


def _quantiles(values: NDArray[np.float64]) -> tuple[float, ...]:
    """Give the deciles that ``numpy.quantile`` gives."""
    factor = harmless_factor(values)
    if factor != 1.0:
        values = values / factor
    places = _DECILES * (len(values) - 1)
    below = np.floor(places).astype(np.int64)
    above = np.minimum(below + 1, len(values) - 1)
    found = _in_order(values, np.concatenate([below, above]))
    low, high = found[: len(below)], found[len(below) :]
    part, step = places - below, high - low
    # From the nearer side, as NumPy does: the result is never beyond either.
    quantiles = np.where(part < 0.5, low + step * part, high - step * (1.0 - part))
    return tuple((quantiles * factor).tolist())


def _in_order(values: NDArray[np.float64], places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Give what would stand at some places if the values were sorted.

    Only a small part of many values is sorted: they are counted in buckets of equal width, and the
    buckets that hold a place are. Where most values are in one of them, all are sorted.
    """
    lowest, highest = float(values.min()), float(values.max())
    width = (highest - lowest) / _NUM_BUCKETS
    if len(values) < _FEW_TO_SORT or not math.isfinite(1.0 / width if width else math.inf):
        return np.sort(values)[places]
    # Rounding keeps the order of the values, so each bucket's are below those of the next.
    scaled = values - lowest
    scaled *= 1.0 / width
    buckets = scaled.astype(np.int32)
    counts = np.bincount(buckets)
    ends = np.cumsum(counts)
    of_places = np.searchsorted(ends, places, side="right")
    is_wanted = np.zeros(len(counts), dtype=bool)
    is_wanted[of_places] = True
    if counts[is_wanted].sum() > len(values) // 4:
        return np.sort(values)[places]
    wanted = np.sort(values[is_wanted[buckets]])
    skipped = np.cumsum(np.where(is_wanted, 0, counts))
    found: NDArray[np.float64] = wanted[places - skipped[of_places]]
    return found


def _levels(column: pd.Series[Any]) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Order the levels that occur, with their shares; of too many, the most frequent are kept."""
    counts = column.value_counts()
    counts = counts[counts > 0]
    # Of equally frequent ones the same are kept whatever the order of the rows.
    kept = sorted(((-int(n), str(level)) for level, n in counts.items()))[:MAX_LEVELS]
    shares = {level: -n / len(column) for n, level in kept}
    levels = sort_labels(set(shares))
    return levels, tuple(shares[level] for level in levels)


def sample_rows(y: NDArray[Any] | None, task: Task, num_rows: int) -> list[int]:
    """Choose the first row of each class, then the first of the others.

    Args:
        y: The target of the training rows; None where it is not known.
        task: What it is.
        num_rows: How many rows there are.

    Returns:
        Up to 5 positions.
    """
    positions: list[int] = []
    if y is not None and task == "classification":
        counts = np.bincount(y)
        firsts = [int(np.argmax(y == code)) for code in np.flatnonzero(counts)[:_NUM_SAMPLE_ROWS]]
        positions = firsts
    for row in range(min(num_rows, 2 * _NUM_SAMPLE_ROWS)):
        if len(positions) == _NUM_SAMPLE_ROWS:
            break
        if row not in positions:
            positions.append(row)
    return positions


def sample_value(value: Any) -> Value:
    """Write a value of a typed column as plain JSON.

    Args:
        value: A number, a text, a date, or a gap.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, datetime.datetime):
        seconds = parse_date(value)
        # There is a time that is none, and it is an instance of datetime.
        return None if seconds is None or math.isnan(seconds) else date_text(seconds)
    plain = cast("bool | int | float", np.asarray(value).item())
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _feature_from_dict(state: object) -> Feature:
    where = "signature.features"
    if isinstance(state, Mapping):
        state = {"levels": None, "shares": None, **state}
    state = _check_keys(state, {field.name for field in fields(Feature)}, where)
    name = _text(state["name"], f"{where}.name")
    kinds = get_args(FeatureType)
    if state["type"] not in kinds:
        raise DataError(f"{where}: '{name}': {unknown('type', str(state['type']), kinds)}")
    missing = _number(state["missing"], f"{where}.missing")
    if missing is None or not 0.0 <= missing <= 1.0:
        raise DataError(f"{where}.missing of '{name}' must be in [0, 1], got {show(missing)}.")
    levels = state["levels"]
    if (state["type"] == "category") != (levels is not None):
        raise DataError(f"{where}.levels of '{name}' must be a list for a category, else null.")
    if levels is not None:
        levels = tuple(_text(level, f"{where}.levels") for level in _list(levels, where))
        if len(set(levels)) != len(levels) or len(levels) > MAX_LEVELS:
            raise DataError(
                f"{where}.levels of '{name}' must be at most {MAX_LEVELS} texts, each once."
            )
    shares = state["shares"]
    if shares is not None:
        found = [_number(share, f"{where}.shares") for share in _list(shares, f"{where}.shares")]
        shares = tuple(share for share in found if share is not None and 0.0 <= share <= 1.0)
        if levels is None or not len(shares) == len(found) == len(levels):
            raise DataError(
                f"{where}.shares of '{name}' must be a number in [0, 1] for each of its levels."
            )
    return Feature(
        name=name,
        type=state["type"],
        min=_number(state["min"], f"{where}.min"),
        max=_number(state["max"], f"{where}.max"),
        mean=_number(state["mean"], f"{where}.mean"),
        missing=missing,
        quantiles=_deciles(state["quantiles"], f"{where}.quantiles of '{name}'"),
        levels=levels,
        shares=shares,
    )


def _deciles(value: object, where: str) -> tuple[float, ...] | None:
    if value is None:
        return None
    numbers = [_number(item, where) for item in _list(value, where)]
    if len(numbers) != len(_DECILES) or None in numbers:
        raise DataError(f"{where} must be {len(_DECILES)} numbers.")
    return tuple(number for number in numbers if number is not None)


def _sample_from_dict(state: object, features: Sequence[Feature]) -> dict[str, Value]:
    row = _check_keys(state, {feature.name for feature in features}, "signature.sample")
    for feature in features:
        value = row[feature.name]
        if feature.type in {"category", "date"}:
            if value is not None and not (
                isinstance(value, str) and feature.encode(value) is not None
            ):
                raise DataError(
                    f"signature.sample: '{feature.name}' must be {feature.rule}, got {show(value)}."
                )
        elif not isinstance(value, bool):
            _number(value, "signature.sample")
    return {feature.name: row[feature.name] for feature in features}


def _check_keys(state: object, keys: set[str], where: str) -> Mapping[str, Any]:
    if not isinstance(state, Mapping):
        raise DataError(f"{where} must be an object, got {show(state)}.")
    for key in state:
        if key not in keys:
            raise DataError(f"{where}: {unknown('key', str(key), keys)}")
    for key in sorted(keys):
        if key not in state:
            raise DataError(f"{where}: the key '{key}' is missing.")
    return state


def _list(value: object, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where} must be a list, got {show(value)}.")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise DataError(f"{where} must be text, got {show(value)}.")
    return value


def _integer(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise DataError(f"{where} must be a whole number of at least 0, got {show(value)}.")
    return value


def _number(value: object, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{where} must be a finite number or null, got {show(value)}.")
    return float(value)
