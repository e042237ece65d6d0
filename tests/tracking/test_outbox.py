"""How little a run asks of MLflow, and that nobody waits for it."""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ml_project_template.errors import TrackingError
from ml_project_template.models.registry import ModelRegistry
from ml_project_template.tracking import (
    MLflowTracker,
    Run,
    RunReporter,
    UnreachableError,
    operations,
    outbox,
)
from ml_project_template.tracking.database import write_rows
from ml_project_template.tracking.journal import Journal, list_journals
from ml_project_template.tracking.operations import (
    Opening,
    Operation,
    RunAddress,
    Sender,
    joined,
)
from ml_project_template.tracking.outbox import Outbox
from tests.servers import wait_until

if TYPE_CHECKING:
    from ml_project_template.models.base import BaseModel

EPOCHS = 100


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """What a run asks of MLflow's store; a second that lasts for the whole of a slow test."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    counted: Counter[str] = Counter()

    def counting(name: str) -> Any:
        ask = getattr(SqlAlchemyStore, name)

        def asked(self: Any, *args: Any, **kwargs: Any) -> Any:
            if not depth.value:
                counted[name] += 1
            depth.value += 1
            try:
                return ask(self, *args, **kwargs)
            finally:
                depth.value -= 1

        return asked

    class Depth(threading.local):
        value = 0

    depth = Depth()
    for name in vars(SqlAlchemyStore):
        verbs = ("get_", "search_", "create_", "log_", "set_", "update_", "delete_", "record_")
        if name.startswith(verbs):
            monkeypatch.setattr(SqlAlchemyStore, name, counting(name))
    monkeypatch.setattr(outbox, "_SEND_SECONDS", 600.0)
    return counted


def tell(run: Run) -> None:
    """Tell what a training of a hundred epochs tells."""
    run.log_params({f"training.p{number}": number for number in range(40)})
    run.log_tags({"model": "mlp_classifier"})
    run.log_text("a: 1\n", "config.yaml")
    for split in ("train", "val", "test"):
        run.log_dataset("iris", digest="a" * 64, source=None, context=split)
    reporter = RunReporter(run)
    for epoch in range(1, EPOCHS + 1):
        reporter.report(epoch, {f"m{number}": 1 / epoch for number in range(5)}, EPOCHS)
    run.log_metrics({"val_accuracy": 0.9})


@pytest.mark.parametrize("by_mlflow", [False, True])
def test_a_run_of_a_hundred_epochs_asks_little(
    by_mlflow: bool, store: str, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Any] = []

    def counting(*args: Any, **kwargs: Any) -> bool:
        written.append(kwargs)
        return not by_mlflow and write_rows(*args, **kwargs)

    monkeypatch.setattr(operations, "write_rows", counting)
    if by_mlflow:
        monkeypatch.setattr(operations, "write_inputs", lambda *_: False)
    tracker = MLflowTracker(store)
    with tracker.start_run(experiment_name="x"):
        pass
    calls.clear()
    with tracker.start_run(experiment_name="x") as run:
        tell(run)
    # A transaction each, but for the first; none of them once for each epoch.
    asked = {"get_experiment_by_name", "create_run", "update_run_info"}
    assert calls == dict.fromkeys(asked | ({"log_batch", "log_inputs"} if by_mlflow else set()), 1)
    assert [len(rows["metrics"]) for rows in written] == [5 * EPOCHS + 1]


def test_a_run_below_another_asks_no_more(store: str, calls: Counter[str]) -> None:
    tracker = MLflowTracker(store)
    with tracker.start_run(experiment_name="x") as parent:
        parent.flush()
        calls.clear()
        with tracker.below(parent, tags={"trial": 1}).start_run(experiment_name="x") as run:
            tell(run)
            run.log_tags({"trial_state": "complete"})
            run.flush()
        assert sum(calls.values()) == 3, calls


def test_the_metrics_of_a_run_appear_while_it_goes_on(store: str) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(store)
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        run.log_metrics({"loss": 0.5}, step=1)
        # Nothing more is told, and it is sent all the same.
        wait_until(lambda: client.get_run(str(run.id)).data.metrics == {"loss": 0.5})


def writers() -> int:
    return sum(thread.name == "outbox" for thread in threading.enumerate())


def test_a_run_has_one_writer_and_one_more_for_files(store: str) -> None:
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        assert writers() == 0
        run.log_metrics({"loss": 0.5})
        run.log_params({"a": 1})
        assert writers() == 1
        run.log_text("hello", "hello.txt")
        assert writers() == 2
    assert writers() == 0


class Held(Sender):
    """Sends nothing until it is let go, and remembers what it has sent."""

    def __init__(self, refused: Sequence[Operation] = ()) -> None:
        self.go = threading.Event()
        self.sent: list[list[Operation]] = []
        self.refused = refused

    def send_together(self, operations: Sequence[Operation]) -> None:
        assert self.go.wait(60)
        if any(operation in self.refused for operation in operations):
            raise TrackingError("never")
        self.sent.append([*operations])


ADDRESS = RunAddress("sqlite:///nowhere.db", "1" * 32, "1")


@pytest.fixture
def held() -> Iterator[Held]:
    sender = Held()
    yield sender
    sender.go.set()


def params(**rows: str) -> Operation:
    return Operation("params", {"rows": rows})


def metrics(number: int) -> Operation:
    return Operation("metrics", {"rows": [("loss", 0.5, 0, step) for step in range(number)]})


@pytest.mark.usefixtures("_forgetful")
def test_whoever_reports_does_not_wait_for_whoever_sends(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_SEND_SECONDS", 0.01)
    box = Outbox(held, ADDRESS, tmp_path)
    box.put_metrics([("loss", 0.5, 0, 0)])
    wait_until(lambda: bool(box._deadlines))
    # The first is on its way, and stays there.
    for step in range(1, 2500):
        box.put_metrics([("loss", 0.5, 0, step)])
    box.put(params(a="1"))
    assert held.sent == []
    held.go.set()
    box.flush()
    assert box.close() == 0
    rows = [
        row
        for batch in held.sent
        for op in batch
        if op.kind == "metrics"
        for row in op.content["rows"]
    ]
    assert [row[3] for row in rows] == [*range(2500)]
    assert max(len(op.content["rows"]) for batch in held.sent for op in batch) <= 1000
    assert not any(tmp_path.iterdir())


def test_what_is_on_its_way_when_a_run_is_stopped_is_kept(
    held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_LITTLE_PATIENCE", 0.1)
    box = Outbox(held, ADDRESS, tmp_path)
    text = Operation("artifact", {"path": "a.txt"}, b"hello")
    box.put(text)
    wait_until(lambda: True in box._deadlines)
    assert box.close(hurry=True) == 1
    assert box.folder is not None
    journal = Journal.open(box.folder)
    assert journal is not None
    [kept] = journal.pending.values()
    journal.close()
    assert (kept.kind, kept.content) == (text.kind, text.content)


@pytest.mark.parametrize("is_full", [False, True])
def test_a_model_is_sent_whole_though_it_was_kept_while_it_was_sent(
    is_full: bool,
    store: str,
    model: BaseModel,
    model_directory: str,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from mlflow import MlflowClient

    on_its_way, kept = threading.Event(), threading.Event()
    send_files, rows = MlflowClient.log_model_artifacts, iter([True])

    def send_late(client: MlflowClient, model_id: str, folder: str) -> None:
        on_its_way.set()
        assert kept.wait(60)
        send_files(client, model_id, folder)

    def fail_once(*args: Any, **kwargs: Any) -> bool:
        if next(rows, False):
            assert on_its_way.wait(60)
            raise UnreachableError("not now")
        return write_rows(*args, **kwargs)

    def find_it_full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", send_late)
    monkeypatch.setattr(operations, "write_rows", fail_once)
    monkeypatch.setattr(outbox, "_FIRST_PAUSE", 0.01)
    if is_full:
        monkeypatch.setattr(Journal, "append", find_it_full)
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        run.log_params({"a": 1})
        assert model.signature is not None
        run.log_model(model_directory, signature=model.signature, sample=model.signature.sample)
        kept.set()
    [logged] = MlflowClient(store).search_logged_models([str(run.experiment_id)])
    assert str(logged.status) == "READY"
    folder = Path(logged.artifact_location.removeprefix("file://"))
    loaded: BaseModel = ModelRegistry.load(folder / "data" / Path(model_directory).name)
    assert loaded.signature == model.signature
    assert not any(workspace.glob(".unsent/**/*.*"))


def test_its_size_is_known_wherever_its_data_are_by_now(tmp_path: Path) -> None:
    (tmp_path / "model" / "deep").mkdir(parents=True)
    (tmp_path / "model" / "a").write_bytes(b"abc")
    (tmp_path / "model" / "deep" / "b").write_bytes(b"de")
    sent = [
        (operations.model_operation(tmp_path / "model"), 5),
        (Operation("artifact", {"path": "a"}, b"abc"), 3),
        (Operation("artifact", {"path": "a"}, tmp_path / "model" / "a"), 3),
        (params(a="1"), 0),
    ]
    for operation, size in sent:
        operation.data = tmp_path / "gone"
        assert operation.size == size


def test_one_that_is_refused_takes_none_of_the_others_along(tmp_path: Path) -> None:
    wrong = params(a="2")
    sender = Held(refused=[wrong])
    box = Outbox(sender, ADDRESS, tmp_path)
    box.put(params(b="1"))
    box.put(wrong)
    box.put(params(c="1"))
    sender.go.set()
    with pytest.raises(TrackingError, match="never"):
        box.flush()
    # It was told once, and is forgotten.
    box.put(params(d="1"))
    assert box.close() == 0
    assert [op for batch in sender.sent for op in batch] == [params(**{k: "1"}) for k in "bcd"]


def test_what_was_refused_is_told_at_the_next_occasion_and_fails_the_run(store: str) -> None:
    from mlflow import MlflowClient

    def contradict(run: Run) -> None:
        run.log_params({"a": 1})
        run.log_params({"a": 2})
        run.log_metrics({"loss": 0.5})

    with (
        pytest.raises(TrackingError, match="Changing param values is not allowed"),
        MLflowTracker(store).start_run(experiment_name="x") as run,
    ):
        contradict(run)
    found = MlflowClient(store).get_run(str(run.id))
    assert found.info.status == "FAILED"
    assert (found.data.params, found.data.metrics) == ({"a": "1"}, {"loss": 0.5})


@pytest.mark.parametrize("is_file", [False, True])
@pytest.mark.usefixtures("_forgetful")
def test_what_is_sent_for_too_long_is_kept(
    is_file: bool, held: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_SEND_SECONDS", 0.01)
    monkeypatch.setattr(outbox, "_PATIENCE", 0.05)
    box = Outbox(held, ADDRESS, tmp_path / "runs")
    if is_file:
        box.put(Operation("artifact", {"path": "a.txt"}, b"hello"))
    else:
        box.put(params(a="1"))
        wait_until(lambda: bool(box._deadlines))
        # Its own thread waits: the one for files sees to it, or whoever tells something.
        time.sleep(0.1)
        box.put_metrics([("loss", 0.5, 0, 1)])
    wait_until(lambda: box.folder is not None)
    held.go.set()
    assert box.close() == 0


@pytest.mark.usefixtures("_forgetful")
def test_metrics_are_kept_while_nothing_can_be_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "_SEND_SECONDS", 0.01)

    class Away(Held):
        def send_together(self, operations: Sequence[Operation]) -> None:
            raise UnreachableError("away")

    box = Outbox(Away(), ADDRESS, tmp_path / "runs")
    box.put_metrics([("loss", 0.5, 0, 1)])
    wait_until(lambda: box.folder is not None)
    box.put_metrics([("loss", 0.5, 0, 2)])
    assert box.folder is not None
    written = box.folder / "journal.jsonl"
    # In a second, long before it is tried again.
    wait_until(lambda: len(written.read_text().splitlines()) == 3)
    box.close()
    journal = Journal.open(box.folder)
    assert journal is not None
    steps = [row[3] for op in journal.pending.values() for row in op.content["rows"]]
    assert steps == [1, 2]
    journal.close()


def test_a_run_that_is_made_later_is_kept_before_those_below_it(held: Held, tmp_path: Path) -> None:
    opening = Opening("x", "a trial", {}, 0)
    above, below = (
        Outbox(held, RunAddress("sqlite:///nowhere.db", run_id * 32, "", opening=opening), tmp_path)
        for run_id in "ba"
    )
    # The one below has something to tell first.
    for box in (below, above):
        box.put(params(a="1"))
    assert [folder.name[0] for folder in list_journals(tmp_path)] == ["b", "a"]
    held.go.set()
    assert below.close() == above.close() == 0


@pytest.mark.parametrize(
    ("operations", "chosen"),
    [
        ([metrics(1), params(a="1"), metrics(2)], [0, 1, 2]),
        ([metrics(999), metrics(2), params(a="1")], [0]),
        ([metrics(999), params(a="1"), params(b="1")], [0, 1]),
        ([metrics(5000), params(a="1")], [0]),
        # Twice the same name in one request is an error, even with one value.
        ([params(a="1"), params(a="1"), params(b="1")], [0]),
        (
            [Operation("tags", {"rows": {"a": "1"}}), Operation("tags", {"rows": {"a": "2"}})],
            [0, 1],
        ),
        ([Operation("inputs", {}), metrics(1), Operation("inputs", {})], [0, 2]),
        ([metrics(1), Operation("inputs", {}), Operation("end", {}), metrics(1)], [0, 3]),
        ([Operation("end", {}), Operation("end", {})], [0]),
        ([Operation("artifact", {}, b""), Operation("artifact", {}, b"")], [0]),
    ],
)
def test_what_goes_into_one_request(operations: list[Operation], chosen: list[int]) -> None:
    assert joined(operations) == chosen
