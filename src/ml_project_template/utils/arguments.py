"""Check arguments against a signature before anything starts, and say all that is wrong at once."""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import typing
from collections.abc import Callable, Collection, Mapping
from types import NoneType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["check_arguments"]

_EXPECTATIONS = {
    "bool_type": "true or false",
    "bytes_type": "bytes",
    "callable_type": "a function",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "frozen_set_type": "a set",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "list_type": "a list",
    "sequence_str": "a list",
    "none_required": "null",
    "set_type": "a set",
    "string_type": "text",
    "tuple_type": "a list",
}


def check_arguments(
    function: Callable[..., Any],
    arguments: Mapping[str, Any],
    *,
    where: str,
    ignore: Collection[str] = (),
) -> list[str]:
    """Check named arguments against the signature of a function or a class.

    Names must be parameters, required parameters must be there, and values must fit the
    annotations. ``Annotated[float, Field(gt=0)]`` bounds a value; a parameter without annotation
    takes anything. Types are strict: text is never read as a number; a whole number does for a
    float, and a tuple for a list.

    Args:
        function: A function, a method or a class, whose constructor is meant.
        arguments: Names and values.
        where: What stands before a name in a message, such as ``"training"``.
        ignore: Names that somebody else deals with. A parameter of that name is neither required
            nor accepted; a name that is no parameter, such as ``_target_``, is passed over.

    Returns:
        The problems, one line each; empty if all is well. For example
        ``training.lr: must be greater than 0, got -1.0``.
    """
    parameters = _parameters(function)
    open_ended = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    variable = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {
        name: parameter
        for name, parameter in parameters.items()
        if parameter.kind not in variable and name not in ignore
    }
    problems: list[str] = []
    for name, value in arguments.items():
        if name in named:
            problems += _check_value(f"{where}.{name}", named[name], value)
        elif name in parameters or not (open_ended or name in ignore):
            problems.append(_unknown_key(where, name, named))
    problems += [
        f"{where}.{name}: is required"
        for name, parameter in named.items()
        if parameter.is_required and name not in arguments
    ]
    return problems


class _Parameter:
    """A parameter, and what checks its values: made once, for a sweep checks many."""

    def __init__(self, parameter: inspect.Parameter, annotation: Any) -> None:
        self.kind = parameter.kind
        self.is_required = parameter.default is parameter.empty
        self.annotation = annotation

    @functools.cached_property
    def adapter(self) -> TypeAdapter[Any] | None:
        """Checks a value; None where the annotation can't be checked, such as a protocol."""
        from pydantic import ConfigDict, PydanticUserError, TypeAdapter
        from pydantic_core import SchemaError

        config = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
        try:
            return TypeAdapter[Any](self.annotation, config=config)
        except (PydanticUserError, SchemaError, TypeError):
            return None


@functools.lru_cache(maxsize=256)
def _parameters(function: Callable[..., Any]) -> dict[str, _Parameter]:
    """List the parameters without ``self``, their annotations with their names resolved."""
    target: Any = function.__init__ if inspect.isclass(function) else function
    parameters = dict(inspect.signature(target).parameters)
    if parameters and next(iter(parameters)) in {"self", "cls"}:
        del parameters[next(iter(parameters))]
    names = getattr(inspect.unwrap(target), "__globals__", {})
    return {name: _Parameter(p, _resolve(p.annotation, names)) for name, p in parameters.items()}


def _resolve(annotation: Any, names: dict[str, Any]) -> Any:
    if annotation is inspect.Parameter.empty:
        return Any
    holder = SimpleNamespace(__annotations__={"value": annotation})
    try:
        # One at a time: a name imported for type checkers only must not spoil the others.
        return typing.get_type_hints(holder, globalns=names, include_extras=True)["value"]
    except (NameError, AttributeError):
        return Any


def _unknown_key(where: str, name: str, choices: Collection[str]) -> str:
    known = sorted(choices)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"{where}.{name}: unknown key.{hint} Available: {', '.join(known) or 'none'}."


def _check_value(where: str, parameter: _Parameter, value: Any) -> list[str]:
    from pydantic import ValidationError

    adapter = parameter.adapter
    if adapter is None:
        return []
    failures = []
    # YAML knows lists only, and Python users write tuples: either does for the other.
    for candidate in (value, _sequences(value, list), _sequences(value, tuple)):
        try:
            adapter.validate_python(candidate)
        except ValidationError as error:
            errors = error.errors(include_url=False)
            failures.append(_translate(where, parameter.annotation, value, errors))
        else:
            return []
    # The variant that got furthest into the value has the most precise message.
    return max(failures, key=lambda failure: failure[0])[1]


def _sequences(value: Any, kind: type[list[Any]] | type[tuple[Any, ...]]) -> Any:
    if isinstance(value, list | tuple):
        return kind(_sequences(item, kind) for item in value)
    if isinstance(value, Mapping):
        return {key: _sequences(item, kind) for key, item in value.items()}
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return value.item()
    return value


def _translate(
    where: str, annotation: Any, value: Any, errors: list[Any]
) -> tuple[tuple[int, bool], list[str]]:
    """Turn pydantic's errors into lines; with them, how far into the value they lie."""
    by_place: dict[tuple[Any, ...], list[Any]] = {}
    for error in errors:
        by_place.setdefault(_place(error["loc"], value), []).append(error)
    depth = max(map(len, by_place))
    if any(len(error["loc"]) > len(_place(error["loc"], value)) for error in errors) and depth:
        # Branches of a union: the one that accepted the outside is the one that was meant.
        by_place = {place: found for place, found in by_place.items() if place}
    lines = []
    for place, found in by_place.items():
        shown = where + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in place)
        got: Any = value
        for step in place:
            got = got[step]
        nullable = not place and NoneType in typing.get_args(_bare(annotation))
        lines.append(f"{shown}: {_rule(found, nullable=nullable)}, got {_shorten(got)}")
    right_kind = not any(error["type"] in {"list_type", "tuple_type"} for error in errors)
    return (depth, right_kind), lines


def _place(loc: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
    """Keep the steps of a location that lead into the value; the others name a union's branch."""
    place: list[Any] = []
    for step in loc:
        inside = isinstance(value, list | tuple) and isinstance(step, int) and step < len(value)
        if inside or (isinstance(value, Mapping) and step in value):
            value = value[step]
            place.append(step)
    return tuple(place)


def _rule(errors: list[Any], *, nullable: bool) -> str:
    """Say in words what one value must be."""
    expected: list[str] = []
    bounds: list[str] = []
    for error in errors:
        kind, context = error["type"], error.get("ctx", {})
        if kind in _EXPECTATIONS:
            expected.append(_EXPECTATIONS[kind])
        elif kind == "literal_error":
            expected += re.split(r", | or ", context["expected"])
        elif kind == "is_instance_of":
            expected.append(f"a {context['class']}")
        elif kind in {"too_short", "too_long"}:
            count = context.get("min_length", context.get("max_length"))
            most = "at least" if kind == "too_short" else "at most"
            bounds.append(f"must have {most} {count} item{'' if count == 1 else 's'}")
        elif kind == "missing":
            bounds.insert(0, f"must have at least {error['loc'][-1] + 1} items")
        else:
            bounds.append(_bound(kind, context, error["msg"]))
    if bounds:
        # A value that failed at a bound has the right type: the other branches are no news.
        return bounds[0]
    if nullable:
        expected.append("null")
    expected = list(dict.fromkeys(expected))
    choices = " or ".join(filter(None, [", ".join(expected[:-1]), expected[-1]]))
    only_names = all(error["type"] == "literal_error" for error in errors)
    return f"must be one of {choices}" if only_names and expected[:-1] else f"must be {choices}"


def _bound(kind: str, context: Mapping[str, Any], message: str) -> str:
    words = {
        "greater_than": ("gt", "greater than"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "less than"),
        "less_than_equal": ("le", "at most"),
        "multiple_of": ("multiple_of", "a multiple of"),
    }
    if kind in words:
        key, phrase = words[kind]
        bound = context[key]
        return f"must be {phrase} {bound if isinstance(bound, int) else format(bound, 'g')}"
    return re.sub(r"^\w+ should ", "must ", message.removeprefix("Value error, "))


def _bare(annotation: Any) -> Any:
    """Take ``Annotated`` off a type."""
    return (
        getattr(annotation, "__origin__", annotation)
        if hasattr(annotation, "__metadata__")
        else annotation
    )


def _shorten(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
