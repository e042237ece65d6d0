"""From the shell to the end of a short training: what commands cost, in CPU seconds.

The peer is ``benchmarks/peers/naive_train.py``: a Hydra application as teams write it, that trains
a network on iris for one epoch in a ``DataLoader`` loop on Lightning Fabric and logs to MLflow on
SQLite. Two pairs do the same work each: parameters, metrics and configuration alone, and with the
plots and the model, which is what the project logs by default. Commands are processes of their own,
run in turns in one folder in which the data are prepared and the database is made, as in daily
work; of each, all CPU time counts, of all threads, from the start of the interpreter to its end.

    python -m benchmarks.startup --rounds 9
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks.harness import ROOT, Aim, Report, Samples, Way, compare, python

__all__ = ["measure", "table", "ways"]

_NAIVE = "naive Hydra app"
_NAIVE_LEAN = "naive Hydra app, no plots, no model"
_MLP = "train model=mlp debug=one_epoch"
_MLP_LEAN = "the same, no plots, no model"
_GB = "train model=gb debug=few_stages"
_TORCH = "import torch"
_HELP = "train --help"
_WRONG = "train model=mpl (an error)"

_LEAN = ("tracking.log_plots=false", "tracking.log_models=false")
_TRAIN = ("-m", "entrypoints.train", "data=iris")
_PEER = ("-m", "benchmarks.peers.naive_train")


def measure(rounds: int = 3) -> list[Report]:
    """Run all commands in turns.

    Args:
        rounds: How often each is run; a round takes about a minute.

    Returns:
        One table.
    """
    with tempfile.TemporaryDirectory(prefix="startup-") as scratch:
        return [table(compare(ways(Path(scratch)), rounds=rounds))]


def ways(folder: Path) -> list[Way]:
    """Give all commands, to be run in one folder."""
    mlp = (*_TRAIN, "model=mlp", "debug=one_epoch")
    commands: dict[str, Sequence[str]] = {
        _NAIVE: (*_PEER, "plots=true", "log_model=true"),
        _NAIVE_LEAN: _PEER,
        _MLP: mlp,
        _MLP_LEAN: (*mlp, *_LEAN),
        _GB: (*_TRAIN, "model=gb", "debug=few_stages"),
        _TORCH: ("-c", "import torch"),
        _HELP: ("-m", "entrypoints.train", "--help"),
    }
    return [
        *(Way(name, partial(_run, command, folder)) for name, command in commands.items()),
        Way(_WRONG, partial(_refused, folder)),
    ]


def table(samples: Samples) -> Report:
    """Tell what the commands have cost.

    Args:
        samples: Of all `ways`.
    """
    return Report(
        name="startup",
        title="A command from the shell to its end, CPU seconds (medians)",
        columns=("command", "CPU s", "of the naive app", "of that without plots and model"),
        rows=[
            (name, samples.median(name), *(samples.ratio(name, base) for base in bases))
            for bases in [(_NAIVE, _NAIVE_LEAN)]
            for name in samples.costs
        ],
        aims=[
            Aim("mlp: part of the naive app", samples.ratio(_MLP, _NAIVE), 0.35),
            Aim(
                "mlp without plots and model: part of the naive app without them",
                samples.ratio(_MLP_LEAN, _NAIVE_LEAN),
                0.35,
            ),
            Aim("gb: part of the naive app", samples.ratio(_GB, _NAIVE), 0.25),
            Aim("--help: CPU seconds", samples.median(_HELP), 0.6),
            Aim("a wrong choice: CPU seconds", samples.median(_WRONG), 0.6),
        ],
        notes=["What else runs on the machine shows in the seconds, and hardly in the ratios."],
        samples=dict(samples.costs),
    )


def _run(arguments: Sequence[str], folder: Path) -> None:
    python(*arguments, folder=folder)


def _refused(folder: Path) -> None:
    """Run a command with a wrong choice, which has to be refused in one line."""
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-m", "entrypoints.train", "model=mpl"],
        cwd=folder,
        env={**environment, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 1 or len(done.stderr.splitlines()) != 1:
        raise SystemExit(f"expected one line of error, got {done}")


def main(arguments: list[str] | None = None) -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9, help="how often each command is run")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args(arguments)
    reports = measure(rounds=options.rounds)
    print(*reports, sep="\n\n")
    if options.json:
        text = json.dumps([report.to_dict() for report in reports], indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
