"""Names: from classes to files, from nested keys to flat ones."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

__all__ = ["flatten", "snake_case"]

_WORD_STARTS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


def snake_case(name: str) -> str:
    """Turn a class name into the name of its file.

    Args:
        name: A name such as ``"MLPClassifier"``.

    Returns:
        The name in lower case with underscores, such as ``"mlp_classifier"``.
    """
    return _WORD_STARTS.sub("_", name).lower()


def flatten(mapping: Mapping[str, Any], sep: str = ".") -> dict[str, Any]:
    """Flatten nested mappings into one, as trackers want their parameters.

    Args:
        mapping: Mappings, lists and plain values, nested at will.
        sep: What stands between the keys of two levels.

    Returns:
        A dict from joined keys to plain values. Lists and empty mappings become JSON text, so that
        every value is a scalar and none is lost.
    """
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            for inner, scalar in flatten(value, sep).items():
                flat[f"{key}{sep}{inner}"] = scalar
        elif isinstance(value, Mapping | list | tuple):
            flat[str(key)] = json.dumps(value, ensure_ascii=False)
        else:
            flat[str(key)] = value
    return flat
