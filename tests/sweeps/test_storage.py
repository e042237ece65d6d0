"""Where studies are kept: nothing is lost, and a lock belongs to one who lives."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import optuna
import pytest

from ml_project_template.errors import SweepError
from ml_project_template.sweeps import storage
from ml_project_template.sweeps.storage import DatabaseStore, default_storage, open_store

PASSWORD = "hunter22"


def _address(kind: str, request: pytest.FixtureRequest) -> str:
    if kind == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    folder = request.getfixturevalue("tmp_path")
    return str(folder / "studies") if kind == "journal" else f"sqlite:///{folder}/s.db"


@pytest.fixture(params=["journal", "sqlite"])
def address(request: pytest.FixtureRequest) -> str:
    return _address(request.param, request)


def _study(address: str, name: str = "s") -> optuna.Study:
    opened = open_store(address).open(name)
    return optuna.create_study(study_name=name, storage=opened, load_if_exists=True)


def _python(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Runs a function in as many processes as are asked for; an error in one of them ends it all.
_IN_PROCESSES = """
import os, sys
from ml_project_template.sweeps.storage import open_store
def in_processes(count, function):
    children = []
    for index in range(count):
        child = os.fork()
        if child == 0:
            try:
                function(index)
                os._exit(0)
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
        children.append(child)
    sys.exit(any([os.waitpid(child, 0)[1] for child in children]))
"""


def test_what_is_written_is_there_for_the_next_one(address: str) -> None:
    _study(address).set_user_attr("key", [1, None])
    assert _study(address).user_attrs["key"] == [1, None]


def test_studies_of_one_place_are_apart(address: str) -> None:
    _study(address, "one").set_user_attr("key", 1)
    assert _study(address, "two").user_attrs == {}


def test_studies_are_named_from_the_oldest_on(address: str) -> None:
    assert open_store(address).names() == []
    for name in ("zebra", "ape", "lion"):
        _study(address, name)
        # A file system tells times apart that are some milliseconds apart.
        time.sleep(0.02)
    assert open_store(address).names() == ["zebra", "ape", "lion"]


def test_the_study_of_a_folder_that_was_worked_on_last_is_named_last(tmp_path: Path) -> None:
    first = _study(str(tmp_path), "first")
    time.sleep(0.02)
    _study(str(tmp_path), "second")
    assert open_store(str(tmp_path)).names() == ["first", "second"]
    time.sleep(0.02)
    first.set_user_attr("key", 1)
    assert open_store(str(tmp_path)).names() == ["second", "first"]


def test_a_folder_names_studies_alone(tmp_path: Path) -> None:
    _study(str(tmp_path), "study.of=1")
    (tmp_path / "empty.journal").touch()
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert open_store(str(tmp_path)).names() == ["study.of=1"]


def test_a_folder_is_where_it_was_when_it_was_opened(workspace: Path) -> None:
    store = open_store("studies")
    (workspace / "elsewhere").mkdir()
    os.chdir(workspace / "elsewhere")
    optuna.create_study(study_name="s", storage=store.open("s"))
    assert (workspace / "studies" / "s.journal").is_file()
    assert store.shown == "studies"


@pytest.mark.parametrize("torn", [b'{"op_code":8,"tri', b"{", b"\0\0\0\0"])
def test_a_line_that_a_power_cut_left_unfinished_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    study = _study(str(tmp_path))
    study.tell(study.ask(), 1.0)
    journal = tmp_path / "s.journal"
    before = journal.read_bytes()
    journal.write_bytes(before + torn)
    # One that goes on with it, and one that begins anew.
    study.tell(study.ask(), 2.0)
    again = _study(str(tmp_path))
    again.tell(again.ask(), 3.0)
    assert [trial.value for trial in _study(str(tmp_path)).trials] == [1.0, 2.0, 3.0]
    text = journal.read_bytes()
    assert text.startswith(before)
    assert text.endswith(b"\n")
    for line in text.splitlines():
        json.loads(line)


def test_a_study_whose_first_line_was_cut_off_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "s.journal").write_bytes(b'{"op_code":0,"wor')
    _study(str(tmp_path)).set_user_attr("key", 1)
    assert _study(str(tmp_path)).user_attrs == {"key": 1}


@pytest.mark.parametrize(
    "text",
    [
        *("hello\nyou\n", "hello\n", "hello", "\n\n", "\0\0\0", "1\n2\n", "[]\n[]\n", "{}\n"),
        *('{"op_code": 0}\n', '{"op_code": 99}\n', "é\n" * 9),
    ],
)
def test_a_file_that_is_no_journal_is_named_in_one_line_and_left_as_it_is(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "s.journal"
    path.write_text(text, encoding="latin-1")
    before = path.read_bytes()
    with pytest.raises(SweepError) as caught:
        _study(str(tmp_path))
    assert str(caught.value) == f"sweep.storage: '{path}' is no journal of a study."
    assert path.read_bytes() == before


def test_a_journal_that_is_gone_is_an_error_each_time_and_stands_in_nobodys_way(
    tmp_path: Path,
) -> None:
    study = _study(str(tmp_path))
    (tmp_path / "s.journal").unlink()
    found: list[str] = []

    def write() -> None:
        for _ in range(2):
            try:
                study.set_user_attr("key", 1)
            except FileNotFoundError as error:
                found.append(str(error))

    # A lock that is still held would be waited for without an end.
    thread = threading.Thread(target=write, daemon=True)
    thread.start()
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert len(found) == 2
    assert all("s.journal" in each for each in found)


@pytest.mark.parametrize(
    ("folder", "why"), [("file", "File exists"), ("file/below", "Not a directory")]
)
def test_a_folder_that_cannot_be_written_is_named_in_one_line(
    tmp_path: Path, folder: str, why: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SweepError, match=f"s.journal' can't be used: {why}$"):
        open_store(str(tmp_path / folder)).open("s")


def test_a_database_in_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SweepError, match="^sweep.storage: '.*/file' can't be written: "):
        open_store(f"sqlite:///{tmp_path}/file/s.db").open("s")


def test_the_folder_of_a_database_is_made(tmp_path: Path) -> None:
    _study(f"sqlite:///{tmp_path}/new/s.db")
    assert (tmp_path / "new" / "s.db").is_file()


@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql"])
def test_processes_never_hold_the_lock_together(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    code = f"""{_IN_PROCESSES}
def hold(_):
    marker = sys.argv[2]
    store = open_store(sys.argv[1])
    for _ in range(100):
        with store.lock("s"):
            # Fails where somebody else is here.
            os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            os.sched_yield()
            os.unlink(marker)
in_processes(3, hold)
"""
    _python(code, _address(kind, request), str(tmp_path / "marker"))


@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql"])
def test_the_lock_is_free_at_once_when_its_holder_is_killed(
    kind: str, request: pytest.FixtureRequest
) -> None:
    address = _address(kind, request)
    take = (
        "import sys, time\n"
        "from ml_project_template.sweeps.storage import open_store\n"
        "with open_store(sys.argv[1]).lock('t'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(float(sys.argv[2]))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", take, address, "600"], stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        holder.send_signal(signal.SIGKILL)
    assert _python(take, address, "0") == "held\n"


def test_a_lock_is_given_back_after_an_error(address: str) -> None:
    store = open_store(address)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), store.lock("s"):
            _ = 1 / 0


def test_processes_that_write_at_once_lose_nothing(tmp_path: Path) -> None:
    code = f"""{_IN_PROCESSES}
import optuna
def write(index):
    storage = open_store(sys.argv[1]).open("s")
    study = optuna.load_study(study_name="s", storage=storage)
    for number in range(25):
        study.set_user_attr(f"{{index}}-{{number}}", number)
in_processes(8, write)
"""
    _study(str(tmp_path))
    _python(code, str(tmp_path))
    written = {f"{index}-{number}": number for index in range(8) for number in range(25)}
    assert _study(str(tmp_path)).user_attrs == written


def test_the_tables_of_a_database_are_made_once_by_many(tmp_path: Path) -> None:
    code = f"""{_IN_PROCESSES}
import optuna, optuna.storages._rdb.models
def write(index):
    storage = open_store(sys.argv[1]).open(str(index))
    optuna.create_study(study_name=str(index), storage=storage)
in_processes(4, write)
"""
    address = f"sqlite:///{tmp_path}/s.db"
    _python(code, address)
    assert sorted(open_store(address).names()) == ["0", "1", "2", "3"]


def test_studies_stand_beside_the_database_of_the_runs(workspace: Path) -> None:
    assert default_storage("sqlite:////data/runs/mlflow.db") == "/data/runs/.sweeps"
    assert default_storage(None) == str(workspace / ".sweeps")
    assert default_storage("http://host:5000") == str(workspace / ".sweeps")


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("nonsense://me:{}@host/name", "'nonsense://host/name' is no database: .*nonsense"),
        ("mysql+doesnotexist://me:{}@host/name", "'mysql.*://host/name' is no database"),
        ("not a url://me:{}@host/name", "is no database: Could not parse"),
        ("mssql+pyodbc://me:{}@host/name", "'mssql.pyodbc://host/name' needs a driver: .*pyodbc"),
        ("postgresql+psycopg://me:{}@host:xx/name", "'.*://host:xx/name' is no database"),
        ("sqlite://", "'sqlite://' has no lock that workers could share"),
    ],
)
def test_a_database_that_cannot_be_used_is_named_without_its_password(
    address: str, why: str
) -> None:
    store = open_store(address.format(PASSWORD))
    for use in (store.names, lambda: store.open("s")):
        with pytest.raises(SweepError, match=why) as caught:
            use()
        assert PASSWORD not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("password", ["hunter/22", "hun?ter22", "hun#ter22", "hunt@er22"])
def test_a_password_may_hold_what_ends_a_host_elsewhere(password: str) -> None:
    for scheme in ("nonsense", "mssql+pyodbc"):
        with pytest.raises(SweepError, match=f"'{re.escape(scheme)}://host/name' ") as caught:
            open_store(f"{scheme}://me:{password}@host/name").open("s")
        assert password not in str(caught.value)


def test_a_file_that_is_no_database_is_named_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "s.db"
    path.write_text("no database\n" * 99, encoding="utf-8")
    store = open_store(f"sqlite:///{path}")
    for use in (store.names, lambda: store.open("s")):
        with pytest.raises(SweepError, match=r"s\.db' can't be used: .*file is not a database$"):
            use()


def test_a_server_that_refuses_us_is_named_without_its_password(postgresql: str) -> None:
    host = postgresql.rpartition("@")[2].partition("/")[0]
    address = f"postgresql+psycopg://tester:{PASSWORD}@{host}/no_such_database"
    with pytest.raises(SweepError, match="can't be used: .*no_such_database") as caught:
        open_store(address).open("s")
    assert PASSWORD not in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_a_lock_that_a_server_does_not_give_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    # SQLite in memory stands for a server whose lock somebody else has held for too long.
    refuses = ("SELECT :key IS NULL", "SELECT :key")
    monkeypatch.setitem(storage._ADVISORY_LOCKS, "sqlite", refuses)
    store = DatabaseStore("sqlite://")
    with pytest.raises(SweepError, match="'sqlite://' is held by somebody else"), store.lock("s"):
        pass
