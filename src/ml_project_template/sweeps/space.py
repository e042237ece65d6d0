"""What a sweep tries: settings with several values, in Hydra's override grammar.

``training.lr=0.01,0.1`` and ``choice(...)`` are values to choose from, ``range(1,5)`` numbers,
``interval(0,0.5)`` and ``tag(log,interval(1e-4,1e-1))`` anything between two bounds. How they are
read is hydra-optuna-sweeper's: the same words mean the same here.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution as Distribution
else:
    Distribution = Any

__all__ = [
    "Distribution",
    "Space",
    "choice",
    "combinations",
    "describe",
    "extremes",
    "grid",
    "override_text",
    "parse_space",
    "quoted",
]


@dataclass(frozen=True)
class Space:
    """The settings that are tried, and those that are fixed.

    Attributes:
        distributions: Override key to what it may be.
        fixed: The other overrides, as they were given.
        globs: The keys of ``model=glob(*)``, that name no value but take all there are.
    """

    distributions: dict[str, Distribution]
    fixed: tuple[str, ...]
    globs: frozenset[str] = frozenset()


def parse_space(
    search_space: Mapping[str, Any],
    overrides: Sequence[str],
    config_loader: ConfigLoader | None = None,
) -> Space:
    """Read what is to be tried.

    Args:
        search_space: Override key to its values in Hydra's grammar, such as
            ``{"training.lr": "tag(log, interval(1e-4, 1e-1))"}``; a list is a choice, null is
            nothing. Keys may be nested.
        overrides: Those of the command line. One that names a key of the search space takes its
            place, with other values or with a single one.
        config_loader: Knows the choices of ``model=glob(*)``.

    Returns:
        The space.

    Raises:
        ConfigError: Values that can't be tried.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ValueType
    from hydra.errors import HydraException

    parser = OverridesParser.create(config_loader=config_loader)
    distributions: dict[str, Distribution] = {}
    fixed: list[str] = []
    globs: set[str] = set()
    for key, values in _flat(search_space):
        if isinstance(values, list):
            distributions[key] = choice(key, [_value_text(value) for value in values])
            continue
        try:
            override = parser.parse_override(f"{key}={values}")
        except HydraException as error:
            line = " ".join(str(error).split())
            raise ConfigError(f"sweep.search_space.{key}: can't read {values!r}: {line}") from error
        if not override.is_sweep_override():
            raise ConfigError(
                f"sweep.search_space.{key}: {values!r} is a single value. Write choice(a, b), "
                f"range(1, 5) or interval(0, 1), or give it as a setting: {key}={values}"
            )
        distributions[key] = _distribution(override)
    for override in parser.parse_overrides(list(overrides)):
        # A setting that is added, "+" and "++", or taken away, "~", is the same key.
        key = override.get_key_element()
        bare = key.lstrip("+~")
        for known in [known for known in distributions if known.lstrip("+") == bare]:
            del distributions[known]
        if override.is_sweep_override():
            distributions[key] = _distribution(override)
            if override.value_type is ValueType.GLOB_CHOICE_SWEEP:
                globs.add(key)
        else:
            assert override.input_line is not None
            fixed.append(override.input_line)
    return Space(distributions, tuple(fixed), frozenset(globs))


def combinations(distributions: Mapping[str, Distribution]) -> list[dict[str, Any]]:
    """List every combination of the values of a space.

    Args:
        distributions: Override key to what it may be.

    Returns:
        Override key to value, the last key changing first.

    Raises:
        ConfigError: Anything between two bounds can't be listed.
    """
    values = {}
    for key, distribution in distributions.items():
        listed = _values(distribution)
        if listed is None:
            raise ConfigError(
                f"{key}: a grid takes listed values (a,b,c or range(1,5)), not an interval. Give "
                "some values, or choose another sweep.sampler."
            )
        values[key] = listed
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def grid(
    distributions: Mapping[str, Distribution],
) -> tuple[tuple[dict[str, Any], ...], dict[str, Distribution]]:
    """List the points of a grid, and give the values of each key as choices.

    Args:
        distributions: Override key to what it may be.

    Returns:
        Every combination, and override key to a choice of its values.

    Raises:
        ConfigError: Anything between two bounds can't be listed.
    """
    from optuna.distributions import CategoricalDistribution

    points = tuple(combinations(distributions))
    values = {key: list(dict.fromkeys(point[key] for point in points)) for key in distributions}
    return points, {key: CategoricalDistribution(listed) for key, listed in values.items()}


def describe(distributions: Mapping[str, Distribution]) -> dict[str, Any]:
    """Describe a space as plain JSON.

    Args:
        distributions: Override key to what it may be.
    """
    from optuna.distributions import distribution_to_json

    return {key: json.loads(distribution_to_json(d)) for key, d in distributions.items()}


def extremes(distribution: Distribution) -> list[Any]:
    """List the values that show whether a setting takes all that it may be.

    Args:
        distribution: What a setting may be.

    Returns:
        All listed choices, or both bounds.
    """
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return [distribution.low, distribution.high]


def override_text(key: str, value: Any) -> str:
    """Write a value as the command line takes it.

    Args:
        key: The override key.
        value: Text that is an override's value already, a number, a bool or None.

    Returns:
        Such as ``training.lr=0.01`` or ``training.patience=null``.
    """
    if value is None:
        return f"{key}=null"
    if isinstance(value, bool):
        return f"{key}={str(value).lower()}"
    return f"{key}={value!r}" if isinstance(value, float) else f"{key}={value}"


def _distribution(override: Override) -> Distribution:
    """Turn an override with several values into what Optuna draws from."""
    from hydra.core.override_parser.types import Transformer
    from hydra.errors import HydraException
    from hydra_plugins.hydra_optuna_sweeper._impl import create_optuna_distribution_from_override

    key = override.get_key_element()
    values: Any = override.value()
    if getattr(values, "shuffle", False):
        # The order of the trials is the sampler's, or a grid's; a study that is gone on with must
        # find it as it was.
        values.shuffle = False
    try:
        if override.is_choice_sweep():
            choices = override.sweep_iterator(transformer=Transformer.identity)
            return choice(key, [_value_text(value) for value in choices])
        made: Distribution = create_optuna_distribution_from_override(override)
    except (AssertionError, HydraException, NotImplementedError, ValueError) as error:
        raise ConfigError(f"{key}: can't be tried: {' '.join(str(error).split())}") from error
    return made


def choice(key: str, values: Sequence[Any]) -> Distribution:
    """Make a choice of numbers, bools and texts as an override has them.

    Args:
        key: The override key, for the message.
        values: What to choose from.

    Raises:
        ConfigError: There is no value.
    """
    from optuna.distributions import CategoricalDistribution

    found = list(dict.fromkeys((type(value), value) for value in values))
    if not found:
        raise ConfigError(f"{key}: can't be tried: there is no value")
    kept = [value for _, value in found]
    if len(set(kept)) < len(kept):
        # Optuna takes 1, 1.0 and true for the same.
        kept = [override_text("", value).removeprefix("=") for value in kept]
    return CategoricalDistribution(kept)


def _value_text(value: Any) -> Any:
    """Keep numbers and bools; write anything else as an override has it, quoted where it must be.

    Args:
        value: What Hydra's parser or a YAML has made of it.
    """
    from hydra.core.override_parser.types import QuotedString

    if isinstance(value, bool | int | float):
        return value
    if value is None:
        return "null"
    if isinstance(value, QuotedString):
        return value.with_quotes()
    if isinstance(value, list):
        return f"[{','.join(_inner_text(item) for item in value)}]"
    if isinstance(value, Mapping):
        pairs = (f"{_value_text(str(k))}:{_inner_text(item)}" for k, item in value.items())
        return f"{{{','.join(pairs)}}}"
    text = str(value)
    return text if _reads_as(text, text) else quoted(text)


def _inner_text(value: Any) -> str:
    return override_text("", _value_text(value)).removeprefix("=")


def _reads_as(text: str, value: str) -> bool:
    """Say whether Hydra reads a text as the same text, alone and inside of a list."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        alone = OverridesParser.create().parse_override(f"key={text}")
        inside = OverridesParser.create().parse_override(f"key=[{text}]")
    except HydraException:
        return False
    found = None if alone.is_sweep_override() else alone.value()
    return bool(found == value and isinstance(found, str) and inside.value() == [value])


def quoted(text: str) -> str:
    """Quote a text, so that an override has it as it is.

    Args:
        text: Any text.
    """
    # As Hydra's grammar has it: a backslash counts only where it stands before a quote.
    escaped = re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text)
    return f"'{escaped}'"


def _values(distribution: Distribution) -> list[Any] | None:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if isinstance(distribution, CategoricalDistribution):
        return list(distribution.choices)
    if isinstance(distribution, IntDistribution) and not distribution.log:
        return list(range(distribution.low, distribution.high + 1, distribution.step))
    if isinstance(distribution, FloatDistribution) and distribution.step is not None:
        count = round((distribution.high - distribution.low) / distribution.step) + 1
        # Rounded to what was written: 0.1 + 2 * 0.1 is 0.30000000000000004.
        return [float(f"{distribution.low + n * distribution.step:.12g}") for n in range(count)]
    return None


def _flat(search_space: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Give the search space key by key, each with its values: Hydra's grammar, or a list."""
    for name, value in search_space.items():
        key = f"{above}.{name}" if above else str(name)
        if isinstance(value, Mapping):
            yield from _flat(value, key)
        elif value is not None:
            yield key, value
