"""Kill a sweep again and again, start it again each time, and see that nothing is lost or doubled.

    python -m tests.soak.sweep_kills --trials 40 --kills 10
    python -m tests.soak.sweep_kills --trials 40 --kills 2 --processes 4

The second form has several processes share one study, of which some are killed midway and never
started again. Each form prints what it found and ends with status 1 if that is not one finished
trial and one finished run for each slot, under one parent.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Outcome:
    """What a sweep that was killed has left.

    Attributes:
        problems: What is not as it should be, a line each.
        kills: How often a process was killed while it worked.
        lines: What was counted.
    """

    problems: list[str]
    kills: int
    lines: list[str]


def kill_and_restart(
    folder: Path, *, trials: int, kills: int, processes: int, seed: int, model: str
) -> Outcome:
    """Run a sweep in a folder, with kills.

    Args:
        folder: An empty folder.
        trials: How many trials the study is to have.
        kills: How many processes to kill, at random moments.
        processes: How many share the study. A single one is started again after each kill; of
            several, those that are killed stay away.
        seed: Of the moments.
        model: Which search of ``conf/sweep``.
    """
    chance = random.Random(seed)
    command = [
        *(sys.executable, "-m", "entrypoints.train", "-m", f"sweep={model}", "data=iris"),
        *(f"sweep.n_trials={trials}", "sweep.pruner=none", "sweep.max_failure_rate=0"),
        *(["sweep.n_jobs=2"] if processes == 1 else ["sweep.n_jobs=1"]),
    ]
    done = 0
    if processes == 1:
        while done < kills:
            process = _start(command, folder)
            if _kill_later(process, folder, chance, whole=chance.random() < 0.5):
                done += 1
            else:
                break
        status = _start(command, folder).wait()
    else:
        crew = [_start(command, folder) for _ in range(processes)]
        for victim in crew[:kills]:
            done += int(_kill_later(victim, folder, chance, whole=True))
        status = max(process.wait() for process in crew[kills:])
    if status != 0:
        log = (folder / "output.log").read_text(encoding="utf-8", errors="replace")
        return Outcome([f"the last command ended with status {status}: {log[-800:]}"], done, [])
    problems, lines = _examine(folder, trials)
    return Outcome(problems, done, lines)


def _start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    with (folder / "output.log").open("ab") as log:
        return subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _kill_later(
    process: subprocess.Popen[bytes], folder: Path, chance: random.Random, *, whole: bool
) -> bool:
    """Kill a process some time after a trial has begun; returns whether it was still there.

    With `whole` its workers are killed in the same moment, as by a power cut; else they are left
    to notice that they are alone.
    """
    before = _journal_size(folder)
    while process.poll() is None and _journal_size(folder) < before + 2000:
        time.sleep(0.02)
    time.sleep(chance.uniform(0.0, 1.0))
    if process.poll() is not None:
        return False
    if whole:
        # The workers' own parent is in the session, too.
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    return True


def _journal_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in (folder / ".sweeps").glob("*.journal"))


def _examine(folder: Path, trials: int) -> tuple[list[str], list[str]]:
    """Compare the study with the runs."""
    from mlflow import MlflowClient

    from ml_project_template.sweeps.storage import open_store
    from ml_project_template.sweeps.study import read_results

    store = open_store(str(folder / ".sweeps"))
    names = store.names()
    problems = [] if len(names) == 1 else [f"one study was expected, there are {names}"]
    _, _, study = read_results(store, names[0])
    complete = [t for t in study.trials if t.state.name == "COMPLETE"]
    slots = Counter(t.user_attrs["slot"] for t in complete)
    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    runs = client.search_runs(
        [e.experiment_id for e in client.search_experiments()], max_results=5000
    )
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    ended = Counter(run.info.status for run in children)
    finished = {run.data.tags["trial"] for run in children if run.info.status == "FINISHED"}
    folders = [t.user_attrs["facts"]["output_dir"] for t in complete]
    expectations = {
        f"{trials} complete trials": len(complete) == trials,
        "each slot once": sorted(slots) == list(range(trials)) and max(slots.values()) == 1,
        "no trial left running": not any(t.state.name == "RUNNING" for t in study.trials),
        "one parent, finished": [run.info.status for run in parents] == ["FINISHED"],
        f"{trials} finished children": ended["FINISHED"] == trials,
        "no child left running": ended["RUNNING"] == 0,
        "children are the complete trials": finished == {str(t.number) for t in complete},
        "no folder used twice": len(set(folders)) == len(folders),
        "every model is there": all(
            (folder / t.user_attrs["facts"]["model_path"] / "manifest.json").is_file()
            for t in complete
        ),
        "the best model is there": any((folder / ".models").glob("iris_*/manifest.json")),
    }
    problems += [f"not so: {name}" for name, met in expectations.items() if not met]
    cut_off = sum(bool(t.user_attrs.get("cut_off")) for t in study.trials)
    lines = [
        f"trials: {len(complete)} complete, {cut_off} cut off and run again",
        f"runs: {len(parents)} parent, children {dict(ended)}",
    ]
    return problems, lines


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--model", default="gb", choices=["gb", "mlp"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = kill_and_restart(Path(folder), **vars(options))
    print(f"{outcome.kills} kills", *outcome.lines, *outcome.problems, sep="\n")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
