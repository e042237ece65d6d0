"""Which process it was, and whether it still lives."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from ml_project_template.utils import processes
from ml_project_template.utils.processes import ProcessId, is_running, this_process

_NAME_AND_WAIT = (
    "import json, sys\n"
    "from ml_project_template.utils.processes import this_process\n"
    "print(json.dumps(this_process().to_dict()), flush=True)\n"
    "sys.stdin.read()\n"
)


@pytest.fixture
def other() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", _NAME_AND_WAIT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def _named(process: subprocess.Popen[str]) -> ProcessId:
    assert process.stdout is not None
    return ProcessId.from_dict(json.loads(process.stdout.readline()))


def test_this_process_lives_and_is_the_same_each_time() -> None:
    assert this_process().pid == os.getpid()
    assert this_process().is_alive() is True
    assert this_process() == this_process()


def test_another_process_lives_until_it_is_killed(other: subprocess.Popen[str]) -> None:
    named = _named(other)
    assert named.pid == other.pid
    assert named.machine == this_process().machine
    assert named != this_process()
    assert named.is_alive() is True
    other.kill()
    other.wait()
    assert named.is_alive() is False
    assert not is_running(other.pid)


def test_one_that_has_ended_and_that_its_parent_has_not_noticed_is_dead(
    other: subprocess.Popen[str],
) -> None:
    named = _named(other)
    other.send_signal(signal.SIGKILL)
    # Waits for its end, and leaves it to be noticed later.
    os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
    os.kill(other.pid, 0)
    assert not is_running(other.pid)
    assert named.is_alive() is False


def test_a_later_process_of_the_same_number_is_another() -> None:
    earlier = dataclasses.replace(this_process(), started=this_process().started - 1)
    assert earlier.is_alive() is False


def test_a_process_of_another_machine_cannot_be_asked() -> None:
    far = dataclasses.replace(this_process(), machine="elsewhere")
    assert far.is_alive() is None


def test_a_process_is_named_as_plain_json() -> None:
    state = json.loads(json.dumps(this_process().to_dict()))
    assert set(state) == {"machine", "pid", "started"}
    assert ProcessId.from_dict(state) == this_process()


def test_a_number_that_nobody_has_is_not_running() -> None:
    # More than any kernel gives (PID_MAX_LIMIT).
    assert not is_running(2**22 + 1)
    assert ProcessId(this_process().machine, 2**22 + 1, 0).is_alive() is False
    # More than the system takes at all.
    assert not is_running(2**80)


def test_a_process_of_somebody_else_runs_though_it_cannot_be_signalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(_pid: int, _signal: int) -> None:
        raise PermissionError

    # Whether init may be signalled depends on who runs the tests.
    monkeypatch.setattr(os, "kill", refuse)
    assert is_running(1)


def test_a_process_whose_name_looks_like_fields_is_told_by_its_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The name of a process is its program's, and can be anything.
    code = (
        "import ctypes, sys\n"
        "ctypes.CDLL(None).prctl(15, b'a) Z 1 (b', 0, 0, 0)\n"
        f"{_NAME_AND_WAIT.replace('import json, sys', 'import json')}"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        named = _named(process)
        assert named.started > this_process().started
        assert named.is_alive() is True
        process.kill()


def test_a_system_that_tells_no_times_has_numbers_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_stat", lambda _pid: [])
    assert this_process().started == 0
    assert this_process().is_alive() is True
