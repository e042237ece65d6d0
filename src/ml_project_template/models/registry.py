"""Models by name.

A model of this package is registered under the name of its file, and its file is imported when the
name is first asked for. A model of another package registers itself with ``@register`` when it is
imported; name its module in the environment variable ``ML_PROJECT_PACKAGES`` (``a.models,b``), and
it is imported when an unknown name is asked for. A path to import is never read from a file.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

from ml_project_template.errors import RegistryError, unknown
from ml_project_template.utils.names import snake_case

if TYPE_CHECKING:
    from ml_project_template.models.base import BaseModel

__all__ = ["PACKAGES_VARIABLE", "ModelRegistry", "register"]

PACKAGES_VARIABLE = "ML_PROJECT_PACKAGES"

_Model = TypeVar("_Model", bound="BaseModel")
_MODELS_DIRECTORY = Path(__file__).parent
_NOT_A_MODEL = frozenset({"base", "registry"})


class ModelRegistry:
    """Every model that can be built, loaded and trained by name."""

    _classes: ClassVar[dict[str, type[BaseModel]]] = {}

    @classmethod
    def list(cls) -> list[str]:
        """List the names: those of this package's files and those registered so far."""
        return sorted({*_built_in(), *cls._classes})

    @classmethod
    def get(cls, name: str) -> type[Any]:
        """Find a model class.

        Args:
            name: A registered name, such as ``"mlp_classifier"``.

        Returns:
            The class.

        Raises:
            RegistryError: Nothing of that name is registered, or a module that
                ``ML_PROJECT_PACKAGES`` names can't be imported.
        """
        if name not in cls._classes and name in _built_in():
            importlib.import_module(f"{__package__}.{name}")
        if name not in cls._classes:
            cls._import_packages()
        try:
            return cls._classes[name]
        except KeyError:
            raise RegistryError(
                f"{unknown('model', name, cls.list())} A model of your own: name its module in "
                f"{PACKAGES_VARIABLE}."
            ) from None

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, storage_options: Mapping[str, Any] | None = None
    ) -> BaseModel:
        """Load a trained model; its class is found from the name in its ``config.json``.

        Args:
            path: A model directory, local or remote, or what a tracking server knows:
                ``runs:/<run id>/model`` or ``models:/<name>@<alias>``.
            storage_options: For a remote directory.

        Returns:
            The model, ready to predict.

        Raises:
            ArtifactError: No model directory, or a damaged one.
            RegistryError: The model's class isn't registered.
        """
        from ml_project_template.models.base import BaseModel

        return BaseModel.load(path, storage_options=storage_options)

    @classmethod
    def name_of(cls, model: type[BaseModel]) -> str:
        """Say under which name a class is registered.

        Args:
            model: A model class.

        Returns:
            Its name.

        Raises:
            RegistryError: It isn't registered.
        """
        for name, registered in cls._classes.items():
            if registered is model:
                return name
        raise RegistryError(
            f"{model.__qualname__} is not registered: decorate the class with @register."
        )

    @classmethod
    def trusted_packages(cls) -> tuple[str, ...]:
        """List the packages whose code may be run by a configuration: this one and the user's."""
        return ("ml_project_template", *_user_packages())

    @classmethod
    def add(cls, name: str, model: type[BaseModel]) -> None:
        """Register a class; ``@register`` is the usual way.

        Args:
            name: The name in ``config.json`` and in commands.
            model: The class. Importing its module a second time replaces it.

        Raises:
            RegistryError: Another class has the name, or a file of this package.
        """
        other = cls._classes.get(name)
        if other is not None and _path(other) != _path(model):
            raise RegistryError(
                f"The model name '{name}' is taken by {_path(other)}: register {_path(model)} "
                "under another name."
            )
        if name in _built_in() and model.__module__ != f"{__package__}.{name}":
            raise RegistryError(
                f"The model name '{name}' is taken by {__package__}.{name}: register "
                f"{_path(model)} under another name."
            )
        cls._classes[name] = model

    @classmethod
    def _import_packages(cls) -> None:
        for package in _user_packages():
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise RegistryError(
                    f"{PACKAGES_VARIABLE} names '{package}', which can't be imported: {error}"
                ) from error


@overload
def register(name: type[_Model]) -> type[_Model]: ...


@overload
def register(name: str) -> Callable[[type[_Model]], type[_Model]]: ...


def register(name: str | type[_Model]) -> Any:
    """Register a model class, as ``@register`` or ``@register("name")``.

    Args:
        name: The name; without one, the class name in snake case: ``MyModel`` is ``my_model``.

    Returns:
        The class, unchanged.

    Raises:
        RegistryError: Another class has the name.
    """
    if isinstance(name, str):

        def decorate(model: type[_Model]) -> type[_Model]:
            ModelRegistry.add(name, model)
            return model

        return decorate
    ModelRegistry.add(snake_case(name.__name__), name)
    return name


def _built_in() -> set[str]:
    """Find the files of this folder: their names are known without importing them."""
    modules = pkgutil.iter_modules([str(_MODELS_DIRECTORY)])
    return {
        module.name
        for module in modules
        if module.name not in _NOT_A_MODEL and not module.name.startswith("_")
    }


def _user_packages() -> tuple[str, ...]:
    names = os.environ.get(PACKAGES_VARIABLE, "").split(",")
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def _path(model: type[BaseModel]) -> str:
    return f"{model.__module__}.{model.__qualname__}"
