"""What a network minimises."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import nn

from ml_project_template.errors import ConfigError, unknown

__all__ = ["LossName", "MemberLoss", "make_regression_loss"]

LossName = Literal["mse", "mae", "huber"]

_LOSSES: dict[str, type[nn.Module]] = {
    "mse": nn.MSELoss,
    "mae": nn.L1Loss,
    "huber": nn.HuberLoss,
}


def make_regression_loss(name: LossName) -> nn.Module:
    """Make the loss of a regression, a mean over the rows.

    Args:
        name: ``mse``, the squared error; ``mae``, the absolute error; or ``huber`` (Huber, 1964),
            half the squared error up to 1 and from there on linear, so that outliers count less.

    Raises:
        ConfigError: An unknown name.
    """
    if name not in _LOSSES:
        raise ConfigError(unknown("training.loss", name, get_args(LossName)))
    return _LOSSES[name]()


class MemberLoss(nn.Module):
    """The mean loss of the members of an ensemble; of a single network its loss.

    Args:
        loss: Outputs of shape ``(n_samples, n_outputs)`` and targets to their mean loss.
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Compare outputs with targets.

        Args:
            outputs: Shape ``(n_samples, members, n_outputs)`` or ``(n_samples, n_outputs)``.
            y: Targets of shape ``(n_samples, ...)``.

        Returns:
            A tensor of one number.
        """
        if outputs.ndim == 3:
            y = y.repeat_interleave(outputs.shape[1], dim=0)
            outputs = outputs.flatten(0, 1)
        loss: torch.Tensor = self.loss(outputs, y)
        return loss

    def weight_of(self, y: torch.Tensor) -> torch.Tensor | float:
        """Say what the mean loss of some rows weighs beside that of others.

        Args:
            y: Targets of shape ``(n_samples, ...)``.

        Returns:
            How many rows there are, or the sum of the weights of their classes, a tensor of one
            number, which the cross entropy divides by.
        """
        weights = getattr(self.loss, "weight", None)
        if weights is None:
            return float(len(y))
        total: torch.Tensor = weights[y].sum()
        return total
