"""Overrides that a stage takes from its environment, where no shell stands before it.

``PIPELINE_OVERRIDES`` holds arguments of ``entrypoints.train`` as one text. It is split as a shell
splits words, with its quotes, but nothing in it is expanded: ``$``, ``*``, brackets and commas stay
what they are, and reach Hydra as they would from a command line.

A stage that trains takes all of them. Any other stage has some config groups in common with a
training (``data``, ``storage``, ...), and takes for these what the training would have, wherever it
is from: an override, a preset of ``experiment=`` or ``debug=``.

``STAGE_OVERRIDES`` holds arguments of the stage itself, in the same way. It wins over the other,
and the command line over both.
"""

from __future__ import annotations

import io
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from entrypoints._composition import SEARCH_PATH, compose_config, composition_problems
from ml_project_template.errors import ConfigError
from ml_project_template.sweeps.space import quoted

__all__ = ["PIPELINE_OVERRIDES", "STAGE_OVERRIDES", "environment_overrides", "split_overrides"]

PIPELINE_OVERRIDES = "PIPELINE_OVERRIDES"
STAGE_OVERRIDES = "STAGE_OVERRIDES"

_TRAINING = "train"
_PLAIN_KEY = re.compile(r"[A-Za-z_][\w-]*")


def environment_overrides(config_name: str, arguments: Sequence[str]) -> list[str]:
    """Give what ``PIPELINE_OVERRIDES`` and ``STAGE_OVERRIDES`` mean for a stage.

    Args:
        config_name: The root file of the stage in ``conf/``, without its ending.
        arguments: The words of its command line, without the program.

    Returns:
        Overrides to stand before those of the command line, which win.

    Raises:
        ConfigError: A variable can't be read, or holds what no training would take.
    """
    given = {_key(word) for word in arguments}
    own = [word for word in split_overrides(STAGE_OVERRIDES) if _key(word) not in given]
    given |= {_key(word) for word in own}
    words = split_overrides(PIPELINE_OVERRIDES)
    if words:
        groups = _groups(compose_config(config_name))
        if "model" not in groups:
            words = _shared(config_name, groups, words)
    return [*(word for word in words if _key(word) not in given), *own]


def split_overrides(variable: str) -> list[str]:
    """Split the text of an environment variable into overrides, as a shell splits words.

    Nothing is expanded.

    Args:
        variable: Its name; its text is such as ``model=gb 'run_name="two words"'``.

    Raises:
        ConfigError: A quote is not closed, or a word is an option of a command line.
    """
    text = os.environ.get(variable, "")
    stream = io.StringIO(text)
    lexer = shlex.shlex(stream, posix=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    words = []
    start = 0
    try:
        while (word := lexer.get_token()) is not None:
            words.append(word)
            start = stream.tell()
    except ValueError as error:
        # The key alone: what follows may be a secret.
        key = text[start:].lstrip().split("=")[0]
        what = (
            "a backslash has nothing after it"
            if "escaped" in str(error)
            else "a quote is not closed"
        )
        raise ConfigError(f"{variable}: {what}: {key}=...") from error
    for word in words:
        if word.startswith("-"):
            raise ConfigError(
                f"{variable}: '{word}' is an option; only overrides such as model=gb or "
                "training.lr=0.01 can stand here"
            )
    return words


def _shared(config_name: str, own: Mapping[str, str | None], words: Sequence[str]) -> list[str]:
    """Say in overrides what a stage has in common with a training of these words."""
    trained = compose_config(_TRAINING)
    shared = [group for group in _groups(trained) if group in own]
    fixed = list(_without_sweeps(words, shared))
    try:
        trained = compose_config(_TRAINING, fixed)
    except HydraException as error:
        problems = composition_problems(_TRAINING, fixed)[0] or [" ".join(str(error).split())]
        lines = (f"{PIPELINE_OVERRIDES}: {problem}" for problem in problems)
        raise ConfigError("\n".join(lines)) from error
    choices = _groups(trained)
    chosen = [word for word in fixed if _key(word) == SEARCH_PATH]
    chosen += [
        f"{group}={choices[group] or 'null'}" for group in shared if choices[group] != own[group]
    ]
    base = compose_config(config_name, chosen)
    return [
        *chosen,
        *(word for group in shared for word in _changes(base[group], trained[group], group)),
    ]


def _without_sweeps(words: Sequence[str], shared: Sequence[str]) -> Iterator[str]:
    """Leave out what a sweep tries; this stage is there once for all trials."""
    for word in words:
        try:
            swept = OverridesParser.create().parse_override(word).is_sweep_override()
        except HydraException:
            # Told with all that is wrong when the whole is composed.
            swept = False
        if not swept:
            yield word
        elif re.split(r"[.@/]", _key(word))[0] in shared:
            raise ConfigError(
                f"{PIPELINE_OVERRIDES}: {word}: this stage runs once, and can't take several values"
            )


def _changes(before: Any, after: Any, key: str) -> Iterator[str]:
    """Write the overrides that make one part of a configuration another one."""
    old, new = _unresolved(before), _unresolved(after)
    if not (isinstance(old, dict) and isinstance(new, dict)):
        if (type(old), old) != (type(new), new):
            yield f"++{key}={_text(new, key)}"
        return
    for name in old:
        if name not in new:
            yield f"~{_below(key, name)}"
    for name, value in new.items():
        if name in old:
            yield from _changes(old[name], value, _below(key, name))
        else:
            yield f"++{_below(key, name)}={_text(value, key)}"


def _below(key: str, name: Any) -> str:
    return f"{key}.{_plain_key(name, key)}"


def _plain_key(name: Any, key: str) -> str:
    if not _PLAIN_KEY.fullmatch(str(name)):
        raise ConfigError(
            f"{PIPELINE_OVERRIDES}: {key}: the name '{name}' can't be given to another stage: only "
            "letters, digits, _ and - can stand in it"
        )
    return str(name)


def _text(value: Any, key: str) -> str:
    """Write a value in Hydra's grammar."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        items = (f"{_plain_key(name, key)}:{_text(item, key)}" for name, item in value.items())
        return f"{{{','.join(items)}}}"
    if isinstance(value, list):
        return f"[{','.join(_text(item, key) for item in value)}]"
    return quoted(value) if isinstance(value, str) else repr(value)


def _groups(cfg: DictConfig) -> dict[str, str | None]:
    """Give the choices of a configuration that was just composed, without Hydra's own."""
    choices = cast(dict[str, "str | None"], HydraConfig.get().runtime.choices)
    return {name: choice for name, choice in choices.items() if name in cfg}


def _unresolved(node: Any) -> Any:
    return OmegaConf.to_container(node) if OmegaConf.is_config(node) else node


def _key(word: str) -> str:
    return word.lstrip("+~").split("=")[0]
