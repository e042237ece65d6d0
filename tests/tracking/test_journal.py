"""What could not be sent, on the disk."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path
from typing import Any

import filelock
import pytest

from ml_project_template.errors import TrackingError
from ml_project_template.tracking import MLflowTracker, waiting_runs
from ml_project_template.tracking.journal import Journal, list_journals
from ml_project_template.tracking.operations import Operation, RunAddress, Sender

RUN = RunAddress("http://tracking:5000", "a" * 32, "1")


def metrics(value: float) -> Operation:
    return Operation("metrics", {"rows": [["loss", value, 1, 0]]})


def test_what_is_kept_is_read_back_in_order_with_its_files(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "weights").write_bytes(b"\x00\x01")
    journal = Journal.create(tmp_path / "runs", RUN)
    model = Operation("model", {"name": "model", "upload": "u"}, folder)
    for operation in (metrics(0.5), Operation("artifact", {"path": "plots/x.png"}, b"png"), model):
        journal.append(operation)
    journal.close()

    [found] = list_journals(tmp_path / "runs")
    again = Journal.open(found)
    assert again is not None
    assert again.run == RUN
    assert not again.ended
    assert [operation.kind for operation in again.pending.values()] == [
        "metrics",
        "artifact",
        "model",
    ]
    first, picture, copy = again.pending.values()
    assert first == metrics(0.5)
    assert isinstance(picture.data, Path)
    assert (picture.data.name, picture.data.read_bytes()) == ("x.png", b"png")
    assert isinstance(copy.data, Path)
    assert (copy.data / "data" / "weights").read_bytes() == b"\x00\x01"
    assert (picture.size, copy.size) == (3, 2)

    again.mark_sent(0)
    again.mark_sent(1)
    assert not picture.data.exists()
    again.close()
    last = Journal.open(found)
    assert last is not None
    assert [*last.pending] == [2]
    last.mark_sent(2)
    last.close()
    assert list(tmp_path.iterdir()) == [folder]


def test_values_that_are_no_numbers_are_kept(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, RUN)
    journal.append(metrics(float("inf")))
    journal.close()
    again = Journal.open(journal.folder)
    assert again is not None
    assert again.pending[0].content["rows"][0][1] == float("inf")
    again.close()


@pytest.mark.parametrize("torn", ['{"sent": 0', '{"number": 1, "kind": "met', "\x00\x00\x00"])
def test_a_last_line_without_an_end_does_not_count(torn: str, tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, RUN)
    journal.append(metrics(0.5))
    journal.close()
    with (journal.folder / "journal.jsonl").open("a") as file:
        file.write(torn)
    again = Journal.open(journal.folder)
    assert again is not None
    assert [*again.pending] == [0]
    again.append(metrics(0.25))
    again.close()
    last = Journal.open(journal.folder)
    assert last is not None
    assert [*last.pending.values()] == [metrics(0.5), metrics(0.25)]
    last.close()


def test_a_damaged_line_costs_no_other(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, RUN)
    for value in (0.5, 0.25, 0.125):
        journal.append(metrics(value))
    journal.close()
    path = journal.folder / "journal.jsonl"
    lines = path.read_text().splitlines()
    lines[2] = lines[2][:10] + "\x00" + lines[2][11:]
    path.write_text("\n".join(lines) + "\n")
    again = Journal.open(journal.folder)
    assert again is not None
    assert [*again.pending.values()] == [metrics(0.5), metrics(0.125)]
    again.close()


def test_a_journal_of_nobody_knows_what_is_told_and_left_alone(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, RUN)
    journal.append(metrics(0.5))
    journal.close()
    path = journal.folder / "journal.jsonl"
    path.write_text(path.read_text().split("\n", 1)[1])
    [waiting] = waiting_runs("sqlite:///none.db", tmp_path)
    assert waiting.problem is not None
    assert "does not say which run it is about" in waiting.problem
    assert path.is_file()


@pytest.mark.parametrize("head", [None, "", '{"format": 1, "kept_at": 17'])
def test_a_journal_that_was_being_made_when_its_run_was_killed_is_removed(
    head: str | None, tmp_path: Path
) -> None:
    journal = Journal.create(tmp_path / "unsent" / "runs", RUN)
    journal.append(metrics(0.5))
    path = journal.folder / "journal.jsonl"
    journal.close()
    path.unlink()
    if head is not None:
        path.write_text(head)
    assert list(waiting_runs("sqlite:///none.db", tmp_path / "unsent" / "runs")) == []
    assert [*tmp_path.iterdir()] == []


def test_a_lock_without_a_journal_is_removed_unless_somebody_has_it(tmp_path: Path) -> None:
    root = tmp_path / "unsent" / "runs"
    root.mkdir(parents=True)
    held = filelock.FileLock(f"{root / ('b' * 32)}.lock")
    (root / f"{'a' * 32}.lock").touch()
    with held:
        assert [waiting.left for waiting in waiting_runs("sqlite:///none.db", root)] == [0]
        assert [path.name[0] for path in root.iterdir()] == ["b"]
    assert list(waiting_runs("sqlite:///none.db", root)) == []
    assert [*tmp_path.iterdir()] == []


def test_a_folder_without_any_journal_is_removed(tmp_path: Path) -> None:
    root = tmp_path / "unsent" / "runs"
    root.mkdir(parents=True)
    assert list_journals(root) == []
    assert [*tmp_path.iterdir()] == []


def test_one_process_at_a_time_has_a_journal(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path, RUN)
    journal.append(metrics(0.5))
    with pytest.raises(TrackingError, match="in use by a run that has not ended"):
        Journal.open(journal.folder)
    [waiting] = waiting_runs("sqlite:///none.db", tmp_path)
    assert waiting.problem is not None
    assert "in use" in waiting.problem
    # A run that is gone on with meanwhile keeps what it has to tell in one of its own.
    other = Journal.create(tmp_path, RUN)
    assert other.folder.name == f"{RUN.run_id}-2"
    for each in (journal, other):
        each.close()
    assert list_journals(tmp_path) == [journal.folder]


def test_a_disk_that_is_full_tears_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.create(tmp_path, RUN)
    journal.append(metrics(0.5))
    real = Path.open

    class Full:
        """A file on a disk with room for ten more bytes."""

        def __init__(self, file: Any) -> None:
            self.file = file

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            written: int = self.file.write(data[:10])
            return written

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda *args, **kw: Full(real(*args, **kw)))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            journal.append(metrics(0.25))
    journal.append(metrics(0.125))
    journal.close()
    again = Journal.open(journal.folder)
    assert again is not None
    assert [*again.pending.values()] == [metrics(0.5), metrics(0.125)]
    again.close()


def test_where_nothing_can_be_kept_the_training_goes_on(
    store: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (workspace / ".unsent").write_text("no folder")

    def fail(*_: object) -> None:
        raise ConnectionError("gone")

    with MLflowTracker(store).start_run(experiment_name="x") as run:
        monkeypatch.setattr(Sender, "send_together", fail)
        run.log_tags({"a": 1})
        run.log_params({"b": 1})
    assert caplog.text.count("can't be kept in") == 1
    assert re.search(r"Not all of this run was sent: \d entries are lost\.", caplog.text)


@pytest.mark.parametrize("session", [1, 2])
def test_an_end_that_is_told_late_does_not_end_what_was_gone_on_with(
    session: int, store: str, workspace: Path
) -> None:
    from mlflow import MlflowClient

    tracker = MLflowTracker(store)
    with tracker.start_run(experiment_name="x") as run:
        pass
    address = RunAddress(store, str(run.id), str(run.experiment_id), session)
    with tracker.continue_run(str(run.id)):
        journal = Journal.create(workspace / "runs", address)
        journal.append(Operation("end", {"status": "FAILED", "end_time": 1}))
        journal.close()
        assert [waiting.left for waiting in waiting_runs(store, workspace / "runs")] == [0]
        status = MlflowClient(store).get_run(str(run.id)).info.status
        assert status == ("RUNNING" if session == 1 else "FAILED")


def test_what_the_server_refuses_is_told_and_kept(store: str, workspace: Path) -> None:
    with MLflowTracker(store).start_run(experiment_name="x") as run:
        run.log_params({"a": 1})
    journal = Journal.create(
        workspace / "runs", RunAddress(store, str(run.id), str(run.experiment_id))
    )
    for value in (2, 3):
        journal.append(Operation("params", {"rows": {"a" if value == 2 else "b": str(value)}}))
    journal.close()
    [waiting] = waiting_runs(store, workspace / "runs")
    assert (waiting.sent, waiting.left) == (1, 1)
    assert waiting.problem is not None
    assert "Changing param values is not allowed" in waiting.problem
    assert json.loads((journal.folder / "journal.jsonl").read_text().splitlines()[1])["number"] == 0
