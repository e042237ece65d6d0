"""What packages of the user's own bring along: choices for the configuration, and models.

A package that is installed beside this one says so in its ``pyproject.toml``::

    [project.entry-points.ml_project_template]
    own_package = "own_package"

From then on its folder ``conf`` (``own_package/conf``) stands in Hydra's search path before the
shipped ``conf/``, and its models may be named in a configuration and loaded by name, as if it stood
in ``ML_PROJECT_PACKAGES``. Nothing of it is imported before a configuration or a model names it.

Folders of choices without a package are named by the environment, also in ``.env``::

    ML_PROJECT_CONFIG=my_conf,other_conf
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.plugins import Plugins
from hydra.plugins.search_path_plugin import SearchPathPlugin

from ml_project_template.errors import ConfigError
from ml_project_template.models.registry import PACKAGES_VARIABLE

__all__ = ["CONFIG_VARIABLE", "find_own_choices", "own_folders", "trust_own_packages"]

CONFIG_VARIABLE = "ML_PROJECT_CONFIG"
# The group of entry points by which a package says that it belongs to this one.
GROUP = "ml_project_template"


class OwnChoices(SearchPathPlugin):
    """Puts the user's folders before the shipped one: their file wins over one of its name."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Add the folders, in their order, to what Hydra is about to search."""
        for folder in own_folders():
            search_path.prepend(provider=GROUP, path=f"file://{folder}", anchor="main")


def find_own_choices() -> None:
    """Have Hydra search the user's folders from now on, wherever it composes in this process."""
    Plugins.instance().register(OwnChoices)


def own_folders() -> list[Path]:
    """List the folders of the user's choices, the one that wins first.

    Returns:
        Those of ``ML_PROJECT_CONFIG``, then those of the installed packages.

    Raises:
        ConfigError: A folder that is named is not there, or a package that says it is.
    """
    names = os.environ.get(CONFIG_VARIABLE, "").split(",")
    folders = [Path(name.strip()).absolute() for name in names if name.strip()]
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{CONFIG_VARIABLE}: there is no folder '{folder}'")
    folders += [folder for place in _packages().values() if (folder := place / "conf").is_dir()]
    return list(dict.fromkeys(folders))


def trust_own_packages() -> None:
    """Add the installed packages to ``ML_PROJECT_PACKAGES``, for processes started here, too.

    Raises:
        ConfigError: A package that says it is there is not.
    """
    named = os.environ.get(PACKAGES_VARIABLE, "").split(",")
    names = dict.fromkeys(name.strip() for name in [*named, *_packages()] if name.strip())
    if names:
        os.environ[PACKAGES_VARIABLE] = ",".join(names)


def _packages() -> dict[str, Path]:
    """Find the modules that installed packages name, and the folders of their packages."""
    return _packages_in(tuple(sys.path))


# Every composition asks, and each time a file of every installed package would be read.
@functools.lru_cache(maxsize=4)
def _packages_in(paths: tuple[str, ...]) -> dict[str, Path]:  # noqa: ARG001 - the key
    found = {}
    for entry in sorted(importlib.metadata.entry_points(group=GROUP)):
        package = entry.module.partition(".")[0]
        # Of a package at the top nothing is imported by looking for it.
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            name = entry.dist.name if entry.dist is not None else entry.name
            raise ConfigError(
                f"'{name}' says that it brings the package '{package}', which is not there: "
                "install it again, or remove it"
            )
        found[entry.module] = Path(next(iter(spec.submodule_search_locations)))
    return found
