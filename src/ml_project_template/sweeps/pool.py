"""Worker processes for a sweep: always busy, pinned to their share of the machine, replaced.

They are forked from one clean process that has imported what a training needs, so that a sweep
pays for its imports once, and a worker that dies is replaced at once.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import time
from dataclasses import dataclass
from multiprocessing import forkserver
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import ProjectError
from ml_project_template.sweeps import preload
from ml_project_template.sweeps.preload import PRELOAD_VARIABLE
from ml_project_template.utils.processes import ProcessId, this_process
from ml_project_template.utils.signals import stopping_by_exception, was_stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from multiprocessing.context import ForkServerProcess

    from ml_project_template.sweeps.study import StudySettings
    from ml_project_template.sweeps.worker import RunTrial, RunTrials

__all__ = ["Pool", "Share", "shares", "start_imports", "visible_gpus"]

# How long workers may take to close what they run, once they are asked to stop.
_STOP_SECONDS = 20.0
# A worker that dies this often without a trial to blame will not do better the next time.
_MOST_FAILED_STARTS = 3
# Exit statuses of a worker; another one is none of its own doing.
_OK, _WRONG = 0, 79
_ERROR = "error: "


@dataclass(frozen=True)
class Share:
    """What a worker may use of the machine.

    Attributes:
        cores: The processors it is pinned to; empty for all.
        gpu: The GPU it sees, as ``CUDA_VISIBLE_DEVICES`` names it; None for all there are.
    """

    cores: tuple[int, ...]
    gpu: str | None = None


def shares(n_jobs: int, cores: Sequence[int], gpus: Sequence[str]) -> list[Share]:
    """Divide the machine among workers.

    Args:
        n_jobs: How many workers.
        cores: The processors there are.
        gpus: The GPUs there are. A single one is shared by all.

    Returns:
        The share of each worker: neighbouring processors, as evenly as they go; more workers than
        processors take turns on them.
    """
    found = []
    for index in range(n_jobs):
        start, stop = index * len(cores) // n_jobs, (index + 1) * len(cores) // n_jobs
        own = tuple(cores[start:stop]) or (cores[index % len(cores)],)
        found.append(Share(own, gpus[index % len(gpus)] if len(gpus) > 1 else None))
    return found


def visible_gpus(root: Path = Path("/proc/driver/nvidia/gpus")) -> list[str]:
    """Name the GPUs of this machine without asking CUDA, which no fork survives.

    Args:
        root: Where NVIDIA's driver lists them.

    Returns:
        What ``CUDA_VISIBLE_DEVICES`` names, or the numbers of all.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name.strip() for name in named.split(",") if name.strip()]
    return [str(index) for index, _ in enumerate(root.iterdir())] if root.is_dir() else []


def start_imports(names: Sequence[str]) -> None:
    """Start the process that workers are forked from; it imports while this one goes on.

    Args:
        names: What to import: modules, or ``module:function`` to call.
    """
    os.environ[PRELOAD_VARIABLE] = json.dumps(list(names))
    try:
        multiprocessing.set_forkserver_preload([preload.__name__])
        forkserver.ensure_running()
    finally:
        del os.environ[PRELOAD_VARIABLE]


class Pool:
    """Worker processes that run the trials of a study; a context that ends them.

    Args:
        n_jobs: How many.
        settings: What makes the study.
        run_trial: Runs a trial; sent to the workers.
        run_trials: Runs several at once, as for `work`; None has them run one by one.
        most: How many a worker runs at once, at most.
        log_directory: Where what they print goes, a file each.
    """

    def __init__(
        self,
        n_jobs: int,
        settings: StudySettings,
        run_trial: RunTrial,
        run_trials: RunTrials | None = None,
        *,
        most: int = 1,
        log_directory: Path,
    ) -> None:
        options = {"run_trials": run_trials, "most": most, "workers": n_jobs}
        self._job = (settings, run_trial, options, this_process())
        self._logs = log_directory
        self._shares = shares(n_jobs, _cores(), visible_gpus())
        self._context = multiprocessing.get_context("forkserver")
        self._workers: dict[int, ForkServerProcess] = {}
        self._failed_starts = 0

    def __enter__(self) -> Pool:
        self._logs.mkdir(parents=True, exist_ok=True)
        for index in range(len(self._shares)):
            self._start(index)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait(self, seconds: float) -> bool:
        """Wait for a worker to end, and replace one that died.

        Args:
            seconds: How long to wait at most.

        Returns:
            Whether workers are left.

        Raises:
            ProjectError: A worker can't work, such as for want of its storage.
        """
        sentinels = {worker.sentinel: index for index, worker in self._workers.items()}
        for sentinel in multiprocessing.connection.wait(list(sentinels), seconds):
            index = sentinels[sentinel]  # type: ignore[index]
            worker = self._workers.pop(index)
            worker.join()
            if worker.exitcode == _OK:
                continue
            if worker.exitcode == _WRONG:
                raise ProjectError(_told_error(self._log(index)))
            self._failed_starts += 1
            if self._failed_starts > _MOST_FAILED_STARTS * len(self._shares):
                raise ProjectError(
                    f"workers die again and again (exit status {worker.exitcode}); what they "
                    f"printed is in '{self._log(index)}'."
                )
            self._start(index)
        return bool(self._workers)

    def trial_ended(self) -> None:
        """Note that a trial came to an end, so that deaths from here on count anew."""
        self._failed_starts = 0

    def stop(self) -> None:
        """Ask the workers to stop, and see to it that they do."""
        for worker in self._workers.values():
            if worker.is_alive():
                worker.terminate()
        end = time.monotonic() + _STOP_SECONDS
        for worker in self._workers.values():
            worker.join(max(0.0, end - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()
        self._workers.clear()

    def _start(self, index: int) -> None:
        worker = self._context.Process(
            target=_worker,
            args=(*self._job, self._shares[index], self._log(index)),
            name=f"sweep-worker-{index}",
        )
        worker.start()
        self._workers[index] = worker

    def _log(self, index: int) -> Path:
        return self._logs / f"worker-{index}.log"


def _worker(
    settings: StudySettings,
    run_trial: RunTrial,
    options: Mapping[str, Any],
    boss: ProcessId,
    share: Share,
    log: Path,
) -> None:
    """The life of a worker process."""
    # Ctrl-C reaches every process of a terminal; the one that watches over us passes it on.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _end_with_parent()
    _print_to(log)
    from ml_project_template.sweeps.study import SweepStudy
    from ml_project_template.sweeps.worker import work

    with _limited_to(share), stopping_by_exception():
        try:
            work(SweepStudy(settings, boss=boss), run_trial, **options)
        except ProjectError as error:
            print(f"{_ERROR}{error}", flush=True)
            raise SystemExit(_WRONG) from None
        except BaseException as error:
            if was_stopped(error):
                raise SystemExit(_OK) from None
            raise


def _end_with_parent() -> None:
    """End at once when the process that watches over us is gone: nobody would end us."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


def _print_to(path: Path) -> None:
    """Send what this process prints, its libraries included, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    faulthandler.enable()


@contextlib.contextmanager
def _limited_to(share: Share) -> Iterator[None]:
    """Keep this process to its share of the machine."""
    if share.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = share.gpu
    set_affinity: Callable[..., None] | None = getattr(os, "sched_setaffinity", None)
    if set_affinity is not None:
        set_affinity(0, share.cores)
    threads = _threads(len(share.cores))
    # For libraries that are imported later; the others are told below.
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)
    from threadpoolctl import threadpool_limits

    with threadpool_limits(threads):
        yield


def _threads(cores: int) -> int:
    """Say how many threads a worker uses: one for each of its processors, or fewer if asked for.

    A pod of a cluster sees all processors of its machine, and has a part of them.
    """
    most = os.environ.get("OMP_NUM_THREADS", "")
    return min(cores, int(most)) if most.isdigit() and int(most) > 0 else cores


def _cores() -> list[int]:
    get_affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return sorted(get_affinity(0)) if get_affinity else list(range(os.cpu_count() or 1))


def _told_error(path: Path) -> str:
    """Find what a worker has said of its end."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    told = [line.removeprefix(_ERROR) for line in lines if line.startswith(_ERROR)]
    return told[-1] if told else f"a worker can't work; what it printed is in '{path}'."
