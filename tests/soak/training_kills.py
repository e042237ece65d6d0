"""Stop a training again and again, go on with it each time, and see that nothing has changed.

    python -m tests.soak.training_kills --kills 30

The same training is run once without a break. Then it is begun anew and stopped at random moments,
by SIGKILL, SIGTERM and SIGINT, each time gone on with by ``resume=auto``, until it has come to its
end. Its weights have to be the same to the byte, and there has to be one run, finished, with each
epoch once and with the same numbers; after each SIGTERM and SIGINT it has to be KILLED. The exit
status is 1 if not.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

_FIT = "fitting a network"
_SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)


@dataclass
class Seen:
    """What was seen.

    Attributes:
        kills: How often which signal stopped the training.
        resumed: How often it went on from a checkpoint.
        wrong: What must not be, a line each.
    """

    kills: Counter[str] = field(default_factory=Counter)
    resumed: int = 0
    wrong: list[str] = field(default_factory=list)


def stop_and_go_on(folder: Path, *, kills: int, epochs: int, seed: int) -> Seen:
    """Train without a break, and with many.

    Args:
        folder: An empty folder.
        kills: How often to stop it, at most: it may come to its end before.
        epochs: How long the training is.
        seed: Of the moments.
    """
    chance, seen = random.Random(seed), Seen()
    settings = [
        *("data=breast_cancer", "model=mlp", "training.patience=null", "model.dropout=0.2"),
        *(f"training.max_epochs={epochs}", "training.schedule=cosine", "save_model=best"),
        f"checkpoint.every_epochs={max(epochs // 200, 1)}",
    ]
    whole, broken = folder / "whole", folder / "broken"
    process = _start(settings, whole)
    _wait_for_fit(process, whole)
    started = time.monotonic()
    if process.wait() != 0:
        return Seen(wrong=[f"the training without a break failed: {_log(whole)[-600:]}"])
    usual = time.monotonic() - started
    for _ in range(kills):
        process = _start([*settings, "resume=auto"], broken)
        _wait_for_fit(process, broken)
        # So long that all of the stops together let it come to about its end.
        time.sleep(chance.uniform(0.0, 2 * usual / kills))
        number = chance.choice(_SIGNALS)
        process.send_signal(number)
        status = process.wait()
        if status == 0:
            break
        seen.kills[number.name] += 1
        expected = {-number.value} if number == signal.SIGKILL else {128 + number, -number.value}
        if status not in expected:
            seen.wrong.append(f"{number.name} ended with status {status}: {_log(broken)[-600:]}")
        runs = _runs(broken)
        if number != signal.SIGKILL and runs and runs[-1][1] != "KILLED":
            seen.wrong.append(f"after {number.name} the run is {runs[-1][1]}")
        if (broken / ".models" / ".checkpoints" / "breast_cancer_mlp").is_dir():
            seen.resumed += 1
    else:
        if (status := _start([*settings, "resume=auto"], broken).wait()) != 0:
            seen.wrong.append(f"the last one ended with status {status}: {_log(broken)[-600:]}")
    seen.wrong += _compare(whole, broken)
    return seen


def _start(settings: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    with (folder / "output.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "entrypoints.train", *settings],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
        )


def _wait_for_fit(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until the fit goes on, or the process has ended."""
    before = _log(folder).count(_FIT)
    while process.poll() is None and _log(folder).count(_FIT) == before:
        time.sleep(0.02)


def _log(folder: Path) -> str:
    return (folder / "output.log").read_text(encoding="utf-8", errors="replace")


def _runs(folder: Path) -> list[tuple[str, str]]:
    """Read the runs, the oldest first: id and status."""
    query = "SELECT run_uuid, status FROM runs ORDER BY start_time"
    return [(row[0], row[1]) for row in _rows(folder, query)]


def _rows(folder: Path, query: str) -> list[tuple[Any, ...]]:
    import sqlite3

    database = folder / "mlflow.db"
    if not database.exists():
        return []
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def _compare(whole: Path, broken: Path) -> list[str]:
    """Compare what two trainings have left; returns what differs."""
    # One that was killed before its first checkpoint has a run of its own.
    series = (
        "SELECT m.key, step, value FROM metrics m JOIN runs r ON r.run_uuid = m.run_uuid "
        "WHERE r.status = 'FINISHED' AND m.key LIKE 'epoch/%' ORDER BY m.key, step, value"
    )
    wrong = []
    runs = _runs(broken)
    finished = [run for run in runs if run[1] == "FINISHED"]
    if len(finished) != 1 or any(status == "RUNNING" for _, status in runs):
        wrong.append(f"one finished run was expected, there are {runs}")
    first, second = (_rows(folder, series) for folder in (whole, broken))
    if first != second:
        lost, more = set(first) - set(second), set(second) - set(first)
        doubled = len(second) - len(set(second))
        wrong.append(f"series: {len(lost)} points lost, {len(more)} others, {doubled} doubled")
    digests = {
        hashlib.sha256((folder / ".models/breast_cancer_mlp" / name).read_bytes()).hexdigest()
        for folder in (whole, broken)
        for name in ["weights.safetensors"]
    }
    if len(digests) != 1:
        wrong.append("the weights differ")
    if (broken / ".models" / ".checkpoints").exists():
        wrong.append("a checkpoint is left")
    return wrong


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--epochs", type=int, default=2_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    # What a shell has put into the background ignores Ctrl-C, and so would all that it starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as folder:
        seen = stop_and_go_on(Path(folder), **vars(options))
    told = ", ".join(f"{count} {name}" for name, count in sorted(seen.kills.items()))
    print(f"stopped by {told}; {seen.resumed} times a checkpoint was there", *seen.wrong, sep="\n")
    return int(bool(seen.wrong))


if __name__ == "__main__":
    sys.exit(main())
