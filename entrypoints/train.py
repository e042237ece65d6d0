"""Train a model on a table, track the run and save a model directory."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from entrypoints._problems import argument_problems, checkpoint_settings
from entrypoints._shell import entrypoint, run
from entrypoints._summary import training_summary
from entrypoints._sweeper import ProjectSweeper
from entrypoints._training import cross_validation_steps, fit_model, make_tracker, metric_of
from entrypoints.preprocess import preprocess, preprocess_folds
from ml_project_template.errors import ConfigError

if TYPE_CHECKING:
    from ml_project_template.models.base import TrainingReport


def train(cfg: DictConfig) -> TrainingReport:
    """Train ``cfg.model`` on ``cfg.data``; stages before it are run if they are missing.

    With ``cfg.cv`` the model is also trained on folds of the rows that are not for the test, each
    in a run below; the means of their metrics are ``cv_loss``, ``cv_accuracy`` and so on.

    Args:
        cfg: The configuration, see ``conf/train.yaml``.

    Returns:
        The metrics, and where the model and the run are.

    Raises:
        ConfigError: A setting that is wrong, before anything is done.
        DataError: The table can't be used as it is.
    """
    problems = argument_problems(cfg)
    if problems:
        raise ConfigError("\n".join(problems))
    # The data first: what is wrong with them is told before a framework is imported.
    data = preprocess(cfg)
    folds = preprocess_folds(cfg) if cfg.cv is not None else []
    tracker = make_tracker(cfg)
    splits = (data.train, data.val, data.test)
    if not folds:
        return fit_model(cfg, *splits, tracker=tracker, checkpoint=checkpoint_settings(cfg))

    from ml_project_template.models._steps import run_steps
    from ml_project_template.runs import OpenRun

    started = time.perf_counter()
    with tracker.start_run(experiment_name=cfg.experiment_name, run_name=cfg.run_name) as tracked:
        report = fit_model(cfg, *splits, tracker=OpenRun(tracked, tracker))
        metrics = run_steps(cross_validation_steps(cfg, folds, tracker=tracker, tracked=tracked))
        tracked.log_metrics(metrics)
    seconds = time.perf_counter() - started
    return replace(report, metrics={**report.metrics, **metrics}, seconds=seconds)


@entrypoint("train", sweeper=ProjectSweeper)
def main(cfg: DictConfig) -> float | list[float] | None:
    """Run the stage from the command line; Hydra's sweepers get the values of the objectives."""
    sweep = HydraConfig.get().runtime.choices.get("sweep")
    if HydraConfig.get().mode == RunMode.RUN and sweep != "grid":
        raise ConfigError(f"sweep={sweep}: is about many runs, and this is one: add -m")
    report = train(cfg)
    print(training_summary(report, cfg))
    metrics = cfg.sweep.metric
    if OmegaConf.is_list(metrics):
        return [report.metrics[metric_of(metric, cfg.cv)] for metric in metrics]
    return report.metrics.get(metric_of(metrics, cfg.cv))


if __name__ == "__main__":
    run(main)
