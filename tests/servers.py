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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import httpx2
import numpy as np
import pandas as pd
import pytest
import uvicorn
from numpy.typing import NDArray

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.signature import Task
from ml_project_template.data.sources import onboard
from ml_project_template.inference import Inference
from ml_project_template.models import BaseModel, ModelRegistry, register
from ml_project_template.predictor import Predictor
from tests.conftest import ROOT

ROW = {
    "sepal_length_cm": 5.1,
    "sepal_width_cm": 3.5,
    "petal_length_cm": 1.4,
    "petal_width_cm": 0.2,
}


BODY = {"features": [ROW]}


class Crowd:
    """Clients that ask until they are to end, each in a thread that runs ``_run``."""

    def __init__(self, clients: int) -> None:
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._run) for _ in range(clients)]
        for thread in self._threads:
            thread.start()

    def _run(self) -> None:
        """Ask until ``_stop`` is set; what is counted is counted under ``_lock``."""
        raise NotImplementedError

    def end(self) -> None:
        """Let them go."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


class Load(Crowd):
    """Clients that send one request after the other, each over a connection that is kept."""

    def __init__(self, address: str, clients: int, path: str = "/predict") -> None:
        self.answers: Counter[int] = Counter()
        self.refused = 0
        self.dropped: list[str] = []
        self._url = address + path
        super().__init__(clients)

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


FLAT = {
    "size": 41.5,
    "rooms": 2,
    "city": "Rome",
    "zone": "1",
    "garden": False,
    "built": "1990-02-01",
}


def flats(count: int = 200) -> pd.DataFrame:
    """Make flats: numbers, categories (one of them written as numbers), truth values and dates."""
    random = np.random.default_rng(0)
    days = random.integers(0, 20_000, count)
    frame = pd.DataFrame(
        {
            "size": random.uniform(20, 150, count).round(1),
            "rooms": random.integers(1, 6, count),
            "city": random.choice(np.array(["Bonn", "Köln", "Rome"], dtype=object), count),
            "zone": random.integers(1, 4, count),
            "garden": random.random(count) < 0.3,
            "built": np.datetime_as_string(np.datetime64("1970-01-01") + days),
        }
    )
    frame.loc[::9, "city"] = None
    return frame


def prices(frame: pd.DataFrame) -> pd.Series[float]:
    """Say what a flat costs; a nicer city and a newer house cost more."""
    city = frame["city"].map({"Bonn": 1.0, "Köln": 2.0, "Rome": 3.0}).fillna(0.0)
    age = (pd.Timestamp("2025-01-01") - pd.to_datetime(frame["built"])).dt.days / 365
    price: pd.Series[float] = 2.0 * frame["size"] + 40.0 * city - 0.5 * age + 0.25
    return price


class _Linear(BaseModel):
    """Least squares: a model that somebody has written."""

    def __init__(self) -> None:
        super().__init__()
        self.weights_: NDArray[np.float64] = np.empty(0)

    @classmethod
    def accepts_missing(cls, params: Any) -> bool:
        return False

    def _fit(  # type: ignore[override]
        self, train_data: Any, val_data: Any = None
    ) -> None:
        X = np.column_stack([train_data.X, np.ones(len(train_data))]).astype(np.float64)
        y = train_data.y if self.task == "regression" else np.eye(2)[train_data.y]
        self.weights_ = np.linalg.lstsq(X, y, rcond=1e-6)[0]

    def predict(self, X: Any) -> NDArray[np.float64]:
        features = self._features(X).astype(np.float64)
        scores: NDArray[np.float64] = features @ self.weights_[:-1] + self.weights_[-1]
        return scores

    def _save_weights(self, directory: Path) -> None:
        path = directory / artifacts.WEIGHTS_SAFETENSORS
        artifacts.save_tensors(path, {"weights": self.weights_})

    def _load_weights(self, directory: Path) -> None:
        path = directory / artifacts.WEIGHTS_SAFETENSORS
        self.weights_ = artifacts.load_tensors(path)["weights"]


class LinearClasses(_Linear):
    """Tells two classes apart."""

    task: ClassVar[Task] = "classification"


class LinearNumbers(_Linear):
    """Predicts numbers."""

    task: ClassVar[Task] = "regression"


@dataclass(frozen=True)
class Loaded:
    """A saved model as a server has it, and as a user has it."""

    path: Path
    inference: Inference
    predictor: Predictor

    def numbers(self, rows: Any) -> list[float]:
        """Say what a regression itself predicts of raw rows."""
        return [float(value) for value in self.predictor.predict(rows).predictions]


def _train_on_flats(
    path: Path, model: BaseModel, target: Any, preprocessor: Preprocessor, **settings: Any
) -> Loaded:
    raw = TabularDataset(
        flats(), target, target_column="price", task=model.task, columns={"zone": "category"}
    )
    data = preprocessor.fit(raw).transform(raw)
    with pytest.MonkeyPatch.context() as patch:
        # Other tests count the models that there are.
        patch.setattr(ModelRegistry, "_classes", dict(ModelRegistry._classes))
        register(type(model))
        model.train(
            experiment_name="x", train_data=data, tracking=False, model_path=path, **settings
        )
        return Loaded(path, Inference.load(str(path)), Predictor.load(str(path)))


@pytest.fixture(scope="session")
def class_model(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Classes of flats, ``dear`` from a probability of 0.2 on; no test may change it."""
    dear = np.where(prices(flats()) > 250, "dear", "cheap")
    path = tmp_path_factory.mktemp("flats") / "flats"
    return _train_on_flats(path, LinearClasses(), dear, Preprocessor(), threshold=0.2)


@pytest.fixture(scope="session")
def number_model(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """Prices of flats, by a model that needs every number; no test may change it."""
    path = tmp_path_factory.mktemp("prices") / "prices"
    return _train_on_flats(path, LinearNumbers(), prices(flats()), Preprocessor(impute=None))


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
