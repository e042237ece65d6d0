"""Worker processes: their share of the machine, their end, and what replaces them."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_project_template.sweeps import pool
from ml_project_template.sweeps.pool import Share, shares, visible_gpus
from ml_project_template.utils.processes import is_running

# How long a process that should do something is given, on a busy machine.
_PATIENCE = 90.0

# Imported by workers, which can't import a test.
_TRIALS = """
import os, signal, sys, time
from pathlib import Path

HERE = Path(__file__).parent

def plain(trial):
    # Both workers take one of the first two.
    (HERE / f"worker-{os.getpid()}.pid").touch()
    while len(list(HERE.glob("worker-*.pid"))) < 2:
        time.sleep(0.01)
    print(f"trial {trial.number} speaks")
    os.write(2, b"and a library of it\\n")
    # As Ctrl-C on a terminal, which is for the process that watches.
    os.kill(os.getpid(), signal.SIGINT)
    if trial.number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    trial.complete(
        {"val_loss": trial.params["x"]},
        pid=os.getpid(),
        parent=os.getppid(),
        cores=sorted(os.sched_getaffinity(0)),
        threads=os.environ["OMP_NUM_THREADS"],
        gpu=os.environ.get("CUDA_VISIBLE_DEVICES"),
        preloaded="preloaded" in sys.modules,
        called=getattr(sys.modules.get("preloaded"), "called", None),
    )

def endless(trial):
    if trial.number == 1:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    (HERE / f"{trial.number}.new").write_text(str(os.getpid()), encoding="ascii")
    (HERE / f"{trial.number}.new").rename(HERE / f"{trial.number}.pid")
    while True:
        time.sleep(0.05)

def exiting(trial):
    print("error: of the model's own")
    # 79 is what a worker itself exits with that can't work.
    codes = [0, 1, 79, "error: bye"]
    if trial.number < len(codes):
        sys.exit(codes[trial.number])
    trial.complete({"val_loss": 1.0}, pid=os.getpid())

def deadly(trial):
    print("about to die", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""

_PRELOADED = """
import os
from pathlib import Path
called = None
with (Path(__file__).parent / "imports.txt").open("a", encoding="ascii") as imports:
    print(os.getpid(), file=imports)
def call():
    global called
    called = os.getpid()
"""

_SCENARIO = """
import dataclasses, json, os, sys, time
from pathlib import Path
import trials
from optuna.distributions import FloatDistribution
from ml_project_template.errors import ProjectError
from ml_project_template.sweeps import pool
from ml_project_template.sweeps.pool import Pool, start_imports
from ml_project_template.sweeps.results import Objective
from ml_project_template.sweeps.study import StudySettings, SweepStudy

HERE = Path(__file__).parent
settings = StudySettings(
    name="study", storage=str(HERE / "studies"), objectives=(Objective("val_loss", "minimize"),),
    distributions={"x": FloatDistribution(0.0, 1.0)}, n_trials=6, sampler="random", seed=1,
)

def begin(run, n_jobs=2, settings=settings):
    return Pool(n_jobs, settings, run, log_directory=HERE / "logs" / "deep")

def tell(**found):
    print(json.dumps(found))

def both_run():
    while not all((HERE / f"{number}.pid").exists() for number in (0, 1)):
        time.sleep(0.01)

def complete():
    start_imports(["no_such_module", "preloaded", "preloaded:call"])
    with begin(trials.plain) as workers:
        while workers.wait(0.1):
            workers.trial_ended()
    study = SweepStudy(settings)
    facts = [t.user_attrs["facts"] for t in study.optuna.trials if t.state.name == "COMPLETE"]
    tell(me=os.getpid(), states=study.trial_states(), facts=facts, cores=sorted(pool._cores()),
         environment=[name for name in os.environ if "PRELOAD" in name])

def stopped():
    pool._STOP_SECONDS = 3.0
    with begin(trials.endless) as workers:
        both_run()
        assert workers.wait(0.0)
    tell(states=SweepStudy(settings).trial_states(), left=workers.wait(0.0))

def abandoned():
    with begin(trials.endless) as workers:
        while workers.wait(1.0):
            pass

def exits():
    with begin(trials.exiting, 1) as workers:
        while workers.wait(1.0):
            pass
    study = SweepStudy(settings)
    pids = [t.user_attrs["facts"].get("pid") for t in study.optuna.trials]
    tell(states=study.trial_states(), workers=len(set(pids[4:])),
         errors=[trial.error for trial in study.results().failed])

def broken():
    (HERE / "file").touch()
    bad = dataclasses.replace(settings, storage=str(HERE / "file"))
    found = []
    for case in (bad, settings):
        try:
            with begin(trials.deadly, 1, case) as workers:
                while workers.wait(1.0):
                    pass
        except ProjectError as error:
            found.append(str(error))
    tell(errors=found, states=SweepStudy(settings).trial_states())

if __name__ == "__main__":
    globals()[sys.argv[1]]()
"""


@dataclasses.dataclass
class Finished:
    folder: Path
    found: dict[str, Any]
    printed: list[str]
    errors: str

    def log(self, index: int) -> str:
        path = self.folder / "logs" / "deep" / f"worker-{index}.log"
        return path.read_text(encoding="utf-8")


def _write(folder: Path) -> None:
    for name, text in (("trials", _TRIALS), ("preloaded", _PRELOADED), ("scenario", _SCENARIO)):
        (folder / f"{name}.py").write_text(text, encoding="utf-8")


def _command(folder: Path, scenario: str) -> tuple[list[str], dict[str, str]]:
    _write(folder)
    path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    environment = {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": "GPU-a, GPU-b"}
    return [sys.executable, str(folder / "scenario.py"), scenario], environment


def _run(folder: Path, scenario: str) -> Finished:
    command, environment = _command(folder, scenario)
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout.splitlines()
    return Finished(folder, json.loads(printed[-1]), printed, done.stderr)


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A sweep of six trials by two workers, of which one is killed by its trial."""
    return _run(tmp_path_factory.mktemp("pool"), "complete")


def test_trials_run_in_worker_processes(finished: Finished) -> None:
    pids = {fact["pid"] for fact in finished.found["facts"]}
    assert len(pids) >= 2
    assert finished.found["me"] not in pids


def test_a_worker_that_is_killed_is_replaced_and_its_trial_run_again(finished: Finished) -> None:
    states = finished.found["states"]
    assert states.pop("2") == "cut off"
    assert list(states.values()) == ["complete"] * 6


def test_each_worker_has_its_share_of_the_machine(finished: Finished) -> None:
    expected = shares(2, finished.found["cores"], ["GPU-a", "GPU-b"])
    allowed = {(share.cores, share.gpu) for share in expected}
    seen = {(tuple(fact["cores"]), fact["gpu"]) for fact in finished.found["facts"]}
    assert seen == allowed
    # The tests ask for one thread.
    assert {fact["threads"] for fact in finished.found["facts"]} == {"1"}


@pytest.mark.parametrize(
    ("asked", "threads"), [(None, 4), ("2", 2), ("8", 4), ("0", 4), ("many", 4), ("", 4)]
)
def test_a_worker_has_a_thread_for_each_processor_or_as_many_as_it_is_asked_to(
    asked: str | None, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert pool._threads(4) == threads


def test_imports_are_paid_for_once(finished: Finished) -> None:
    imported = (finished.folder / "imports.txt").read_text(encoding="ascii").split()
    # By the process that the workers are forked from.
    (parent,) = {fact["parent"] for fact in finished.found["facts"]}
    assert imported == [str(parent)]
    for fact in finished.found["facts"]:
        assert fact["preloaded"]
        assert fact["called"] == parent
    assert finished.found["environment"] == []


def test_what_workers_print_goes_to_their_logs(finished: Finished) -> None:
    assert len(finished.printed) == 1
    assert finished.errors == ""
    logs = [finished.log(index) for index in (0, 1)]
    for number in finished.found["states"]:
        assert sum(f"trial {number} speaks" in log for log in logs) <= 1
    assert all("speaks\n" in log and "and a library of it\n" in log for log in logs)


def test_workers_give_back_their_trials_or_are_killed(tmp_path: Path) -> None:
    done = _run(tmp_path, "stopped")
    # One is closed as it should be; the other hears nothing.
    assert done.found["states"] == {"0": "cut off", "1": "running"}
    assert done.found["left"] is False
    for number in (0, 1):
        assert not is_running(int((tmp_path / f"{number}.pid").read_text(encoding="ascii")))


def test_workers_end_when_the_process_that_watches_over_them_is_killed(tmp_path: Path) -> None:
    command, environment = _command(tmp_path, "abandoned")
    with subprocess.Popen(command, env=environment) as process:
        paths = [tmp_path / "0.pid", tmp_path / "1.pid"]
        _until(lambda: process.poll() is not None or all(path.exists() for path in paths))
        pids = [int(path.read_text(encoding="ascii")) for path in paths]
        assert all(map(is_running, pids))
        process.kill()
        process.wait()
        try:
            _until(lambda: not any(map(is_running, pids)))
        except AssertionError:
            for pid in filter(is_running, pids):
                os.kill(pid, signal.SIGKILL)
            raise


def test_a_model_that_exits_ends_its_trial_and_neither_the_worker_nor_the_sweep(
    tmp_path: Path,
) -> None:
    done = _run(tmp_path, "exits")
    assert list(done.found["states"].values()) == ["failed"] * 4 + ["complete"] * 2
    assert done.found["errors"] == [f"SystemExit: {code}" for code in (0, 1, 79, "error: bye")]
    assert done.found["workers"] == 1
    assert done.log(0).count("error: of the model's own\n") == 6


@pytest.mark.parametrize(
    ("printed", "told"),
    [
        ("starts\nerror: no disk\n", "no disk"),
        ("error: of the model\nTraceback\nerror: no lock\nand more\n", "no lock"),
        ("an error: in a line\n", "a worker can't work; what it printed is in '{path}'."),
        ("", "a worker can't work; what it printed is in '{path}'."),
        ("\xff\nerror: é\n", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_the_reason_of_a_worker_is_the_last_line_that_is_an_error(
    printed: str, told: str, tmp_path: Path
) -> None:
    path = tmp_path / "worker-0.log"
    path.write_text(printed, encoding="latin-1")
    assert pool._told_error(path) == told.format(path=path)


def test_a_worker_that_cannot_work_ends_the_sweep_with_its_reason(tmp_path: Path) -> None:
    done = _run(tmp_path, "broken")
    storage, deaths = done.found["errors"]
    assert storage.startswith("sweep.storage: '")
    assert storage.endswith("can't be used: File exists")
    assert deaths == (
        "workers die again and again (exit status -9); what they printed is in "
        f"'{tmp_path}/logs/deep/worker-0.log'."
    )
    # Three times by the same trial, and once by the next one.
    assert done.found["states"] == {"0": "cut off", "1": "cut off", "2": "failed", "3": "running"}
    assert done.log(0).count("about to die") == 4


@pytest.mark.parametrize(
    ("n_jobs", "cores", "expected"),
    [
        (1, [0, 1, 2, 3], [(0, 1, 2, 3)]),
        (2, [0, 1, 2, 3], [(0, 1), (2, 3)]),
        (3, [0, 1, 2, 3], [(0,), (1,), (2, 3)]),
        (3, [4, 5, 6, 7, 8, 9, 10, 11], [(4, 5), (6, 7, 8), (9, 10, 11)]),
        (5, [3, 7], [(3,), (7,), (3,), (7,), (3,)]),
    ],
)
def test_processors_are_divided_evenly(
    n_jobs: int, cores: list[int], expected: list[tuple[int, ...]]
) -> None:
    found = [share.cores for share in shares(n_jobs, cores, [])]
    if n_jobs > len(cores):
        # Who takes turns with whom doesn't matter, as long as it is even.
        assert {len(own) for own in found} == {1}
        assert abs(found.count((3,)) - found.count((7,))) == 1
    else:
        assert found == expected


@pytest.mark.parametrize("n_jobs", [1, 2, 3, 7, 8, 16])
def test_no_processor_is_idle_and_none_is_shared_without_need(n_jobs: int) -> None:
    cores = list(range(10, 18))
    dealt = [core for share in shares(n_jobs, cores, []) for core in share.cores]
    assert set(dealt) == set(cores)
    assert len(dealt) == max(n_jobs, len(cores))


def test_gpus_are_dealt_out_and_a_single_one_is_shared() -> None:
    assert shares(2, [0], []) == [Share((0,)), Share((0,))]
    assert [share.gpu for share in shares(3, [0], ["0"])] == [None, None, None]
    assert [share.gpu for share in shares(3, [0], ["0", "GPU-b"])] == ["0", "GPU-b", "0"]


@pytest.mark.parametrize(
    ("named", "expected"),
    [("0,2", ["0", "2"]), (" GPU-a , GPU-b,", ["GPU-a", "GPU-b"]), ("", []), ("3", ["3"])],
)
def test_the_environment_says_which_gpus_there_are(
    named: str, expected: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    (tmp_path / "0000:01:00.0").mkdir()
    assert visible_gpus(tmp_path) == expected


def test_the_driver_says_how_many_gpus_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / name).mkdir()
    assert visible_gpus(tmp_path) == ["0", "1"]
    assert visible_gpus(tmp_path / "none") == []
