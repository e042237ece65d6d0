"""Losses with their gradients written out, for one network or for several at once."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ml_project_template.training.losses import MemberLoss

__all__ = ["DenseLoss", "LossKind", "loss_kind_of"]

_ErrorName = Literal["mse", "mae", "huber"]


@dataclass(frozen=True)
class LossKind:
    """Which loss a job minimises.

    Attributes:
        name: ``cross_entropy``, ``mse``, ``mae`` or ``huber``.
        delta: Where ``huber`` turns linear.
        weights: Of the classes, of shape ``(n_classes,)``; None weighs all alike.
    """

    name: Literal["cross_entropy", "mse", "mae", "huber"]
    delta: float = 1.0
    weights: torch.Tensor | None = None

    @property
    def key(self) -> Hashable:
        """What losses must have in common to be computed at once."""
        return (self.name, self.delta, self.weights is None)


def loss_kind_of(
    loss_function: object, y: torch.Tensor, n_outputs: int, *others: torch.Tensor
) -> LossKind | None:
    """Read a loss function, if it is one that is written out here for such targets.

    Args:
        loss_function: Outputs and targets to a mean loss.
        y: The targets.
        n_outputs: The width of the outputs.
        *others: More targets, of other rows.

    Returns:
        What it is; None if it is for autograd.
    """
    if type(loss_function) is MemberLoss:
        loss_function = loss_function.loss
    if type(loss_function) is nn.CrossEntropyLoss:
        plain = loss_function.reduction == "mean" and loss_function.label_smoothing == 0.0
        if not plain or not all(_are_classes(codes, n_outputs) for codes in (y, *others)):
            return None
        weights = loss_function.weight
        fits = weights is None or (weights.dtype == torch.float32 and weights.device.type == "cpu")
        return LossKind("cross_entropy", weights=weights) if fits else None
    if any(t.shape[1:] != (n_outputs,) or t.dtype != torch.float32 for t in (y, *others)):
        return None
    if type(loss_function) in (nn.MSELoss, nn.L1Loss, nn.HuberLoss):
        if loss_function.reduction != "mean":  # type: ignore[attr-defined]
            return None
        if type(loss_function) is nn.HuberLoss:
            return LossKind("huber", delta=loss_function.delta)
        return LossKind("mse" if type(loss_function) is nn.MSELoss else "mae")
    return None


class DenseLoss:
    """The mean loss over the rows of each of some networks, and its gradient.

    Args:
        kinds: Of each network; all of the same ``key``.
    """

    def __init__(self, kinds: Sequence[LossKind]) -> None:
        self._kind = kinds[0]
        self._weights: torch.Tensor | None = None
        self._minus = torch.empty(0)
        weights = [kind.weights for kind in kinds if kind.weights is not None]
        if weights:
            self._weights = torch.stack(weights) if len(kinds) > 1 else weights[0]

    def with_gradient(
        self, outputs: torch.Tensor, y: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute the loss and its gradient by the outputs.

        Args:
            outputs: Shape ``(rows, n_outputs)`` or ``(networks, rows, n_outputs)``.
            y: Classes of shape ``(rows,)`` or ``(networks, rows)``, or numbers of the shape of the
                outputs.

        Returns:
            The losses of shape ``()`` or ``(networks,)``, and the gradients of the outputs' shape.
        """
        if self._kind.name != "cross_entropy":
            return self._error(outputs, y)
        logs = torch.log_softmax(outputs, -1)
        places = y.unsqueeze(-1)
        share = self._shares(y)
        loss = self._entropy(logs, places, share)
        # softmax - 1 at the class, times what the row counts
        gradient = logs.exp_()
        if self._minus.shape != places.shape:
            self._minus = torch.full(places.shape, -1.0)
        gradient.scatter_add_(-1, places, self._minus)
        return loss, gradient.mul_(share)

    def value(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Compute the loss alone; see `with_gradient`."""
        if self._kind.name != "cross_entropy":
            return self._error(outputs, y)[0]
        return self._entropy(torch.log_softmax(outputs, -1), y.unsqueeze(-1), self._shares(y))

    def _shares(self, y: torch.Tensor) -> torch.Tensor | float:
        """Say what each row counts, of shape ``(..., rows, 1)`` if not all count alike."""
        if self._weights is None:
            return 1 / y.shape[-1]
        weights = self._weights.gather(-1, y)
        return (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)

    @staticmethod
    def _entropy(
        logs: torch.Tensor, places: torch.Tensor, share: torch.Tensor | float
    ) -> torch.Tensor:
        if isinstance(share, float):
            return logs.gather(-1, places).sum((-2, -1)).mul_(-share)
        return (logs.gather(-1, places) * share).sum((-2, -1)).neg_()

    def _error(self, outputs: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        n_values = outputs.shape[-2] * outputs.shape[-1]
        difference = outputs - y
        if self._kind.name == "mse":
            loss = difference.square().mean((-2, -1))
            return loss, difference.mul_(2 / n_values)
        if self._kind.name == "mae":
            return difference.abs().mean((-2, -1)), difference.sgn_().div_(n_values)
        # Huber: c * (d - c / 2) with d cut at delta is d^2 / 2 inside, and linear outside.
        cut = difference.clamp(-self._kind.delta, self._kind.delta)
        loss = (difference.sub_(cut, alpha=0.5).mul_(cut)).mean((-2, -1))
        return loss, cut.div_(n_values)


def _are_classes(y: torch.Tensor, n_classes: int) -> bool:
    if y.dtype != torch.int64 or y.ndim != 1:
        return False
    return len(y) == 0 or bool(int(y.min()) >= 0 and int(y.max()) < n_classes)
