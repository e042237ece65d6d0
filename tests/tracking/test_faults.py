"""The tracking server, or the store behind it, goes away in the middle of a training."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template.data import TabularDataset
from ml_project_template.errors import TrackingError
from ml_project_template.models import GBClassifier
from ml_project_template.models.base import TrainingReport
from ml_project_template.tracking import MLflowTracker, download_model, outbox, waiting_runs
from ml_project_template.tracking.finding import find_run
from tests.conftest import ROOT, CommandLine
from tests.object_store import ObjectStore, start_object_store
from tests.servers import wait_until
from tests.tracking_server import TrackingServer, s3_environment, start_tracking_server

pytestmark = pytest.mark.long

ROWS = np.array([[5.1, 3.5, 1.4, 0.2], [6.7, 3.0, 5.2, 2.3]], dtype=np.float32)
STEPS = 12


class Site:
    """A tracking server of these tests' own, with an object store behind it."""

    def __init__(self, folder: Path, stack: contextlib.ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.store: ObjectStore = stack.enter_context(start_object_store(folder / "s3"))
        self._bucket = self.store.new_bucket()
        self.server = self._start(0)

    def _start(self, port: int) -> TrackingServer:
        return self._stack.enter_context(
            start_tracking_server(
                self._folder,
                backend_uri=f"sqlite:///{self._folder / 'mlflow.db'}",
                artifacts=f"s3://{self._bucket}",
                environment=s3_environment(self.store),
                port=port,
            )
        )

    @property
    def uri(self) -> str:
        return self.server.uri

    def restart(self) -> None:
        self.server = self._start(int(self.uri.rpartition(":")[2]))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with contextlib.ExitStack() as stack:
        yield Site(tmp_path_factory.mktemp("site"), stack)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait a second where a training waits twelve; one test waits as long as they do."""
    monkeypatch.setattr(outbox, "_PATIENCE", 1.0)
    monkeypatch.setattr(outbox, "_LAST_PATIENCE", 1.0)


class At:
    """Does something at a step of a fit, and has the next one be sent on its own."""

    def __init__(self, step: int, action: Callable[[], None]) -> None:
        self._step = step
        self._action = action

    def report(self, step: int, metrics: Any, total: int | None = None) -> None:
        if step == self._step:
            self._action()
            time.sleep(1.1)


def train(
    site: Site, data: TabularDataset, action: Callable[[], None] = lambda: None
) -> TrainingReport:
    """Train in the working folder, and do something midway."""
    return GBClassifier(max_iter=STEPS, min_samples_leaf=5).train(
        experiment_name="faults",
        train_data=data,
        val_data=data,
        model_path="model",
        seed=1,
        tracking=MLflowTracker(site.uri),
        reporters=[At(STEPS // 2, action)],
        progress=False,
    )


def told(site: Site, run_id: str | None) -> dict[str, Any]:
    """Read everything back that a run has told; but for times and its own id."""
    from mlflow import MlflowClient

    assert run_id is not None
    client = MlflowClient(site.uri)
    run = client.get_run(run_id)
    assert run.inputs is not None
    assert run.outputs is not None

    def files(folder: str | None = None) -> Iterator[str]:
        for file in client.list_artifacts(run_id, folder):
            yield from files(file.path) if file.is_dir else [file.path]

    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run_id}'")
    assert [model.model_id for model in models] == [o.model_id for o in run.outputs.model_outputs]
    answers = GBClassifier.load(download_model(f"runs:/{run_id}/model", site.uri)).predict(ROWS)
    paths = sorted(files())
    images = {
        path: hashlib.sha256(Path(client.download_artifacts(run_id, path)).read_bytes()).hexdigest()
        for path in paths
        if path.endswith(".png")
    }
    return {
        "status": run.info.status,
        "params": run.data.params,
        "metrics": {
            key: [(row.step, row.value) for row in client.get_metric_history(run_id, key)]
            for key in run.data.metrics
        },
        "model_tag": run.data.tags["model"],
        "error": run.data.tags.get("error"),
        "inputs": sorted(
            (entry.dataset.name, entry.dataset.digest, entry.tags[0].value)
            for entry in run.inputs.dataset_inputs
        ),
        "paths": paths,
        "images": images,
        "models": [(model.name, str(model.status)) for model in models],
        "answers": answers.tolist(),
    }


@pytest.fixture(scope="module")
def undisturbed(
    site: Site, iris: TabularDataset, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    with contextlib.chdir(tmp_path_factory.mktemp("undisturbed")):
        found = told(site, train(site, iris).run_id)
    assert len(found["metrics"]["epoch/val_loss"]) == STEPS
    assert found["models"] == [("model", "READY")]
    assert any(path.startswith("plots/") for path in found["paths"])
    return found


def test_a_server_that_is_killed_costs_a_training_nothing(
    site: Site,
    iris: TabularDataset,
    undisturbed: dict[str, Any],
    workspace: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    try:
        report = train(site, iris, site.server.kill)
        ended = time.time()
        assert "Connection refused). It is kept in" in caplog.text
        assert "Not all of this run was sent" in caplog.text
        trained = GBClassifier.load("model").predict(ROWS)
        assert trained.tolist() == undisturbed["answers"]
        assert [waiting.sent for waiting in waiting_runs(site.uri)] == [0]
    finally:
        site.restart()
    copy = workspace / "copy"
    shutil.copytree(".unsent", copy)
    [waiting] = waiting_runs(site.uri)
    assert waiting.sent > 5
    assert (waiting.left, waiting.problem) == (0, None)
    assert told(site, report.run_id) == undisturbed
    assert not Path(".unsent").exists()
    assert list(waiting_runs(site.uri)) == []
    # As if it had been cut off before it could note what it had sent: nothing is there twice.
    assert [again.sent for again in waiting_runs(site.uri, copy / "runs")] == [waiting.sent]
    assert told(site, report.run_id) == undisturbed

    from mlflow import MlflowClient

    info = MlflowClient(site.uri).get_run(str(report.run_id)).info
    assert info.end_time / 1000 <= ended


@pytest.mark.usefixtures("impatient")
def test_a_server_that_comes_back_during_the_training_gets_everything_at_once(
    site: Site, iris: TabularDataset, undisturbed: dict[str, Any], workspace: Path
) -> None:
    back = threading.Timer(3, site.server.resume)

    def away() -> None:
        site.server.pause()
        back.start()

    report = train(site, iris, away)
    back.join()
    # What was on its way when the run ended may have to be sent again.
    for waiting in waiting_runs(site.uri):
        assert waiting.left == 0
    assert told(site, report.run_id) == undisturbed
    assert not Path(".unsent").exists()


@pytest.mark.usefixtures("impatient")
def test_a_store_behind_the_server_that_does_not_answer_delays_the_files_alone(
    site: Site,
    iris: TabularDataset,
    undisturbed: dict[str, Any],
    workspace: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from mlflow import MlflowClient

    try:
        report = train(site, iris, site.store.pause)
        assert "(no answer in good time). It is kept in" in caplog.text
        caplog.clear()
        # The trials of a sweep do not each wait anew.
        with MLflowTracker(site.uri).start_run(experiment_name="faults") as later:
            later.log_params({"a": 1})
        assert "(it did not a moment ago). It is kept in" in caplog.text
        run = MlflowClient(site.uri).get_run(str(report.run_id))
        assert run.info.status == "FINISHED"
        assert len(run.data.metrics) == len(undisturbed["metrics"])
        assert not run.outputs or not run.outputs.model_outputs
    finally:
        site.store.resume()
    # The later run may still be at it, in a thread: it has tried to send what the first one left.
    wait_until(lambda: all(waiting.problem is None for waiting in waiting_runs(site.uri)))
    assert not Path(".unsent").exists()
    assert told(site, report.run_id) == undisturbed
    found = MlflowClient(site.uri).get_run(str(later.id))
    assert (found.info.status, found.data.params) == ("FINISHED", {"a": "1"})


@pytest.mark.usefixtures("impatient")
def test_a_later_run_sends_what_an_earlier_one_could_not(
    site: Site, iris: TabularDataset, undisturbed: dict[str, Any], workspace: Path
) -> None:
    tracker = MLflowTracker(site.uri)
    try:
        with tracker.start_run(experiment_name="faults") as run:
            site.server.pause()
            random.seed(7)
            run.log_params({"a": 1})
            # What a training draws next is its own, whatever sends meanwhile.
            assert random.random() == random.Random(7).random()
    finally:
        site.server.resume()
    assert Path(".unsent", "runs", str(run.id)).is_dir()
    with tracker.start_run(experiment_name="faults"):
        wait_until(lambda: not Path(".unsent").exists())
    from mlflow import MlflowClient

    found = MlflowClient(site.uri).get_run(str(run.id))
    assert (found.info.status, found.data.params) == ("FINISHED", {"a": "1"})


@pytest.mark.usefixtures("impatient")
def test_ctrl_c_while_the_server_is_away_ends_the_run_as_killed(
    site: Site, workspace: Path
) -> None:
    def stopped_while_it_waits() -> None:
        threading.Timer(0.5, signal.raise_signal, [signal.SIGINT]).start()
        with MLflowTracker(site.uri).start_run(experiment_name="faults") as run:
            ids.append(str(run.id))
            site.server.pause()
            run.log_params({"a": 1})
            run.flush()
            time.sleep(30)

    ids: list[str] = []
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            stopped_while_it_waits()
    finally:
        site.server.resume()
    assert time.monotonic() - began < 25
    assert [waiting.left for waiting in waiting_runs(site.uri)] == [0]
    from mlflow import MlflowClient

    found = MlflowClient(site.uri).get_run(ids[0])
    assert (found.info.status, found.data.params) == ("KILLED", {"a": "1"})


@pytest.mark.usefixtures("impatient")
def test_runs_below_an_open_one_are_made_later(site: Site, workspace: Path) -> None:
    from mlflow import MlflowClient

    tracker = MLflowTracker(site.uri)
    try:
        with tracker.start_run(experiment_name="below") as parent:
            site.server.kill()
            below = tracker.below(parent, tags={"trial": 1})
            with below.start_run(experiment_name="below", run_name="1") as trial:
                trial.log_metrics({"loss": 0.5})
                folds = below.below(trial, tags={"fold": 2})
                with folds.start_run(experiment_name="below", run_name="fold 2") as fold:
                    fold.log_text("hello", "notes/hello.txt")
        with (
            pytest.raises(TrackingError, match="can't be reached"),
            tracker.start_run(experiment_name="below"),
        ):
            raise AssertionError
        ended = time.time()
    finally:
        site.restart()
    shutil.copytree(".unsent", "copy")
    assert [(waiting.left, waiting.problem) for waiting in waiting_runs(site.uri)] == [
        (0, None)
    ] * 3
    client = MlflowClient(site.uri)
    experiment = client.get_experiment_by_name("below")
    assert experiment is not None

    # What was noted of the trial meanwhile, such as in its model directory, still leads to it.
    late = find_run(client, str(trial.id))
    assert late is not None
    assert late.info.run_name == "1"
    assert find_run(client, "f" * 32) is None

    def check() -> None:
        runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
        assert len(runs) == len(client.search_runs([experiment.experiment_id])) == 3
        first, second = runs["1"], runs["fold 2"]
        assert first.data.tags["mlflow.parentRunId"] == parent.id
        assert second.data.tags["mlflow.parentRunId"] == first.info.run_id
        assert (second.data.tags["trial"], second.data.tags["fold"]) == ("1", "2")
        assert first.data.metrics == {"loss": 0.5}
        assert [f.path for f in client.list_artifacts(second.info.run_id, "notes")] == [
            "notes/hello.txt"
        ]
        for run in runs.values():
            assert run.info.status == "FINISHED"
            assert run.info.start_time <= run.info.end_time <= ended * 1000

    check()
    list(waiting_runs(site.uri, Path("copy", "runs")))
    check()


DIES = """
import os, signal, sys
from ml_project_template.tracking import MLflowTracker, outbox
outbox._PATIENCE = 1.0
with MLflowTracker(sys.argv[1]).start_run(experiment_name="faults") as run:
    os.killpg(int(sys.argv[2]), signal.SIGSTOP)
    for n in range(40):
        run.log_params({f"p{n}": n})
        run.log_text(str(n), f"texts/{n}.txt")
    run.flush()
    print(run.id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_sync_that_is_killed_is_gone_on_with_by_the_next(
    site: Site, workspace: Path, command_line: CommandLine, python: list[str]
) -> None:
    group = site.server.group
    assert group is not None
    try:
        done = subprocess.run(
            [*python, "-c", DIES, site.uri, str(group)],
            cwd=workspace,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == -signal.SIGKILL, done.stderr
        run_id = done.stdout.strip()
    finally:
        site.server.resume()
    journal = workspace / ".unsent" / "runs" / run_id / "journal.jsonl"
    with journal.open("a") as file:
        file.write('{"number": 80, "kind": "para')  # the power failed
    # The journal knows the address; the command needs no more than the folder.
    with subprocess.Popen(
        [sys.executable, "-m", "entrypoints.sync"],
        cwd=workspace,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        wait_until(lambda: '"sent"' in journal.read_text())
        process.kill()
    sent = journal.read_text().count('"sent"')
    assert 0 < sent < 80
    done = command_line("sync")
    assert done.returncode == 0, done.stderr
    found = re.fullmatch(rf"run {run_id} at {site.uri}: (\d+) sent\n", done.stdout)
    assert found is not None
    assert 80 - sent <= int(found[1]) <= 81 - sent
    assert not (workspace / ".unsent").exists()

    from mlflow import MlflowClient

    client = MlflowClient(site.uri)
    run = client.get_run(run_id)
    assert run.data.params == {f"p{n}": str(n) for n in range(40)}
    assert len(client.list_artifacts(run_id, "texts")) == 40
    # Nobody can end it any more but the command.
    assert run.info.status == "KILLED"


def test_a_command_ends_well_in_time_while_the_server_does_not_answer(
    site: Site, workspace: Path, command_line: CommandLine, python: list[str]
) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(site.uri)
    settings = ("model=gb", "data=iris", "model.max_iter=150", "training.patience=null")
    environment = {"MLFLOW_TRACKING_URI": site.uri, "PYTHONPATH": str(ROOT)}
    experiment = client.create_experiment("command")
    with subprocess.Popen(
        [*python, "-m", "entrypoints.train", *settings, "experiment_name=command"],
        cwd=workspace,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:

        def is_midway() -> bool:
            assert process.poll() is None
            return any(
                "epoch/val_loss" in run.data.metrics for run in client.search_runs([experiment])
            )

        try:
            wait_until(is_midway)
            site.server.pause()
            began = time.monotonic()
            output, errors = process.communicate(timeout=90)
            waited = time.monotonic() - began
            assert process.returncode == 0, errors
            # Its own work takes seconds; what the server adds must stay below 30.
            assert waited < 45
            assert "It is kept in" in errors + output
        finally:
            site.server.resume()
    assert (workspace / ".models" / "iris_gb" / "manifest.json").is_file()
    done = command_line("sync", env=environment)
    assert done.returncode == 0, done.stderr
    [run] = client.search_runs([experiment])
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "epoch/val_loss")) == 150
