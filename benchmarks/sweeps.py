"""How many trials a minute a search for the network's settings tries, beside the other ways.

    python -m benchmarks.sweeps
    python -m benchmarks.sweeps --rounds 3 --trials 400 --json sweeps.json

Each way trains the network on iris with the same search space, tracked by MLflow on SQLite, in a
folder of its own; how many runs it has left is checked before its time counts. A rate is that of
the trials alone, from the first run's beginning to the last one's end; the seconds of a whole
command, from the prompt to the prompt, stand beside it. A slow way runs fewer trials. Hydra's own
ways leave out the plots and the copy of each model, which a search of ours leaves out by itself.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import ROOT, Aim, Report, Samples, Way, compare, python

LEAN = ("tracking.log_plots=false", "tracking.log_models=false")
WIDTHS = ("[null,32,null]", "[null,64,64,null]", "[null,128,128,null]")
SPACE = {
    "training.lr": "tag(log, interval(1e-4, 1e-1))",
    "training.weight_decay": "tag(log, interval(1e-6, 1e-2))",
    "training.batch_size": "choice(16, 32, 64)",
    "model.dropout": "interval(0.0, 0.5)",
    "model.layer_dims": f"choice({', '.join(WIDTHS)})",
}

TWO, SEQUENTIAL, ONE = "this, 2 workers", "this, 2 workers, one by one", "this, 1 worker"
UNPRUNED, FOLDS = "this, 2 workers, nothing pruned", "this, 2 workers, 5 folds each"
SHAPE = "this, 2 workers, networks of one shape"
SHAPE_SEQUENTIAL = "this, 2 workers, one shape, one by one"
PLAIN, HYDRA = "Optuna by hand, one process", "Hydra's Optuna sweeper"
PROCESSES = "a process for each trial"
# What is left differs in its rates and its dropout, and can all be trained in one go.
ONE_SHAPE = ("training.batch_size=32", f"model.layer_dims={WIDTHS[1]}")


@dataclass(frozen=True)
class Search:
    """A way to run a search.

    Attributes:
        name: What it is.
        run: Runs so many trials in a folder.
        part: What part of the trials it runs: a slow one is measured by fewer.
        above: How many runs it opens above those of the trials.
        runs: How many runs each trial has: its own, and those below it.
    """

    name: str
    run: Callable[[Path, int], None]
    part: float = 1.0
    above: int = 0
    runs: int = 1
    # What its whole command has cost, in seconds, a round each.
    seconds: list[float] = field(default_factory=list)

    def count(self, trials: int) -> int:
        """Say how many of so many trials it runs."""
        return max(2, round(trials * self.part))

    def measure(self, trials: int) -> float:
        """Run it once.

        Args:
            trials: How many trials the quick ones run.

        Returns:
            Seconds for each trial.

        Raises:
            SystemExit: Not all of its runs have finished.
        """
        count = self.count(trials)
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            self.run(Path(folder), count)
            self.seconds.append(time.perf_counter() - started)
            database = Path(folder, "mlflow.db")
            finished, span = _finished_runs(database)
        wanted = count * self.runs + self.above
        if finished != wanted:
            raise SystemExit(f"{self.name}: {finished} finished runs instead of {wanted}")
        return span / count


def _finished_runs(database: Path) -> tuple[int, float]:
    """Count the finished runs of a database, and tell the seconds that those of trials took."""
    query = (
        "SELECT start_time, end_time, EXISTS (SELECT 1 FROM tags WHERE tags.run_uuid = "
        "runs.run_uuid AND tags.key = 'mlflow.parentRunId') FROM runs WHERE status = 'FINISHED'"
    )
    with closing(sqlite3.connect(database)) as connection:
        runs = connection.execute(query).fetchall()
    below = [run for run in runs if run[2]] or runs
    span = max(end for _, end, _ in below) - min(start for start, _, _ in below)
    return len(runs), span / 1000


def _train(folder: Path, *arguments: str) -> None:
    python("-m", "entrypoints.train", *arguments, folder=folder)


def _processes(folder: Path, trials: int) -> None:
    draw = random.Random(0)
    for _ in range(trials):
        _train(
            folder,
            *("model=mlp", "data=iris", *LEAN),
            f"training.lr={10 ** draw.uniform(-4, -1)}",
            f"training.weight_decay={10 ** draw.uniform(-6, -2)}",
            f"training.batch_size={draw.choice([16, 32, 64])}",
            f"model.dropout={draw.uniform(0, 0.5)}",
            f"model.layer_dims={draw.choice(WIDTHS)}",
        )


def _hydra(folder: Path, trials: int) -> None:
    space = [f"{key}={values}" for key, values in SPACE.items()]
    _train(
        folder,
        *("-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=tpe", "model=mlp", "data=iris"),
        *("hydra.sweeper.sampler.seed=42", f"hydra.sweeper.n_trials={trials}", *space, *LEAN),
    )


def _plain(folder: Path, trials: int) -> None:
    python(str(ROOT / "benchmarks/peers/optuna_sweep.py"), str(trials), folder=folder)


def _ours(*more: str) -> Callable[[Path, int], None]:
    def run(folder: Path, trials: int) -> None:
        _train(folder, "-m", "sweep=mlp", "data=iris", f"sweep.n_trials={trials}", *more)

    return run


def searches() -> list[Search]:
    """List the ways, the slowest at the end."""
    two = "sweep.n_jobs=2"
    return [
        Search(TWO, _ours(two), above=1),
        Search(UNPRUNED, _ours(two, "sweep.pruner=none"), above=1),
        Search(SHAPE, _ours(two, *ONE_SHAPE), above=1),
        Search(SHAPE_SEQUENTIAL, _ours(two, *ONE_SHAPE, "sweep.together=false"), above=1, part=0.5),
        Search(SEQUENTIAL, _ours(two, "sweep.together=false"), above=1, part=0.5),
        Search(ONE, _ours("sweep.n_jobs=1"), above=1, part=0.5),
        # The last of its runs is that of the best settings, which are trained once more.
        Search(FOLDS, _ours(two, "sweep.pruner=none", "cv=5"), above=2, part=0.1, runs=6),
        Search(PLAIN, _plain, above=1, part=0.5),
        Search(HYDRA, _hydra, part=0.1),
        Search(PROCESSES, _processes, part=0.01),
    ]


def measure(
    trials: int = 240, rounds: int = 1, ways: Sequence[Search] | None = None
) -> list[Report]:
    """Run the ways in turns.

    Args:
        trials: How many trials the quick ones run.
        rounds: How often each is run.
        ways: What is compared; None for all.

    Returns:
        One table.
    """
    chosen = list(searches() if ways is None else ways)
    samples = compare(
        [Way(way.name, lambda way=way: way.measure(trials)) for way in chosen],
        rounds=rounds,
        cost="wall",
        warm_up=0,
    )
    report = Report(
        "sweeps",
        "Sweeps: a search on iris, every trial tracked (seconds: the whole command)",
        ["way", "trials", "trials/min", "seconds", "times Optuna by hand"],
        samples={"costs": samples.costs, "seconds": {way.name: way.seconds for way in chosen}},
    )
    names = [way.name for way in chosen]
    for way in chosen:
        ratio = samples.ratio(PLAIN, way.name) if PLAIN in names else float("nan")
        seconds = sorted(way.seconds)[len(way.seconds) // 2]
        rate = 60 / samples.median(way.name)
        report.rows.append([way.name, way.count(trials), rate, seconds, ratio])
    report.aims += _aims(samples, names)
    return [report]


def _aims(samples: Samples, names: Sequence[str]) -> list[Aim]:
    found = []
    if TWO in names and PLAIN in names:
        ratio = samples.ratio(PLAIN, TWO)
        found.append(Aim("2 workers: rate of Optuna by hand, times", ratio, 3, at_least=True))
    if SHAPE in names:
        rate = 60 / samples.median(SHAPE)
        found.append(
            Aim("2 workers, networks of one shape: trials a minute", rate, 1000, at_least=True)
        )
    return found


def main() -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=240, help="of the quick ways")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", default="", help="ways whose names hold this text")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    ways = [way for way in searches() if options.only in way.name]
    (report,) = measure(options.trials, options.rounds, ways)
    print(report)
    if options.json:
        options.json.write_text(json.dumps(report.to_dict(), indent=2) + "\n")


if __name__ == "__main__":
    main()
