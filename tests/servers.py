"""Models to serve, and a real server to ask."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.sources import onboard
from ml_project_template.models import ModelRegistry
from tests.conftest import ROOT

ROW = {
    "sepal_length_cm": 5.1,
    "sepal_width_cm": 3.5,
    "petal_length_cm": 1.4,
    "petal_width_cm": 0.2,
}


BODY = {"features": [ROW]}


class Load:
    """Clients that send one request after the other, each over a connection that is kept."""

    def __init__(self, address: str, clients: int, path: str = "/predict") -> None:
        self.answers: Counter[int] = Counter()
        self.refused = 0
        self.dropped: list[str] = []
        self._url = address + path
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        with httpx2.Client(timeout=20) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(self._url, json=BODY)
                except httpx2.ConnectError:
                    # It was never let in: nothing is lost.
                    with self._lock:
                        self.refused += 1
                    time.sleep(0.02)
                    continue
                except httpx2.TransportError as error:
                    with self._lock:
                        self.dropped.append(repr(error))
                    continue
                with self._lock:
                    self.answers[answer.status_code] += 1

    def end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


def train_model(path: Path, source: str = "iris", **settings: Any) -> Path:
    """Train a small booster and save it."""
    raw_path = str(path.parent / f"{source}.csv")
    onboard(source=f"sklearn:{source}", path=raw_path)
    raw = TabularDataset.from_csv(raw_path, target_column="target")
    data = Preprocessor().fit(raw).transform(raw)
    settings = {"max_iter": 20, "min_samples_leaf": 5, **settings}
    model = ModelRegistry.get("gb_classifier")(**settings)
    model.train(experiment_name="x", train_data=data, tracking=False, model_path=str(path))
    return path


@pytest.fixture(scope="session")
def iris_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A booster on iris, which no test may change."""
    return train_model(tmp_path_factory.mktemp("iris") / "iris_gb")


@pytest.fixture(scope="session")
def wine_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A booster on wine, which no test may change."""
    return train_model(tmp_path_factory.mktemp("wine") / "wine_gb", "wine")


@contextlib.contextmanager
def serving_in_a_thread(app: Any) -> Iterator[str]:
    """Serve an application on a free port; yields its address."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, lifespan="off", log_config=None, access_log=False)
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)


class ServerProcess:
    """``python -m entrypoints.serve`` as a process of its own."""

    def __init__(self, folder: Path, arguments: list[str], environment: dict[str, str]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        self.log = folder / f"serve-{port}.log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "entrypoints.serve", *arguments, f"server.port={port}"],
                cwd=folder,
                env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def wait(self, seconds: float = 120) -> None:
        """Wait until it is ready."""
        wait_until(lambda: self.process.poll() is not None or self.is_ready(), seconds)
        assert self.process.poll() is None, self.output

    def is_ready(self) -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(f"{self.address}/ready", timeout=10).status_code == 200
        return False

    def tell(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self, number: int = signal.SIGTERM) -> int:
        """Tell it to end; returns its status."""
        self.tell(number)
        return self.process.wait(40)

    @property
    def output(self) -> str:
        return self.log.read_text("utf-8", "replace")


@pytest.fixture
def start_server(workspace: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Start a server with some arguments, ready to answer; it is ended with the test."""
    started: list[ServerProcess] = []

    def start(*arguments: str, ready: bool = True, **environment: str) -> ServerProcess:
        server = ServerProcess(workspace, list(arguments), environment)
        started.append(server)
        if ready:
            server.wait()
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.tell(signal.SIGTERM)
            try:
                server.process.wait(10)
            except subprocess.TimeoutExpired:
                server.process.kill()
                server.process.wait()


def wait_until(holds: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
