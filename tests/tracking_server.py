"""A tracking server for the tests that ask for one: ``mlflow server``, as a team would run it.

Its runs are in PostgreSQL and its artifacts go through it to the object store.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.object_store import ObjectStore
from tests.postgresql import new_database
from tests.services import Services, wait_until_up

# Between the tests and the server, in a group of its own: whatever happens to the tests, even while
# the server is stopped by a signal, the end of their pipe ends all processes of the server.
_GUARD = """
import os, signal, subprocess, sys, threading
server = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
open("pid", "w").write(str(server.pid))
threading.Thread(target=lambda: os._exit(server.wait() and 1), daemon=True).start()
sys.stdin.buffer.read()
os.killpg(server.pid, signal.SIGKILL)
server.wait()
"""


@dataclass(frozen=True)
class TrackingServer:
    """A server that answers.

    Attributes:
        uri: Its address.
        group: The group of its processes; None for a server that belongs to other tests too.
    """

    uri: str
    group: int | None = None

    def pause(self) -> None:
        """Have it take connections and never answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once: connections are refused from now on."""
        self._signal(signal.SIGKILL)
        address = ("127.0.0.1", int(self.uri.rpartition(":")[2]))
        while True:
            with socket.socket() as client:
                if client.connect_ex(address) != 0:
                    return
            time.sleep(0.01)

    def _signal(self, number: int) -> None:
        assert self.group is not None, "a server of many tests is left alone"
        os.killpg(self.group, number)


@contextlib.contextmanager
def start_tracking_server(
    folder: Path,
    *,
    backend_uri: str,
    artifacts: str,
    environment: Mapping[str, str] | None = None,
    port: int = 0,
) -> Iterator[TrackingServer]:
    """Start a server; it ends with the block.

    Args:
        folder: Where its log goes.
        backend_uri: The database of its runs.
        artifacts: Where it puts artifacts: a folder or ``s3://<bucket>``.
        environment: What it needs to reach them.
        port: The port; 0 for any free one.

    Yields:
        The server, ready to answer.
    """
    port = port or _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "log"
    with log.open("ab") as output:
        guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, *_command(port, backend_uri, artifacts)],
            cwd=folder,
            env=_environment(environment or {}),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        wait_until_up(f"{uri}/health", log, lambda: guard.poll() is not None)
        yield TrackingServer(uri, int((folder / "pid").read_text()))
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


@pytest.fixture(scope="session")
def tracking_server(services: Services, request: pytest.FixtureRequest) -> TrackingServer:
    """A server for tests that do not stop it, one for all processes that the tests run in."""

    def start(folder: Path) -> str:
        # A bucket that lives longer than this process: one in a store that was there stays there.
        store = replace(request.getfixturevalue("object_store"), _buckets=[])
        port = _free_port()
        database = new_database(request.getfixturevalue("postgresql"))
        command = _command(port, database, f"s3://{store.new_bucket()}")
        services.guard(folder, command, _environment(s3_environment(store)))
        uri = f"http://127.0.0.1:{port}"
        wait_until_up(f"{uri}/health", folder / "log", (folder / "ended").exists)
        return uri

    return TrackingServer(services.share("tracking-server", start))


def s3_environment(store: ObjectStore) -> dict[str, str]:
    """What MLflow's server needs in its environment to use a store."""
    return {**store.environment, "MLFLOW_S3_ENDPOINT_URL": store.endpoint_url}


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _command(port: int, backend_uri: str, artifacts: str) -> list[str]:
    return [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--allowed-hosts", f"127.0.0.1:{port}"),
        *("--backend-store-uri", backend_uri),
        *("--serve-artifacts", "--artifacts-destination", artifacts),
    ]


def _environment(more: Mapping[str, str]) -> dict[str, str]:
    return {
        # None of the machine's own.
        **{k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AWS_"))},
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **more,
    }
