"""Objects out of ``_target_``: from packages that the user trusts, and of the expected kind."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, cast

from hydra.errors import InstantiationException
from omegaconf import DictConfig

from entrypoints._shell import plain
from ml_project_template.errors import ConfigError, ProjectError, unknown
from ml_project_template.models.registry import ModelRegistry

__all__ = ["build", "target_class"]

T = TypeVar("T")


def target_class(node: DictConfig, kind: type[T], *, where: str) -> type[T]:
    """Find the class that a configuration names, without making an object of it.

    Args:
        node: The part of the configuration with a ``_target_``.
        kind: What the class has to derive from.
        where: The key of that part, for messages.

    Returns:
        The class.

    Raises:
        ConfigError: No ``_target_``, one outside of the trusted packages, one that isn't there or
            of another kind, or a further one inside of the arguments.
    """
    key = f"{where}._target_"
    settings = plain(node)
    if not isinstance(settings, Mapping) or not isinstance(settings.get("_target_"), str):
        raise ConfigError(f"{key}: is required, such as ml_project_template.models.MLPClassifier")
    target: str = settings["_target_"]
    for nested in _special_keys({k: v for k, v in settings.items() if k != "_target_"}, where):
        raise ConfigError(f"{nested}: not allowed here: arguments are plain values")
    trusted = ModelRegistry.trusted_packages()
    if not any(target.startswith(f"{package}.") for package in trusted):
        raise ConfigError(
            f"{key}: '{target}' is in none of the trusted packages ({', '.join(trusted)}). "
            f"Trust yours: ML_PROJECT_PACKAGES={target.rpartition('.')[0] or target}"
        )
    found = _locate(target, key)
    if not isinstance(found, type) or not issubclass(found, kind):
        raise ConfigError(f"{key}: '{target}' is no {kind.__name__}")
    if inspect.isabstract(found):
        raise ConfigError(f"{key}: '{target}' is abstract: name a class that derives from it")
    return found


def build(
    node: DictConfig,
    kind: type[T],
    *,
    where: str,
    instead: Callable[[type[T]], type[T]] | None = None,
) -> T:
    """Make the object that a configuration names.

    Args:
        node: The part of the configuration with a ``_target_`` and the constructor's arguments.
        kind: What the object has to be.
        where: The key of that part, for messages.
        instead: Chooses another class in the place of the one that is named.

    Returns:
        The object.

    Raises:
        ConfigError: As `target_class`, or the constructor refuses an argument.
    """
    from hydra.utils import instantiate

    named = target_class(node, kind, where=where)
    made_of = named if instead is None else instead(named)
    # Plain values: of a node Hydra copies the whole configuration that it stands in.
    settings = plain(node)
    if made_of is not named:
        settings["_target_"] = f"{made_of.__module__}.{made_of.__qualname__}"
    allowed = [f"{package}.*" for package in ModelRegistry.trusted_packages()]
    try:
        made = instantiate(settings, _convert_="all", _execution_whitelist_=allowed)
    except InstantiationException as error:
        if isinstance(error.__cause__, ProjectError):
            raise error.__cause__ from error
        if isinstance(error.__cause__, (TypeError, ValueError)):
            raise ConfigError(f"{where}: {error.__cause__}") from error
        raise
    return cast(T, made)


def _locate(target: str, key: str) -> Any:
    module_name, _, name = target.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"{key}: there is no module '{error.name}' for '{target}'") from error
    try:
        return getattr(module, name)
    except AttributeError as error:
        public = getattr(module, "__all__", None) or [n for n in dir(module) if n[0].isupper()]
        raise ConfigError(f"{key}: {unknown(f'name in {module_name}', name, public)}") from error


def _special_keys(value: Any, where: str) -> Iterator[str]:
    """Find Hydra's own keys (``_target_``, ``_partial_``, ...) in the arguments."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key).startswith("_") and str(key).endswith("_"):
                yield f"{where}.{key}"
            yield from _special_keys(inner, f"{where}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _special_keys(inner, f"{where}[{place}]")
