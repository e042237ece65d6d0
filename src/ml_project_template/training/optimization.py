"""Optimizers and learning-rate schedules by name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, get_args

import torch
from torch.optim import lr_scheduler

from ml_project_template.errors import ConfigError, unknown

__all__ = ["OptimizerName", "Schedule", "ScheduleName", "make_optimizer", "make_scheduler"]

OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["cosine", "exponential", "plateau", "step"]

# What a learning rate is multiplied with, where nothing is said.
_DEFAULT_GAMMA = {"exponential": 0.98, "plateau": 0.5, "step": 0.1}


def make_optimizer(
    name: OptimizerName,
    parameters: Iterable[torch.nn.Parameter],
    *,
    lr: float,
    weight_decay: float = 0.0,
    momentum: float = 0.0,
    fused: bool = True,
) -> torch.optim.Optimizer:
    """Make an optimizer.

    Args:
        name: ``adam`` (Kingma and Ba, 2015; decay added to the gradient), ``adamw`` (Loshchilov and
            Hutter, 2019; decay decoupled from it) or ``sgd``.
        parameters: What to optimise.
        lr: The learning rate.
        weight_decay: The strength of the decay.
        momentum: Of ``sgd``; the others have their own.
        fused: Update all parameters in one call. Gradient scaling with clipping can't be fused.

    Returns:
        The optimizer.

    Raises:
        ConfigError: An unknown name, or momentum for an optimizer that takes none.
    """
    if name not in get_args(OptimizerName):
        raise ConfigError(unknown("training.optimizer", name, get_args(OptimizerName)))
    if momentum and name != "sgd":
        raise ConfigError(
            f"training.momentum={momentum} belongs to optimizer sgd, not to {name}: set it to 0."
        )
    if name == "sgd":
        return torch.optim.SGD(
            parameters, lr=lr, weight_decay=weight_decay, momentum=momentum, fused=fused
        )
    kind = torch.optim.Adam if name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=lr, weight_decay=weight_decay, fused=fused)


class Schedule:
    """A learning-rate schedule that is stepped once an epoch.

    Args:
        scheduler: Torch's scheduler; None keeps the rate.
    """

    def __init__(
        self, scheduler: lr_scheduler.LRScheduler | lr_scheduler.ReduceLROnPlateau | None
    ) -> None:
        self._scheduler = scheduler

    def step(self, loss: float) -> None:
        """Go on to the next epoch.

        Args:
            loss: The watched loss of this epoch; a plateau is told by it.
        """
        if isinstance(self._scheduler, lr_scheduler.ReduceLROnPlateau):
            self._scheduler.step(loss)
        elif self._scheduler is not None:
            self._scheduler.step()


def make_scheduler(
    name: ScheduleName | None,
    optimizer: torch.optim.Optimizer,
    *,
    max_epochs: int,
    gamma: float | None = None,
    step_size: int = 30,
    patience: int = 10,
) -> Schedule:
    """Make a learning-rate schedule.

    Args:
        name: None (constant), ``cosine`` (down to 0 over ``max_epochs``; Loshchilov and Hutter,
            2017, without restarts), ``exponential`` (times ``gamma`` each epoch), ``step`` (times
            ``gamma`` each ``step_size`` epochs) or ``plateau`` (times ``gamma`` after ``patience``
            epochs without a lower loss).
        optimizer: Whose rate it sets.
        max_epochs: Epochs of the whole fit.
        gamma: The factor, in (0, 1); by default 0.98 (exponential), 0.1 (step), 0.5 (plateau).
        step_size: Epochs between two steps of ``step``.
        patience: Epochs that ``plateau`` waits.

    Returns:
        The schedule, to be stepped once an epoch.

    Raises:
        ConfigError: An unknown name.
    """
    if name is None:
        return Schedule(None)
    if name == "cosine":
        return Schedule(lr_scheduler.CosineAnnealingLR(optimizer, T_max=max_epochs))
    if name not in _DEFAULT_GAMMA:
        raise ConfigError(unknown("training.schedule", name, get_args(ScheduleName)))
    factor = _DEFAULT_GAMMA[name] if gamma is None else gamma
    if name == "exponential":
        return Schedule(lr_scheduler.ExponentialLR(optimizer, gamma=factor))
    if name == "step":
        return Schedule(lr_scheduler.StepLR(optimizer, step_size=step_size, gamma=factor))
    return Schedule(lr_scheduler.ReduceLROnPlateau(optimizer, factor=factor, patience=patience))
