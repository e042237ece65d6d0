"""The training loop that every ``nn.Module`` model of this package uses.

Data lie in memory, on the device of the module. Losses are summed on the device and read once an
epoch, so that a fast device never waits for the host within one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ml_project_template.errors import DivergenceError
from ml_project_template.training.batches import Batches
from ml_project_template.training.best_weights import BestWeights
from ml_project_template.training.early_stopping import EarlyStopping
from ml_project_template.training.optimization import Schedule
from ml_project_template.training.reporting import Reporter, StopTraining

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["FitResult", "Tensors", "fit", "forward_in_chunks"]

Tensors = tuple[torch.Tensor, torch.Tensor]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
MetricsFunction = Callable[[torch.Tensor, torch.Tensor], Mapping[str, torch.Tensor]]

_CHUNK_ROWS = 65_536


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


def fit(
    fabric: Fabric,
    module: torch.nn.Module,
    loss_function: LossFunction,
    train: Tensors,
    val: Tensors | None = None,
    *,
    optimizer: torch.optim.Optimizer,
    max_epochs: int,
    batch_size: int,
    generator: torch.Generator,
    reporter: Reporter,
    schedule: Schedule | None = None,
    early_stopping: EarlyStopping | None = None,
    gradient_clip_norm: float | None = None,
    keep_best: bool = True,
    val_metrics: MetricsFunction | None = None,
) -> FitResult:
    """Fit a module.

    Each epoch reports ``train_loss`` (the mean over the batches, weighted by their rows, while the
    weights change), ``val_loss`` (after the epoch, all rows at once), ``lr``, and what
    ``val_metrics`` gives with ``val_`` before each name. The watched loss, for early stopping, the
    best weights and a plateau, is ``val_loss``, or ``train_loss`` without validation data.

    Args:
        fabric: Where the fit runs, and in which precision.
        module: What is fitted, in place. It stays on the device of ``fabric``.
        loss_function: Outputs and targets of a batch to their mean loss.
        train: Features ``(n_samples, ...)`` and targets ``(n_samples, ...)``.
        val: The same for validation.
        optimizer: Of the module's parameters.
        max_epochs: Passes over the training data, at most.
        batch_size: Rows in a batch.
        generator: Draws the order of the rows, on the CPU.
        reporter: Hears of each epoch. It may raise ``StopTraining``.
        schedule: Of the learning rate; None keeps it.
        early_stopping: When to end before ``max_epochs``; None never does.
        gradient_clip_norm: The largest 2-norm of all gradients together; None clips nothing.
        keep_best: End with the weights of the lowest ``val_loss``; else, and without validation
            data, with those of the last epoch.
        val_metrics: More numbers from validation outputs and targets, as tensors of one element.

    Returns:
        How it ended.

    Raises:
        DivergenceError: A loss is no longer a finite number.
    """
    wrapped, wrapped_optimizer = fabric.setup(module, optimizer)
    train = _on_device(fabric, train)
    batches = Batches(*train, batch_size, generator)
    val = None if val is None else _on_device(fabric, val)
    best = BestWeights(module) if keep_best and val is not None else None
    early_stopping = early_stopping or EarlyStopping(None)

    epoch = 0
    stop = False
    while epoch < max_epochs and not stop:
        epoch += 1
        lr = float(optimizer.param_groups[0]["lr"])
        metrics = {
            "train_loss": _train_epoch(
                fabric, wrapped, wrapped_optimizer, loss_function, batches, gradient_clip_norm
            )
        }
        _check_finite(metrics, epoch, lr)
        if val is not None:
            metrics |= _validate(wrapped, loss_function, val, val_metrics)
            _check_finite(metrics, epoch, lr)
        watched = metrics["train_loss" if val is None else "val_loss"]
        if best is not None:
            best.update(watched, epoch)
        stop = early_stopping.update(watched)
        try:
            reporter.report(epoch, {**metrics, "lr": lr}, max_epochs)
        except StopTraining:
            stop = True
        if schedule is not None:
            schedule.step(watched)

    if best is not None:
        best.restore()
    module.eval()
    return FitResult(epoch, best.step if best is not None else epoch, epoch < max_epochs)


def forward_in_chunks(
    module: torch.nn.Module, X: torch.Tensor, *, chunk_rows: int | None = None
) -> torch.Tensor:
    """Run a module in evaluation mode, without gradients, with bounded memory.

    Args:
        module: The module; its mode is put back after.
        X: Features of shape ``(n_samples, ...)``, on the module's device.
        chunk_rows: Rows that pass at once; None takes what the module says of itself, if it does.

    Returns:
        Outputs of shape ``(n_samples, ...)``.
    """
    if chunk_rows is None:
        chunk_rows = int(getattr(module, "chunk_rows", _CHUNK_ROWS))
    training = module.training
    module.eval()
    try:
        with torch.inference_mode():
            return torch.cat([module(chunk) for chunk in torch.split(X, chunk_rows)])
    finally:
        module.train(training)


def _on_device(fabric: Fabric, tensors: Tensors) -> Tensors:
    X, y = (fabric.to_device(tensor) for tensor in tensors)
    return X, y


def _train_epoch(
    fabric: Fabric,
    module: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_function: LossFunction,
    batches: Batches,
    gradient_clip_norm: float | None,
) -> float:
    module.train()
    total = torch.zeros((), device=fabric.device)
    n_rows = 0
    for X, y in batches:
        optimizer.zero_grad()
        loss = loss_function(module(X), y)
        fabric.backward(loss)
        if gradient_clip_norm is not None:
            fabric.clip_gradients(
                module, optimizer, max_norm=gradient_clip_norm, error_if_nonfinite=False
            )
        optimizer.step()
        total += loss.detach() * len(X)
        n_rows += len(X)
    return float(total) / n_rows


def _validate(
    module: torch.nn.Module,
    loss_function: LossFunction,
    val: Tensors,
    val_metrics: MetricsFunction | None,
) -> dict[str, float]:
    X, y = val
    outputs = forward_in_chunks(module, X)
    with torch.inference_mode():
        results = {"loss": loss_function(outputs, y)}
        if val_metrics is not None:
            results |= val_metrics(outputs, y)
        # Stacked, so that the host waits for the device once.
        values = torch.stack([value.float() for value in results.values()]).tolist()
    return {f"val_{name}": value for name, value in zip(results, values, strict=True)}


def _check_finite(metrics: Mapping[str, float], epoch: int, lr: float) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise DivergenceError(
                f"{name} is {value} in epoch {epoch} with training.lr={lr:g}: the training "
                "diverged. Try a smaller training.lr, training.gradient_clip_norm=1 or "
                "preprocessing=standardize."
            )
