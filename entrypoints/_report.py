"""What a sweep tells: at its start, while it runs, and at its end, where the best model is kept."""

from __future__ import annotations

import logging
import sys
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from entrypoints._composition import own_directories
from entrypoints._job import task_config
from entrypoints._summary import (
    best_facts,
    command,
    facts,
    model_commands,
    terminal_width,
    where_to_look,
)
from entrypoints._trial import group_choices
from entrypoints.onboard import storage_options
from ml_project_template.errors import ProjectError
from ml_project_template.sweeps.tables import failures_table, results_table, to_csv, to_markdown
from ml_project_template.utils.io import write_bytes
from ml_project_template.utils.secrets import find_secrets, hidden_settings, redact_mapping

if TYPE_CHECKING:
    from types import TracebackType

    from tqdm import tqdm

    from entrypoints._plan import Plan
    from ml_project_template.runs import Run, Tracker
    from ml_project_template.sweeps.results import SweepResults, Trial
    from ml_project_template.sweeps.study import SweepStudy

__all__ = ["Progress", "check_targets", "experiment_yaml", "finish", "introduce"]

log = logging.getLogger(__name__)

_LINES = 10
# What models are compared by besides: a loss says little to who has not seen others.
_COMPARED_BY = (
    *("val_accuracy", "cv_accuracy", "val_rmse", "cv_rmse"),
    *("test_accuracy", "test_rmse", "test_r2", "seconds"),
)
# What an experiment of conf/ is not about: how and where it is run.
_NOT_IN_EXPERIMENT = frozenset(
    {"cv", "experiment_name", "model_path", "run_name", "storage", "sweep", "tracking"}
)
_EXPERIMENT = "best"


def check_targets(plan: Plan) -> None:
    """See that the best model can be put where it belongs, before anything is trained.

    Raises:
        ArtifactError: Something else is in the way.
    """
    from ml_project_template.artifacts import check_target

    for base in plan.recipe.bases.values():
        target = _target(base)
        if target is not None:
            check_target(target, storage_options=storage_options(task_config(base)))


def introduce(plan: Plan, study: SweepStudy) -> None:
    """Say what is about to be tried."""
    goals = " and ".join(
        f"the {'lower' if goal.direction == 'minimize' else 'higher'} {goal.metric}"
        for goal in plan.objectives
    )
    launcher = HydraConfig.get().runtime.choices["hydra/launcher"]
    workers = plan.options.n_jobs
    how = f"{workers} worker{'' if workers == 1 else 's'}" if workers else "in this process"
    if launcher != "basic":
        how = f"launched by {launcher}"
    log.info(
        "Sweep: %d trials by %s, %s; %s the better",
        *(plan.n_trials, plan.options.sampler, how, goals),
    )
    if plan.options.pruner != "none" and not study.prunes:
        log.info("Sweep: nothing is pruned: there are several metrics to compare by")
    done = _ended(study.results())
    state = f", {len(done)} of {plan.n_trials} trials done before" if done else ""
    log.info("Sweep: study %s in %s%s", study.settings.name, study.store.shown, state)


class Progress:
    """Shows how far a study has come: a bar on a terminal, some plain lines anywhere else.

    Args:
        study: The study.
        run: The run above its trials, which gets the best value so far.
    """

    def __init__(self, study: SweepStudy, run: Run) -> None:
        self._study = study
        self._run = run
        self._done = 0
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Self:
        self._done = len(_ended(self._study.results()))
        if sys.stderr.isatty():
            from tqdm import tqdm

            total = self._study.settings.n_trials
            self._bar = tqdm(
                total=total, initial=self._done, desc="Sweep", unit="trial", dynamic_ncols=True
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.look()
        if self._bar is not None:
            self._bar.close()

    def look(self) -> bool:
        """See how far the study is; returns whether a trial has ended since the last look."""
        results = self._study.results()
        ended = _ended(results)
        if len(ended) == self._done:
            return False
        before, self._done = self._done, len(ended)
        text = _standing(results)
        self._report_best(results)
        if self._bar is not None:
            self._bar.set_postfix_str(text, refresh=False)
            self._bar.update(self._done - self._bar.n)
            return True
        every = max(1, results.n_trials // _LINES)
        if before // every != self._done // every or self._done == results.n_trials:
            log.info("Sweep: %d of %d trials, %s", self._done, results.n_trials, text)
        return True

    def _report_best(self, results: SweepResults) -> None:
        best = results.best
        if best is not None and best.values is not None:
            metric = results.objectives[0].metric
            self._run.log_metrics({f"best_{metric}": best.values[0]}, step=self._done)


def finish(
    plan: Plan,
    study: SweepStudy,
    config: DictConfig,
    *,
    tracker: Tracker,
    parent: Run,
    folder: Path,
) -> str:
    """Write what a study has found, keep its best model, and sum it up.

    Args:
        plan: What was to be done.
        study: The study; its lock is held.
        config: The configuration of the command.
        tracker: Where the runs are kept.
        parent: The run above all trials.
        folder: Where files are written.

    Returns:
        Lines for the terminal.
    """
    results = study.results()
    done = len(_ended(results))
    told = study.get("report") or {}
    # One of several processes, or a command that is given again, has nothing to add.
    if told.get("trials") != done or not Path(told.get("folder", "")).is_dir():
        told = {"trials": done, "folder": str(folder), "model": None}
        told["model"] = _keep_best(plan, results, tracker, parent)
        _write(plan, study, results, config, parent, folder)
        study.set("report", told)
    return _summary(plan, study, results, told, config, parent)


def _keep_best(plan: Plan, results: SweepResults, tracker: Tracker, parent: Run) -> str | None:
    """Put the best model where a single training would have put it; returns where."""
    best = results.best
    if best is None:
        return None
    cfg, _ = plan.recipe.config(best.params, best.number)
    task = task_config(cfg)
    target = _target(cfg)
    parent.log_metrics({**best.metrics, "best_trial": best.number})
    parent.log_tags({"best_trial": best.number, "best_run_id": best.run_id})
    try:
        if best.model_path is None and (plan.seeds or task.cv is not None):
            return _refit(cfg, target, plan, tracker, parent, best)
        if best.model_path is None or target is None:
            return None
        from ml_project_template.artifacts import copy_model_directory

        options = storage_options(task)
        copy_model_directory(best.model_path, target, storage_options=options)
        if parent.wants_model:
            _log_model(parent, target, options)
    except ProjectError as error:
        log.warning("The best model is not kept: %s", error)
        return None
    return target


def _target(cfg: DictConfig) -> str | None:
    """Say where the best model goes."""
    if not OmegaConf.is_interpolation(cfg, "model_path"):
        return None if cfg.model_path is None else str(cfg.model_path)
    return f"{cfg.storage.model_root}/{cfg.data.name}_{cfg.hydra.runtime.choices['model']}"


def _refit(
    cfg: DictConfig, target: str | None, plan: Plan, tracker: Tracker, parent: Run, best: Trial
) -> str | None:
    """Train the best settings once more, for trials that were means have left no model."""
    from entrypoints._training import fit_model
    from entrypoints.preprocess import preprocess

    task = task_config(cfg)
    with open_dict(task):
        task.model_path = target
    data = preprocess(task)
    report = fit_model(
        task,
        data.train,
        data.val,
        data.test,
        tracker=tracker.below(parent, tags={"refit_of_trial": best.number}),
        experiment_name=plan.experiment_name,
        run_name="best",
        seed=plan.seeds[0] if plan.seeds else task.seed,
    )
    parent.log_metrics(report.metrics)
    if target is not None and parent.wants_model:
        _log_model(parent, target, storage_options(task))
    return report.model_path


def _log_model(run: Run, path: str, options: dict[str, Any]) -> None:
    """Log a model directory to a run, without loading the model."""
    from ml_project_template import artifacts
    from ml_project_template.data.signature import Signature
    from ml_project_template.utils.io import read_json

    with artifacts.open_model_directory(path, storage_options=options) as directory:
        signature = Signature.from_dict(read_json(str(directory / artifacts.SIGNATURE)))
        metadata = read_json(str(directory / artifacts.METADATA))
        run.log_model(
            directory,
            signature=signature,
            sample=signature.sample,
            requirements=sorted(metadata["versions"]),
        )


def _write(
    plan: Plan,
    study: SweepStudy,
    results: SweepResults,
    config: DictConfig,
    parent: Run,
    folder: Path,
) -> None:
    """Write the table, the page and the best settings, also to the run above all trials."""
    from ml_project_template.sweeps.page import sweep_page

    table = to_csv(results)
    about = {
        "Study": f"{results.name} in {study.store.shown}",
        "Command": f"python -m entrypoints.{config.hydra.job.name} {study.get('command', '')}",
    }
    page = sweep_page(results, study.optuna, title=results.name, facts=about)
    files = {"results.csv": table, "sweep.html": page}
    best = results.best
    if best is not None:
        files[f"conf/experiment/{_EXPERIMENT}.yaml"] = experiment_yaml(plan, results, best)
    for name, text in files.items():
        write_bytes(str(folder / name), text.encode())
        parent.log_text(text, Path(name).name)
    parent.log_metrics(
        {
            "trials_complete": len(results.complete),
            "trials_pruned": len(results.pruned),
            "trials_failed": len(results.failed),
        }
    )
    parent.log_tags({"mlflow.note.content": to_markdown(results)})


def experiment_yaml(plan: Plan, results: SweepResults, trial: Trial) -> str:
    """Write the settings of a trial as a preset of ``conf/experiment``.

    Args:
        plan: What was tried.
        results: What it belongs to.
        trial: The trial.

    Returns:
        YAML: its choices of groups, and each setting that differs from what those bring along.
    """
    cfg, _ = plan.recipe.config(trial.params, trial.number)
    chosen = group_choices(cfg)
    before = _plain(task_config(plan.defaults[tuple(chosen)]))
    content = {
        "defaults": [{f"override /{group}": choice} for group, choice in chosen],
        **_changes(_plain(task_config(cfg)), before),
    }
    values = ", ".join(
        f"{goal.metric} {value:.6g}"
        for goal, value in zip(results.objectives, trial.values or (), strict=False)
    )
    hidden = redact_mapping(content, find_secrets(content))
    # Who uses it gives these again; a mask would pass for a value.
    left_out = hidden_settings(hidden)
    note = f"# Without what holds a secret: {', '.join(left_out)}\n" if left_out else ""
    text = yaml.safe_dump(_without(hidden, left_out), sort_keys=False, allow_unicode=True)
    return (
        f"# @package _global_\n# Trial {trial.number} of the study {results.name}: {values}\n"
        f"{note}{text}"
    )


def _without(content: dict[str, Any], keys: Collection[str], above: str = "") -> dict[str, Any]:
    """Leave out some settings, named by their keys joined by dots."""
    found = {}
    for key, value in content.items():
        if f"{above}{key}" in keys:
            continue
        if isinstance(value, dict):
            value = _without(value, keys, f"{above}{key}.")
            if not value:
                continue
        found[key] = value
    return found


def _plain(cfg: DictConfig) -> dict[str, Any]:
    # Unresolved: a path below ${storage.data_root} shall follow another storage.
    found = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items() if key not in _NOT_IN_EXPERIMENT}


def _changes(now: dict[str, Any], before: dict[str, Any]) -> dict[str, Any]:
    """Keep the settings that differ."""
    found = {}
    for key, value in now.items():
        old = before.get(key)
        if isinstance(value, dict) and isinstance(old, dict):
            inner = _changes(value, old)
            if inner:
                found[key] = inner
        elif key not in before or value != old:
            found[key] = value
    return found


def _summary(
    plan: Plan,
    study: SweepStudy,
    results: SweepResults,
    told: dict[str, Any],
    config: DictConfig,
    parent: Run,
) -> str:
    cfg = task_config(next(iter(plan.recipe.bases.values())))
    folder = Path(told["folder"])
    rows = best_facts(results)
    if told["model"] is not None:
        rows.append(("model", told["model"]))
    if parent.id is not None:
        rows.append(("run", f"{parent.id} (experiment {plan.experiment_name})"))
    rows.append(("report", f"{folder / 'sweep.html'}, results.csv"))
    rows.append(("study", f"{results.name} in {study.store.shown}"))
    steps = where_to_look(parent.id, parent.experiment_id, cfg)
    if results.best is not None:
        own = [f"file://{path}" for path in own_directories(config.hydra)]
        # Hydra takes one folder by --config-dir: the user's own is named in the other way.
        beside = [f"hydra.searchpath=[{','.join(own)}]"] if own else []
        words = ["train", "--config-dir", str(folder / "conf"), *beside]
        steps.append(("again", command([*words, f"experiment={_EXPERIMENT}"])))
    if told["model"] is not None:
        steps += model_commands(told["model"])
    failures = failures_table(results)
    return "\n".join(
        [
            "",
            results_table(
                results,
                width=terminal_width(),
                beside=_COMPARED_BY if "model" in plan.distributions else (),
            ),
            *(["", failures] if failures else []),
            "",
            *facts(rows),
            "",
            *facts(steps),
        ]
    )


def _ended(results: SweepResults) -> list[Trial]:
    return [trial for trial in results.trials if trial.state in ("complete", "pruned", "failed")]


def _standing(results: SweepResults) -> str:
    """Say in few words how a study stands."""
    parts = []
    best = results.best
    if best is not None and best.values is not None:
        metric = results.objectives[0].metric
        parts.append(f"best {metric} {best.values[0]:.4g} (trial {best.number})")
    elif results.complete:
        parts.append(f"{len(results.pareto())} Pareto-optimal")
    for name in ("pruned", "failed"):
        count = len(getattr(results, name))
        if count:
            parts.append(f"{count} {name}")
    return ", ".join(parts) or "none complete"
