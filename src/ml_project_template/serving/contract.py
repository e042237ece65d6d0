"""What a client sends and gets, made from the signature of a model.

The rows of a request are decoded straight into numbers by msgspec, by types that are made here for
this one model; where it has categories or dates, these are then written as numbers, column by
column. The schema in OpenAPI says the same to people and tools; a test keeps the two equal.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np

from ml_project_template.data.column_types import date_text, parse_date
from ml_project_template.data.columns import label_text
from ml_project_template.data.signature import Feature, Signature, Value
from ml_project_template.errors import unknown
from ml_project_template.serving.http import RefusalError, cut

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["UNSEEN", "Contract"]

UNSEEN = math.copysign(math.nan, -1.0)
"""What a level is written as that the training did not have.

It is missing to the model, as any NaN is; by its sign the metrics tell it from what was left out.
"""

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
_OTHER_LENGTH = "Expected `array` of length"

_LONGEST_TEXT = 1_000  # characters of a category, unless the training had longer ones
_LONGEST_DATE = 64
_DATE_PATTERN = (
    r"^\s*\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}([.,]\d+)?)?)?\s*(Z|[+-]\d{2}:?\d{2})?\s*$"
)
_SHOWN_LEVELS = 20

# Rows that come together are often of the same days.
_parse_date = functools.lru_cache(maxsize=4_096)(parse_date)


class Contract:
    """The request and the answer of ``/predict`` for one model.

    Args:
        signature: The raw features and the class names.
        accepts_missing: Whether any value may be null; one of a category always may.
        max_rows: The most rows of a request.
    """

    def __init__(self, signature: Signature, *, accepts_missing: bool, max_rows: int) -> None:
        self.signature = signature
        self.accepts_missing = accepts_missing
        self.max_rows = max_rows
        self._names = signature.feature_names
        self._types = [self._type(feature) for feature in signature.features]
        # Of other forms than JSON, what is missing and must not be is told by `check_values`.
        self._columns = [list[kind | None] for kind in self._types]  # type: ignore[valid-type]
        # What writes the values of a column as numbers that are none yet.
        self._encoders: dict[int, Callable[[Sequence[Any]], list[float]]] = {
            index: functools.partial(_codes, _places(feature))
            if feature.levels is not None
            else functools.partial(self._seconds, index)
            for index, feature in enumerate(signature.features)
            if feature.levels is not None or feature.type == "date"
        }
        self._is_category = np.array([feature.levels is not None for feature in signature.features])
        value: Any = str | int | float | bool | None
        in_order: Any = tuple[tuple(self._types)]  # type: ignore[misc]
        if not self._encoders:
            value = float if not accepts_missing else float | None
            if any(feature.type == "bool" for feature in signature.features):
                value = value | bool
            in_order = list[value]
        self._has_fields = not any(map(_ESCAPED.search, self._names))
        row: Any = self._row_type() if self._has_fields else dict[str, value]
        self._lists = msgspec.json.Decoder(_body("Lists", list[in_order]))
        self._objects = msgspec.json.Decoder(_body("Objects", list[row]))
        self._either = msgspec.json.Decoder(_body("Either", list[in_order | row]))
        self._class_names = list(signature.class_names)
        self._is_regression = signature.task == "regression"
        self._encode = msgspec.json.Encoder().encode
        self._chances = self._answer_type()

    def _row_type(self) -> Any:
        # Fields have names of ours: a feature may be called anything.
        fields = [(f"feature_{i}", kind) for i, kind in enumerate(self._types)]
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
        if feature.levels is not None:
            text = Annotated[str, msgspec.Meta(max_length=_longest(feature))]
            return text | int | float | bool | None
        kind: Any = float | bool if feature.type == "bool" else float
        if feature.type == "date":
            kind = Annotated[str, msgspec.Meta(max_length=_LONGEST_DATE)]
        return kind | None if self.accepts_missing else kind

    @property
    def is_numeric(self) -> bool:
        """Whether every feature is a number or a truth value."""
        return not self._encoders

    def decode(self, body: bytes) -> NDArray[np.float64]:
        """Read the rows of a request.

        Args:
            body: ``{"features": [...]}`` as JSON; each row is a list in the order of the features,
                or an object by their names.

        Returns:
            Shape ``(n_rows, n_features)``, float64, C-contiguous, each value as `Feature.encode`
            writes it; NaN where it is null, and `UNSEEN` for a level that the training did not
            have.

        Raises:
            RefusalError: 422, with the row, counted from 1, and the feature; 400 if it is no JSON.
        """
        if self._encoders:
            return self._decode_mixed(body)
        try:
            rows = self._lists.decode(body).features
            values = np.array(rows, dtype=np.float64)
        except (msgspec.DecodeError, ValueError):
            # Another form, or wrong: what is told is told of the form that takes both.
            rows = self._decode_either(body)
            self.check_lengths(rows)
            return np.array(rows, dtype=np.float64)
        if values.ndim != 2 or values.shape[1] != len(self._names) or len(rows) > self.max_rows:
            self.check_lengths(rows)
        return values

    def _decode_mixed(self, body: bytes) -> NDArray[np.float64]:
        """Read rows with texts in them; msgspec has checked the length and the types of each."""
        is_typed = True
        try:
            rows = self._lists.decode(body).features
        except (msgspec.DecodeError, ValueError):
            rows = self._decode_either(body)
            is_typed = self._has_fields
        self._check_some(len(rows))
        columns: list[Any] = list(zip(*rows, strict=True))
        if not is_typed:
            return self.read_columns(columns)
        for index, encode in self._encoders.items():
            columns[index] = encode(columns[index])
        return np.ascontiguousarray(np.array(columns, dtype=np.float64).T)

    def read_columns(self, columns: Iterable[Sequence[object]]) -> NDArray[np.float64]:
        """Read the values of each feature, of whatever types they came as.

        Args:
            columns: For each feature in order the values of all rows.

        Returns:
            As of `decode`.

        Raises:
            RefusalError: 422, with the row, counted from 1, and the feature.
        """
        values = np.stack(
            [self.read_column(index, column) for index, column in enumerate(columns)], axis=1
        )
        self.check_values(values)
        return values

    def read_column(self, index: int, column: Sequence[object]) -> NDArray[np.float64]:
        """Read the values of one feature; they may be infinite, or missing where none may be.

        Args:
            index: The position of the feature.
            column: Its values.

        Returns:
            Shape ``(n_rows,)``.

        Raises:
            RefusalError: 422, with the row, counted from 1, and the feature.
        """
        feature = self.signature.features[index]
        if feature.type == "date":
            # NaN is how tables of Python say that one is missing.
            column = [None if value != value else value for value in column]
        try:
            typed = msgspec.convert(column, self._columns[index])
        except UnicodeEncodeError:
            # JSON can hold halves of characters, which are no text.
            first = next(row for row, value in enumerate(column) if not _is_text(value))
            raise self._wrong(first, index) from None
        except msgspec.ValidationError as error:
            place, got = _POSITION.search(str(error)), _EXPECTED.search(str(error))
            row = f"Row {int(place[1]) + 1}: " if place else ""
            found = f", got {got[2]}" if got else ""
            name = cut(feature.name, 60)
            raise RefusalError(
                422, f"{row}feature '{name}': {self.rule(feature)}{found}."
            ) from None
        encode = self._encoders.get(index)
        return np.array(typed if encode is None else encode(typed), dtype=np.float64)

    def _seconds(self, index: int, column: Sequence[str | None]) -> list[float]:
        """Write each date of a feature in seconds since 1970-01-01.

        Raises:
            RefusalError: 422, with the row.
        """
        seconds: list[float] = []
        for row, text in enumerate(column):
            moment = math.nan if text is None else _parse_date(text)
            if moment is None:
                raise self._wrong(row, index)
            seconds.append(moment)
        return seconds

    def _decode_either(self, body: bytes) -> list[Any]:
        """Read rows of which some may be objects; each becomes a sequence."""
        try:
            try:
                found = self._objects.decode(body).features
            except msgspec.ValidationError:
                found = self._either.decode(body).features
        except msgspec.ValidationError as error:
            raise RefusalError(422, self._explain(str(error))) from None
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RefusalError(400, f"The body is no JSON: {cut(str(error), 200)}.") from None
        return self._in_order(found)

    def _in_order(self, rows: list[Any]) -> list[Any]:
        """Make a sequence of values of each row."""
        if self._has_fields:
            return [
                row if isinstance(row, (list, tuple)) else msgspec.structs.astuple(row)
                for row in rows
            ]
        return [
            row if isinstance(row, (list, tuple)) else self._by_name(f"Row {index + 1}", row)
            for index, row in enumerate(rows)
        ]

    def _by_name(self, where: str, row: Mapping[str, Any]) -> list[Any]:
        """Do for names that can't be those of fields what msgspec does for others."""
        for feature in self.signature.features:
            if feature.name not in row:
                raise RefusalError(422, _missing(where, feature.name))
            if isinstance(row[feature.name], bool) and feature.type in {"int", "float"}:
                rule = self.rule(feature)
                detail = f"{where}: feature '{cut(feature.name, 60)}': {rule}, got bool."
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
        self._check_some(len(rows))
        for index, row in enumerate(rows):
            if len(row) != len(self._names):
                raise RefusalError(
                    422,
                    f"Row {index + 1} has {len(row)} values; {len(self._names)} are needed: "
                    f"{', '.join(self._names[:50])}.",
                )

    def _check_some(self, rows: int) -> None:
        if not rows:
            raise RefusalError(422, "features: there must be at least one row.")
        self.check_count(rows)

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
        wrong = np.isinf(values)
        if not self.accepts_missing:
            # A category is missing where its level is unseen, too.
            wrong |= np.isnan(values) & ~self._is_category
        if wrong.any():
            row, column = (int(index[0]) for index in np.nonzero(wrong))
            what = "missing" if np.isnan(values[row, column]) else "infinite"
            rule = self.rule(self.signature.features[column])
            raise RefusalError(
                422, f"Row {row + 1}: feature '{cut(self._names[column], 60)}' is {what}: {rule}."
            )

    def rule(self, feature: Feature) -> str:
        """What a value of a feature must be, in words."""
        rule = f"it must be {feature.rule}"
        if feature.levels is not None:
            return f"{rule} of at most {_longest(feature)} characters or null"
        return f"{rule} or null" if self.accepts_missing else rule

    def _wrong(self, row: int, index: int) -> RefusalError:
        feature = self.signature.features[index]
        name = cut(feature.name, 60)
        return RefusalError(422, f"Row {row + 1}: feature '{name}': {self.rule(feature)}.")

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
        if what.startswith(_OTHER_LENGTH):
            return f"{row} must have {len(self._names)} values: {', '.join(self._names[:50])}."
        if not rest:
            return f"{row} must be a list of values or an object by feature name{got}."
        position = _POSITION.match(rest)
        if position is not None:
            index = int(position[1])
            if index >= len(self._names):
                return f"{row} has more than the {len(self._names)} values that are needed."
        elif rest[1:] in self._names:
            index = self._names.index(rest[1:])
        else:
            # Of a value by a name that is no field's, msgspec tells no name.
            rule = "it must be a number, a truth value, a text or null"
            if self.is_numeric:
                rule = self.rule(self.signature.features[0])
            return f"{row}: a value: {rule}{got}."
        feature = self.signature.features[index]
        return f"{row}: feature '{cut(feature.name, 60)}': {self.rule(feature)}{got}."

    def _explain_field(self, known: bool, name: str, row: str | None) -> str:
        """Tell of a key that is missing, if it is a known one, or that is too much."""
        if row is None:
            if known:
                return "The body must be {\"features\": [row, ...]}: 'features' is missing."
            return f"The body: {unknown('key', cut(name, 60), ['features'])}"
        where = f"Row {int(row) + 1}"
        return _missing(where, name) if known else self._surplus(where, name)

    def encode(self, answers: NDArray[np.float64]) -> bytes:
        """Write the answer to a request.

        Args:
            answers: Probabilities of shape ``(n_rows, n_classes)``, or numbers of ``(n_rows, 1)``.

        Returns:
            JSON: ``predictions``, the class or the number of each row, and of classes
            ``probabilities``, an object by class name for each row.
        """
        if self._is_regression:
            return self._encode({"predictions": self.predictions(answers)})
        names, chances = self._class_names, self._chances
        if len(answers) == 1:
            row = answers[0].tolist()
            threshold = self.signature.threshold
            code = row.index(max(row)) if threshold is None else int(row[1] >= threshold)
            return self._encode({"predictions": [names[code]], "probabilities": [chances(*row)]})
        return self._encode(
            {
                "predictions": self.predictions(answers),
                "probabilities": [chances(*row) for row in answers.tolist()],
            }
        )

    def predictions(self, answers: NDArray[np.float64]) -> list[str] | list[float]:
        """Name the class that is chosen for each row, or give its number.

        Args:
            answers: Probabilities of shape ``(n_rows, n_classes)``, or numbers of ``(n_rows, 1)``.
        """
        if self._is_regression:
            numbers: list[float] = answers[:, 0].tolist()
            return numbers
        names = self._class_names
        return [names[code] for code in self.signature.decide(answers).tolist()]

    def sample_row(self) -> dict[str, Any]:
        """Give a raw row of the training, by feature name, that the model takes."""
        features = self.signature.features
        for row in self.signature.sample:
            if self.accepts_missing or all(
                feature.levels is not None or row[feature.name] is not None for feature in features
            ):
                return dict(row)
        return {feature.name: _typical(feature) for feature in features}

    def request_schema(self) -> dict[str, Any]:
        """Describe a request as JSON schema, with a sample that works."""
        sample = self.sample_row()
        names = list(self._names)
        features = self.signature.features
        values: dict[str, Any] = {
            "items": self._value_schema(
                next((f for f in features if f.type == "bool"), features[0])
            )
        }
        if not self.is_numeric:
            values = {"prefixItems": [self._value_schema(feature) for feature in features]}
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
                                **values,
                            },
                            {
                                "title": "RowByName",
                                "type": "object",
                                "required": names,
                                "additionalProperties": False,
                                "properties": {
                                    feature.name: {
                                        **self._value_schema(feature),
                                        "description": _seen(feature),
                                        "examples": [sample[feature.name]],
                                    }
                                    for feature in features
                                },
                            },
                        ]
                    },
                }
            },
            "example": {"features": [sample]},
        }

    def _value_schema(self, feature: Feature) -> dict[str, Any]:
        """Describe a value of a feature as JSON schema."""
        if feature.levels is not None:
            types = ["string", "number", "boolean", "null"]
            return {"type": types, "maxLength": _longest(feature)}
        types = ["string"] if feature.type == "date" else ["number"]
        if feature.type == "bool":
            types.append("boolean")
        if self.accepts_missing:
            types.append("null")
        if feature.type == "date":
            return {"type": types, "pattern": _DATE_PATTERN, "maxLength": _LONGEST_DATE}
        return {"type": types}

    def response_schema(self) -> dict[str, Any]:
        """Describe an answer as JSON schema."""
        schema: dict[str, Any] = {
            "title": "PredictResponse",
            "type": "object",
            "required": ["predictions"],
            "additionalProperties": False,
            "properties": {"predictions": {"type": "array", **self._prediction_schema()}},
        }
        if not self._is_regression:
            chance = {"type": "number", "minimum": 0, "maximum": 1}
            schema["required"].append("probabilities")
            schema["properties"]["probabilities"] = {
                "type": "array",
                "description": "The probability of each class, for each row",
                "items": {
                    "type": "object",
                    "required": self._class_names,
                    "additionalProperties": False,
                    "properties": dict.fromkeys(self._class_names, chance),
                },
            }
        return schema

    def _prediction_schema(self) -> dict[str, Any]:
        if self._is_regression:
            return {"description": "The number of each row", "items": {"type": "number"}}
        description, threshold = "The most probable class of each row", self.signature.threshold
        if threshold is not None:
            first, second = self._class_names
            description = (
                f"The class of each row: '{second}' from a probability of {threshold:g} on, "
                f"else '{first}'"
            )
        return {
            "description": description,
            "items": {"type": "string", "enum": self._class_names},
        }


def _body(name: str, rows: Any) -> type[Any]:
    return msgspec.defstruct(name, [("features", rows)], forbid_unknown_fields=True, gc=False)


def _longest(feature: Feature) -> int:
    """How long a text of a category may be, in characters."""
    return max(_LONGEST_TEXT, *map(len, feature.levels or ("",)))


def _places(feature: Feature) -> dict[str, float]:
    return {level: float(place) for place, level in enumerate(feature.levels or ())}


def _codes(places: Mapping[str, float], column: Sequence[Any]) -> list[float]:
    """Write each value of a category as the place of its level."""
    return [
        places.get(value, UNSEEN) if value.__class__ is str else _code(places, value)
        for value in column
    ]


def _code(places: Mapping[str, float], value: float | None) -> float:
    """Write a value that is no text; what is no finite number stays what it is."""
    if value is None:
        return math.nan
    if isinstance(value, float) and not math.isfinite(value):
        return abs(value)
    return places.get(label_text(value), UNSEEN)


def _typical(feature: Feature) -> Value:
    """Give a value that is like those of the training."""
    if feature.levels is not None:
        return next(iter(feature.levels), None)
    middle = feature.quantiles[5] if feature.quantiles else 0.0
    return date_text(middle) if feature.type == "date" else middle


def _seen(feature: Feature) -> str:
    """Say what a feature was like in training."""
    if feature.levels is not None:
        levels = [cut(level, 60) for level in feature.levels[:_SHOWN_LEVELS]]
        if len(levels) < len(feature.levels):
            levels.append(f"and {len(feature.levels) - len(levels)} more")
        return f"category; {', '.join(levels)}; any other value counts as missing"
    if feature.min is None or feature.max is None:
        return f"{feature.type}; without any value in training"
    if feature.type == "date":
        least, most = date_text(feature.min), date_text(feature.max)
        return f"date in ISO 8601, in UTC where it names no zone; {least} to {most} in training"
    return f"{feature.type}; {feature.min:g} to {feature.max:g} in training"


def _missing(where: str, name: str) -> str:
    return f"{where}: the feature '{cut(name, 60)}' is missing."


def _is_text(value: object) -> bool:
    """Say whether a value, if it is a string, consists of whole characters."""
    return not (isinstance(value, str) and re.search("[\ud800-\udfff]", value))
