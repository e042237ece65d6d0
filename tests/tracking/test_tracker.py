"""Runs on a real MLflow, in a database of the test's own."""

from __future__ import annotations

import http.server
import itertools
import json
import logging
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest

from ml_project_template.data.tabular import TabularDataset
from ml_project_template.errors import TrackingError
from ml_project_template.models.registry import ModelRegistry
from ml_project_template.predictor import Predictor
from ml_project_template.tracking import (
    CONSOLE_LOG,
    LONG_PARAMS,
    DisabledTracker,
    MLflowTracker,
    Run,
    RunReporter,
    Terminated,
    check_reachable,
    download_model,
    operations,
    tracking_uri,
    waiting_runs,
)
from ml_project_template.tracking.client import open_client
from ml_project_template.tracking_address import build_once
from ml_project_template.utils.signals import stopping_by_exception
from tests.tracking_server import TrackingServer

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

    from ml_project_template.models.base import BaseModel

SECRET = "hunter2-and-more"


def client_of(store: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(store, registry_uri=store)


def stored_run(store: str, run_id: str | None) -> StoredRun:
    assert run_id is not None
    return client_of(store).get_run(run_id)


def artifact(run: StoredRun, path: str) -> Path:
    return Path(run.info.artifact_uri.removeprefix("file://"), path)


def log_model(store: str, model: BaseModel, directory: str) -> str:
    assert model.signature is not None
    with MLflowTracker(store).start_run(experiment_name="iris") as run:
        run.log_model(
            directory,
            signature=model.signature,
            sample=model.signature.sample,
            requirements=model.packages,
        )
    assert run.id is not None
    return run.id


def test_a_run_that_comes_to_its_end_is_finished_and_holds_what_was_logged(store: str) -> None:
    tracker = MLflowTracker(store, parent_run_id="0" * 32, tags={"team": "blue", "none": None})
    with tracker.start_run(experiment_name="first", run_name="one") as run:
        run.log_params({"model.layers": 2, "seed": 0})
        run.log_metrics({"val_accuracy": 0.5})
        run.log_tags({"model": "gb"})
        run.log_text("hello", "notes/hello.txt")
        run.log_bytes(b"\x00\x01", "plots/x.png")
    found = stored_run(store, run.id)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "one"
    assert found.info.experiment_id == run.experiment_id
    assert found.data.params == {"model.layers": "2", "seed": "0"}
    assert found.data.metrics == {"val_accuracy": 0.5}
    assert found.data.tags["mlflow.parentRunId"] == "0" * 32
    assert found.data.tags["team"] == "blue"
    assert found.data.tags["model"] == "gb"
    assert "none" not in found.data.tags
    assert artifact(found, "notes/hello.txt").read_text() == "hello"
    assert artifact(found, "plots/x.png").read_bytes() == b"\x00\x01"


def test_artifacts_stand_beside_the_database(
    store: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: Any
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    with MLflowTracker(store).start_run(experiment_name="a/b c") as run:
        run.log_text("x", "x.txt")
    assert artifact(stored_run(store, run.id), "x.txt").is_relative_to(tmp_path / "mlruns")
    assert list(elsewhere.iterdir()) == []


def test_a_run_knows_the_commit_it_came_from(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    monkeypatch.chdir(repository)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
    for arguments in (["init", "-q"], [*identity, "commit", "-q", "--allow-empty", "-m", "x"]):
        subprocess.run(["git", *arguments], check=True, timeout=60)
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], check=True, capture_output=True, text=True, timeout=60
    ).stdout.strip()
    (repository / "new.txt").write_text("x")
    with MLflowTracker(store).start_run(experiment_name="git") as run:
        pass
    tags = stored_run(store, run.id).data.tags
    assert tags["mlflow.source.git.commit"] == commit
    assert tags["git_dirty"] == "True"


def test_an_error_ends_the_run_as_failed_with_the_error_as_a_tag(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_PASSWORD", SECRET)

    def fail(run: Run) -> None:
        run.log_metrics({"loss": 1.0})
        raise RuntimeError(f"no connection for {SECRET}" + "!" * 600)

    with (
        pytest.raises(RuntimeError, match="no connection"),
        MLflowTracker(store).start_run(experiment_name="x") as run,
    ):
        fail(run)
    found = stored_run(store, run.id)
    assert found.info.status == "FAILED"
    assert found.data.tags["error"].startswith("RuntimeError: no connection for ***!!!")
    assert len(found.data.tags["error"]) == 500
    assert found.data.metrics == {"loss": 1.0}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), "KILLED"),
        (Terminated(signal.SIGTERM), "KILLED"),
        (SystemExit(143), "KILLED"),
        (SystemExit(0), "FINISHED"),
        (SystemExit(3), "FAILED"),
    ],
)
def test_what_ends_a_run_decides_its_state(error: BaseException, status: str, store: str) -> None:
    with (
        pytest.raises(type(error)),
        MLflowTracker(store).start_run(experiment_name="x") as run,
    ):
        raise error
    found = stored_run(store, run.id)
    assert found.info.status == status
    assert ("error" in found.data.tags) == (status != "FINISHED")


WAITING = """
import logging, sys, time
from ml_project_template.tracking import MLflowTracker
logging.basicConfig(level="INFO")
with MLflowTracker(sys.argv[1]).start_run(experiment_name="x") as run:
    logging.info("on the way")
    print(run.id, flush=True)
    # In slices: a signal just before a sleep is heard after it.
    for _ in range(1200):
        time.sleep(0.1)
"""


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGINT, -signal.SIGINT)]
)
def test_a_signal_ends_the_run_as_killed(
    number: signal.Signals, code: int, store: str, tmp_path: Path, python: list[str]
) -> None:
    with subprocess.Popen(
        [*python, "-c", WAITING, store],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        run_id = process.stdout.readline().strip()
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    found = stored_run(store, run_id)
    assert found.info.status == "KILLED"
    assert "on the way" in artifact(found, CONSOLE_LOG).read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_run_is_made_leaves_none_running(
    number: signal.Signals, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    made = []
    create = MlflowClient.create_run

    def create_and_stop(client: MlflowClient, *args: Any, **kwargs: Any) -> Any:
        made.append(create(client, *args, **kwargs))
        signal.raise_signal(number)
        return made[0]

    monkeypatch.setattr(MlflowClient, "create_run", create_and_stop)
    with (
        stopping_by_exception(),
        pytest.raises((Terminated, KeyboardInterrupt)),
        MLflowTracker(store).start_run(experiment_name="x"),
    ):
        pytest.fail("the block is not begun")
    assert stored_run(store, made[0].info.run_id).info.status == "KILLED"


def test_a_second_signal_does_not_cut_short_what_the_first_one_began() -> None:
    with stopping_by_exception():
        with pytest.raises(Terminated, match="stopped by SIGTERM"):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


FORKED = """
import os, signal, time
from ml_project_template.utils.signals import stopping_by_exception
from tests.tracking_server import TrackingServer
ready, report = os.pipe()
with stopping_by_exception():
    child = os.fork()
    if not child:
        try:
            os.write(report, b"x")
            for _ in range(300):
                time.sleep(0.1)
        finally:
            os._exit(1)
    os.read(ready, 1)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
assert os.WIFSIGNALED(status), status
"""


def test_a_forked_worker_dies_of_a_signal_as_it_always_did(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", FORKED], cwd=tmp_path, check=True, timeout=60)


CROWD = """
import multiprocessing, sys
# Imported before the fork, so that the eight begin at the same instant.
import mlflow.pyfunc, mlflow.store.tracking.sqlalchemy_store
from ml_project_template.tracking import MLflowTracker

def work(number):
    for turn in range(3):
        with MLflowTracker(sys.argv[1]).start_run(experiment_name="crowd") as run:
            run.log_params({"number": number, "turn": turn})
            run.log_metrics({"loss": 1.0})

if __name__ == "__main__":
    fork = multiprocessing.get_context("fork")
    processes = [fork.Process(target=work, args=(number,)) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    sys.exit(any(process.exitcode for process in processes))
"""


def test_eight_processes_at_once_on_a_fresh_database_lose_no_run(
    tmp_path: Path, python: list[str]
) -> None:
    store = f"sqlite:///{tmp_path / 'deep' / 'mlflow.db'}"
    done = subprocess.run(
        [*python, "-c", CROWD, store],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    client = client_of(store)
    experiment = client.get_experiment_by_name("crowd")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], max_results=100)
    logged = {(run.data.params["number"], run.data.params["turn"]) for run in runs}
    assert len(runs) == len(logged) == 24
    assert all(run.info.status == "FINISHED" and run.data.metrics == {"loss": 1.0} for run in runs)
    with sqlite3.connect(tmp_path / "deep" / "mlflow.db") as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_a_database_is_made_once_however_many_want_it(tmp_path: Path) -> None:
    made: list[Path] = []

    def build(fresh: Path) -> None:
        made.append(fresh)
        time.sleep(0.1)
        connection = sqlite3.connect(fresh)
        connection.execute("CREATE TABLE experiments (name TEXT)")
        connection.close()

    path = tmp_path / "mlflow.db"
    threads = [threading.Thread(target=build_once, args=(path, build)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    assert made[0] != path
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mlflow.db", "mlflow.db.lock"]


def test_the_disk_is_waited_for_once_a_database_is_in_use_and_not_while_it_is_made(
    tmp_path: Path,
) -> None:
    from sqlalchemy import Connection, Engine, event

    waits: list[int] = []

    def look(connection: Connection, _: object, statement: str, *__: object) -> None:
        if statement.lstrip().startswith(("CREATE", "ALTER", "DROP", "INSERT", "UPDATE")):
            waits.extend(connection.connection.cursor().execute("PRAGMA synchronous").fetchone())

    event.listen(Engine, "before_cursor_execute", look)
    try:
        client = open_client(f"sqlite:///{tmp_path / 'mlflow.db'}")
        assert set(waits) == {0}
        waits.clear()
        client.create_experiment("used")
        assert waits
        assert 0 not in waits
    finally:
        event.remove(Engine, "before_cursor_execute", look)


def test_a_database_is_put_in_place_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"

    def broken(fresh: Path) -> None:
        fresh.write_bytes(b"half")
        raise RuntimeError("no space left")

    with pytest.raises(RuntimeError, match="no space left"):
        build_once(path, broken)
    assert [entry.name for entry in tmp_path.iterdir()] == ["mlflow.db.lock"]


def test_long_and_oddly_named_parameters_are_kept_whole(store: str) -> None:
    long = json.dumps(list(range(3000)))
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        run.log_params({"dims": long, "plain": "x", "odd|name": 1})
        run.log_params({"again": long})
    found = stored_run(store, run.id)
    kept = json.loads(artifact(found, LONG_PARAMS).read_text())
    assert kept == {"dims": long, "odd|name": "1", "again": long}
    assert found.data.params["plain"] == "x"
    assert found.data.params["dims"].endswith(f"(whole in {LONG_PARAMS})")
    assert "odd|name" not in found.data.params


def test_more_parameters_than_one_request_takes_are_all_kept(store: str) -> None:
    params = {f"key.{number}": number for number in range(250)}
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        run.log_params(params)
    assert stored_run(store, run.id).data.params == {key: str(n) for key, n in params.items()}


def test_metrics_are_sent_in_batches(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    # As on a server.
    monkeypatch.setattr(operations, "write_rows", lambda *_, **__: False)
    sizes: list[int] = []
    send = MlflowClient.log_batch

    def counting(self: MlflowClient, run_id: str, metrics: Any = (), **others: Any) -> Any:
        sizes.append(len(metrics))
        return send(self, run_id, metrics, **others)

    monkeypatch.setattr(MlflowClient, "log_batch", counting)
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        listener = RunReporter(run)
        for epoch in range(1, 101):
            listener.report(epoch, {f"loss_{n}": float(epoch) for n in range(15)}, 100)
    assert sum(sizes) == 1500
    assert max(sizes) <= 1000
    assert len(sizes) < 10
    assert run.id is not None
    history = client_of(store).get_metric_history(run.id, "epoch/loss_0")
    assert [(row.step, row.value) for row in history] == [(n, float(n)) for n in range(1, 101)]


def rename_table(store: str, old: str, new: str) -> None:
    """Take a table away from MLflow, or give it back."""
    connection = sqlite3.connect(store.removeprefix("sqlite:///"))
    connection.execute(f"ALTER TABLE {old} RENAME TO {new}")
    connection.close()


def test_metrics_that_can_not_be_sent_are_kept_until_they_can(
    store: str, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        rename_table(store, "metrics", "hidden")
        run.log_metrics({"loss": 1.0}, step=1)
        run.flush()
        assert (workspace / ".unsent" / "runs" / str(run.id) / "journal.jsonl").is_file()
        rename_table(store, "hidden", "metrics")
        run.log_metrics({"loss": 2.0}, step=2)
    assert "no such table: metrics). It is kept in" in caplog.text
    assert run.id is not None
    history = client_of(store).get_metric_history(run.id, "loss")
    assert [row.value for row in history] == [1.0, 2.0]
    assert stored_run(store, run.id).info.status == "FINISHED"
    assert not (workspace / ".unsent").exists()


def test_a_run_that_can_not_be_completed_is_completed_later(
    store: str, workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        rename_table(store, "metrics", "hidden")
        run.log_metrics({"loss": 1.0})
    assert "Not all of this run was sent: " in caplog.text
    ended = time.time()
    assert stored_run(store, run.id).info.status == "RUNNING"
    rename_table(store, "hidden", "metrics")
    [waiting] = waiting_runs(store)
    assert (waiting.left, waiting.problem) == (0, None)
    found = stored_run(store, run.id)
    assert found.info.status == "FINISHED"
    assert found.data.metrics == {"loss": 1.0}
    assert found.info.end_time is not None
    assert found.info.end_time / 1000 <= ended
    assert artifact(found, CONSOLE_LOG).is_file()
    assert not (workspace / ".unsent").exists()


def test_the_first_error_is_the_one_that_is_raised(store: str, workspace: Path) -> None:
    def fail(run: Run) -> None:
        rename_table(store, "metrics", "hidden")
        run.log_metrics({"loss": 1.0})
        raise RuntimeError("the first")

    with (
        pytest.raises(RuntimeError, match="the first"),
        MLflowTracker(store).start_run(experiment_name="x") as run,
    ):
        fail(run)
    rename_table(store, "hidden", "metrics")
    assert [waiting.left for waiting in waiting_runs(store)] == [0]
    found = stored_run(store, run.id)
    assert found.info.status == "FAILED"
    assert found.data.tags["error"] == "RuntimeError: the first"
    assert found.data.metrics == {"loss": 1.0}


def test_values_that_are_no_numbers_and_names_that_mlflow_refuses_can_be_logged(store: str) -> None:
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        run.log_metrics({"recall/cl(a)ss": float("nan")})
    assert np.isnan(stored_run(store, run.id).data.metrics["recall/cl_a_ss"])


def test_the_splits_of_one_file_are_inputs_of_their_own(store: str) -> None:
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        for context in ("train", "val"):
            run.log_dataset(
                "iris",
                digest="a" * 64,
                source=f"s3://user:{SECRET}@bucket/iris.csv",
                context=context,
                schema={"features": ["x"]},
                profile={"rows": 3},
            )
        run.log_dataset("made_here", digest=None, source=None, context="test")
    found = stored_run(store, run.id).inputs
    assert found is not None
    inputs = {entry.tags[0].value: entry.dataset for entry in found.dataset_inputs}
    assert set(inputs) == {"train", "val", "test"}
    assert inputs["train"].digest == "a" * 36
    assert inputs["val"].name == "iris_val"
    assert SECRET not in inputs["val"].source
    assert json.loads(inputs["val"].profile or "") == {"rows": 3}


def test_the_log_of_a_run_is_kept_with_it(store: str) -> None:
    logger = logging.getLogger("ml_project_template.somewhere")
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        logger.warning("epoch %d", 7)
    logger.warning("after the run")
    text = artifact(stored_run(store, run.id), CONSOLE_LOG).read_text()
    assert "WARNING ml_project_template.somewhere: epoch 7" in text
    assert "after the run" not in text


def test_secrets_appear_nowhere(
    store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    logger = logging.getLogger("ml_project_template.somewhere")
    with MLflowTracker(store, tags={"line": f"--key={SECRET}"}).start_run(
        experiment_name="x"
    ) as run:
        run.log_params({"url": f"http://me:{SECRET}@host", "storage.password": "from-the-config"})
        run.log_params({"long": SECRET * 1000})
        run.log_tags({"key": SECRET})
        run.log_text(f"key: {SECRET}", "config.yaml")
        try:
            raise ValueError(SECRET)
        except ValueError:
            logger.exception("with %s and %s", SECRET, "from-the-config")
    assert "with *** and ***" in artifact(stored_run(store, run.id), CONSOLE_LOG).read_text()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) >= 4
    for path in written:
        content = path.read_bytes()
        assert SECRET.encode() not in content, path
        assert b"from-the-config" not in content, path


def test_nothing_global_is_left_behind(store: str) -> None:
    import mlflow

    def state() -> tuple[Any, ...]:
        root = logging.getLogger()
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
        return mlflow.get_tracking_uri(), mlflow.active_run(), list(root.handlers), handlers

    def fail() -> None:
        raise RuntimeError(state())

    before = state()
    with (
        pytest.raises(RuntimeError) as caught,
        MLflowTracker(store).start_run(experiment_name="x"),
    ):
        fail()
    assert caught.value.args != (before,)
    assert state() == before


def test_a_handler_of_somebody_else_is_left_alone(store: str) -> None:
    def own(_number: int, _frame: object) -> None:
        """Do nothing."""

    before = signal.signal(signal.SIGTERM, own)
    try:
        with MLflowTracker(store).start_run(experiment_name="x"):
            assert signal.getsignal(signal.SIGTERM) is own
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_run_works_in_a_thread(store: str) -> None:
    ids: list[str | None] = []

    def work() -> None:
        with MLflowTracker(store).start_run(experiment_name="x") as run:
            ids.append(run.id)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [stored_run(store, run_id).info.status for run_id in ids] == ["FINISHED"]


def test_a_disabled_tracker_does_nothing(workspace: Path, model: BaseModel) -> None:
    assert model.signature is not None
    with DisabledTracker().start_run(experiment_name="x", run_name="y") as run:
        run.log_params({"a": 1})
        run.log_metrics({"b": 1.0}, step=2)
        run.log_tags({"c": 1})
        run.log_dataset("d", digest=None, source=None, context="train")
        run.log_text("e", "e.txt")
        run.log_bytes(b"f", "f.png")
        run.log_model("g", signature=model.signature, sample=[])
        RunReporter(run).report(1, {"h": 1.0}, None)
    assert run.id is None
    assert run.experiment_id is None
    assert list(workspace.iterdir()) == []


def test_without_tracking_mlflow_is_not_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from ml_project_template.tracking import DisabledTracker, check_reachable\n"
        "check_reachable()\n"
        "with DisabledTracker().start_run(experiment_name='x'): pass\n"
        "assert not {'mlflow', 'sqlalchemy', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)
    assert list(tmp_path.iterdir()) == []


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def test_a_server_that_is_not_there_is_told_in_one_line() -> None:
    uri = f"http://me:{SECRET}@127.0.0.1:{closed_port()}"
    with pytest.raises(TrackingError, match="can't be reached") as caught:
        MLflowTracker(uri).start_run(experiment_name="x").__enter__()
    message = str(caught.value)
    assert "\n" not in message
    assert "127.0.0.1" in message
    assert "tracking=disabled" in message
    assert SECRET not in message


def test_a_server_that_never_answers_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        uri = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with pytest.raises(TrackingError, match="timed out"):
            check_reachable(uri, timeout=0.2)


@pytest.fixture
def locked_server() -> Iterator[str]:
    """A server that asks everybody for a password."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *arguments: Any) -> None:
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_whoever_answers_is_there(locked_server: str) -> None:
    check_reachable(locked_server)
    with (
        pytest.raises(TrackingError, match=r"Tracking at .* failed: .*401") as caught,
        MLflowTracker(locked_server).start_run(experiment_name="x"),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_the_address_comes_from_the_environment_and_is_absolute(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tracking_uri() == f"sqlite:///{workspace / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert tracking_uri() == "http://host:5000"
    assert tracking_uri("sqlite:////a/b.db") == "sqlite:////a/b.db"


@pytest.mark.parametrize("uri", ["mlruns", "file:///tmp/mlruns"])
def test_a_folder_is_no_place_for_runs(uri: str) -> None:
    with pytest.raises(TrackingError, match="is a folder, where MLflow keeps no runs") as caught:
        check_reachable(uri)
    assert "sqlite:///mlflow.db" in str(caught.value)


def test_a_database_that_is_none_is_told(tmp_path: Path) -> None:
    (tmp_path / "text.db").write_text("this is a plain text file")
    with pytest.raises(TrackingError, match="is no SQLite file"):
        check_reachable(f"sqlite:///{tmp_path / 'text.db'}")
    with pytest.raises(TrackingError, match="is a folder"):
        check_reachable(f"sqlite:///{tmp_path}")
    with pytest.raises(TrackingError, match="can't be written"):
        check_reachable(f"sqlite:///{tmp_path / 'text.db' / 'mlflow.db'}")


def test_a_deleted_experiment_is_told(store: str) -> None:
    with MLflowTracker(store).start_run(experiment_name="gone") as run:
        pass
    assert run.experiment_id is not None
    client_of(store).delete_experiment(run.experiment_id)
    with (
        pytest.raises(TrackingError, match="'gone' was deleted"),
        MLflowTracker(store).start_run(experiment_name="gone"),
    ):
        pass


def test_an_empty_experiment_name_is_told_in_one_line(store: str) -> None:
    with (
        pytest.raises(TrackingError, match="failed") as caught,
        MLflowTracker(store).start_run(experiment_name=""),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_a_logged_model_is_plain_files_that_mlflow_loads_and_runs_on_raw_rows(
    store: str,
    model: BaseModel,
    model_directory: str,
    iris: TabularDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_id = log_model(store, model, model_directory)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    import mlflow

    loaded = mlflow.pyfunc.load_model(f"runs:/{run_id}/model")
    answer = loaded.predict(iris.features)
    expected = Predictor(model).predict_frame(iris.features)
    pd.testing.assert_frame_equal(answer, expected)
    inputs = loaded.metadata.get_input_schema().to_dict()
    assert [(column["name"], column["type"]) for column in inputs] == [
        (name, "double") for name in iris.feature_names
    ]
    outputs = loaded.metadata.get_output_schema().input_names()
    assert outputs == list(expected.columns)
    assert loaded.input_example.to_dict("records") == list(model.signature.sample)  # type: ignore[union-attr]

    files = [
        path for path in (tmp_path / "mlruns" / "iris" / "models").rglob("*") if path.is_file()
    ]
    contents = [(path.name, path.read_bytes()) for path in files]
    for path in files:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [(name, archive.read(name)) for name in archive.namelist()]
    assert "weights.skops" in {name for name, _ in contents}
    for name, content in contents:
        assert not name.endswith((".pkl", ".pickle", ".joblib")), name
        # Every pickle of protocol 2 or later begins with this byte.
        assert not content.startswith(b"\x80"), name
    names = {path.name for path in files}
    assert {"uv.lock", "pyproject.toml"}.isdisjoint(names)
    requirements = next(path for path in files if path.name == "requirements.txt").read_text()
    assert "scikit-learn==" in requirements
    assert "torch" not in requirements


def test_mlflow_scores_a_raw_csv_from_the_command_line(
    store: str,
    model: BaseModel,
    model_directory: str,
    iris: TabularDataset,
    tmp_path: Path,
    python: list[str],
) -> None:
    run_id = log_model(store, model, model_directory)
    rows = iris.features.iloc[[0, 75, 149]]
    rows.to_csv(tmp_path / "rows.csv", index=False)
    command = f"models predict -m runs:/{run_id}/model -i rows.csv -t csv --env-manager local"
    done = subprocess.run(
        [*python, "-m", "mlflow", *command.split()],
        cwd=tmp_path,
        env={**os.environ, "MLFLOW_TRACKING_URI": store},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout[done.stdout.index("{") :])["predictions"]
    expected = Predictor(model).predict_frame(rows)
    assert [row["prediction"] for row in answer] == expected["prediction"].tolist()
    np.testing.assert_allclose(
        [row["probability_setosa"] for row in answer], expected["probability_setosa"], rtol=1e-12
    )


def test_a_model_is_found_by_run_by_version_and_by_alias(
    store: str, model: BaseModel, model_directory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = log_model(store, model, model_directory)
    # MLflow looks a model up at the global address when it makes a version of it.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    client = client_of(store)
    outputs = client.get_run(run_id).outputs
    assert outputs is not None
    [output] = outputs.model_outputs
    client.create_registered_model("flowers")
    client.create_model_version("flowers", f"models:/{output.model_id}", run_id)
    client.set_registered_model_alias("flowers", "champion", "1")
    addresses = [
        f"runs:/{run_id}/model",
        f"models:/{output.model_id}",
        "models:/flowers/1",
        "models:/flowers@champion",
    ]
    found = {download_model(address, store) for address in addresses}
    assert len(found) == 1
    predictor = Predictor.load("models:/flowers@champion")
    assert predictor.predict([[5.1, 3.5, 1.4, 0.2]]).labels == ["setosa"]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("runs:/0123456789abcdef0123456789abcdef/model", "There is no run '0123456789abcdef"),
        ("runs:/{run}/other", "has no model 'other'"),
        ("runs:/{run}", "names no model"),
        ("models:/nobody@champion", "failed"),
        ("models:/nobody/1", "failed"),
        ("models:/m-0123456789abcdef", "failed"),
    ],
)
def test_a_model_that_is_not_there_is_told_in_one_line(
    address: str, message: str, store: str
) -> None:
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        pass
    with pytest.raises(TrackingError, match=message) as caught:
        download_model(address.format(run=run.id), store)
    assert "\n" not in str(caught.value)


def test_a_model_of_another_make_is_refused(store: str, tmp_path: Path) -> None:
    from mlflow.pyfunc import save_model

    client = client_of(store)
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        assert run.experiment_id is not None
        logged = client.create_logged_model(run.experiment_id, name="model", source_run_id=run.id)
        (tmp_path / "data.txt").write_text("x")
        save_model(
            tmp_path / "foreign",
            loader_module="json",
            data_path=str(tmp_path / "data.txt"),
            pip_requirements=[],
        )
        client.log_model_artifacts(logged.model_id, str(tmp_path / "foreign"))
    with pytest.raises(TrackingError, match="none that this project wrote"):
        download_model(f"models:/{logged.model_id}", store)


def test_a_model_without_files_is_told(store: str) -> None:
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        pass
    assert run.experiment_id is not None
    logged = client_of(store).create_logged_model(run.experiment_id, name="model")
    with pytest.raises(TrackingError, match="holds no MLflow model"):
        download_model(f"models:/{logged.model_id}", store)


def test_a_model_that_is_not_there_can_not_be_logged(store: str, model: BaseModel) -> None:
    assert model.signature is not None
    with (
        pytest.raises(TrackingError),
        MLflowTracker(store).start_run(experiment_name="x") as run,
    ):
        run.log_model("/no/such/folder", signature=model.signature, sample=model.signature.sample)
    assert run.experiment_id is not None
    assert list(client_of(store).search_logged_models([run.experiment_id])) == []
    assert stored_run(store, run.id).info.status == "FAILED"


def test_models_stay_out_of_the_store_where_that_is_wanted(store: str, model: BaseModel) -> None:
    assert model.signature is not None
    with MLflowTracker(store, log_models=False).start_run(experiment_name="x") as run:
        run.log_model("/no/such/folder", signature=model.signature, sample=model.signature.sample)
    assert run.experiment_id is not None
    assert list(client_of(store).search_logged_models([run.experiment_id])) == []


def test_a_server_keeps_runs_and_models(
    tracking_server: TrackingServer,
    model: BaseModel,
    model_directory: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    run_id = log_model(tracking_server.uri, model, model_directory)
    assert stored_run(tracking_server.uri, run_id).info.status == "FINISHED"
    loaded = ModelRegistry.load(download_model(f"runs:/{run_id}/model", tracking_server.uri))
    rows = np.array([[5.1, 3.5, 1.4, 0.2]], dtype=np.float32)
    np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))
    assert capfd.readouterr() == ("", "")


@pytest.mark.long
def test_a_program_that_uses_mlflow_itself_sees_our_lines_only(tmp_path: Path) -> None:
    script = (
        "import mlflow, sys\n"
        "from ml_project_template.tracking import MLflowTracker\n"
        "with MLflowTracker(sys.argv[1]).start_run(experiment_name='x') as run:\n"
        "    run.log_metrics({'loss': 1.0})\n"
        "print(mlflow.MlflowClient(sys.argv[1]).get_run(run.id).info.status)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"sqlite:///{tmp_path / 'mlflow.db'}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("FINISHED\n", "")


def test_runs_after_the_same_seed_get_names_of_their_own_and_draw_nothing(store: str) -> None:
    names, drawn = set(), set()
    for _ in range(3):
        random.seed(0)
        with MLflowTracker(store).start_run(experiment_name="x") as run:
            drawn.add(random.random())
        names.add(stored_run(store, run.id).info.run_name)
    assert len(names) == 3
    random.seed(0)
    assert drawn == {random.random()}


def test_ctrl_c_while_a_finished_run_is_closed_does_not_leave_it_running(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(_: object) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    monkeypatch.setattr("ml_project_template.tracking.MLflowRun.flush", interrupted)
    with pytest.raises(KeyboardInterrupt), MLflowTracker(store).start_run(experiment_name="x") as r:
        run_id = r.id
    assert stored_run(store, run_id or "").info.status == "KILLED"


def test_runs_below_a_run_have_its_id_and_the_tags_of_both(store: str) -> None:
    above = MLflowTracker(store, tags={"team": "blue", "fold": "none"})
    with above.start_run(experiment_name="x") as parent:
        below = above.below(parent, tags={"fold": 1, "empty": None})
        with below.start_run(experiment_name="x") as child:
            pass
    tags = stored_run(store, child.id).data.tags
    assert tags["mlflow.parentRunId"] == parent.id
    assert (tags["team"], tags["fold"]) == ("blue", "1")
    assert "empty" not in tags
    of_parent = stored_run(store, parent.id).data.tags
    assert "mlflow.parentRunId" not in of_parent
    assert of_parent["fold"] == "none"


@pytest.mark.parametrize("above", list(itertools.product([True, False], repeat=2)))
def test_what_is_off_stays_off_in_the_runs_below(above: tuple[bool, bool], store: str) -> None:
    tracker = MLflowTracker(store, log_plots=above[0], log_models=above[1])
    with tracker.start_run(experiment_name="x") as parent:
        assert (parent.wants_plots, parent.wants_model) == above
        for below in itertools.product([True, False], repeat=2):
            under = tracker.below(parent, log_plots=below[0], log_models=below[1])
            with under.start_run(experiment_name="x") as child:
                assert child.wants_plots == (above[0] and below[0])
                assert child.wants_model == (above[1] and below[1])


@pytest.mark.parametrize(
    ("plots", "models"), [(True, False), (False, True), (False, False)], ids=str
)
def test_a_training_draws_and_copies_only_what_is_wanted(
    plots: bool, models: bool, store: str, iris: TabularDataset
) -> None:
    make: Any = ModelRegistry.get("gb_classifier")
    report = make(max_iter=2).train(
        experiment_name="x",
        train_data=iris,
        tracking=MLflowTracker(store, log_plots=plots, log_models=models),
        progress=False,
    )
    client = client_of(store)
    found = client.get_run(report.run_id)
    assert found.data.metrics["train_accuracy"] > 0.5
    assert bool(client.list_artifacts(report.run_id, "plots")) == plots
    assert bool(client.search_logged_models([report.experiment_id])) == models
    assert bool(found.outputs and found.outputs.model_outputs) == models


def test_a_run_that_is_gone_on_with_runs_meanwhile_and_keeps_what_it_had(store: str) -> None:
    tracker = MLflowTracker(store, tags={"team": "blue"})
    with tracker.start_run(experiment_name="x", run_name="one") as first:
        first.log_params({"seed": 0})
        first.log_metrics({"loss": 2.0, "before": 1.0}, step=1)
        first.log_tags({"model": "gb", "stage": "first"})
        first.log_text("kept", "notes.txt")
    assert first.id is not None
    with MLflowTracker(store).continue_run(first.id) as second:
        assert stored_run(store, first.id).info.status == "RUNNING"
        assert (second.id, second.experiment_id) == (first.id, first.experiment_id)
        second.log_metrics({"loss": 1.0, "after": 3.0}, step=2)
        second.log_tags({"stage": "second"})
    found = stored_run(store, first.id)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "one")
    assert found.data.params == {"seed": "0"}
    assert found.data.metrics == {"loss": 1.0, "before": 1.0, "after": 3.0}
    history = client_of(store).get_metric_history(first.id, "loss")
    assert [(row.step, row.value) for row in history] == [(1, 2.0), (2, 1.0)]
    tags = found.data.tags
    assert (tags["team"], tags["model"], tags["stage"]) == ("blue", "gb", "second")
    assert artifact(found, "notes.txt").read_text() == "kept"
    assert len(client_of(store).search_runs([found.info.experiment_id])) == 1


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError("no luck"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_what_ends_a_run_that_is_gone_on_with_decides_its_state(
    error: BaseException, status: str, store: str
) -> None:
    tracker = MLflowTracker(store)
    with tracker.start_run(experiment_name="x") as run:
        pass
    assert run.id is not None
    with pytest.raises(type(error)), tracker.continue_run(run.id):
        raise error
    found = stored_run(store, run.id)
    assert found.info.status == status
    assert found.data.tags["error"].startswith(type(error).__name__)


def go_on(tracker: MLflowTracker, run_id: str) -> None:
    with tracker.continue_run(run_id):
        pytest.fail("it was opened")


@pytest.mark.parametrize(
    "ask",
    [
        go_on,
        MLflowTracker.open_children,
        MLflowTracker.mark_running,
        lambda tracker, run_id: tracker.end_run(run_id, "KILLED"),
        lambda tracker, run_id: tracker.end_run(run_id, "KILLED", {"why": "gone"}),
    ],
    ids=["continue_run", "open_children", "mark_running", "end_run", "end_run with tags"],
)
def test_a_run_that_is_not_there_is_told_in_one_line(
    ask: Callable[[MLflowTracker, str], object], store: str
) -> None:
    with pytest.raises(
        TrackingError, match="Run with id=0+ not found|There is no run '0+' at"
    ) as caught:
        ask(MLflowTracker(store), "0" * 32)
    assert "\n" not in str(caught.value)


def test_a_deleted_run_is_not_found_and_can_not_be_gone_on_with(store: str) -> None:
    tracker = MLflowTracker(store, tags={"study": "s"})
    with tracker.start_run(experiment_name="x") as run:
        pass
    assert run.id is not None
    assert tracker.find_run("x", {"study": "s"}) == run.id
    client_of(store).delete_run(run.id)
    assert tracker.find_run("x", {"study": "s"}) is None
    with pytest.raises(TrackingError, match="must be in the 'active' state") as caught:
        go_on(tracker, run.id)
    assert "\n" not in str(caught.value)


def test_the_newest_run_with_all_of_the_tags_is_found(store: str) -> None:
    tracker = MLflowTracker(store)
    assert tracker.find_run("x", {"study": "s"}) is None  # no such experiment yet
    client = client_of(store)
    experiment_id = client.create_experiment("x")

    def make(start: int, tags: dict[str, str], where: str = experiment_id) -> str:
        run_id: str = client.create_run(where, start_time=start, tags=tags).info.run_id
        return run_id

    make(1000, {"study": "s", "sweep trial": "3"})
    newest = make(3000, {"study": "s", "sweep trial": "3", "more": "x"})
    make(2000, {"study": "s", "sweep trial": "3"})
    other = make(4000, {"study": "s", "sweep trial": "4"})
    make(5000, {"study": "t", "sweep trial": "3"})
    make(6000, {"study": "s", "sweep trial": "3"}, client.create_experiment("y"))
    assert tracker.find_run("x", {"study": "s", "sweep trial": "3"}) == newest
    assert tracker.find_run("x", {"study": "s"}) == other
    assert tracker.find_run("x", {"study": "s", "sweep trial": "5"}) is None


def test_the_open_runs_below_a_run_are_those_that_have_not_ended(store: str) -> None:
    tracker = MLflowTracker(store)
    client = client_of(store)
    with tracker.start_run(experiment_name="x") as parent:
        assert parent.id is not None
        assert parent.experiment_id is not None

        def make(above: str, **tags: str) -> str:
            tags["mlflow.parentRunId"] = above
            assert parent.experiment_id is not None
            run_id: str = client.create_run(parent.experiment_id, tags=tags).info.run_id
            return run_id

        assert tracker.open_children(parent.id) == {}
        children = {make(parent.id, trial=str(number)): str(number) for number in range(3)}
        make(make("0" * 32))  # of another parent, and below that one
        make(next(iter(children)))  # below a child
        for status in ("FINISHED", "FAILED", "KILLED"):
            client.set_terminated(make(parent.id), status)
        found = tracker.open_children(parent.id)
        assert {run_id: tags["trial"] for run_id, tags in found.items()} == children
        again = next(iter(children))
        client.set_terminated(again, "FAILED")
        assert tracker.open_children(parent.id).keys() == children.keys() - {again}
        tracker.mark_running(again)
        assert tracker.open_children(parent.id).keys() == children.keys()


def test_more_open_runs_than_one_answer_holds_are_all_found(store: str) -> None:
    tracker = MLflowTracker(store)
    with tracker.start_run(experiment_name="x") as parent:
        assert parent.id is not None
        assert parent.experiment_id is not None
        tags = {"mlflow.parentRunId": parent.id, "trial": "0"}
        one = client_of(store).create_run(parent.experiment_id, tags=tags).info.run_id
        # A thousand times the same, faster than by MLflow.
        connection = sqlite3.connect(store.removeprefix("sqlite:///"))
        with connection:
            for table in ("runs", "tags"):
                names = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
                chosen = ", ".join("?" if name == "run_uuid" else name for name in names)
                connection.executemany(
                    f"INSERT INTO {table} ({', '.join(names)}) "  # noqa: S608 - names of MLflow's
                    f"SELECT {chosen} FROM {table} WHERE run_uuid = ?",
                    [(f"{number:032x}", one) for number in range(1, 1101)],
                )
        connection.close()
        found = tracker.open_children(parent.id)
        assert found.keys() == {one, *(f"{number:032x}" for number in range(1, 1101))}
        assert {tags["trial"] for tags in found.values()} == {"0"}


def test_the_run_of_a_process_that_is_gone_can_be_ended(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_API_KEY", SECRET)
    tracker = MLflowTracker(store)
    client = client_of(store)
    experiment_id = client.create_experiment("x")
    run_id = client.create_run(experiment_id, tags={"trial": "3", "state": "running"}).info.run_id
    tracker.end_run(run_id, "KILLED", {"state": "cut off", "nothing": None, "by": SECRET})
    found = stored_run(store, run_id)
    assert (found.info.status, found.data.tags["trial"]) == ("KILLED", "3")
    assert found.data.tags["state"] == "cut off"
    assert "nothing" not in found.data.tags
    assert found.data.tags["by"] == "***"
    assert found.info.end_time is not None
    other = client.create_run(experiment_id).info.run_id
    tracker.end_run(other, "FINISHED")
    assert stored_run(store, other).info.status == "FINISHED"
    tracker.mark_running(run_id)
    assert stored_run(store, run_id).info.status == "RUNNING"


SAME_DATA = """
import multiprocessing, sys
from ml_project_template import tracking

def work(barrier):
    try:
        with tracking.MLflowTracker(sys.argv[1]).start_run(experiment_name="same") as run:
            for turn in range(4):
                barrier.wait(60)
                run.log_dataset(f"data {turn}", digest="d" * 64, source="x.csv", context="train")
    except BaseException:
        barrier.abort()
        raise

if __name__ == "__main__":
    # Imported before the fork, so that the eight begin at the same instant.
    tracking.warm_up()
    fork = multiprocessing.get_context("fork")
    barrier = fork.Barrier(8)
    processes = [fork.Process(target=work, args=(barrier,), daemon=True) for _ in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    sys.exit(any(process.exitcode != 0 for process in processes))
"""


def test_eight_processes_log_the_same_data_at_the_same_instant(
    store: str, tmp_path: Path, python: list[str]
) -> None:
    done = subprocess.run(
        [*python, "-c", SAME_DATA, store],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    client = client_of(store)
    experiment = client.get_experiment_by_name("same")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert [run.info.status for run in runs] == ["FINISHED"] * 8
    for run in runs:
        assert run.inputs is not None
        names = sorted(entry.dataset.name for entry in run.inputs.dataset_inputs)
        assert names == [f"data {turn}_train" for turn in range(4)]
    connection = sqlite3.connect(store.removeprefix("sqlite:///"))
    assert connection.execute("SELECT count(*) FROM datasets").fetchone() == (4,)
    connection.close()


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Collect the runs that MLflow is asked to give a data set to."""
    from mlflow import MlflowClient

    seen: list[str] = []
    send = MlflowClient.log_inputs

    def counting(self: MlflowClient, run_id: str, *inputs: Any) -> None:
        seen.append(run_id)
        send(self, run_id, *inputs)

    monkeypatch.setattr(MlflowClient, "log_inputs", counting)
    return seen


def test_data_that_collide_every_time_are_given_up(store: str, attempts: list[str]) -> None:
    connection = sqlite3.connect(store.removeprefix("sqlite:///"))
    connection.execute(
        "CREATE TRIGGER collide BEFORE INSERT ON datasets BEGIN "
        "SELECT RAISE(ABORT, 'UNIQUE constraint failed: datasets.name'); END"
    )
    connection.close()
    with (
        pytest.raises(TrackingError, match=r"failed: UNIQUE constraint failed") as caught,
        MLflowTracker(store).start_run(experiment_name="x") as run,
    ):
        run.log_dataset("iris", digest="a", source=None, context="train")
    assert "\n" not in str(caught.value)
    assert attempts == [run.id] * 5
    assert stored_run(store, run.id).info.status == "FAILED"


def test_data_that_fail_for_another_reason_are_kept(
    store: str, workspace: Path, attempts: list[str]
) -> None:
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        rename_table(store, "datasets", "hidden")
        run.log_dataset("iris", digest="a", source=None, context="train")
        run.flush()
        assert attempts == [run.id]
    rename_table(store, "hidden", "datasets")
    assert [waiting.left for waiting in waiting_runs(store)] == [0]
    found = stored_run(store, run.id)
    assert found.inputs is not None
    assert [entry.dataset.name for entry in found.inputs.dataset_inputs] == ["iris_train"]


WARMED = """
import sys, threading
from ml_project_template import tracking

tracking.warm_up()
assert threading.enumerate() == [threading.main_thread()]
before = set(sys.modules)
with tracking.MLflowTracker(sys.argv[1]).start_run(experiment_name="x") as run:
    run.log_params({"a": 1})
    run.log_metrics({"b": 1.0})
    run.log_dataset("c", digest=None, source=None, context="train")
packages = {name.partition(".")[0] for name in before}
new = {name.partition(".")[0] for name in set(sys.modules) - before} - packages
assert not new - sys.stdlib_module_names, new
"""


def test_after_the_warm_up_a_run_imports_nothing_more(store: str, tmp_path: Path) -> None:
    # A forked worker of a sweep would import it again, each for itself.
    done = subprocess.run(
        [sys.executable, "-c", WARMED, store],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_run_that_is_gone_on_with_keeps_what_earlier_sessions_left(store: str) -> None:
    logger = logging.getLogger("sessions")
    run = Run()

    def first_session() -> None:
        nonlocal run
        with MLflowTracker(store).start_run(experiment_name="x") as run:
            logger.warning("the first session")
            run.log_params({"first": "x" * 7000})
            raise RuntimeError("lost power")

    with pytest.raises(RuntimeError, match="lost power"):
        first_session()
    assert run.id is not None
    assert "error" in stored_run(store, run.id).data.tags
    with MLflowTracker(store).continue_run(run.id) as again:
        logger.warning("the second session")
        again.log_params({"second": "y" * 7000})
    found = stored_run(store, run.id)
    assert found.info.status == "FINISHED"
    # The error was that of an end that it does not have any more.
    assert "error" not in found.data.tags
    files = Path(found.info.artifact_uri)
    assert "the first session" in (files / "logs" / "console.log").read_text()
    assert "the second session" in (files / "logs" / "console_2.log").read_text()
    assert "first" in json.loads((files / "params_long.json").read_text())
    assert "second" in json.loads((files / "params_long_2.json").read_text())


def test_a_run_is_found_by_a_tag_with_a_quote(store: str) -> None:
    tracker = MLflowTracker(store, tags={"owner": "it's me"})
    with tracker.start_run(experiment_name="x") as run:
        pass
    assert tracker.find_run("x", {"owner": "it's me"}) == run.id
    assert tracker.find_run("x", {"owner": "it's you"}) is None


def test_the_loggers_of_others_speak_up_again_after_a_run(store: str) -> None:
    names = ("mlflow", "mlflow.store.db.utils", "urllib3.connectionpool")

    def levels() -> list[int]:
        return [logging.getLogger(name).level for name in names]

    with MLflowTracker(store).start_run(experiment_name="x"):
        pass
    before = levels()
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        assert levels() == [logging.WARNING, logging.CRITICAL, logging.ERROR]
    with MLflowTracker(store).continue_run(str(run.id)):
        assert levels() == [logging.WARNING, logging.CRITICAL, logging.ERROR]
    assert levels() == before


def test_a_run_is_gone_on_with_by_the_id_it_had_before_it_could_be_made(store: str) -> None:
    local_id = "ab" * 16
    tracker = MLflowTracker(store, tags={"mlflow.localRunId": local_id})
    with tracker.start_run(experiment_name="x") as run:
        run.log_metrics({"epoch/train_loss": 1.0}, 7)
    assert tracker.last_step(local_id, "epoch/train_loss") == 7
    assert tracker.last_step(str(run.id), "unknown") == 0
    with MLflowTracker(store).continue_run(local_id) as again:
        assert again.id == run.id
    with (
        pytest.raises(TrackingError, match=f"There is no run '{'c' * 32}' at"),
        tracker.continue_run("c" * 32),
    ):
        pytest.fail("the block is not begun")
