"""Composing the configuration, and telling all that is wrong with the overrides of a command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from entrypoints._own import find_own_choices, own_folders
from ml_project_template.errors import unknown
from ml_project_template.sweeps.space import quoted

__all__ = [
    "CONFIG_DIRECTORY",
    "SEARCH_PATH",
    "compose_config",
    "composition_problems",
    "own_directories",
    "own_words",
]

# The override that names further folders to look in.
SEARCH_PATH = "hydra.searchpath"

CONFIG_DIRECTORY = Path(__file__).resolve().parents[1] / "conf"


def _stem(path: str | None) -> str | None:
    """Name a data set by its file: ``a/my.csv.gz`` is ``my``, and ``a/part-*.csv`` is ``part``."""
    if not path:
        return None
    if re.match("https?://", path):
        path = re.split("[?#]", path)[0]
    name = re.sub(r"\[[^]]*\]|[*?]", "", Path(path).name.split(".")[0])
    return name.strip("-_ ") or "data"


def _raw_path(data_root: str, source: str | None) -> str | None:
    """Say where the raw file of a source is put."""
    if not source:
        return None
    return f"{data_root}/raw/{re.split('[?#]', source)[0].rstrip('/').rsplit('/', 1)[-1]}"


def _model_directory(model_root: str, name: str) -> str:
    """Say where a model is put; the jobs of a sweep must not replace one another's."""
    settings = HydraConfig.get()
    if settings.mode == RunMode.MULTIRUN:
        return f"{model_root}/{settings.sweep.dir}/{settings.sweep.subdir}"
    return f"{model_root}/{name}"


OmegaConf.register_resolver("model_directory", _model_directory, replace=True)
OmegaConf.register_resolver("stem", _stem, replace=True)
OmegaConf.register_resolver("raw_path", _raw_path, replace=True)


def compose_config(config_name: str, overrides: Sequence[str] = ()) -> DictConfig:
    """Compose a configuration as the command line would.

    Args:
        config_name: The root file in ``conf/``, without its ending.
        overrides: What would stand on the command line.

    Returns:
        The configuration of the job. ``HydraConfig`` holds Hydra's own.

    Raises:
        HydraException: An override that can't be read or that nothing answers to.
    """
    find_own_choices()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIRECTORY)):
        cfg = compose(config_name, list(overrides), return_hydra_config=True)
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    return cfg


def composition_problems(
    config_name: str, arguments: Sequence[str]
) -> tuple[list[str], DictConfig]:
    """Find every override that doesn't fit, not just the first.

    Args:
        config_name: The root file in ``conf/``, without its ending.
        arguments: The words of the command line, without the program.

    Returns:
        A line for each wrong override, and the configuration that the others make.
    """
    parsed = get_args_parser().parse_intermixed_args(list(arguments))
    config_name = parsed.config_name or config_name
    if parsed.multirun:
        parsed.overrides = [_single(override) for override in parsed.overrides]
    problems: list[str] = []
    # First of all: what can be chosen depends on where to look.
    folders = _searched(parsed.overrides, parsed.config_dir, problems)
    others = [override for override in parsed.overrides if not _names_folders(override)]
    good = [_search_path(folders)] if folders else []
    cfg = compose_config(config_name, good)
    for override in _groups_first(others, folders):
        try:
            cfg = compose_config(config_name, [*good, override])
        except HydraException as error:
            problems.append(_explain(override, error, cfg))
        else:
            good.append(override)
    return problems, cfg


def own_directories(hydra: Any) -> list[str]:
    """List the folders of the user's own choices that a command names.

    Args:
        hydra: Hydra's part of the configuration.

    Returns:
        What stands behind ``--config-dir``, and in ``hydra.searchpath``.
    """
    return [
        source.path
        for source in hydra.runtime.config_sources
        if source.provider in ("command-line", f"{SEARCH_PATH} in command-line")
        and source.schema == "file"
    ]


def own_words(hydra: Any) -> list[str]:
    """Give the words with which another command looks in the same folders as this one.

    Args:
        hydra: Hydra's part of the configuration.
    """
    folders = own_directories(hydra)
    # Hydra takes one folder by --config-dir.
    if len(folders) == 1:
        return ["--config-dir", *folders]
    return [_search_path([f"file://{folder}" for folder in folders])] if folders else []


def _search_path(addresses: Sequence[str]) -> str:
    return f"{SEARCH_PATH}=[{','.join(map(quoted, addresses))}]"


def _names_folders(override: str) -> bool:
    return override.partition("=")[0] == SEARCH_PATH


def _searched(overrides: Sequence[str], config_dir: str | None, problems: list[str]) -> list[str]:
    """List what a command line says of where to look; what is wrong with it is added to a list."""
    addresses = [f"file://{Path(config_dir).resolve()}"] if config_dir else []
    for override in filter(_names_folders, overrides):
        try:
            value = OverridesParser.create().parse_override(override).value()
        except HydraException:
            value = None
        if isinstance(value, list):
            addresses += map(str, value)
        else:
            problems.append(f"{SEARCH_PATH}: must be a list of folders, such as [file:///a/b]")
    return addresses


def _single(text: str) -> str:
    """Give the first of the values that an override of a sweep tries."""
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException:
        return text
    if not override.is_sweep_override() or override.is_interval_sweep():
        return text
    return f"{override.get_key_element()}={next(iter(override.sweep_string_iterator()))}"


def _groups_first(overrides: Sequence[str], searched: Sequence[str]) -> list[str]:
    """Sort choices of a group first: what the other overrides may name depends on them."""
    folders = [
        CONFIG_DIRECTORY,
        *own_folders(),
        *(Path(a.removeprefix("file://")) for a in searched),
    ]

    def chooses_no_group(override: str) -> bool:
        key = override.lstrip("+~").split("=")[0].split("@")[0]
        return "." in key or not any((folder / key).is_dir() for folder in folders)

    return sorted(overrides, key=chooses_no_group)


def _explain(override: str, error: HydraException, node: DictConfig) -> str:
    """Say what is wrong with an override, given the configuration without it."""
    key, _, value = override.lstrip("+~").partition("=")
    if isinstance(error, OverrideParseException):
        if "=" not in override:
            return f"'{override}' is no setting: write key=value."
        return f"{key}: can't read {value!r}. Quote it twice: '{key}=\"{value}\"'"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, choice = error.missing_cfg_file.rpartition("/")
        return unknown(group, choice, error.options or [])
    if isinstance(error, ConfigCompositionException) and "Could not override" in str(error):
        *parents, last = key.split(".")
        for place, parent in enumerate(parents):
            if parent not in node or not isinstance(node[parent], DictConfig):
                where = ".".join(["", *parents[:place]])[1:]
                if (where, parent) == ("", "training"):
                    # It comes with the YAML of a model, and not with every one.
                    return f"{key}: the model's YAML has no such settings. Add it: +{override}"
                return _unknown_key(where, parent, node)
            node = node[parent]
        return _unknown_key(".".join(parents), last, node)
    return re.sub(r"\s+", " ", str(error)).strip()


def _unknown_key(where: str, key: str, node: DictConfig) -> str:
    full = f"{where}.{key}" if where else key
    if key in node:
        inside = ", ".join(f"{full}.{name}" for name in node[key])
        return f"{full}: holds settings, and there is nothing to choose here. Set: {inside}"
    hint = unknown("key", key, map(str, node)).removeprefix(f"Unknown key '{key}'. ")
    return f"{full}: unknown key. {hint}"
