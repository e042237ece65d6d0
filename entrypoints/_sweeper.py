"""``-m``: Hydra's sweeper of this project. Plans, opens the study, has it worked on, reports."""

from __future__ import annotations

import contextlib
import logging
import secrets
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from ml_project_template.errors import ConfigError, SweepError
from ml_project_template.utils.collecting import uncollected
from ml_project_template.utils.secrets import find_secrets, redact
from ml_project_template.utils.signals import was_stopped

if TYPE_CHECKING:
    from entrypoints._plan import Plan
    from entrypoints._report import Progress
    from entrypoints._trial import TrialRunner
    from ml_project_template.runs import Run, Tracker
    from ml_project_template.sweeps.study import SweepStudy
    from ml_project_template.tracking import MLflowTracker

__all__ = ["CheckingSweeper", "ProjectSweeper"]

log = logging.getLogger(__name__)

T = TypeVar("T")

# Between two looks at how far the study is.
_LOOK_SECONDS = 0.25


class ProjectSweeper(Sweeper):
    """Runs the trials of a study below one run; see ``docs/sweeps.md``."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Take what Hydra knows of the command."""
        self._config = config
        self._context = hydra_context
        self._task = task_function

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep of a command line.

        Args:
            arguments: Its overrides.

        Raises:
            ConfigError: All that is wrong with it, before anything is run.
            SweepError: The study can't be opened, or too many of its trials have failed.
        """
        with uncollected():
            from entrypoints._plan import make_plan, prepare_data
            from ml_project_template.sweeps.pool import start_imports

            plan = make_plan(self._config, self._context.config_loader, arguments)
            if plan.options.n_jobs and not _has_launcher(self._config):
                # Beside all that comes first: workers are forked from it when their time comes.
                start_imports(_preload(plan, tracked=bool(self._config.tracking.enabled)))
            plan = prepare_data(plan)
        _run(plan, self._config, self._context, self._task)


class CheckingSweeper(ProjectSweeper):
    """Tells what is wrong with a sweep, and runs nothing."""

    def sweep(self, arguments: list[str]) -> None:
        """Check the sweep of a command line.

        Raises:
            ConfigError: All that is wrong with it.
        """
        from entrypoints._plan import make_plan, plan_problems

        plan = make_plan(self._config, self._context.config_loader, arguments)
        problems = plan_problems(plan)
        if problems:
            raise ConfigError("\n".join(problems))
        print(f"Nothing is wrong with these arguments: {plan.n_trials} trials.")


def _run(plan: Plan, config: DictConfig, context: HydraContext, task: TaskFunction) -> None:
    from entrypoints._job import task_config
    from entrypoints._training import make_tracker
    from entrypoints._trial import TrialRunner

    first = task_config(next(iter(plan.recipe.bases.values())))
    tracker = make_tracker(first)
    folder = Path(config.hydra.sweep.dir)
    with contextlib.ExitStack() as stack:
        with uncollected():
            from entrypoints._report import check_targets, finish, introduce

            check_targets(plan)
            study = _open_study(plan, first)
            _save_config(config, folder)
            introduce(plan, study)
            parent = stack.enter_context(_parent(tracker, study, plan))
            _settle_children(tracker, parent, study)
        runner = TrialRunner(
            recipe=plan.recipe,
            context=context,
            parent_run_id=parent.id,
            experiment_name=plan.experiment_name,
            log_plots=plan.options.log_plots,
            log_models=plan.options.log_models,
            # Not looked at: where a model goes is known inside of its job alone.
            keep_models=OmegaConf.is_interpolation(first, "model_path")
            or first.model_path is not None,
            seeds=plan.seeds,
            together=plan.together,
        )
        if not study.is_done():
            try:
                _work(plan, study, runner, config, context, task, tracker, parent, folder)
            except BaseException as error:
                if was_stopped(error):
                    log.info("Sweep: stopped; the same command goes on where it is now")
                raise
        _settle_children(tracker, parent, study)
        with uncollected(), study.locked():
            summary = finish(plan, study, config, tracker=tracker, parent=parent, folder=folder)
    print(summary)
    results = study.results()
    if results.failure_rate > plan.options.max_failure_rate:
        raise SweepError(
            f"{len(results.failed)} of {plan.n_trials} trials failed, more than "
            f"sweep.max_failure_rate={plan.options.max_failure_rate} allows."
        )


def _save_config(config: DictConfig, folder: Path) -> None:
    """Write what the command was composed to, as Hydra's own sweepers do, without secrets."""
    folder.mkdir(parents=True, exist_ok=True)
    known = cast(dict[str, Any], OmegaConf.to_container(config))
    hidden = redact(OmegaConf.to_yaml(config), find_secrets(known))
    (folder / "multirun.yaml").write_text(hidden, encoding="utf-8")


def _open_study(plan: Plan, cfg: DictConfig) -> SweepStudy:
    """Open the study that the command means: the one it began, or a new one."""
    from ml_project_template.sweeps.storage import default_storage, open_store
    from ml_project_template.sweeps.study import StudySettings, SweepStudy
    from ml_project_template.tracking_address import check_reachable, tracking_uri

    options = plan.options
    uri = None
    if cfg.tracking.enabled:
        # First of all: a study that nothing can be tracked for should not be begun.
        check_reachable(cfg.tracking.uri)
        uri = tracking_uri(cfg.tracking.uri)
    address = options.storage or default_storage(uri)
    base = options.study_name or f"{plan.name}-{plan.fingerprint[:8]}"
    name = _newest(base, open_store(address).names(), anew=not options.resume)
    study = SweepStudy(
        StudySettings(
            name=name,
            storage=address,
            objectives=plan.objectives,
            distributions=plan.distributions,
            n_trials=plan.n_trials,
            combinations=plan.points,
            sampler=options.sampler,
            sampler_options=options.own_options("sampler"),
            pruner=options.pruner,
            pruner_options=options.own_options("pruner"),
            seed=options.seed,
            heartbeat=options.heartbeat,
        )
    )
    with study.locked():
        if study.get("fingerprint") is None:
            study.set("metrics", [objective.metric for objective in plan.objectives])
            study.set("command", _command())
            study.set("uid", secrets.token_hex(16))
            study.set("design", plan.design)
            study.set("fingerprint", plan.fingerprint)
        elif study.get("fingerprint") != plan.fingerprint:
            raise SweepError(
                f"sweep.study_name: '{name}' was begun with other settings "
                f"({_difference(study.get('design', {}), plan.design)}). Choose another name, or "
                "sweep.resume=false for a new study."
            )
        if study.get("n_trials") != plan.n_trials:
            study.set("n_trials", plan.n_trials)
    return study


def _newest(base: str, names: Sequence[str], *, anew: bool) -> str:
    """Find the newest of the studies of a command; each new beginning has a number of its own."""
    last = 0
    for name in names:
        stem, _, number = name.rpartition("-")
        if name == base:
            last = max(last, 1)
        elif stem == base and number.isdigit():
            last = max(last, int(number))
    last = last + 1 if anew else max(last, 1)
    return base if last == 1 else f"{base}-{last}"


def _command() -> str:
    return redact(shlex.join(sys.argv[1:]), find_secrets({"argv": list(sys.argv)}))


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    from ml_project_template.utils.names import flatten

    old, new = flatten(before, "/"), flatten(now, "/")
    keys = [key for key in dict.fromkeys([*old, *new]) if old.get(key) != new.get(key)]
    names = [key.rsplit("/", 1)[-1] if "/" in key else key for key in keys]
    shown = list(dict.fromkeys(names))[:5]
    return ", ".join(shown) + (", ..." if len(names) > len(shown) else "")


@contextlib.contextmanager
def _parent(tracker: Tracker, study: SweepStudy, plan: Plan) -> Iterator[Run]:
    """Open the run above all trials: one for a study, however often it is gone on with."""
    from ml_project_template.tracking import MLflowTracker

    if not isinstance(tracker, MLflowTracker):
        with tracker.start_run(experiment_name=plan.experiment_name) as run:
            yield run
        return
    tags = {"study": study.settings.name, "study_uid": study.get("uid")}
    above = MLflowTracker(
        tracker.uri, parent_run_id=tracker.parent_run_id, tags={**(tracker.tags or {}), **tags}
    )
    with contextlib.ExitStack() as stack:
        with study.locked():
            run_id = above.find_run(plan.experiment_name, {"study_uid": tags["study_uid"]})
            if run_id is None:
                opened = above.start_run(
                    experiment_name=plan.experiment_name, run_name=study.settings.name
                )
            else:
                opened = above.continue_run(run_id)
            run = stack.enter_context(opened)
            if run_id is None:
                run.log_params(_parameters(plan))
        closing = stack.pop_all()
    try:
        with closing:
            yield run
    except BaseException as error:
        # The run has ended with this process, but not for others that still work on it.
        if run.id is not None and was_stopped(error) and study.others_at_work():
            above.mark_running(run.id)
        raise


def _parameters(plan: Plan) -> dict[str, Any]:
    from ml_project_template.utils.names import flatten

    settings = plan.design["settings"]
    shared = next(iter(settings.values())) if len(settings) == 1 else {}
    return flatten({**shared, "sweep": plan.design["sweep"], "n_trials": plan.n_trials})


def _settle_children(tracker: Tracker, parent: Run, study: SweepStudy) -> None:
    """Give the runs whose processes are gone the end that the study knows of."""
    from ml_project_template.tracking import MLflowTracker, UnreachableError

    if not isinstance(tracker, MLflowTracker) or parent.id is None:
        return
    try:
        _end_children(tracker, parent.id, study)
    except UnreachableError as error:
        # The next session of the study sees to it.
        log.warning("Sweep: runs whose processes are gone keep their state. %s", error)


def _end_children(tracker: MLflowTracker, parent_id: str, study: SweepStudy) -> None:
    from entrypoints._trial import STATE_TAG, TRIAL_TAG

    states = study.trial_states()
    ends = {"complete": "FINISHED", "pruned": "FINISHED", "failed": "FAILED"}
    for run_id, tags in tracker.open_children(parent_id).items():
        number = tags.get(TRIAL_TAG, "")
        state = states.get(int(number)) if number.isdigit() else None
        if state in ("running", "waiting"):
            continue
        for below in tracker.open_children(run_id):
            tracker.end_run(below, "KILLED")
        known = {STATE_TAG: state} if state in ends else {STATE_TAG: "cut off"}
        tracker.end_run(run_id, ends.get(state or "", "KILLED"), known)


def _work(
    plan: Plan,
    study: SweepStudy,
    runner: TrialRunner,
    config: DictConfig,
    context: HydraContext,
    task: TaskFunction,
    tracker: Tracker,
    parent: Run,
    folder: Path,
) -> None:
    """Have the trials run by workers, in this process, or by another of Hydra's launchers."""
    from entrypoints._report import Progress

    with Progress(study, parent) as progress:
        if _has_launcher(config):
            from entrypoints._launching import launch_trials

            launcher = Plugins.instance().instantiate_launcher(
                config=config, hydra_context=context, task_function=task
            )
            launch_trials(plan, study, runner, launcher, tracker, progress)
        elif plan.options.n_jobs == 0:
            from ml_project_template.sweeps.worker import work

            work(
                study,
                _told(runner, progress),
                _told(runner.run_together, progress),
                most=plan.trials_together,
            )
        else:
            from ml_project_template.sweeps.pool import Pool

            with Pool(
                min(plan.options.n_jobs, plan.n_trials),
                study.settings,
                runner,
                runner.run_together,
                most=plan.trials_together,
                log_directory=folder,
            ) as pool:
                while pool.wait(_LOOK_SECONDS):
                    if progress.look():
                        pool.trial_ended()
            if not study.is_done():
                raise SweepError(
                    f"the workers have ended and not all trials have: see {folder}/worker-*.log"
                )


def _has_launcher(config: DictConfig) -> bool:
    """Say whether jobs are run by another launcher than the one that Hydra uses by itself."""
    return bool(config.hydra.runtime.choices["hydra/launcher"] != "basic")


def _told(run: Callable[[T], None], progress: Progress) -> Callable[[T], None]:
    def run_and_look(trials: T) -> None:
        try:
            run(trials)
        finally:
            progress.look()

    return run_and_look


def _preload(plan: Plan, *, tracked: bool) -> list[str]:
    """Name what every worker needs, so that it is imported once for all of them."""
    names = ["entrypoints._trial", "ml_project_template.sweeps.worker"]
    for model in plan.models:
        names += [model.__module__, f"{model.__module__}:{model.__qualname__}.warm_up"]
    return [*names, *(["ml_project_template.tracking:warm_up"] if tracked else [])]
