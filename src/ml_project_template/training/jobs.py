"""What a fit is told, how it goes on from epoch to epoch, and how it ended."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any

import torch

from ml_project_template.errors import DivergenceError
from ml_project_template.training.checkpoints import Keeper
from ml_project_template.training.early_stopping import EarlyStopping
from ml_project_template.training.optimization import OptimizerSettings, ScheduleSettings
from ml_project_template.training.reporting import Reporter, StopTraining

__all__ = [
    "Course",
    "FitJob",
    "FitResult",
    "LossFunction",
    "MetricsFunction",
    "OptimizerFactory",
    "Tensors",
]

Tensors = tuple[torch.Tensor, torch.Tensor]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
MetricsFunction = Callable[[torch.Tensor, torch.Tensor], Mapping[str, torch.Tensor]]
OptimizerFactory = Callable[[Iterable[torch.nn.Parameter]], torch.optim.Optimizer]

# Added to a job's seed for its dropout, so that no job's masks follow the order of another's rows.
_DROPOUT_SEED = 2**32


@dataclass(frozen=True)
class FitJob:
    """All that one fit needs.

    Each epoch reports ``train_loss`` (the mean over the batches, weighted by their rows, while the
    weights change), ``val_loss`` (after the epoch, all rows at once), ``lr``, and what
    ``val_metrics`` gives with ``val_`` before each name. The watched loss, for early stopping, the
    best weights and a plateau, is ``val_loss``, or ``train_loss`` without validation data.

    Attributes:
        module: What is fitted, in place, with its initial weights.
        loss_function: Outputs and targets of a batch to their mean loss.
        train: Features ``(n_samples, ...)`` and targets ``(n_samples, ...)``.
        val: The same for validation.
        max_epochs: Passes over the training data, at most.
        batch_size: Rows in a batch.
        seed: Of the order of the rows and of the dropout.
        reporter: Hears of each epoch. It may raise ``StopTraining``, or anything else to give up.
        optimizer: The settings of the optimizer, or what makes one of the module's parameters.
        schedule: Of the learning rate.
        patience: Epochs in a row without a lower watched loss after which the fit ends; None never
            ends it.
        min_delta: How much lower a loss must be to count.
        gradient_clip_norm: The largest 2-norm of all gradients together; None clips nothing.
        keep_best: End with the weights of the lowest ``val_loss``; else, and without validation
            data, with those of the last epoch.
        val_metrics: More numbers from validation outputs ``(..., n_samples, n_outputs)`` and
            targets, as tensors of shape ``(...)``: of one element, or one for each of several fits.
        checkpoints: Keeps the state of the fit, and says where to go on from; None keeps none.
    """

    module: torch.nn.Module
    loss_function: LossFunction
    train: Tensors
    val: Tensors | None = None
    _: KW_ONLY
    max_epochs: int
    batch_size: int
    seed: int
    reporter: Reporter
    optimizer: OptimizerSettings | OptimizerFactory = field(default_factory=OptimizerSettings)
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    patience: int | None = None
    min_delta: float = 0.0
    gradient_clip_norm: float | None = None
    keep_best: bool = True
    val_metrics: MetricsFunction | None = None
    checkpoints: Keeper | None = None

    @property
    def dropout_seed(self) -> int:
        """The seed of the dropout."""
        return self.seed + _DROPOUT_SEED


@dataclass(frozen=True)
class FitResult:
    """How a fit ended.

    Attributes:
        epochs: Epochs done.
        best_epoch: The epoch whose weights the module has now, counted from 1.
        stopped_early: Whether it ended before ``max_epochs``.
    """

    epochs: int
    best_epoch: int
    stopped_early: bool


class Course:
    """Follows a fit from epoch to epoch: what is watched, reported, and when it ends.

    Args:
        job: The fit.
        lr: The learning rate of the first epoch.

    Attributes:
        schedule: Of the learning rate.
        epoch: The epoch that goes on or has ended, counted from 1; 0 before the first.
        best_epoch: That of the lowest validation loss, if the best weights are kept.
        good_epoch: That of the weights to fall back on if the fit diverges: the best ones, or the
            last ones; 0 before there are any.
        ended: Whether there is no epoch more.
    """

    def __init__(self, job: FitJob, lr: float) -> None:
        self._job = job
        self._early_stopping = EarlyStopping(job.patience, job.min_delta)
        self._lowest = math.inf
        self.keeps_best = job.keep_best and job.val is not None
        self.schedule = job.schedule.make(lr, job.max_epochs)
        self.epoch = 0
        self.best_epoch = 0
        self.good_epoch = 0
        self.ended = job.max_epochs < 1

    def state(self) -> dict[str, Any]:
        """Tell where it is as plain numbers, for `restore`."""
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "good_epoch": self.good_epoch,
            "lowest": self._lowest,
            "ended": self.ended,
            "early_stopping": self._early_stopping.state(),
            "schedule": self.schedule.state(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` told."""
        self.epoch, self.ended = state["epoch"], state["ended"]
        self.best_epoch, self.good_epoch = state["best_epoch"], state["good_epoch"]
        self._lowest = state["lowest"]
        self._early_stopping.restore(state["early_stopping"])
        self.schedule.restore(state["schedule"])

    def check(self, metrics: Mapping[str, float]) -> None:
        """Refuse losses that are no numbers.

        Raises:
            DivergenceError: One is not finite.
        """
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise DivergenceError(
                    f"{name} is {value} in epoch {self.epoch} with training.lr="
                    f"{self.schedule.lr:g}: the training diverged. Try a smaller training.lr, "
                    "training.gradient_clip_norm=1 or preprocessing=standardize.",
                    good_epoch=self.good_epoch,
                )

    def is_good(self, metrics: Mapping[str, float], are_finite: Callable[[], bool]) -> bool:
        """Say whether the weights of this epoch are to be kept.

        Args:
            metrics: The numbers of the epoch.
            are_finite: Says whether the weights are; asked where no validation loss tells.
        """
        if self.keeps_best:
            if not metrics["val_loss"] < self._lowest:
                return False
            self._lowest, self.best_epoch = metrics["val_loss"], self.epoch
        elif not are_finite():
            return False
        self.good_epoch = self.epoch
        return True

    def end_epoch(self, metrics: Mapping[str, float]) -> None:
        """Report an epoch, and decide whether another one follows.

        Args:
            metrics: Its numbers, the watched loss among them.

        Raises:
            Exception: What the reporter raises, but for ``StopTraining``.
        """
        job = self._job
        watched = metrics["val_loss" if "val_loss" in metrics else "train_loss"]
        stop = self._early_stopping.update(watched)
        try:
            job.reporter.report(self.epoch, {**metrics, "lr": self.schedule.lr}, job.max_epochs)
        except StopTraining:
            stop = True
        self.schedule.step(watched)
        self.ended = stop or self.epoch >= job.max_epochs

    def result(self) -> FitResult:
        """Tell how it ended."""
        return FitResult(
            self.epoch,
            self.best_epoch if self.keeps_best else self.epoch,
            self.epoch < self._job.max_epochs,
        )
