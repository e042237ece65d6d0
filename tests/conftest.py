"""What all tests share: a folder of their own to work in, and the command line."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_project_template.utils.collecting import collect_rarely

# Tests run beside one another: a second thread for tiny tables makes each many times slower. Set
# before anything that reads it is imported; processes that tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Nor for the collector to look through torch, MLflow and thousands of tests again and again.
collect_rarely()

pytest_plugins = [
    # Before those that import it.
    "tests.services",
    "tests.databases",
    "tests.object_store",
    "tests.postgresql",
    "tests.servers",
    "tests.tracking_server",
    "tests.warm_python",
]

ROOT = Path(__file__).resolve().parents[1]

# The machine's settings must not change what the tests see, nor may a test write to its services.
FOREIGN = (
    *("MLFLOW_", "AWS_", "S3_", "ML_PROJECT_", "HYDRA_", "OTEL_", "SERVER_"),
    *("PIPELINE_", "STAGE_", "WORKFLOW_", "GIT_COMMIT"),
)

CommandLine = Callable[..., "subprocess.CompletedProcess[str]"]
# The signal, the overrides, and ``when``; gives the exit status and what was printed.
StopTraining = Callable[..., tuple[int, str]]


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Run two processes more than there are processors: a third of the time tests only wait."""
    cpus = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return cpus + 2


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with what takes long, in each process: nobody waits at the end for a single one.

    A process is given one part of the list, as large as that of any other, to begin with.
    """
    long = [item for item in items if item.get_closest_marker("long") is not None]
    others = [item for item in items if item.get_closest_marker("long") is None]
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    left = len(items)
    items.clear()
    for place in range(workers):
        # Neighbours together: they may have a server in common.
        part = long[place * len(long) // workers : (place + 1) * len(long) // workers]
        room = max(0, left // (workers - place) - len(part))
        items += part + others[:room]
        left -= len(part) + len(others[:room])
        del others[:room]


def pytest_collection_finish() -> None:
    """Keep the collector from what is there to stay."""
    gc.freeze()


@pytest.fixture(autouse=True, scope="session")
def _ctrl_c() -> None:
    """Let programs that are started here be interrupted, also in tests run in the background.

    A shell has its background jobs ignore Ctrl-C, and what is ignored is inherited.
    """
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    # A thread of an earlier test that still tries to reach its server would draw from Python's
    # generator, which a later test may have seeded.
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that the test runs in, as a user runs commands in theirs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def command_line(workspace: Path, python: list[str]) -> CommandLine:
    """Run ``python -m entrypoints.<stage>`` in a process of its own, in the workspace."""

    def run(
        stage: str, *overrides: str, env: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*python, "-m", f"entrypoints.{stage}", *overrides],
            cwd=workspace,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **(env or {})},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run
