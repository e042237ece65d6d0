"""The trainings that a command is made of: on prepared rows, once or on folds."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from entrypoints._shell import plain
from entrypoints._targets import build
from entrypoints.onboard import storage_options

if TYPE_CHECKING:
    from ml_project_template.data import Fold, TabularDataset
    from ml_project_template.data.prepare import Prepared
    from ml_project_template.models._steps import Steps
    from ml_project_template.models.base import TrainingReport
    from ml_project_template.runs import Run, Tracker
    from ml_project_template.training.checkpoints import CheckpointSettings
    from ml_project_template.training.reporting import Reporter

__all__ = [
    "cross_validation_steps",
    "fit_model",
    "make_tracker",
    "metric_of",
    "training_steps",
]

log = logging.getLogger(__name__)

# Folds and seeds of one training whose fits are run in one go, at most: each holds its weights.
_TOGETHER = 32


def fit_model(
    cfg: DictConfig,
    train_data: TabularDataset,
    val_data: TabularDataset | None,
    test_data: TabularDataset | None = None,
    *,
    tracker: Tracker,
    reporters: Sequence[Reporter] = (),
    progress: bool = True,
    checkpoint: CheckpointSettings | None = None,
    **changes: Any,
) -> TrainingReport:
    """Train ``cfg.model`` on rows that are prepared already; see `training_steps`."""
    from ml_project_template.models._steps import run_steps

    return run_steps(
        training_steps(
            cfg,
            train_data,
            val_data,
            test_data,
            tracker=tracker,
            reporters=reporters,
            progress=progress,
            checkpoint=checkpoint,
            **changes,
        )
    )


def training_steps(
    cfg: DictConfig,
    train_data: TabularDataset,
    val_data: TabularDataset | None,
    test_data: TabularDataset | None = None,
    *,
    tracker: Tracker,
    reporters: Sequence[Reporter] = (),
    progress: bool = True,
    checkpoint: CheckpointSettings | None = None,
    **changes: Any,
) -> Steps[TrainingReport]:
    """Train ``cfg.model`` on rows that are prepared already, and stop at its fit.

    Args:
        cfg: The configuration of the training.
        train_data: Rows to learn from.
        val_data: Rows to stop by and to choose the best weights by.
        test_data: Rows to judge by at the end.
        tracker: Where the run is kept.
        reporters: Who else hears of each step of the fit.
        progress: Show how far the fit has come.
        checkpoint: Where checkpoints are kept, and whether to go on from one; None keeps none.
        **changes: What is to differ from the configuration: ``experiment_name``, ``run_name``,
            ``model_path`` or ``seed``.

    Returns:
        The metrics, and where the model and the run are.
    """
    from ml_project_template.models.base import BaseModel

    model = build(
        cfg.model,
        BaseModel,  # type: ignore[type-abstract]
        where="model",
        instead=lambda found: found.for_task(train_data.task),
    )
    settings = {
        key: changes[key] if key in changes else cfg[key]
        for key in ("experiment_name", "run_name", "model_path", "seed")
    }
    return (
        yield from model.steps_of_training(
            train_data=train_data,
            val_data=val_data,
            test_data=test_data,
            save_model=cfg.save_model,
            threshold=cfg.threshold,
            tracking=tracker,
            # How a sweep went about it, or what was stopped, is no part of what makes the model.
            config={
                key: value
                for key, value in plain(cfg).items()
                if key not in ("sweep", "checkpoint", "resume")
            },
            storage_options=storage_options(cfg),
            reporters=reporters,
            progress=progress,
            checkpoint=checkpoint,
            **settings,
            **(plain(cfg.get("training")) or {}),
        )
    )


def cross_validation_steps(
    cfg: DictConfig,
    folds: Sequence[Fold | Prepared],
    *,
    tracker: Tracker,
    tracked: Run,
    seeds: Sequence[int] = (),
    progress: Callable[[int, int, Mapping[str, float]], None] | None = None,
    together: int = _TOGETHER,
) -> Steps[dict[str, float]]:
    """Train a configuration on each fold, in a run of its own below a run.

    Args:
        cfg: The configuration of the training.
        folds: Prepared training and validation rows; one pair of them for repeated seeds alone.
        tracker: Where the runs are kept.
        tracked: The run they stand under.
        seeds: Train each fold with each of these; none takes ``cfg.seed``.
        progress: Called after each training with how many are done, how many there are, and the
            means of the metrics so far.
        together: How many fits may be run in one go.

    Yields:
        The fits.

    Returns:
        ``cv_<name>`` and ``cv_<name>_std`` for each metric ``val_<name>``.
    """
    from ml_project_template.models._steps import steps_together
    from ml_project_template.training.cross_validation import summarize_folds

    parts = list(itertools.product(enumerate(folds, start=1), seeds or [cfg.seed]))
    found: list[dict[str, float]] = []
    for start in range(0, len(parts), together):
        chunk = parts[start : start + together]
        names, trainings = [], []
        for (number, fold), seed in chunk:
            tags = {"fold": number, **({"seed": seed} if seeds else {})}
            names.append(" ".join(f"{key} {value}" for key, value in tags.items()))
            trainings.append(
                training_steps(
                    cfg,
                    fold.train,
                    fold.val,
                    tracker=tracker.below(tracked, tags=tags, log_plots=False, log_models=False),
                    run_name=names[-1],
                    model_path=None,
                    seed=seed,
                    progress=False,
                )
            )
        reports = yield from steps_together(trainings)
        for name, report in zip(names, reports, strict=True):
            if isinstance(report, BaseException):
                raise report
            found.append(report.metrics)
            keys = [key for key in ("val_loss", "val_accuracy") if key in report.metrics]
            shown = ", ".join(f"{key} {report.metrics[key]:.4g}" for key in keys)
            log.info("%s (%d of %d): %s", name, len(found), len(parts), shown)
            if progress is not None:
                progress(len(found), len(parts), _means(found))
    return summarize_folds(found)


def _means(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {
        name: sum(metrics[name] for metrics in found) / len(found)
        for name in found[-1]
        if all(name in metrics for metrics in found)
    }


def make_tracker(cfg: DictConfig) -> Tracker:
    """Make the tracker that ``cfg.tracking`` describes."""
    from ml_project_template.tracking import DisabledTracker, MLflowTracker

    settings = cfg.tracking
    if not settings.enabled:
        return DisabledTracker()
    return MLflowTracker(
        settings.uri,
        parent_run_id=settings.parent_run_id,
        tags=plain(settings.tags),
        log_plots=settings.log_plots,
        log_models=settings.log_models,
    )


def metric_of(metric: str, cv: int | None) -> str:
    """Say under which name a run has a metric that is asked for.

    Args:
        metric: Such as ``val_loss``.
        cv: The number of folds; None without cross-validation.

    Returns:
        The name; with cross-validation the mean over the folds takes the place of the validation
        rows.
    """
    return metric.replace("val_", "cv_", 1) if cv is not None else metric
