"""The training loop that every ``nn.Module`` model of this package uses.

Data lie in memory, on the device of the module. Losses are summed on the device and read once an
epoch, so that a fast device never waits for the host within one.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ml_project_template.errors import DivergenceError
from ml_project_template.training.batches import BLOCK_ROWS, Batches, is_streamed
from ml_project_template.training.checkpoints import (
    FitState,
    below,
    check_kind,
    found_below,
    random_state,
    restore_random_state,
)
from ml_project_template.training.dense_fit import dense_job, fit_dense
from ml_project_template.training.distributed import (
    fit_distributed,
    is_distributed,
    loss_weight,
    share_of,
)
from ml_project_template.training.fused_optimizers import FusedOptimizer
from ml_project_template.training.jobs import (
    Course,
    FitJob,
    FitResult,
    LossFunction,
    MetricsFunction,
    OptimizerFactory,
    Tensors,
)
from ml_project_template.training.kept_weights import KeptWeights
from ml_project_template.training.optimization import OptimizerSettings
from ml_project_template.training.threads import intra_op_threads, multiply_adds

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = [
    "FitJob",
    "FitResult",
    "LossFunction",
    "MetricsFunction",
    "OptimizerFactory",
    "Tensors",
    "fit",
    "fit_together",
    "forward_in_chunks",
    "stack_key",
    "worth_together",
]

_logger = logging.getLogger(__name__)

_CHUNK_ROWS = 65_536

# Values of a layer for a batch, and weights of a layer: up to here 4 to 40 networks in one go were
# seen to be at least as fast as one after the other (1.0 to 4.9 times), from twice as many on they
# were slower (0.75 to 1.1 times).
_MOST_TOGETHER = 65_536


def fit(fabric: Fabric, job: FitJob) -> FitResult:
    """Fit a module.

    Args:
        fabric: Where the fit runs, and in which precision.
        job: What is fitted, and how. Its module stays on the device of ``fabric``.

    Returns:
        How it ended.

    Raises:
        DivergenceError: A loss is no longer a finite number.
        Exception: What the reporter raises, but for ``StopTraining``.
    """
    if is_distributed(fabric):
        return fit_distributed(fabric, job, _fit_module)
    with intra_op_threads(multiply_adds(job.module, min(job.batch_size, len(job.train[0])))):
        dense = dense_job(fabric, job)
        _tell([job], "by autograd" if dense is None else "with its derivatives written out")
        if dense is None:
            return _fit_module(fabric, job)
        (result,) = fit_dense([dense])
    if isinstance(result, Exception):
        raise result
    return result


def stack_key(fabric: Fabric, job: FitJob) -> Hashable | None:
    """Say which jobs can be trained together: those of the same key.

    Args:
        fabric: Where the fit is to run, and in which precision.
        job: A fit.

    Returns:
        What jobs must have in common; None if this one can only be trained by itself.
    """
    # What keeps checkpoints is stopped and gone on with by itself.
    alone = is_distributed(fabric) or job.checkpoints is not None
    dense = None if alone else dense_job(fabric, job)
    return None if dense is None else dense.key


def worth_together(job: FitJob, n_jobs: int) -> bool:
    """Say whether jobs are fitted faster in one go than one after the other.

    Of a small network most of a step goes into calling its operations, which are called once for
    all; of a large one into the arithmetic, which stays, and whose numbers no longer lie in the
    cache of a core when they are those of many networks. ``python -m benchmarks.fitting`` measures
    it.

    Args:
        job: One of the jobs, of a `stack_key`.
        n_jobs: How many there are.
    """
    rows = min(job.batch_size, len(job.train[0]))
    shapes = [parameter.shape for parameter in job.module.parameters() if parameter.ndim == 2]
    values = rows * max((max(shape) for shape in shapes), default=1)
    weights = max((shape.numel() for shape in shapes), default=1)
    return n_jobs > 1 and max(values, weights) <= _MOST_TOGETHER


def fit_together(fabric: Fabric, jobs: Sequence[FitJob]) -> list[FitResult | Exception]:
    """Fit several modules in one go; each ends as it would by itself, up to rounding.

    A job that fails, or whose reporter raises, ends alone: the others go on. What is no
    ``Exception``, such as ``KeyboardInterrupt``, ends them all and is raised.

    Args:
        fabric: Where the fits run, and in which precision.
        jobs: Jobs of the same `stack_key`.

    Returns:
        For each job how it ended, or what it raised.

    Raises:
        ValueError: They have not the same key.
    """
    if not jobs:
        return []
    dense = [found for job in jobs if (found := dense_job(fabric, job)) is not None]
    if len(dense) < len(jobs) or len({found.key for found in dense}) > 1:
        raise ValueError("Jobs are fitted together that have not the same stack_key.")
    first = jobs[0]
    with intra_op_threads(multiply_adds(first.module, min(first.batch_size, len(first.train[0])))):
        _tell(jobs, "in one go")
        return fit_dense(dense)


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


def _tell(jobs: Sequence[FitJob], how: str) -> None:
    X = jobs[0].train[0]
    _logger.info(
        "fitting %s %s: %d rows, %.3g MB, %s, in batches of %d; threads: %d",
        "a network" if len(jobs) == 1 else f"{len(jobs)} networks",
        how,
        len(X),
        X.nbytes / 1e6,
        "read block by block" if is_streamed(X) else "in memory",
        min(jobs[0].batch_size, len(X)),
        torch.get_num_threads(),
    )


def _fit_module(fabric: Fabric, job: FitJob) -> FitResult:
    return _ModuleFit(fabric, job).run()


class _ModuleFit:
    """A fit by autograd, from epoch to epoch.

    Args:
        fabric: Where it runs, and in which precision.
        job: The fit.
    """

    def __init__(self, fabric: Fabric, job: FitJob) -> None:
        self._fabric = fabric
        self._job = job
        self._stepper = _Stepper(fabric, job)
        self._course = Course(job, self._stepper.lr)
        self._kept = KeptWeights(job.module)
        self._generator = torch.Generator().manual_seed(job.seed)
        train = _on_device(fabric, job.train)
        self._batches = Batches(*train, job.batch_size, self._generator)
        self._val = None if job.val is None else _on_device(fabric, job.val)
        # Of the generator, before it drew the order of this epoch.
        self._order = self._generator.get_state()
        self._first = 0
        self._total = torch.zeros((), device=fabric.device)

    def run(self) -> FitResult:
        """Fit the module."""
        job, course, kept, stepper = self._job, self._course, self._kept, self._stepper
        keeper = job.checkpoints
        device = self._fabric.device
        devices = [device.index] if device.type == "cuda" else []
        watching = contextlib.nullcontext() if keeper is None else keeper.watching()
        with torch.random.fork_rng(devices), watching:
            torch.manual_seed(job.dropout_seed + self._fabric.global_rank)
            if keeper is not None and keeper.state is not None:
                self._restore(keeper.state)
            while not course.ended:
                try:
                    metrics = self._epoch()
                except DivergenceError:
                    kept.restore()
                    job.module.eval()
                    raise
                if course.is_good(metrics, kept.are_finite):
                    kept.keep()
                course.end_epoch(metrics)
                if job.schedule.name is not None:
                    stepper.lr = course.schedule.lr
                if keeper is not None and keeper.due(course.epoch):
                    keeper.save(self._state(0))
                    keeper.obey()
        if course.keeps_best:
            kept.restore()
        job.module.eval()
        return course.result()

    def _epoch(self) -> dict[str, float]:
        """Train for an epoch, or for what is left of it, and judge the module.

        Raises:
            DivergenceError: A loss is no longer a number.
        """
        job, course = self._job, self._course
        if not self._first:
            course.epoch += 1
            self._total.zero_()
        if job.checkpoints is not None:
            self._order = self._generator.get_state()
        loss = self._stepper.train_epoch(self._batches, self._first, self._total, self._after_step)
        self._first = 0
        metrics = {"train_loss": loss}
        course.check(metrics)
        if self._val is not None:
            module = self._stepper.module
            metrics |= _validate(module, job.loss_function, self._val, job.val_metrics)
            course.check(metrics)
        return metrics

    def _after_step(self, step: int) -> None:
        keeper = self._job.checkpoints
        # At the end of an epoch it is asked after all that belongs to it.
        if keeper is not None and step < len(self._batches) and keeper.due():
            keeper.save(self._state(step))
            keeper.obey()

    @property
    def _kind(self) -> str:
        fabric = self._fabric
        precision = fabric.strategy.precision.precision
        how = f"by autograd on {fabric.device.type} in {precision}"
        return how if fabric.world_size == 1 else f"{how} by {fabric.world_size} processes"

    def _state(self, step: int) -> FitState:
        """Tell all that goes on from here.

        Args:
            step: Batches of this epoch that are done; 0 between two epochs.
        """
        fabric = self._fabric
        own = torch.get_rng_state()
        if fabric.device.type == "cuda":
            own = torch.cat([own, torch.cuda.get_rng_state(fabric.device)])
        if fabric.world_size > 1:
            own = fabric.all_gather(own.to(fabric.device)).cpu()  # type: ignore[union-attr]
        others, numpy_keys = random_state()
        numbers, tensors = self._stepper.state()
        tensors |= {
            # Between two epochs the order is that of the next one.
            "order": self._order if step else self._generator.get_state(),
            "random": own,
            "random_numpy": torch.from_numpy(numpy_keys.view(np.int32)),
            "total": self._total,
            **below("module", self._job.module.state_dict()),
            **below("kept", self._kept.state()),
        }
        numbers |= {"course": self._course.state(), "step": step, "random": others}
        return FitState(self._kind, numbers, tensors)

    def _restore(self, state: FitState) -> None:
        check_kind(state, self._kind)
        fabric, numbers, tensors = self._fabric, state.numbers, state.tensors
        self._course.restore(numbers["course"])
        self._first = numbers["step"]
        self._generator.set_state(tensors["order"])
        self._total.copy_(tensors["total"])
        self._job.module.load_state_dict(found_below("module", tensors))
        self._kept.load(found_below("kept", tensors))
        self._stepper.restore(numbers, tensors)
        self._stepper.lr = self._course.schedule.lr
        restore_random_state(numbers["random"], tensors["random_numpy"].numpy().view(np.uint32))
        own = tensors["random"]
        if fabric.world_size > 1:
            own = own[fabric.global_rank]
        n_bytes = len(torch.get_rng_state())
        torch.set_rng_state(own[:n_bytes].clone())
        if fabric.device.type == "cuda":
            torch.cuda.set_rng_state(own[n_bytes:].clone(), fabric.device)


class _Stepper:
    """Takes the steps of a fit by autograd.

    Fabric's wrappers, and the optimizers of torch, take about as long as the step of a small
    network. Where they would do nothing, the module is called, and the kernels of the optimizer
    are, as they would call them.

    Args:
        fabric: Where the fit runs, and in which precision.
        job: The fit.

    Attributes:
        module: What is called.
    """

    def __init__(self, fabric: Fabric, job: FitJob) -> None:
        from lightning.fabric.plugins.precision import Precision
        from lightning.fabric.strategies.single_device import SingleDeviceStrategy

        self._fabric = fabric
        self._job = job
        self._fused: FusedOptimizer | None = None
        self._optimizer: torch.optim.Optimizer | None = None
        self._is_distributed = fabric.world_size > 1
        precision = fabric.strategy.precision
        self._scaler = getattr(precision, "scaler", None)
        scales = self._scaler is not None
        settings = job.optimizer
        wrapped: torch.nn.Module
        if isinstance(settings, OptimizerSettings) and not scales and _are_fusible(job.module):
            wrapped = fabric.setup_module(job.module)
            self._fused = FusedOptimizer(
                (p for p in job.module.parameters() if p.requires_grad), settings
            )
        else:
            if isinstance(settings, OptimizerSettings):
                # Scaled gradients can't be clipped before a fused step that unscales them itself.
                fused = not (scales and job.gradient_clip_norm is not None)
                optimizer = settings.make(job.module.parameters(), fused=fused)
            else:
                optimizer = settings(job.module.parameters())
            self._first_rates = [float(group["lr"]) for group in optimizer.param_groups]
            self._optimizer = optimizer
            wrapped, self._wrapped_optimizer = fabric.setup(job.module, optimizer)
        # The classes themselves: a subclass does something.
        is_plain = type(precision) is Precision and type(fabric.strategy) is SingleDeviceStrategy
        self.module = job.module if is_plain else wrapped
        self._backward = torch.Tensor.backward if is_plain else fabric.backward

    @property
    def lr(self) -> float:
        """The learning rate; of several groups that of the first, which the others follow."""
        if self._fused is not None:
            return self._fused.lr
        assert self._optimizer is not None
        return float(self._optimizer.param_groups[0]["lr"])

    @lr.setter
    def lr(self, lr: float) -> None:
        if self._fused is not None:
            self._fused.lr = lr
            return
        assert self._optimizer is not None
        for group, rate in zip(self._optimizer.param_groups, self._first_rates, strict=True):
            group["lr"] = rate * lr / self._first_rates[0]

    def state(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """Tell where the optimizer is: plain JSON, and tensors by name."""
        if self._fused is not None:
            return {}, below("optimizer", self._fused.state())
        assert self._optimizer is not None
        whole = self._optimizer.state_dict()
        numbers: dict[str, Any] = {"groups": whole["param_groups"], "optimizer": {}}
        tensors: dict[str, torch.Tensor] = {}
        for place, values in whole["state"].items():
            for name, value in values.items():
                kind = tensors if isinstance(value, torch.Tensor) else numbers["optimizer"]
                kind[f"{place}/{name}"] = value
        if self._scaler is not None:
            numbers["scaler"] = self._scaler.state_dict()
        return numbers, below("optimizer", tensors)

    def restore(self, numbers: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
        """Go on from what `state` told."""
        if self._fused is not None:
            self._fused.restore(found_below("optimizer", tensors))
            return
        assert self._optimizer is not None
        state: dict[int, dict[str, Any]] = {}
        for key, value in {**numbers["optimizer"], **found_below("optimizer", tensors)}.items():
            place, _, name = key.partition("/")
            state.setdefault(int(place), {})[name] = value
        self._optimizer.load_state_dict({"state": state, "param_groups": numbers["groups"]})
        if self._scaler is not None:
            self._scaler.load_state_dict(numbers["scaler"])

    def train_epoch(
        self,
        batches: Batches,
        first: int,
        total: torch.Tensor,
        after_step: Callable[[int], None],
    ) -> float:
        """Go through the training rows once; no further once the loss is no number.

        Args:
            batches: The rows.
            first: How many batches are done already.
            total: The sum of the losses of their rows; that of all of them at the end.
            after_step: Called after each step with how many batches are done.

        Returns:
            The mean loss.
        """
        job, backward = self._job, self._backward
        optimizer = self._wrapped_optimizer if self._fused is None else self._fused
        self.module.train()
        unchecked = 0
        for step, (X, y) in enumerate(batches.begin_at(first), start=first + 1):
            optimizer.zero_grad()
            loss = self._loss(X, y)
            backward(loss)
            if job.gradient_clip_norm is not None:
                self._clip(job.gradient_clip_norm)
            optimizer.step()
            total.add_(loss.detach(), alpha=len(X))
            unchecked += len(X)
            # Now and then: a device waits for it. Of several, each has a sum of its own.
            if unchecked >= BLOCK_ROWS and not self._is_distributed:
                unchecked = 0
                if not torch.isfinite(total):
                    break
            after_step(step)
        if self._is_distributed:
            total = self._fabric.all_reduce(total, reduce_op="mean")  # type: ignore[assignment]
        return float(total) / batches.n_rows

    def _loss(self, X: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Compute the loss of a batch; of several devices the mean of theirs is that."""
        loss_function = self._job.loss_function
        if not self._is_distributed:
            return loss_function(self.module(X), y)
        share = share_of(self._fabric, len(X))
        # Gradients are exchanged by all: who has no row takes one that weighs nothing.
        weight = loss_weight(loss_function, y[share]) / loss_weight(loss_function, y)
        share = share if share.start < share.stop else slice(0, 1)
        loss = loss_function(self.module(X[share]), y[share])
        return loss * (weight * self._fabric.world_size)

    def _clip(self, norm: float) -> None:
        if self._fused is not None:
            torch.nn.utils.clip_grad_norm_(self._fused.parameters, norm)
            return
        self._fabric.clip_gradients(
            self.module, self._wrapped_optimizer, max_norm=norm, error_if_nonfinite=False
        )


def _are_fusible(module: torch.nn.Module) -> bool:
    """Say whether torch has fused kernels for the parameters of a module."""
    return all(
        parameter.is_floating_point() and parameter.layout == torch.strided
        for parameter in module.parameters()
    )


def _on_device(fabric: Fabric, tensors: Tensors) -> Tensors:
    X, y = (fabric.to_device(tensor) for tensor in tensors)
    return X, y


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
