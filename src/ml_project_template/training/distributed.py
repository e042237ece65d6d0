"""A fit on several devices of this machine: a process for each, through Fabric.

Each batch is cut into as many shares as there are devices; gradients are averaged, weighted so that
they are those of the whole batch (Li et al., 2020, "PyTorch Distributed"). So the steps are those
of one device with the same ``batch_size``, up to rounding. What sees several rows at once does
differ: dropout draws its masks, and batch normalisation its statistics, for each share.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import torch

from ml_project_template.errors import ProjectError
from ml_project_template.training.checkpoints import FitState
from ml_project_template.training.jobs import FitJob, FitResult
from ml_project_template.training.reporting import StopTraining

if TYPE_CHECKING:
    from lightning.fabric import Fabric

__all__ = ["fit_distributed", "is_distributed", "loss_weight", "share_of"]

_logger = logging.getLogger(__name__)

# What the process above answers to a report: bits, of which several may be set.
_STOP, _GIVE_UP, _KEEP, _PAUSE = 1, 2, 4, 8

FitFunction = Callable[["Fabric", FitJob], FitResult]


def is_distributed(fabric: Fabric) -> bool:
    """Say whether a Fabric is for several devices."""
    return int(getattr(fabric.strategy, "num_processes", 1)) > 1


def share_of(fabric: Fabric, n_rows: int) -> slice:
    """Say which rows of a batch are those of this process.

    Args:
        fabric: Where the fit runs.
        n_rows: Rows of the batch.

    Returns:
        Neighbouring rows; the shares of two processes differ by one row at most.
    """
    rank, size = fabric.global_rank, fabric.world_size
    return slice(rank * n_rows // size, (rank + 1) * n_rows // size)


def loss_weight(loss_function: Any, y: torch.Tensor) -> torch.Tensor | float:
    """Say what the mean loss of some rows weighs beside that of others.

    Args:
        loss_function: Where it has a method ``weight_of``, that is asked; else it is a plain mean.
        y: Targets of the rows, of shape ``(n_samples, ...)``.

    Returns:
        A number, or a tensor of one.
    """
    weigh = getattr(loss_function, "weight_of", None)
    return float(len(y)) if weigh is None else weigh(y)


def fit_distributed(fabric: Fabric, job: FitJob, fit: FitFunction) -> FitResult:
    """Fit a module in a process for each device; the reporter hears of it in this one.

    Args:
        fabric: For several devices, not launched.
        job: The fit. All of it but the reporter is sent to the processes.
        fit: Fits a job where it is; called in each process.

    Returns:
        How it ended. The module has its weights, on the CPU.

    Raises:
        ProjectError: What `fit` raises.
        Exception: What the reporter raises, but for ``StopTraining``.
    """
    if any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in job.module.modules()):
        _logger.warning(
            "Batch normalisation takes its statistics from the share of each of %d devices: the "
            "result differs from that of one device.",
            fabric.strategy.num_processes,  # type: ignore[attr-defined]
        )
    here, there = multiprocessing.get_context("spawn").Pipe()
    keeper = job.checkpoints
    listener = _Listener(here, job)
    listener.start()
    before = set(multiprocessing.active_children())
    port = os.environ.get("MASTER_PORT")
    teller = _Teller(there, None if keeper is None else keeper.state)
    in_processes = replace(job, reporter=teller, checkpoints=None if keeper is None else teller)
    try:
        with contextlib.nullcontext() if keeper is None else keeper.watching():
            # Sent while the processes are started, as a connection has to be.
            work = _Work(fit, in_processes)
            outcome: _Outcome = fabric.launch(functools.partial(_run, work=work))
    except BaseException:
        for child in set(multiprocessing.active_children()) - before:
            # Nobody would wait for them but the end of this process.
            child.kill()
        raise
    finally:
        there.close()
        listener.join()
        if port is None:
            os.environ.pop("MASTER_PORT", None)
        else:
            os.environ["MASTER_PORT"] = port
    if listener.error is not None:
        raise listener.error
    state = {name: torch.from_numpy(array) for name, array in outcome.state.items()}
    job.module.load_state_dict(state)
    job.module.eval()
    if isinstance(outcome.result, Exception):
        raise outcome.result
    return outcome.result


class _Work:
    """What is sent to the processes; Lightning looks into dataclasses, and takes no frozen one."""

    def __init__(self, fit: FitFunction, job: FitJob) -> None:
        self.fit = fit
        self.job = job


class _Outcome:
    """What comes back from the first of the processes."""

    def __init__(self, result: FitResult | Exception, state: Mapping[str, Any]) -> None:
        self.result = result
        self.state = state


class _GaveUpError(Exception):
    """The reporter, in the process above, has raised what is no `StopTraining`."""


def _run(fabric: Fabric, work: _Work) -> _Outcome:
    """Fit in one of the processes."""
    job = work.job
    teller = job.reporter
    assert isinstance(teller, _Teller)
    teller.fabric = fabric
    if job.checkpoints is not None:
        # The process above says when to stop: at the end of an epoch, after a checkpoint.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
    for tensor in (*job.module.parameters(), *job.module.buffers()):
        # What was sent lies in memory that all processes share.
        tensor.data = tensor.data.clone()
    try:
        result: FitResult | Exception = work.fit(fabric, job)
    except (ProjectError, _GaveUpError) as error:
        # All of them come to it: their numbers are the same.
        result = error
    # As arrays: the memory of a tensor would end with its process.
    state = {
        name: tensor.detach().cpu().numpy() for name, tensor in job.module.state_dict().items()
    }
    return _Outcome(result, state)


class _Teller:
    """Reports to the process above, from the first process; all of them go by its answer.

    It is also what keeps the state of the fit, by sending it there.
    """

    def __init__(self, connection: Connection, state: FitState | None) -> None:
        self._connection = connection
        self._answer = 0
        self.is_asked = False
        self.state = state
        self.fabric: Fabric | None = None

    def report(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        assert self.fabric is not None
        answer = 0
        if self.fabric.global_rank == 0:
            self._connection.send((step, dict(metrics), total))
            answer = self._connection.recv()
        self._answer = self.fabric.broadcast(answer)
        if self._answer & _GIVE_UP:
            raise _GaveUpError
        if self._answer & _STOP:
            raise StopTraining

    def due(self, epoch: int | None = None) -> bool:
        """Say what all processes have been told; within an epoch they can't be."""
        return epoch is not None and bool(self._answer & _KEEP)

    def save(self, state: FitState) -> None:
        from safetensors.torch import save

        assert self.fabric is not None
        if self.fabric.global_rank == 0:
            tensors = {name: tensor.cpu().clone() for name, tensor in state.tensors.items()}
            self._connection.send((state.kind, state.numbers, save(tensors)))
            self._connection.recv()

    def obey(self) -> None:
        if self._answer & _PAUSE:
            raise _GaveUpError

    def watching(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()


class _Listener(threading.Thread):
    """Hears of each epoch from the first of the processes, and tells the reporter.

    Attributes:
        error: What the reporter raised, but for `StopTraining`.
    """

    def __init__(self, connection: Connection, job: FitJob) -> None:
        super().__init__(name="fit-reports", daemon=True)
        self._connection = connection
        self._job = job
        self.error: BaseException | None = None

    def run(self) -> None:
        with self._connection:
            while True:
                try:
                    message = self._connection.recv()
                except (EOFError, OSError):
                    # The processes have ended.
                    return
                first, second, third = message
                answer = 0
                if isinstance(first, str):
                    self._save(first, second, third)
                else:
                    answer = self._answer(first, second, third)
                self._connection.send(answer)

    def _answer(self, step: int, metrics: Mapping[str, float], total: int | None) -> int:
        answer = 0
        try:
            self._job.reporter.report(step, metrics, total)
        except StopTraining:
            answer |= _STOP
        except BaseException as error:
            self.error = error
            return _GIVE_UP
        keeper = self._job.checkpoints
        if keeper is not None and keeper.due(step):
            answer |= _KEEP
        if keeper is not None and keeper.is_asked:
            answer |= _KEEP | _PAUSE
        return answer

    def _save(self, kind: str, numbers: dict[str, Any], tensors: bytes) -> None:
        from safetensors.torch import load

        assert self._job.checkpoints is not None
        self._job.checkpoints.save(FitState(kind, numbers, load(tensors)))
