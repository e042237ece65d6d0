"""How long a search for the network's settings takes, beside the ways there are without this one.

    python -m benchmarks.sweeps --trials 50

Each way trains the network on iris with the same search space, tracked by MLflow on SQLite, in a
folder of its own; how many runs it has left is checked before its time counts. *As it comes* is the
way as a user types it; *lean* leaves out the plots and the copy of each model, which a search of
ours leaves out by itself, so that the same work is compared.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]

LEAN = ("tracking.log_plots=false", "tracking.log_models=false")
SPACE = {
    "training.lr": "tag(log, interval(1e-4, 1e-1))",
    "training.weight_decay": "tag(log, interval(1e-6, 1e-2))",
    "training.batch_size": "choice(16, 32, 64)",
    "model.dropout": "interval(0.0, 0.5)",
    "model.layer_dims": "choice([null,32,null], [null,64,64,null], [null,128,128,null])",
}


@dataclass(frozen=True)
class Way:
    """A way to run a search.

    Attributes:
        name: What it is.
        run: Runs so many trials in a folder.
        parents: How many runs it opens above those of the trials.
    """

    name: str
    run: Callable[[Path, int], None]
    parents: int = 0


def _train(folder: Path, *arguments: str) -> None:
    """Run the training command in a folder, quietly; what it printed is told if it fails."""
    # Bytecode is written, as it is for every user: without it each process compiles its imports.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.train", *arguments],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{arguments}\n{done.stdout[-2000:]}")


def _processes(*more: str) -> Callable[[Path, int], None]:
    def run(folder: Path, trials: int) -> None:
        draw = random.Random(0)
        for _ in range(trials):
            widths = draw.choice(["[null,32,null]", "[null,64,64,null]", "[null,128,128,null]"])
            _train(
                folder,
                *("model=mlp", "data=iris", *more),
                f"training.lr={10 ** draw.uniform(-4, -1)}",
                f"training.weight_decay={10 ** draw.uniform(-6, -2)}",
                f"training.batch_size={draw.choice([16, 32, 64])}",
                f"model.dropout={draw.uniform(0, 0.5)}",
                f"model.layer_dims={widths}",
            )

    return run


def _hydra(*more: str) -> Callable[[Path, int], None]:
    def run(folder: Path, trials: int) -> None:
        space = [f"{key}={values}" for key, values in SPACE.items()]
        _train(
            folder,
            *("-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", "model=mlp", "data=iris"),
            *("hydra.sweeper.sampler.seed=42", f"hydra.sweeper.n_trials={trials}", *space, *more),
        )

    return run


def _ours(*more: str) -> Callable[[Path, int], None]:
    def run(folder: Path, trials: int) -> None:
        _train(folder, "-m", "sweep=mlp", "data=iris", f"sweep.n_trials={trials}", *more)

    return run


WAYS = (
    Way("this, 2 workers", _ours("sweep.n_jobs=2"), parents=1),
    Way("this, 2 workers, nothing pruned", _ours("sweep.n_jobs=2", "sweep.pruner=none"), parents=1),
    Way("this, 1 worker", _ours("sweep.n_jobs=1"), parents=1),
    Way("Hydra's Optuna sweeper, lean", _hydra(*LEAN)),
    Way("Hydra's Optuna sweeper, as it comes", _hydra()),
    Way("a process for each trial, lean", _processes(*LEAN)),
    Way("a process for each trial, as it comes", _processes()),
)


def measure(way: Way, trials: int) -> float:
    """Run a way once.

    Args:
        way: The way.
        trials: How many trials.

    Returns:
        Seconds of wall time.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        way.run(Path(folder), trials)
        seconds = time.perf_counter() - started
        query = "SELECT count(*) FROM runs WHERE status = 'FINISHED'"
        with closing(sqlite3.connect(Path(folder, "mlflow.db"))) as database:
            (finished,) = database.execute(query).fetchone()
    if finished != trials + way.parents:
        raise SystemExit(f"{way.name}: {finished} finished runs instead of {trials + way.parents}")
    return seconds


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=50)
    parser.add_argument("--repeat", type=int, default=1, help="rounds; each runs every way once")
    parser.add_argument("--only", default="", help="ways whose names hold this text")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    ways = [way for way in WAYS if options.only in way.name]
    # One short run first, so that bytecode and files are where they will be for all of them.
    measure(WAYS[0], 2)
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    for _ in range(options.repeat):
        for way in ways:
            seconds[way.name].append(measure(way, options.trials))
            print(f"  {way.name}: {seconds[way.name][-1]:.1f} s", file=sys.stderr, flush=True)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    floor = next(iter(medians.values()))
    width = max(map(len, medians))
    print(f"{'':<{width}}{'seconds':>10}{'trials/min':>12}{'times this':>12}")
    for name, value in medians.items():
        rate = 60 * options.trials / value
        print(f"{name:<{width}}{value:>10.1f}{rate:>12.0f}{value / floor:>12.1f}")
    if options.json:
        options.json.write_text(json.dumps({"trials": options.trials, "seconds": seconds}) + "\n")


if __name__ == "__main__":
    main()
