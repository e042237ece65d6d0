"""Running one trial of a sweep, as one of Hydra's jobs, in whatever process works on the sweep."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf, open_dict

from entrypoints._job import JobScene, copy_config, open_job
from entrypoints._problems import model_problems
from entrypoints._shell import hide_secrets, plain
from entrypoints._training import (
    cross_validation_steps,
    make_tracker,
    metric_of,
    training_steps,
)
from entrypoints.preprocess import preprocess, preprocess_folds
from ml_project_template.errors import ConfigError
from ml_project_template.models._steps import Steps, run_steps, steps_together
from ml_project_template.runs import OpenRun, Run
from ml_project_template.sweeps.space import override_text, quoted
from ml_project_template.sweeps.worker import Pruned, TrialContext
from ml_project_template.utils.git import remember_git_state

if TYPE_CHECKING:
    from ml_project_template.data import Fold
    from ml_project_template.data.prepare import Prepared
    from ml_project_template.runs import Tracker

__all__ = ["STATE_TAG", "TRIAL_TAG", "Recipe", "TrialRunner", "group_choices"]

# The tag by which a run is known to belong to a trial.
TRIAL_TAG = "trial"
STATE_TAG = "trial_state"

_LONGEST_NAME = 60


@dataclass(frozen=True)
class Recipe:
    """How the configuration of a trial is made, from what was composed when the sweep began.

    Nothing is read from ``conf/`` any more: who edits a file there changes later sweeps alone.

    Attributes:
        bases: For each choice of the groups that are tried, as override texts, the configuration
            of a job with all that is fixed, Hydra's own part included.
        groups: The override keys that choose from a group.
        sweep_dir: The folder that the folders of the jobs are below.
    """

    bases: Mapping[tuple[str, ...], DictConfig]
    groups: tuple[str, ...]
    sweep_dir: str

    def config(self, params: Mapping[str, Any], number: int) -> tuple[DictConfig, list[str]]:
        """Make the configuration of a trial.

        Args:
            params: Override key to value.
            number: The trial's number.

        Returns:
            The configuration with Hydra's part, and the trial's own overrides.
        """
        texts = {key: override_text(key, value) for key, value in params.items()}
        base = self.bases[tuple(texts[key] for key in self.groups)]
        cfg = copy_config(base)
        values = [text for key, text in texts.items() if key not in self.groups]
        ConfigLoaderImpl._apply_overrides_to_config(
            OverridesParser.create().parse_overrides(values), cfg
        )
        own = list(texts.values())
        with open_dict(cfg):
            cfg.hydra.job.id = str(number)
            cfg.hydra.job.num = number
            # As it was when the sweep began, where it is made of the time.
            cfg.hydra.sweep.dir = self.sweep_dir
            # All that the command fixes stands in the base already.
            fixed = [text for text in base.hydra.overrides.task if text not in own]
            cfg.hydra.overrides.task = [*fixed, *own]
        return cfg, own


def group_choices(cfg: DictConfig) -> list[tuple[str, str]]:
    """List what a job's configuration chose of the groups that make a model."""
    choices = cfg.hydra.runtime.choices
    return [(group, choices[group]) for group in ("data", "model", "preprocessing")]


@dataclass(frozen=True)
class TrialRunner:
    """Runs trials; sent to the workers.

    Attributes:
        recipe: How their configurations are made.
        context: What Hydra needs to run a job.
        parent_run_id: The run above them; None without tracking.
        experiment_name: The experiment of that run.
        log_plots: Whether each run gets its plots.
        log_models: Whether each run gets a copy of its model.
        keep_models: Whether each trial writes a model directory.
        seeds: A trial is the mean over trainings with each of these; none trains it once.
        together: How many fits may be run in one go.
    """

    recipe: Recipe
    context: HydraContext
    parent_run_id: str | None
    experiment_name: str
    log_plots: bool
    log_models: bool
    keep_models: bool
    seeds: tuple[int, ...] = ()
    together: int = 1
    # What was prepared before in this process: a trial seldom changes the data.
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    def __call__(self, trial: TrialContext) -> None:
        """Run a trial as a job: with a folder, a log and a configuration of its own."""
        run_steps(self._steps(trial))

    def run_together(self, trials: Sequence[TrialContext]) -> None:
        """Run several trials: each as a job of its own, and their fits in one go where they can be.

        Args:
            trials: The trials. Each is told how it ends; see `TrialContext.ending`.
        """
        steps = [self._ending_steps(trial) for trial in trials]
        run_steps(steps_together(steps, [JobScene() for _ in trials]))

    def _ending_steps(self, trial: TrialContext) -> Steps[None]:
        with trial.ending():
            yield from self._steps(trial)

    def _steps(self, trial: TrialContext) -> Steps[None]:
        setup_globals()
        remember_git_state()
        cfg, own = self.recipe.config(trial.params, trial.number)
        _take_free_folder(cfg)
        with open_job(cfg, self.context, cast(Any, self._train)) as job:
            hide_secrets(job)
            try:
                yield from self._train(job, trial, own)
            except Exception:
                logging.getLogger(__name__).exception("trial %d failed", trial.number)
                raise

    def job_overrides(self, trial: TrialContext) -> list[str]:
        """Write a trial as overrides, for a launcher that composes and runs the job by itself."""
        cfg, own = self.recipe.config(trial.params, trial.number)
        with open_dict(cfg):
            cfg.hydra.sweep.subdir = str(trial.number)
        path = self._own_path(cfg, cfg.hydra) if self.keep_models else None
        trial.note(
            overrides=own,
            output_dir=f"{cfg.hydra.sweep.dir}/{trial.number}",
            model_path=path,
        )
        return [
            *cfg.hydra.overrides.task,
            f"tracking.parent_run_id={self.parent_run_id or 'null'}",
            f"+tracking.tags.{TRIAL_TAG}={trial.number}",
            override_text("tracking.log_plots", self.log_plots),
            override_text("tracking.log_models", self.log_models),
            f"experiment_name={quoted(self.experiment_name)}",
            f"model_path={'null' if path is None else quoted(path)}",
            f"hydra.sweep.subdir={quoted(str(trial.number))}",
        ]

    def _train(self, cfg: DictConfig, trial: TrialContext, own: list[str]) -> Steps[None]:
        output_dir = HydraConfig.get().runtime.output_dir
        trial.note(overrides=own, output_dir=output_dir)
        with open_dict(cfg):
            if not self.keep_models:
                cfg.model_path = None
            elif not OmegaConf.is_interpolation(cfg, "model_path"):
                # One name for all would have them replace one another.
                cfg.model_path = self._own_path(cfg, HydraConfig.get())
        tracker = make_tracker(cfg).below(
            _parent(self.parent_run_id),
            tags={TRIAL_TAG: trial.number},
            log_plots=self.log_plots,
            log_models=self.log_models,
        )
        with tracker.start_run(
            experiment_name=self.experiment_name, run_name=self._name(cfg, trial, own)
        ) as tracked:
            trial.note(run_id=tracked.id)
            # Inside of the run, so that what is wrong with a trial stands there, too.
            # Of the others each was tried with all its values when the sweep began.
            problems = model_problems(cfg)
            if problems:
                raise ConfigError("\n".join(problems))
            try:
                metrics, model_path = yield from self._fit(cfg, trial, tracker, tracked)
            except Pruned as pruned:
                tracked.log_tags({STATE_TAG: "pruned", "pruned_at": pruned.step})
                trial.prune()
                return
            tracked.log_tags({STATE_TAG: "complete"})
            tracked.flush()
            # From here on the trial counts; the run has all it will have but its end.
            trial.complete(metrics, model_path=model_path)

    def _fit(
        self, cfg: DictConfig, trial: TrialContext, tracker: Tracker, tracked: Run
    ) -> Steps[tuple[dict[str, float], str | None]]:
        if cfg.cv is None and not self.seeds:
            data = self._prepared(cfg)
            report = yield from training_steps(
                cfg,
                data.train,
                data.val,
                data.test,
                tracker=OpenRun(tracked, tracker),
                reporters=[trial] if trial.prunes else [],
            )
            return report.metrics, report.model_path

        def progress(done: int, total: int, means: Mapping[str, float]) -> None:
            if trial.prunes and done < total:
                trial.report(done, {metric_of(name, cfg.cv): v for name, v in means.items()}, total)

        metrics = yield from cross_validation_steps(
            cfg,
            [self._prepared(cfg)] if cfg.cv is None else self._folds(cfg),
            tracker=make_tracker(cfg),
            tracked=tracked,
            seeds=self.seeds,
            progress=progress,
            # One after the other where a trial may be given up between two of them.
            together=1 if trial.prunes else self.together,
        )
        if cfg.cv is None:
            metrics = {name.replace("cv_", "val_", 1): v for name, v in metrics.items()}
        tracked.log_metrics(metrics)
        return metrics, None

    def _prepared(self, cfg: DictConfig) -> Prepared:
        made: Prepared = self._once(cfg, preprocess)
        return made

    def _folds(self, cfg: DictConfig) -> list[Fold]:
        made: list[Fold] = self._once(cfg, preprocess_folds)
        return made

    def _once(self, cfg: DictConfig, make: Callable[[DictConfig], Any]) -> Any:
        key = json.dumps([plain(cfg[name]) for name in ("data", "preprocessing", "storage", "cv")])
        if key not in self._cache:
            self._cache.clear()
            self._cache[key] = make(cfg)
        return self._cache[key]

    def _own_path(self, cfg: DictConfig, settings: Any) -> str:
        return f"{cfg.storage.model_root}/{settings.sweep.dir}/{settings.sweep.subdir}"

    def _name(self, cfg: DictConfig, trial: TrialContext, own: list[str]) -> str:
        text = f"{trial.number}: {' '.join(own)}"
        short = text if own and len(text) <= _LONGEST_NAME else f"trial {trial.number}"
        return short if cfg.run_name is None else f"{cfg.run_name} {short}"


def _take_free_folder(cfg: DictConfig) -> None:
    """Choose a folder that no trial of another study has, where the command names one for all."""
    plain_hydra = OmegaConf.to_container(cfg.hydra.sweep, resolve=False)
    if not isinstance(plain_hydra, dict) or plain_hydra["subdir"] != "${hydra.job.num}":
        return
    folder, number, more = Path(cfg.hydra.sweep.dir), cfg.hydra.job.num, 1
    name = str(number)
    while (folder / name).exists():
        more += 1
        name = f"{number}_{more}"
    with open_dict(cfg):
        cfg.hydra.sweep.subdir = name


def _parent(run_id: str | None) -> Run:
    run = Run()
    run.id = run_id
    return run
