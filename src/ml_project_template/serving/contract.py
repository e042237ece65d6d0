"""What a client sends and gets, made from the signature of a model.

The rows of a request are decoded straight into numbers by msgspec, by types that are made here for
this one model. The schema in OpenAPI says the same to people and tools; a test keeps the two equal.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from ml_project_template.data.signature import Feature, Signature
from ml_project_template.errors import unknown
from ml_project_template.serving.http import RefusalError, cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Contract"]

_PLACE = re.compile(r"\$\.features\[(\d+)\](.*)", re.DOTALL)
_FIELD = re.compile(
    r"Object (contains unknown|(?P<known>missing required)) field `(?P<name>.*?)`"
    r"( - at `\$\.features\[(?P<row>\d+)\]`)?",
    re.DOTALL,
)
_POSITION = re.compile(r"\[(\d+)\]")
# msgspec has no fields whose names would have to be escaped in JSON.
_ESCAPED = re.compile(r'["\\\x00-\x1f]')
_EXPECTED = re.compile(r"Expected `(.{1,100}?)`, got `(\w{1,20})`")


class Contract:
    """The request and the answer of ``/predict`` for one model.

    Args:
        signature: The raw features and the class names.
        accepts_missing: Whether a value may be null.
        max_rows: The most rows of a request.
    """

    def __init__(self, signature: Signature, *, accepts_missing: bool, max_rows: int) -> None:
        self.signature = signature
        self.accepts_missing = accepts_missing
        self.max_rows = max_rows
        self._names = signature.feature_names
        value: Any = float if not accepts_missing else float | None
        if any(feature.type == "bool" for feature in signature.features):
            value = value | bool
        self._has_fields = not any(map(_ESCAPED.search, self._names))
        row: Any = self._row_type() if self._has_fields else dict[str, value]
        self._lists = msgspec.json.Decoder(_body("Lists", list[list[value]]))
        self._objects = msgspec.json.Decoder(_body("Objects", list[row]))
        self._either = msgspec.json.Decoder(_body("Either", list[list[value] | row]))
        self._class_names = list(signature.class_names)
        self._encode = msgspec.json.Encoder().encode
        self._chances = self._answer_type()

    def _row_type(self) -> Any:
        # Fields have names of ours: a feature may be called anything.
        fields = [
            (f"feature_{i}", self._type(feature))
            for i, feature in enumerate(self.signature.features)
        ]
        keys = {f"feature_{i}": name for i, name in enumerate(self._names)}
        return msgspec.defstruct(
            "Row", fields, rename=keys, forbid_unknown_fields=True, gc=False, frozen=True
        )

    def _answer_type(self) -> Callable[..., Any]:
        names = self._class_names
        if any(map(_ESCAPED.search, names)):
            return lambda *chances: dict(zip(names, chances, strict=True))
        keys = {f"class_{i}": name for i, name in enumerate(names)}
        return msgspec.defstruct(
            "Probabilities", [(field, float) for field in keys], rename=keys, gc=False
        )

    def _type(self, feature: Feature) -> Any:
        kind: Any = float | bool if feature.type == "bool" else float
        return kind | None if self.accepts_missing else kind

    def decode(self, body: bytes) -> NDArray[np.float64]:
        """Read the rows of a request.

        Args:
            body: ``{"features": [...]}`` as JSON; each row is a list in the order of the features,
                or an object by their names.

        Returns:
            Shape ``(n_rows, n_features)``, float64, C-contiguous; NaN where a value is null.

        Raises:
            RefusalError: 422, with the row, counted from 1, and the feature; 400 if it is no JSON.
        """
        try:
            rows = self._lists.decode(body).features
            values = np.array(rows, dtype=np.float64)
        except (msgspec.DecodeError, ValueError):
            # Another form, or wrong: what is told is told of the form that takes both.
            return self._decode_either(body)
        if values.ndim != 2 or values.shape[1] != len(self._names) or len(rows) > self.max_rows:
            self.check_lengths(rows)
        return values

    def _decode_either(self, body: bytes) -> NDArray[np.float64]:
        try:
            try:
                found = self._objects.decode(body).features
            except msgspec.ValidationError:
                found = self._either.decode(body).features
        except msgspec.ValidationError as error:
            raise RefusalError(422, self._explain(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RefusalError(400, f"The body is no JSON: {cut(str(error), 200)}.") from None
        rows = self._in_order(found)
        self.check_lengths(rows)
        return np.array(rows, dtype=np.float64)

    def _in_order(self, rows: list[Any]) -> list[Any]:
        """Make a sequence of values of each row."""
        if self._has_fields:
            return [row if isinstance(row, list) else msgspec.structs.astuple(row) for row in rows]
        return [
            row if isinstance(row, list) else self._by_name(f"Row {index + 1}", row)
            for index, row in enumerate(rows)
        ]

    def _by_name(self, where: str, row: Mapping[str, Any]) -> list[Any]:
        """Do for names that can't be those of fields what msgspec does for others."""
        for feature in self.signature.features:
            if feature.name not in row:
                raise RefusalError(422, _missing(where, feature.name))
            if isinstance(row[feature.name], bool) and feature.type != "bool":
                detail = f"{where}: feature '{cut(feature.name, 60)}': {self.value_rule}, got bool."
                raise RefusalError(422, detail)
        if len(row) > len(self._names):
            surplus = next(name for name in row if name not in self._names)
            raise RefusalError(422, self._surplus(where, surplus))
        return [row[name] for name in self._names]

    def _surplus(self, where: str, name: str) -> str:
        return f"{where}: {cut(unknown('feature', cut(name, 60), self._names), 1000)}"

    def check_lengths(self, rows: Sequence[Sequence[object]]) -> None:
        """Check how many rows there are, and how many values each has.

        Raises:
            RefusalError: 422.
        """
        if not rows:
            raise RefusalError(422, "features: there must be at least one row.")
        self.check_count(len(rows))
        for index, row in enumerate(rows):
            if len(row) != len(self._names):
                raise RefusalError(
                    422,
                    f"Row {index + 1} has {len(row)} values; {len(self._names)} are needed: "
                    f"{', '.join(self._names[:50])}.",
                )

    def check_count(self, rows: int) -> None:
        """Refuse more rows than one request may have.

        Raises:
            RefusalError: 422.
        """
        if rows > self.max_rows:
            raise RefusalError(
                422, f"There are {rows} rows; a request may have {self.max_rows} at most."
            )

    def check_values(self, values: NDArray[np.float64]) -> None:
        """Check rows that did not come as JSON, which knows finite numbers only.

        Args:
            values: Shape ``(n_rows, n_features)``.

        Raises:
            RefusalError: 422: a value is infinite, or missing where the model needs one.
        """
        wrong = np.isinf(values) if self.accepts_missing else ~np.isfinite(values)
        if wrong.any():
            row, column = (int(index[0]) for index in np.nonzero(wrong))
            what = "missing" if np.isnan(values[row, column]) else "infinite"
            raise RefusalError(
                422, f"Row {row + 1}: feature '{self._names[column]}' is {what}: {self.value_rule}."
            )

    @property
    def value_rule(self) -> str:
        """What a value must be, in words."""
        return f"it must be a finite number{' or null' if self.accepts_missing else ''}"

    def _explain(self, message: str) -> str:
        """Put msgspec's message into the words of the table."""
        field = _FIELD.fullmatch(message)
        if field is not None:
            return self._explain_field(field["known"] is not None, field["name"], field["row"])
        what, _, place = message.partition(" - at `")
        found = _EXPECTED.search(what)
        got = f", got {found[2]}" if found else ""
        match = _PLACE.match(place.removesuffix("`"))
        if match is None:
            where = "features" if place.startswith("$.features") else "The body"
            form = "a list of rows" if where == "features" else 'an object {"features": [row, ...]}'
            return f"{where} must be {form}{got}."
        row = f"Row {int(match[1]) + 1}"
        rest = match[2]
        if not rest:
            return f"{row} must be a list of values or an object by feature name{got}."
        position = _POSITION.match(rest)
        if position is not None:
            index = int(position[1])
            if index >= len(self._names):
                return f"{row} has more than the {len(self._names)} values that are needed."
            feature = f"feature '{cut(self._names[index], 60)}'"
        else:
            # Of a value by a name that is no field's, msgspec tells no name.
            known = rest.startswith(".")
            feature = f"feature '{cut(rest[1:], 60)}'" if known else "a value"
        return f"{row}: {feature}: {self.value_rule}{got}."

    def _explain_field(self, known: bool, name: str, row: str | None) -> str:
        """Tell of a key that is missing, if it is a known one, or that is too much."""
        if row is None:
            if known:
                return "The body must be {\"features\": [row, ...]}: 'features' is missing."
            return f"The body: {unknown('key', cut(name, 60), ['features'])}"
        where = f"Row {int(row) + 1}"
        return _missing(where, name) if known else self._surplus(where, name)

    def encode(self, probabilities: NDArray[np.float64]) -> bytes:
        """Write the answer to a request.

        Args:
            probabilities: Shape ``(n_rows, n_classes)``.

        Returns:
            JSON: ``predictions``, the most probable class of each row, and ``probabilities``, an
            object by class name for each row.
        """
        names, chances = self._class_names, self._chances
        if len(probabilities) == 1:
            row = probabilities[0].tolist()
            return self._encode(
                {"predictions": [names[row.index(max(row))]], "probabilities": [chances(*row)]}
            )
        return self._encode(
            {
                "predictions": self.labels(probabilities),
                "probabilities": [chances(*row) for row in probabilities.tolist()],
            }
        )

    def labels(self, probabilities: NDArray[np.float64]) -> list[str]:
        """Name the most probable class of each row.

        Args:
            probabilities: Shape ``(n_rows, n_classes)``.
        """
        names = self._class_names
        return [names[index] for index in probabilities.argmax(axis=1).tolist()]

    def sample_row(self) -> dict[str, Any]:
        """Give a raw row of the training, by feature name, that the model takes."""
        for row in self.signature.sample:
            if self.accepts_missing or None not in row.values():
                return dict(row)
        return {
            feature.name: feature.quantiles[5] if feature.quantiles else 0.0
            for feature in self.signature.features
        }

    def request_schema(self) -> dict[str, Any]:
        """Describe a request as JSON schema, with a sample that works."""
        sample = self.sample_row()
        names = list(self._names)
        value: dict[str, Any] = {"type": self._json_types("float")}
        if any(feature.type == "bool" for feature in self.signature.features):
            value = {"type": self._json_types("bool")}
        return {
            "title": "PredictRequest",
            "type": "object",
            "required": ["features"],
            "additionalProperties": False,
            "properties": {
                "features": {
                    "type": "array",
                    "minItems": 1,
                    "maxItems": self.max_rows,
                    "description": "Raw rows, each as a list in the order of the features or as an "
                    "object by their names.",
                    "items": {
                        "anyOf": [
                            {
                                "title": "RowInOrder",
                                "description": f"In this order: {', '.join(names[:100])}",
                                "type": "array",
                                "minItems": len(names),
                                "maxItems": len(names),
                                "items": value,
                            },
                            {
                                "title": "RowByName",
                                "type": "object",
                                "required": names,
                                "additionalProperties": False,
                                "properties": {
                                    feature.name: {
                                        "type": self._json_types(feature.type),
                                        "description": _seen(feature),
                                        "examples": [sample[feature.name]],
                                    }
                                    for feature in self.signature.features
                                },
                            },
                        ]
                    },
                }
            },
            "example": {"features": [sample]},
        }

    def _json_types(self, kind: str) -> list[str]:
        types = ["number"]
        if kind == "bool":
            types.append("boolean")
        if self.accepts_missing:
            types.append("null")
        return types

    def response_schema(self) -> dict[str, Any]:
        """Describe an answer as JSON schema."""
        chance = {"type": "number", "minimum": 0, "maximum": 1}
        return {
            "title": "PredictResponse",
            "type": "object",
            "required": ["predictions", "probabilities"],
            "additionalProperties": False,
            "properties": {
                "predictions": {
                    "type": "array",
                    "description": "The most probable class of each row",
                    "items": {"type": "string", "enum": self._class_names},
                },
                "probabilities": {
                    "type": "array",
                    "description": "The probability of each class, for each row",
                    "items": {
                        "type": "object",
                        "required": self._class_names,
                        "additionalProperties": False,
                        "properties": dict.fromkeys(self._class_names, chance),
                    },
                },
            },
        }


def _body(name: str, rows: Any) -> type[Any]:
    return msgspec.defstruct(name, [("features", rows)], forbid_unknown_fields=True, gc=False)


def _seen(feature: Feature) -> str:
    """Say what a feature was like in training."""
    if feature.min is None or feature.max is None:
        return f"{feature.type}; without any value in training"
    return f"{feature.type}; {feature.min:g} to {feature.max:g} in training"


def _missing(where: str, name: str) -> str:
    return f"{where}: the feature '{cut(name, 60)}' is missing."
