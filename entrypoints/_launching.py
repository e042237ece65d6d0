"""Running the trials of a sweep by another of Hydra's launchers, such as joblib or Slurm."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher

from entrypoints._trial import TRIAL_TAG, TrialRunner
from ml_project_template.errors import SweepError
from ml_project_template.sweeps.worker import TrialContext
from ml_project_template.tracking import PARENT_TAG, MLflowTracker, UnreachableError

if TYPE_CHECKING:
    from entrypoints._plan import Plan
    from entrypoints._report import Progress
    from ml_project_template.runs import Tracker
    from ml_project_template.sweeps.study import SweepStudy

__all__ = ["launch_trials"]

log = logging.getLogger(__name__)


def launch_trials(
    plan: Plan,
    study: SweepStudy,
    runner: TrialRunner,
    launcher: Launcher,
    tracker: Tracker,
    progress: Progress,
) -> None:
    """Have the trials of a study run by a launcher.

    Args:
        plan: What is to be tried.
        study: The study.
        runner: Writes a trial as the overrides of a job.
        launcher: Runs jobs: a grid all at once, a search in batches of ``sweep.n_jobs``.
        tracker: Where the runs of the jobs are kept.
        progress: Shows how far the study has come.

    Raises:
        SweepError: Others run what is left.
    """
    size = plan.n_trials if plan.options.is_grid else max(1, plan.options.n_jobs)
    while not study.is_done():
        claims = study.claim_some(size)
        if not claims:
            raise SweepError("the trials that are left are run by somebody else: try again later.")
        trials = [TrialContext(study, claim) for claim in claims]
        with study.alive(claims):
            try:
                returns = launcher.launch(
                    [runner.job_overrides(trial) for trial in trials],
                    initial_job_idx=trials[0].number,
                )
            except BaseException:
                for claim in claims:
                    study.give_back(claim)
                raise
        for trial, returned in zip(trials, returns, strict=True):
            _record(plan, trial, returned, tracker, runner)
        progress.look()


def _record(
    plan: Plan, trial: TrialContext, returned: JobReturn, tracker: Tracker, runner: TrialRunner
) -> None:
    """Record what a launcher says of a job, and what its run holds."""
    metrics: dict[str, float] = {}
    if isinstance(tracker, MLflowTracker) and runner.parent_run_id is not None:
        tags = {PARENT_TAG: runner.parent_run_id, TRIAL_TAG: str(trial.number)}
        try:
            run_id = tracker.find_run(runner.experiment_name, tags)
            if run_id is not None:
                metrics = tracker.final_metrics(run_id)
                trial.note(run_id=run_id)
        except UnreachableError as error:
            # The trial counts by what the job returned.
            log.warning("trial %d: its run is not known. %s", trial.number, error)
    try:
        # Raises what the job has raised.
        value = returned.return_value
        values = value if isinstance(value, list) else [value]
        names = [objective.metric for objective in plan.objectives]
        found = {name: v for name, v in zip(names, values, strict=True) if v is not None}
        trial.complete({**metrics, **found})
    except Exception as error:
        trial.fail(error)
