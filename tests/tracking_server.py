"""A tracking server for the tests that ask for one: ``mlflow server``, as a team would run it.

Its runs are in PostgreSQL and its artifacts go through it to the object store.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.object_store import ObjectStore

_SECONDS_TO_START = 120

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
    if not port:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        *(sys.executable, "-m", "mlflow", "server"),
        *("--host", "127.0.0.1", "--port", str(port), "--workers", "1"),
        *("--allowed-hosts", f"127.0.0.1:{port}"),
        *("--backend-store-uri", backend_uri),
        *("--serve-artifacts", "--artifacts-destination", artifacts),
    ]
    settings = {
        # None of the machine's own.
        **{k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "AWS_"))},
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        **(environment or {}),
    }
    log = folder / "log"
    with log.open("ab") as output:
        guard = subprocess.Popen(
            [sys.executable, "-c", _GUARD, *command],
            cwd=folder,
            env=settings,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        uri = f"http://127.0.0.1:{port}"
        _wait_until_up(uri, guard, log)
        yield TrackingServer(uri, int((folder / "pid").read_text()))
    finally:
        assert guard.stdin is not None
        guard.stdin.close()
        guard.wait()


@pytest.fixture(scope="session")
def tracking_server(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[TrackingServer]:
    """A server for tests that do not stop it, one for all processes that the tests run in.

    Whoever comes first starts it and ends it when nobody uses it any more. Its users hold a lock,
    which the system takes from them even if they are killed.
    """
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    address = shared / "tracking-server.json"
    with (
        (shared / "tracking-server.lock").open("w") as starting,
        (shared / "tracking-server.users").open("w") as users,
        contextlib.ExitStack() as stack,
    ):
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(users, fcntl.LOCK_SH)
        if address.is_file():
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield TrackingServer(json.loads(address.read_text()))
            return
        store: ObjectStore = request.getfixturevalue("object_store")
        server = stack.enter_context(
            start_tracking_server(
                tmp_path_factory.mktemp("tracking-server"),
                backend_uri=new_database(request.getfixturevalue("postgresql")),
                artifacts=f"s3://{store.new_bucket()}",
                environment=s3_environment(store),
            )
        )
        address.write_text(json.dumps(server.uri))
        stack.callback(address.unlink)
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield TrackingServer(server.uri)
        # Until the others are through.
        fcntl.flock(users, fcntl.LOCK_EX)


def new_database(url: str) -> str:
    """Make an empty database beside another one; gives its address."""
    from sqlalchemy import create_engine, make_url, text

    name = f"mlflow_{os.getpid()}_{time.monotonic_ns()}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def s3_environment(store: ObjectStore) -> dict[str, str]:
    """What MLflow's server needs in its environment to use a store."""
    return {**store.environment, "MLFLOW_S3_ENDPOINT_URL": store.endpoint_url}


def _wait_until_up(uri: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _SECONDS_TO_START
    while True:
        try:
            with urllib.request.urlopen(f"{uri}/health", timeout=5):  # noqa: S310
                return
        except (urllib.error.URLError, OSError):
            text = log.read_text("utf-8", "replace")[-2_000:]
            assert process.poll() is None, f"the tracking server has ended: {text}"
            assert time.monotonic() < deadline, f"the tracking server does not start: {text}"
        time.sleep(0.05)
