"""What a model takes and gives: names, types and ranges of the features, and the classes.

It is computed once, from the raw training rows, and travels with the model, so that whoever sends
rows later is told what is wrong with them in the words of the table that the model learned from.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self, cast, get_args

import numpy as np

from ml_project_template.data.columns import power_of_two, show
from ml_project_template.errors import DataError, unknown

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

    from ml_project_template.data.tabular import TabularDataset

    Rows = pd.DataFrame | Sequence[Mapping[str, object]] | Sequence[Sequence[object]]

__all__ = ["Feature", "FeatureType", "Signature", "Value"]

FeatureType = Literal["float", "int", "bool"]
Value = bool | int | float | None

_NUM_SAMPLE_ROWS = 5
_DECILES = np.linspace(0.0, 1.0, 11)
_NUM_GAPS = 8


@dataclass(frozen=True)
class Feature:
    """One raw feature as the training rows showed it.

    Attributes:
        name: The name of the column.
        type: ``"bool"``, ``"int"`` or ``"float"``; a column with missing values is ``"float"``.
        min: The smallest value, or None where every value is missing.
        max: The largest value, likewise.
        mean: The mean of the values that are there, likewise.
        missing: The part of the rows where the value is missing, in [0, 1].
        quantiles: The 11 deciles from minimum to maximum, likewise None.
    """

    name: str
    type: FeatureType
    min: float | None
    max: float | None
    mean: float | None
    missing: float
    quantiles: tuple[float, ...] | None


@dataclass(frozen=True)
class Signature:
    """The contract of a model with those who send it rows.

    Attributes:
        features: The raw features in the order of the columns.
        target: The name of the target column.
        class_names: The classes in the order of the columns of a prediction.
        sample: Up to 5 raw training rows by feature name, of as many classes as possible.
        n_rows: How many rows the ranges were taken from.
    """

    features: tuple[Feature, ...]
    target: str
    class_names: tuple[str, ...]
    sample: tuple[dict[str, Value], ...]
    n_rows: int

    @classmethod
    def from_dataset(cls, dataset: TabularDataset) -> Self:
        """Describe raw rows.

        Args:
            dataset: The training rows, not yet prepared.
        """
        return cls(
            features=tuple(
                _describe(name, dataset.features.iloc[:, index])
                for index, name in enumerate(dataset.feature_names)
            ),
            target=dataset.target_column,
            class_names=dataset.class_names,
            sample=tuple(_sample(dataset)),
            n_rows=len(dataset),
        )

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
        sample = [[_as_float(row[name]) for name in names] for row in self.sample]
        deciles = np.array(
            [feature.quantiles or [0.0] * len(_DECILES) for feature in self.features]
        )
        columns = np.arange(len(names))
        mixed = [
            deciles[columns, (step * turn * (columns + 1)) % len(_DECILES)]
            for turn in (1, -1)
            for step in range(len(_DECILES))
        ]
        rows = np.array([*sample, *mixed], dtype=np.float64)
        if not missing:
            return np.where(np.isnan(rows), 0.0, rows)
        gaps = rows[-1:].repeat(min(len(names), _NUM_GAPS) + 1, axis=0)
        gaps[-1] = np.nan
        np.fill_diagonal(gaps[:-1], np.nan)
        return np.concatenate([rows, gaps])

    def to_dict(self) -> dict[str, Any]:
        """Write the signature as plain JSON values."""
        return {
            "features": [
                {
                    **asdict(feature),
                    "quantiles": None if feature.quantiles is None else list(feature.quantiles),
                }
                for feature in self.features
            ],
            "target": self.target,
            "class_names": list(self.class_names),
            "sample": [dict(row) for row in self.sample],
            "n_rows": self.n_rows,
        }

    @classmethod
    def from_dict(cls, state: Mapping[str, Any]) -> Self:
        """Read what ``to_dict`` wrote.

        Args:
            state: Plain JSON values.

        Raises:
            DataError: A key is missing or unknown, or a value is of the wrong kind.
        """
        _check_keys(state, {field.name for field in fields(cls)}, "signature")
        features = tuple(
            _feature_from_dict(item) for item in _list(state["features"], "signature.features")
        )
        names = [feature.name for feature in features]
        if not names or len(set(names)) != len(names):
            raise DataError("signature.features must name at least one feature, each once.")
        sample = tuple(
            _sample_from_dict(row, names) for row in _list(state["sample"], "signature.sample")
        )
        return cls(
            features=features,
            target=_text(state["target"], "signature.target"),
            class_names=tuple(
                _text(label, "signature.class_names")
                for label in _list(state["class_names"], "signature.class_names")
            ),
            sample=sample,
            n_rows=_integer(state["n_rows"], "signature.n_rows"),
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
            Shape ``(n, n_features)``, float64, columns in the order of the features.

        Raises:
            DataError: A feature is missing or unknown, or a value is neither a finite number nor
                missing; the message names the row, counted from 1, and the feature.
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
            raise self._wrong(row, self.features[column].name, float(values[row, column]))
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
        for index, name in enumerate(self.feature_names):
            column = frame.iloc[:, names.index(name)]
            if pd.api.types.is_any_real_numeric_dtype(column.dtype) or (
                pd.api.types.is_bool_dtype(column.dtype) and column.dtype != object
            ):
                values[:, index] = column.to_numpy(dtype=np.float64, na_value=np.nan)
            else:
                missing = column.isna().to_numpy()
                for row, value in enumerate(column.to_numpy(dtype=object)):
                    values[row, index] = np.nan if missing[row] else self._value(row, name, value)
        return values

    def _from_array(self, rows: NDArray[Any]) -> NDArray[np.float64]:
        if rows.ndim != 2 or rows.shape[1] != len(self.features):
            raise DataError(
                f"Rows must have the shape (n, {len(self.features)}), one value for each of "
                f"{', '.join(self.feature_names)}; got the shape {rows.shape}."
            )
        if rows.dtype.kind in "biuf":
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
                values[index, position] = self._value(index, names[position], value)
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

    def _value(self, row: int, name: str, value: object) -> float:
        if value is None or _is_pandas_gap(value):
            return math.nan
        if isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            try:
                return float(value)
            except OverflowError:
                return math.inf
        raise self._wrong(row, name, value)

    @staticmethod
    def _wrong(row: int, name: str, value: object) -> DataError:
        return DataError(
            f"Row {row + 1}: feature '{name}' must be a finite number, got {show(value)}."
        )


def _is_pandas_gap(value: object) -> bool:
    """Recognise ``pd.NA`` and ``pd.NaT``, which nobody has who has not imported pandas."""
    pandas = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def _as_float(value: Value) -> float:
    return math.nan if value is None else float(value)


def _missing(name: str, surplus: set[str]) -> str:
    """Say that a feature is missing, and which of the surplus names may stand for it."""
    close = difflib.get_close_matches(name, sorted(surplus), n=1, cutoff=0.5)
    hint = f"; is it '{close[0]}'?" if close else "."
    return f"the feature '{name}' is missing{hint}"


def _describe(name: str, column: pd.Series[Any]) -> Feature:
    kind: FeatureType = "float"
    if column.dtype.kind in "bi":
        kind = "bool" if column.dtype.kind == "b" else "int"
    values = column.to_numpy(dtype=np.float64)
    there = values[~np.isnan(values)]
    missing = 1.0 - len(there) / len(values)
    if len(there) == 0:
        return Feature(name, kind, None, None, None, missing, None)
    factor = power_of_two(there)
    scaled = there / factor
    quantiles = np.quantile(scaled, _DECILES) * factor
    return Feature(
        name=name,
        type=kind,
        min=float(there.min()),
        max=float(there.max()),
        mean=float(np.mean(scaled) * factor),
        missing=missing,
        quantiles=tuple(quantiles.tolist()),
    )


def _sample(dataset: TabularDataset) -> list[dict[str, Value]]:
    """Take the first row of each class, then the first of the others."""
    positions: list[int] = []
    if dataset.has_target:
        _, first = np.unique(dataset.y, return_index=True)
        positions = first[:_NUM_SAMPLE_ROWS].tolist()
    others = (row for row in range(min(len(dataset), 2 * _NUM_SAMPLE_ROWS)))
    for row in others:
        if len(positions) == _NUM_SAMPLE_ROWS:
            break
        if row not in positions:
            positions.append(row)
    return [
        {
            name: _plain(dataset.features.iloc[row, index])
            for index, name in enumerate(dataset.feature_names)
        }
        for row in positions
    ]


def _plain(value: Any) -> Value:
    plain = cast("bool | int | float", np.asarray(value).item())
    return None if isinstance(plain, float) and math.isnan(plain) else plain


def _feature_from_dict(state: object) -> Feature:
    where = "signature.features"
    state = _check_keys(state, {field.name for field in fields(Feature)}, where)
    name = _text(state["name"], f"{where}.name")
    kinds = get_args(FeatureType)
    if state["type"] not in kinds:
        raise DataError(f"{where}: '{name}': {unknown('type', str(state['type']), kinds)}")
    missing = _number(state["missing"], f"{where}.missing")
    if missing is None or not 0.0 <= missing <= 1.0:
        raise DataError(f"{where}.missing of '{name}' must be in [0, 1], got {show(missing)}.")
    quantiles = state["quantiles"]
    if quantiles is not None:
        quantiles = [
            _number(item, f"{where}.quantiles") for item in _list(quantiles, f"{where}.quantiles")
        ]
        if len(quantiles) != len(_DECILES) or None in quantiles:
            raise DataError(f"{where}.quantiles of '{name}' must be {len(_DECILES)} numbers.")
    return Feature(
        name=name,
        type=state["type"],
        min=_number(state["min"], f"{where}.min"),
        max=_number(state["max"], f"{where}.max"),
        mean=_number(state["mean"], f"{where}.mean"),
        missing=missing,
        quantiles=None if quantiles is None else tuple(quantiles),
    )


def _sample_from_dict(state: object, names: Sequence[str]) -> dict[str, Value]:
    row = _check_keys(state, set(names), "signature.sample")
    for value in row.values():
        if not isinstance(value, bool):
            _number(value, "signature.sample")
    return {name: row[name] for name in names}


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
