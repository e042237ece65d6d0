"""The errors that this package raises for its users.

The tree::

    ValueError
    └── ProjectError
        ├── ConfigError        a wrong key, value or combination of settings
        ├── DataError          a table that can't be used as it is
        ├── ModelError
        │   └── RegistryError  an unknown or doubly registered model
        ├── ArtifactError      a model directory that is missing, damaged or not ours
        ├── TrackingError      a tracking server or run that can't be reached
        ├── SweepError         a study that can't be opened or gone on with
        └── DivergenceError    a training whose loss is no longer a number

A message is one line: it names the value, the rule and the choices.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "ArtifactError",
    "ConfigError",
    "DataError",
    "DivergenceError",
    "ModelError",
    "ProjectError",
    "RegistryError",
    "SweepError",
    "TrackingError",
    "unknown",
]


# Characters of a message about a file.
_LONGEST_QUOTE = 1_000


class ProjectError(ValueError):
    """What a user can mend: shown as one line, without a traceback."""


class ConfigError(ProjectError):
    """A wrong key, value or combination of settings."""


class DataError(ProjectError):
    """A table that can't be used as it is."""


class ModelError(ProjectError):
    """A model that can't be built, fitted or used as asked."""


class RegistryError(ModelError):
    """An unknown or doubly registered model."""


class ArtifactError(ProjectError):
    """A model directory that is missing, damaged or not ours.

    Its message may quote what stands in a file of somebody else: it is cut to a line's length.
    """

    def __init__(self, message: str) -> None:
        half = _LONGEST_QUOTE // 2
        if len(message) > _LONGEST_QUOTE:
            message = f"{message[:half]} ... {message[-half:]}"
        super().__init__(message)


class TrackingError(ProjectError):
    """A tracking server or run that can't be reached."""


class SweepError(ProjectError):
    """A study that can't be opened, or gone on with by these settings."""


class DivergenceError(ProjectError):
    """A training whose loss is no longer a finite number.

    Attributes:
        good_epoch: The epoch whose weights the model has been given back; 0 if there is none.
    """

    def __init__(self, message: str, *, good_epoch: int = 0) -> None:
        super().__init__(message)
        self.good_epoch = good_epoch


_MAX_CHOICES = 1_000
_LONGEST_VALUE = 200  # characters


def unknown(kind: str, value: str, choices: Iterable[str]) -> str:
    """Say that a value is not among the choices, and which one was probably meant.

    Args:
        kind: What the value names, such as ``"model"``.
        value: What was given.
        choices: What could have been given.

    Returns:
        One line, such as
        ``Unknown model 'mpl'. Did you mean 'mlp'? Available: gb, mlp.``
    """
    value = value if len(value) <= _LONGEST_VALUE else f"{value[:_LONGEST_VALUE]}..."
    known = sorted(choices)
    if len(known) > _MAX_CHOICES:
        # Nobody reads so many, and to compare with each would take long.
        return f"Unknown {kind} {value!r}. There are {len(known)} to choose from."
    folded = {choice.casefold(): choice for choice in reversed(known)}
    close = difflib.get_close_matches(value.casefold(), folded, n=1, cutoff=0.5)
    hint = f" Did you mean '{folded[close[0]]}'?" if close else ""
    return f"Unknown {kind} '{value}'.{hint} Available: {', '.join(known) or 'none'}."
