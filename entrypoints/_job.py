"""A job of a sweep as Hydra has it: with a folder, a log and a configuration of its own.

What Hydra's ``run_job`` does around a task, in a form that can be put aside and gone on with, so
that several jobs can be open at the same time; and with each part of the configuration copied once.
"""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from hydra._internal.execution_policy import execution_whitelist
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobRuntime, JobStatus, configure_log, env_override
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

__all__ = ["JobScene", "can_stand_aside", "copy_config", "open_job", "task_config"]


def copy_config(cfg: DictConfig) -> DictConfig:
    """Copy a configuration, in a seventh of the time that ``copy.deepcopy`` takes."""
    made: DictConfig = pickle.loads(pickle.dumps(cfg))  # noqa: S301 - what was made a moment ago
    return made


def task_config(cfg: DictConfig) -> DictConfig:
    """Copy a job's configuration without Hydra's own part.

    Args:
        cfg: The configuration of a job; it is left as it is.
    """
    # Hydra's part is the larger one: it is not copied first to be thrown away.
    content = _content(cfg)
    hidden = content.pop("hydra")
    try:
        return copy_config(cfg)
    finally:
        content["hydra"] = hidden


def _hydra_config(cfg: DictConfig) -> DictConfig:
    """Give Hydra's part of a configuration under its key, without a copy.

    Its interpolations lead to the whole configuration, which is its parent, as Hydra has it, too.
    """
    made = OmegaConf.create({})
    _content(made)["hydra"] = _content(cfg)["hydra"]
    return made


def _content(cfg: DictConfig) -> dict[Any, Any]:
    content = cfg._content
    assert isinstance(content, dict)
    return content


@contextmanager
def open_job(
    cfg: DictConfig, context: HydraContext, task_function: Callable[..., Any]
) -> Iterator[DictConfig]:
    """Open a job, as Hydra's ``run_job`` does.

    Args:
        cfg: Its configuration, with Hydra's part.
        context: What Hydra knows of the command.
        task_function: The task, for Hydra's callbacks to know.

    Yields:
        Its configuration without Hydra's part.
    """
    settings = HydraConfig.instance()
    before, directory = settings.cfg, Path.cwd()
    handlers = list(logging.getLogger().handlers)
    with execution_whitelist(context.execution_whitelist, reset=True):
        try:
            hydra_cfg = _hydra_config(cfg)
            settings.cfg = cast(Any, hydra_cfg)
            output_dir = Path(str(cfg.hydra.sweep.dir), str(cfg.hydra.sweep.subdir)).absolute()
            with read_write(cfg.hydra.runtime), open_dict(cfg.hydra.runtime):
                cfg.hydra.runtime.output_dir = str(output_dir)
            OmegaConf.set_readonly(cfg.hydra, True)
            task_cfg = task_config(cfg)
            output_dir.mkdir(parents=True, exist_ok=True)
            with read_write(hydra_cfg.hydra.job.env_set):
                OmegaConf.resolve(hydra_cfg.hydra.job.env_set)
            if hydra_cfg.hydra.job.chdir:
                os.chdir(output_dir)
            configure_log(
                cfg.hydra.job_logging,
                cfg.hydra.verbose,
                execution_whitelist=context.execution_whitelist,
            )
            _write_configuration(cfg, task_cfg, hydra_cfg, output_dir)
            with env_override(hydra_cfg.hydra.job.env_set), _told(cfg, context, task_function):
                yield task_cfg
        finally:
            _close_log(kept=handlers)
            settings.cfg = before
            if Path.cwd() != directory:
                os.chdir(directory)


def _close_log(kept: Sequence[logging.Handler]) -> None:
    """Close the files that the job has logged to; what shows lines on the console stays."""
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, logging.FileHandler) and handler not in kept:
            root.removeHandler(handler)
            handler.close()


def _write_configuration(
    cfg: DictConfig, task_cfg: DictConfig, hydra_cfg: DictConfig, output_dir: Path
) -> None:
    if cfg.hydra.output_subdir is None:
        return
    folder = output_dir / cfg.hydra.output_subdir
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"config": task_cfg, "hydra": hydra_cfg, "overrides": cfg.hydra.overrides.task}
    for name, part in parts.items():
        (folder / f"{name}.yaml").write_text(OmegaConf.to_yaml(part), encoding="utf-8")


@contextmanager
def _told(
    cfg: DictConfig, context: HydraContext, task_function: Callable[..., Any]
) -> Iterator[None]:
    """Tell Hydra's callbacks of the beginning and the end of a job."""
    hydra_cfg = cast(DictConfig, HydraConfig.instance().cfg)
    ret = JobReturn(
        overrides=list(cfg.hydra.overrides.task),
        cfg=task_config(cfg) if context.callbacks.callbacks else None,
        hydra_cfg=hydra_cfg,
        working_dir=str(Path.cwd()),
        task_name=JobRuntime.instance().get("name"),
    )
    try:
        context.callbacks.on_job_start(config=cfg, task_function=task_function)
        yield
        ret.return_value, ret.status = None, JobStatus.COMPLETED
    except BaseException as error:
        ret.return_value, ret.status = error, JobStatus.FAILED
        raise
    finally:
        for handler in logging.getLogger().handlers:
            handler.flush()
        context.callbacks.on_job_end(config=cfg, job_return=ret)


def can_stand_aside(cfg: DictConfig) -> bool:
    """Say whether a job leaves the process as it was while it is put aside.

    Args:
        cfg: Its configuration, with Hydra's part. One that changes the folder or the environment
            of the process has to be the only one.
    """
    return not cfg.hydra.job.chdir and not cfg.hydra.job.env_set


class JobScene:
    """What surrounds a job each time it goes on: its log, and Hydra's word on which job this is.

    Each call gives a context, at whose end all is as it was before.
    """

    def __init__(self) -> None:
        self._own: _Surroundings | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Bring the job back for a block."""
        outside = _Surroundings()
        if self._own is not None:
            self._own.restore()
        try:
            yield
        finally:
            self._own = _Surroundings()
            outside.restore()


class _Surroundings:
    """Which job this is, and where its log goes, at the moment that this is made."""

    def __init__(self) -> None:
        root = logging.getLogger()
        self._handlers, self._level = list(root.handlers), root.level
        self._hydra = HydraConfig.instance().cfg

    def restore(self) -> None:
        """Have it so again."""
        root = logging.getLogger()
        root.handlers[:] = self._handlers
        # Setting it, even to what it is, has every logger forget what it has worked out.
        if root.level != self._level:
            root.setLevel(self._level)
        HydraConfig.instance().cfg = self._hydra
