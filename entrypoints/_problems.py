"""What is wrong with the settings of a training, all at once and before anything is run."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from entrypoints._shell import explain, plain
from entrypoints._targets import build, target_class
from entrypoints.onboard import storage_options
from ml_project_template.errors import ProjectError
from ml_project_template.utils.arguments import check_arguments

if TYPE_CHECKING:
    from ml_project_template.training.checkpoints import CheckpointSettings

__all__ = ["argument_problems", "checkpoint_settings", "model_problems", "training_problems"]


def training_problems(cfg: DictConfig) -> list[str]:
    """Find everything that would stop a training with this configuration.

    Args:
        cfg: The configuration of ``entrypoints.train``.

    Returns:
        A line for each problem: settings, data, storage, tracking. Empty if there is none.
    """
    return [
        *argument_problems(cfg),
        *_collect(_constructor_problems, cfg),
        *_collect(_data_problems, cfg),
        *_collect(_storage_problems, cfg),
        *_collect(_tracking_problems, cfg),
        *_collect(_sweep_problems, cfg),
    ]


def argument_problems(cfg: DictConfig) -> list[str]:
    """Find the settings that the model, its training, the preprocessing or the split refuse.

    No table is read and no server of runs is asked: quick enough to stand before every training.
    """
    missing = [f"{key}: is required: {key}=..." for key in sorted(OmegaConf.missing_keys(cfg))]
    return [
        *missing,
        *_collect(_model_problems, cfg),
        *_collect(_preprocessing_problems, cfg),
        *_collect(_data_argument_problems, cfg),
        *_collect(_run_problems, cfg),
    ]


def checkpoint_settings(cfg: DictConfig) -> CheckpointSettings | None:
    """Read where checkpoints are kept, and whether to go on from one; None keeps none."""
    from ml_project_template.training.checkpoints import CheckpointSettings

    settings, resume = _checkpoint_choices(cfg)
    return None if settings is None else CheckpointSettings(**settings, resume=resume)


def _checkpoint_choices(cfg: DictConfig) -> tuple[dict[str, Any] | None, Any]:
    """Give what stands below ``checkpoint`` and at ``resume``.

    What is done once more, by the record of the first time, says nothing of either.
    """
    return plain(cfg.get("checkpoint")), cfg.get("resume", False)


def model_problems(cfg: DictConfig) -> list[str]:
    """Find the settings that the model or its training refuse."""
    return _collect(_model_problems, cfg)


def _collect(problems: Callable[[DictConfig], Iterator[str]], cfg: DictConfig) -> list[str]:
    """Gather the lines of one kind of problem; an error ends that kind, not the others."""
    found: list[str] = []
    try:
        found.extend(problems(cfg))
    except Exception as error:
        found.extend(explain(error))
    return found


def _model_problems(cfg: DictConfig) -> Iterator[str]:
    from ml_project_template.models.base import BaseModel

    model = target_class(cfg.model, BaseModel, where="model")  # type: ignore[type-abstract]
    yield from check_arguments(model, _without_target(cfg.model), where="model")
    yield from model.training_problems(plain(cfg.get("training")) or {})


def _constructor_problems(cfg: DictConfig) -> Iterator[str]:
    """Try what only the constructor knows, such as that two settings don't go together."""
    from ml_project_template.models.base import BaseModel

    if not _collect(_model_problems, cfg):
        build(cfg.model, BaseModel, where="model")  # type: ignore[type-abstract]
    yield from ()


def _preprocessing_problems(cfg: DictConfig) -> Iterator[str]:
    from ml_project_template.data import Preprocessor

    preprocessor = target_class(cfg.preprocessing, Preprocessor, where="preprocessing")
    yield from check_arguments(
        preprocessor, _without_target(cfg.preprocessing), where="preprocessing"
    )


def _data_argument_problems(cfg: DictConfig) -> Iterator[str]:
    from entrypoints.preprocess import split_arguments
    from ml_project_template.data import RawTable, SplitSettings
    from ml_project_template.utils.io import exists, is_pattern, matching_files

    if OmegaConf.is_missing(cfg.data, "target_column"):
        return
    if cfg.data.path is None:
        yield "data.path: is required, such as data.path=my.csv"
        return
    if cfg.data.source is None and is_pattern(cfg.data.path):
        matching_files(cfg.data.path, storage_options(cfg))
    elif cfg.data.source is None and not exists(cfg.data.path, storage_options(cfg)):
        yield f"data.path: there is no file '{cfg.data.path}'"
    yield from check_arguments(
        RawTable,
        split_arguments(cfg),
        where="data",
        ignore=("only_columns", "split_by", "storage_options"),
    )
    split = plain(cfg.data.split)
    problems = check_arguments(SplitSettings, split, where="data.split")
    yield from problems
    if not problems:
        SplitSettings(**split).check()


def _run_problems(cfg: DictConfig) -> Iterator[str]:
    from ml_project_template.models.base import BaseModel

    keys = ["seed", "save_model", "run_name"]
    if cfg.data.name is not None:
        # The other names are made of it.
        keys += ["experiment_name", "model_path"]
    if not isinstance(cfg.tracking.enabled, bool):
        yield f"tracking.enabled: must be true or false, got {cfg.tracking.enabled!r}"
    settings = {key: cfg[key] for key in keys}
    for key in ("experiment_name", "model_path"):
        if settings.get(key) == "":
            yield f"{key}: must not be empty"
    yield from _checkpoint_problems(cfg)
    if cfg.cv is not None:
        from ml_project_template.data import prepare_folds

        ignored = set(prepare_folds.__annotations__) - {"cv"}
        for line in check_arguments(prepare_folds, {"cv": cfg.cv}, where="", ignore=ignored):
            yield line.removeprefix(".")
    others = set(BaseModel.train.__annotations__) - set(keys)
    for line in check_arguments(BaseModel.train, settings, where="", ignore=others):
        yield line.removeprefix(".")


def _checkpoint_problems(cfg: DictConfig) -> Iterator[str]:
    from ml_project_template.training.checkpoints import CheckpointSettings

    settings, resume = _checkpoint_choices(cfg)
    if settings is not None:
        yield from check_arguments(
            CheckpointSettings, settings, where="checkpoint", ignore={"resume"}
        )
    problems = check_arguments(
        CheckpointSettings,
        {"resume": resume},
        where="",
        ignore={"path", "every_epochs", "every_minutes"},
    )
    yield from (line.removeprefix(".") for line in problems)
    if resume and not problems:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            yield "resume: is about one run; a sweep goes on by itself with the same command"
        elif cfg.cv is not None:
            yield "resume: goes on with one training, and cv is for several: leave one of them out"
        elif settings is None and resume is True:
            yield "resume: needs checkpoints, and checkpoint is null"


def _data_problems(cfg: DictConfig) -> Iterator[str]:
    from entrypoints.preprocess import raw_table
    from ml_project_template.utils.io import exists, is_pattern

    if OmegaConf.is_missing(cfg.data, "target_column") or cfg.data.path is None:
        return
    options = storage_options(cfg)
    if not is_pattern(cfg.data.path) and not exists(cfg.data.path, options):
        source = cfg.data.source
        if source is not None and not source.startswith("sklearn:") and not exists(source, options):
            yield f"data.source: there is no file '{source}'"
        return
    raw_table(cfg).read()


def _storage_problems(cfg: DictConfig) -> Iterator[str]:
    from ml_project_template.artifacts import check_target
    from ml_project_template.utils.io import exists, is_remote, local_path

    for key in ("data_root", "model_root"):
        root = cfg.storage[key]
        try:
            if is_remote(root):
                exists(root, storage_options(cfg))
            else:
                there = next(p for p in (local_path(root).absolute() / "x").parents if p.exists())
                if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
                    yield f"storage.{key}: can't write to '{there}'"
        except (OSError, ProjectError) as error:
            yield from (f"storage.{key}: {line}" for line in explain(error))
    if cfg.model_path:
        check_target(cfg.model_path, storage_options=storage_options(cfg))


def _tracking_problems(cfg: DictConfig) -> Iterator[str]:
    if not cfg.tracking.enabled:
        return
    from ml_project_template.tracking_address import check_reachable

    check_reachable(cfg.tracking.uri)
    yield from ()


def _sweep_problems(cfg: DictConfig) -> Iterator[str]:
    """Look at what a search would do with these settings, if they choose one."""
    settings = plain(cfg.sweep)
    if settings.get("sampler") == "grid" and not settings.get("search_space"):
        return
    from ml_project_template.sweeps.options import read_options
    from ml_project_template.sweeps.space import parse_space

    space = parse_space(read_options(settings).search_space, [])
    missing = object()
    for key in space.distributions:
        if OmegaConf.select(cfg, key.lstrip("+"), default=missing) is missing:
            yield f"sweep.search_space.{key}: there is no such setting"


def _without_target(node: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in plain(node).items() if key != "_target_"}
