"""What every entrypoint needs around its task: configuration, messages and signals.

An entrypoint is a function ``task(cfg)`` that does the work and returns, and a shell around it that
Hydra runs. Everything that a user can get wrong ends here in lines that say what to mend.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.sweeper import Sweeper
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from entrypoints._composition import CONFIG_DIRECTORY, composition_problems
from entrypoints._own import find_own_choices, trust_own_packages
from entrypoints._pipeline import environment_overrides
from ml_project_template.errors import ConfigError, ProjectError
from ml_project_template.utils.collecting import collect_rarely
from ml_project_template.utils.secrets import (
    SecretFilter,
    argument_secrets,
    find_secrets,
    redact,
    remember_secrets,
)
from ml_project_template.utils.signals import stop_behind, stopping_by_exception

__all__ = ["Shell", "entrypoint", "explain", "hide_secrets", "plain", "run"]

FULL_ERROR = "HYDRA_FULL_ERROR"
_LESS_MEMORY = "Try a smaller training.batch_size or network, or model.accelerator=cpu."
_traceback_wanted = os.environ.get(FULL_ERROR) == "1"

Task = Callable[[DictConfig], Any]


@dataclass(frozen=True)
class Shell:
    """A task with what its command line needs.

    Attributes:
        task: Does the work: ``task(cfg)``.
        config_name: The root file in ``conf/``, without its ending.
        problems: Looks for more that is wrong when an override is, in what the others make.
        optional: Keys that may be missing (``???``) for this task.
        sweeper: What Hydra may be told to run ``-m`` with, besides its own sweepers.
        open_keys: Keys below which any key may be given without Hydra's ``+``.
    """

    task: Task
    config_name: str
    problems: Callable[[DictConfig], list[str]] | None = None
    optional: frozenset[str] = frozenset()
    sweeper: type[Sweeper] | None = None
    open_keys: tuple[str, ...] = ()

    def __call__(self) -> None:
        """Let Hydra compose the configuration of ``sys.argv`` and run the task.

        What the environment says comes first, so that the command line's own words win.
        """
        trust_own_packages()
        find_own_choices()
        sys.argv[1:1] = environment_overrides(self.config_name, sys.argv[1:])
        opened = tuple(f"{key}." for key in self.open_keys)
        if opened:
            sys.argv[1:] = [f"+{arg}" if arg.startswith(opened) else arg for arg in sys.argv[1:]]
        if self.sweeper is not None:
            Plugins.instance().register(self.sweeper)

        @functools.wraps(self.task)
        def job(cfg: DictConfig) -> Any:
            return _job(self.task, cfg, self.optional)

        hydra.main(config_path=str(CONFIG_DIRECTORY), config_name=self.config_name)(job)()

    def explain(self, arguments: Sequence[str], error: HydraException) -> list[str]:
        """Tell what is wrong with a command line that Hydra has refused."""
        wrong, cfg = composition_problems(self.config_name, arguments)
        more = self.problems(cfg) if self.problems is not None else []
        return [*wrong, *more] or [_first_line(error)]


def entrypoint(
    config_name: str,
    problems: Callable[[DictConfig], list[str]] | None = None,
    optional: frozenset[str] = frozenset(),
    sweeper: type[Sweeper] | None = None,
    open_keys: tuple[str, ...] = (),
) -> Callable[[Task], Shell]:
    """Put the shell around a task, as a decorator; see `Shell` for the arguments."""
    return functools.partial(
        Shell,
        config_name=config_name,
        problems=problems,
        optional=optional,
        sweeper=sweeper,
        open_keys=open_keys,
    )


def run(main: Shell) -> None:
    """Run an entrypoint from the command line and end the process with its exit status.

    Loads ``.env`` first (a variable that is already set wins). A wrong input ends with status 1
    and one line for each thing that is wrong; with ``HYDRA_FULL_ERROR=1`` with a traceback.
    """
    from dotenv import load_dotenv

    collect_rarely()
    load_dotenv(Path.cwd() / ".env")
    remember_secrets(find_secrets(None) | argument_secrets(sys.argv[1:]))
    try:
        with stopping_by_exception():
            _run(main)
    finally:
        remember_secrets(())


def _run(main: Shell) -> None:
    try:
        with _hydra_raises():
            main()
    except KeyboardInterrupt:
        if _traceback_wanted:
            raise
        _interrupted()
    except Exception as error:
        if _traceback_wanted:
            _fail_with_traceback()
        if (stop := _stop_behind(error)) is not None:
            if isinstance(stop, KeyboardInterrupt):
                _interrupted()
            raise stop from None
        if isinstance(error, HydraException):
            _fail(*main.explain(sys.argv[1:], error))
        _fail(*explain(error))


def plain(cfg: Any) -> Any:
    """Give a part of the configuration as plain dicts, lists and values, resolved."""
    return OmegaConf.to_container(cfg, resolve=True) if OmegaConf.is_config(cfg) else cfg


def explain(error: BaseException) -> list[str]:
    """Put an error in lines for a user.

    Args:
        error: What ended the task.

    Returns:
        The message of an error of our own tree, one line a problem; for any other error its type
        and first line, and how to see the rest.
    """
    if isinstance(error, ProjectError):
        return str(error).splitlines()
    if isinstance(error, OmegaConfBaseException):
        return [f"{error.full_key}: {_first_line(error)}" if error.full_key else _first_line(error)]
    if isinstance(error, ModuleNotFoundError) and (extra := _extra_with(str(error.name))):
        lacking = f"'{error.name}' is not installed here: it comes with the extra '{extra}'"
        return [f"{lacking} (uv sync --inexact --extra {extra})"]
    if isinstance(error, RuntimeError) and "out of memory" in str(error):
        return [f"{_first_line(error).rstrip('.')}. {_LESS_MEMORY}"]
    if isinstance(error, OSError):
        # One that our own code has raised has a message and no file name.
        return [f"{error.filename}: {error.strerror}" if error.filename else _first_line(error)]
    return [f"{type(error).__name__}: {_first_line(error)} ({FULL_ERROR}=1 shows the traceback)"]


def _job(task: Task, cfg: DictConfig, optional: frozenset[str]) -> Any:
    """Run a task inside of Hydra's job, with its secrets hidden and its errors in one line."""
    secrets = hide_secrets(cfg)
    try:
        missing = sorted(OmegaConf.missing_keys(cfg) - optional)
        if missing:
            raise ConfigError("\n".join(f"{key}: is required: {key}=..." for key in missing))
        return task(cfg)
    except Exception as error:
        if (stop := _stop_behind(error)) is not None:
            raise stop from None
        lines = [redact(line, secrets) for line in explain(error)]
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            # Where it happens; a sweep counts its failed jobs by their exceptions.
            for line in lines:
                print(f"error in job {HydraConfig.get().job.num}: {line}", file=sys.stderr)
            raise
        if _traceback_wanted:
            # Hydra would print the command line with it.
            _fail_with_traceback()
        _fail(*lines)


def hide_secrets(cfg: DictConfig) -> set[str]:
    """Keep secrets out of what Hydra has written for this job, and out of its log.

    Args:
        cfg: The configuration of the job.

    Returns:
        The secrets, of the configuration and of the environment.
    """
    secrets = find_secrets(cast(dict[str, Any], OmegaConf.to_container(cfg)), os.environ)
    # A variable may have any name, and be used for a setting whose name speaks of a secret.
    secrets |= find_secrets(_values(cfg))
    if not secrets:
        return secrets
    remember_secrets(secrets)
    for handler in logging.getLogger().handlers:
        handler.addFilter(SecretFilter(secrets))
    runtime = HydraConfig.get()
    if runtime.output_subdir is None:
        return secrets
    for file in (Path(runtime.runtime.output_dir) / runtime.output_subdir).glob("*.yaml"):
        written = file.read_text(encoding="utf-8")
        hidden = redact(written, secrets)
        if hidden != written:
            file.write_text(hidden, encoding="utf-8")
    return secrets


def _values(cfg: Any) -> Any:
    """Resolve what can be resolved of a configuration; of the rest nothing is known."""
    if isinstance(cfg, ListConfig):
        keys: list[Any] = list(range(len(cfg)))
    elif isinstance(cfg, DictConfig):
        keys = list(cfg)
    else:
        return cfg
    found = {}
    for key in keys:
        with suppress(OmegaConfBaseException):
            found[str(key)] = _values(cfg[key])
    return list(found.values()) if isinstance(cfg, ListConfig) else found


def _stop_behind(error: Exception) -> BaseException | None:
    """Find the request to stop that an error stands for; one of our own has something to say."""
    return None if isinstance(error, ProjectError) else stop_behind(error)


def _interrupted() -> NoReturn:
    _fail("Interrupted.", status=128 + signal.SIGINT)


def _fail(*lines: str, status: int = 1) -> NoReturn:
    secrets = find_secrets(None)
    for line in lines:
        print(f"error: {redact(line, secrets)}", file=sys.stderr)
    raise SystemExit(status)


def _fail_with_traceback() -> NoReturn:
    sys.stderr.write(redact(traceback.format_exc(), find_secrets(None)))
    raise SystemExit(1)


def _extra_with(module: str) -> str | None:
    """Find the extra of this project that a module comes with; None if it is of none."""
    # SQLAlchemy comes with MLflow, but not with its client alone.
    name = {"sklearn": "scikit-learn", "sqlalchemy": "mlflow"}.get(module, module)
    try:
        requirements = importlib.metadata.requires("ml-project-template") or []
    except importlib.metadata.PackageNotFoundError:
        # It runs from its folder alone.
        return None
    for line in requirements:
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line)
        # These two hold what smaller ones do.
        if found and found[2] not in ("all", "mlflow-server") and found[1] == name:
            return found[2]
    return None


def _first_line(error: BaseException) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Have Hydra raise its errors to us, who print them; it would print a page itself."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before
