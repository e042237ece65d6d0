"""Recording what an object was built with, so that ``cls(**params)`` builds it again."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Collection
from typing import Any

from ml_project_template.errors import ConfigError

__all__ = ["RECORD", "plain_json", "recorded"]

# Where the arguments of an object's construction are kept.
RECORD = "_model_params"
_LEVEL_IS_OPEN = "_constructor_passes_on"


def recorded(owner: type, init: Callable[..., None]) -> Callable[..., None]:
    """Wrap the constructor of one class of a chain, so that its arguments are recorded.

    The outermost constructor, the one that the user called, records all of its arguments: given
    ones, defaults, and those in ``**kwargs`` under their own names. A parent's constructor adds
    the defaults that were left to it, and only while each level below takes ``**kwargs``: those
    alone could have been given by the user too. What a child passes to its parent by itself is the
    child's own business and is computed anew when the object is rebuilt.

    Args:
        owner: The class that defines the constructor.
        init: The constructor.

    Returns:
        The recording constructor.

    Raises:
        TypeError: The constructor takes ``*args`` or positional-only arguments: an object could not
            be rebuilt from names and values.
    """
    signature = inspect.signature(init)
    for parameter in list(signature.parameters.values())[1:]:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            star = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
            raise TypeError(
                f"{owner.__qualname__}.__init__ takes {star}{parameter.name}, which has no name in "
                "config.json: take it by name."
            )
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), None)

    @functools.wraps(init)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> None:
        bound = signature.bind(self, *args, **kwargs)
        given = dict(list(bound.arguments.items())[1:])
        given |= given.pop(rest, {}) if rest else {}
        defaults = {
            name: parameter.default
            for name, parameter in signature.parameters.items()
            if name not in given and parameter.default is not parameter.empty
        }
        state = self.__dict__
        outermost = _LEVEL_IS_OPEN not in state
        hidden: Collection[str] = self._runtime_params
        if outermost:
            state[RECORD] = {}
            state[_LEVEL_IS_OPEN] = True
        open_before = state[_LEVEL_IS_OPEN]
        if open_before:
            # Copied now: the constructor may change a list that it was given.
            for name, value in (given | defaults if outermost else defaults).items():
                if name not in hidden and name not in state[RECORD]:
                    state[RECORD][name] = plain_json(
                        value, f"{type(self).__qualname__} argument '{name}'"
                    )
        state[_LEVEL_IS_OPEN] = open_before and rest is not None
        try:
            init(self, *args, **kwargs)
        finally:
            if outermost:
                del state[_LEVEL_IS_OPEN]
            else:
                state[_LEVEL_IS_OPEN] = open_before

    return wrapper


def plain_json(value: Any, what: str) -> Any:
    """Copy a value that JSON can hold as it is.

    Args:
        value: None, a bool, a number, text, or lists, tuples and dicts of these.
        what: What the value is, for the message.

    Returns:
        A deep copy, with tuples as lists.

    Raises:
        ConfigError: Something else, a number that isn't finite, or a key that isn't text.
    """
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if value is None or isinstance(value, bool | str):
        return value
    if type(value) is int:
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ConfigError(f"{what} must be a finite number, got {value}.")
        return float(value)
    if isinstance(value, list | tuple):
        return [plain_json(item, what) for item in value]
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{what} must have text as keys, got {key!r}.")
        return {key: plain_json(item, what) for key, item in value.items()}
    raise ConfigError(
        f"{what} must be a plain JSON value (null, true, a number, text, a list or a mapping), "
        f"got {type(value).__module__}.{type(value).__qualname__}."
    )
