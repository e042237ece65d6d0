"""Optimizers and learning-rate schedules, as settings that several fits can be told by."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

import torch

from ml_project_template.errors import ConfigError, unknown

__all__ = ["OptimizerName", "OptimizerSettings", "Schedule", "ScheduleName", "ScheduleSettings"]

OptimizerName = Literal["adam", "adamw", "sgd"]
ScheduleName = Literal["cosine", "exponential", "plateau", "step"]

# What a learning rate is multiplied with, where nothing is said.
_DEFAULT_GAMMA = {"exponential": 0.98, "plateau": 0.5, "step": 0.1}

# How much lower a loss must be, relative to the lowest, for a plateau to end; torch's default.
_PLATEAU_THRESHOLD = 1e-4

# A change of the rate smaller than this is none; torch's default.
_SMALLEST_CHANGE = 1e-8


@dataclass(frozen=True, slots=True)
class OptimizerSettings:
    """What makes an optimizer.

    Attributes:
        name: ``adam`` (Kingma and Ba, 2015; decay added to the gradient), ``adamw`` (Loshchilov and
            Hutter, 2019; decay decoupled from it) or ``sgd``.
        lr: The learning rate.
        weight_decay: The strength of the decay.
        momentum: Of ``sgd``; the others have their own.

    Raises:
        ConfigError: An unknown name, or momentum for an optimizer that takes none.
    """

    name: OptimizerName = "adam"
    lr: float = 1e-3
    weight_decay: float = 0.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in get_args(OptimizerName):
            raise ConfigError(unknown("training.optimizer", self.name, get_args(OptimizerName)))
        if self.momentum and self.name != "sgd":
            raise ConfigError(
                f"training.momentum={self.momentum} belongs to optimizer sgd, not to {self.name}: "
                "set it to 0."
            )

    def make(
        self, parameters: Iterable[torch.nn.Parameter], *, fused: bool = True
    ) -> torch.optim.Optimizer:
        """Make the optimizer.

        Args:
            parameters: What to optimise.
            fused: Update all parameters in one call. Gradient scaling with clipping can't be fused.
        """
        if self.name == "sgd":
            return torch.optim.SGD(
                parameters,
                lr=self.lr,
                weight_decay=self.weight_decay,
                momentum=self.momentum,
                fused=fused,
            )
        kind = torch.optim.Adam if self.name == "adam" else torch.optim.AdamW
        return kind(parameters, lr=self.lr, weight_decay=self.weight_decay, fused=fused)


@dataclass(frozen=True, slots=True)
class ScheduleSettings:
    """What makes a learning-rate schedule.

    Attributes:
        name: None (constant), ``cosine`` (down to 0 over the whole fit; Loshchilov and Hutter,
            2017, without restarts), ``exponential`` (times ``gamma`` each epoch), ``step`` (times
            ``gamma`` each ``step_size`` epochs) or ``plateau`` (times ``gamma`` after ``patience``
            epochs without a lower loss).
        gamma: The factor, in (0, 1); by default 0.98 (exponential), 0.1 (step), 0.5 (plateau).
        step_size: Epochs between two steps of ``step``.
        patience: Epochs that ``plateau`` waits.

    Raises:
        ConfigError: An unknown name.
    """

    name: ScheduleName | None = None
    gamma: float | None = None
    step_size: int = 30
    patience: int = 10

    def __post_init__(self) -> None:
        if self.name is not None and self.name not in get_args(ScheduleName):
            raise ConfigError(unknown("training.schedule", self.name, get_args(ScheduleName)))

    def make(self, lr: float, max_epochs: int) -> Schedule:
        """Begin a schedule.

        Args:
            lr: The rate of the first epoch.
            max_epochs: Epochs of the whole fit.
        """
        return Schedule(self, lr, max_epochs)


class Schedule:
    """A learning rate that may change once an epoch, as torch's scheduler of that name has it.

    It is a number and no more, so that a fit needs no ``torch.optim`` for it, whose first use takes
    longer than many a fit.

    Args:
        settings: Which one.
        lr: The rate of the first epoch.
        max_epochs: Epochs of the whole fit.

    Attributes:
        lr: The rate of this epoch.
    """

    def __init__(self, settings: ScheduleSettings, lr: float, max_epochs: int) -> None:
        self.lr = lr
        self._settings = settings
        self._first = lr
        self._max_epochs = max_epochs
        self._gamma = settings.gamma or _DEFAULT_GAMMA.get(settings.name or "", 1.0)
        self._epochs = 0
        self._lowest = math.inf
        self._waited = 0

    def state(self) -> dict[str, float]:
        """Tell where it is, for `restore`."""
        return {
            "lr": self.lr,
            "epochs": self._epochs,
            "lowest": self._lowest,
            "waited": self._waited,
        }

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` told."""
        self.lr, self._lowest = state["lr"], state["lowest"]
        self._epochs, self._waited = int(state["epochs"]), int(state["waited"])

    def step(self, loss: float) -> None:
        """Go on to the next epoch.

        Args:
            loss: The watched loss of this epoch; a plateau is told by it.
        """
        self._epochs += 1
        name = self._settings.name
        if name == "cosine":
            self.lr = self._first * (1 + math.cos(math.pi * self._epochs / self._max_epochs)) / 2
        elif name == "exponential":
            self.lr = self._first * self._gamma**self._epochs
        elif name == "step":
            self.lr = self._first * self._gamma ** (self._epochs // self._settings.step_size)
        elif name == "plateau":
            if loss < self._lowest * (1 - _PLATEAU_THRESHOLD):
                self._lowest, self._waited = loss, 0
                return
            self._waited += 1
            if self._waited > self._settings.patience:
                self._waited = 0
                if self.lr - self.lr * self._gamma > _SMALLEST_CHANGE:
                    self.lr *= self._gamma
