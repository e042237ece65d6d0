"""How everything here is measured: side by side, in turns, told as ratios.

A machine that others use too is fast in one minute and slow in the next. So each round runs every
way once, in an order that is drawn anew, and two ways are compared by the median of the ratios of
their rounds: what slows both down at once cancels out.
"""

from __future__ import annotations

import json
import os
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = ["ROOT", "Aim", "Cost", "Report", "Samples", "Way", "compare", "cpu_seconds", "python"]

ROOT = Path(__file__).resolve().parents[1]

Cost = Literal["cpu", "wall"]


@dataclass(frozen=True)
class Way:
    """A way to do the work that is measured.

    Attributes:
        name: What it is called in the table.
        run: Does the work once. What it returns is its cost, if it measures that by itself (as one
            does that has something to set up before); None has the call measured.
    """

    name: str
    run: Callable[[], float | None]


@dataclass(frozen=True)
class Samples:
    """What each way has cost in each round.

    Attributes:
        costs: The name of a way to its costs, in the order of the rounds.
    """

    costs: Mapping[str, Sequence[float]]

    def median(self, name: str) -> float:
        """Give the median cost of a way."""
        return statistics.median(self.costs[name])

    def ratio(self, name: str, base: str) -> float:
        """Say how many times what ``base`` costs a way costs: the median over the rounds."""
        pairs = zip(self.costs[name], self.costs[base], strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)


@dataclass(frozen=True)
class Aim:
    """A figure that is to be reached.

    Attributes:
        text: What is measured, such as ``batch 32: times the floor``.
        value: What was found.
        limit: What is aimed at.
        at_least: Whether a larger value is better.
    """

    text: str
    value: float
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool:
        """Whether it is reached."""
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        sign = "at least" if self.at_least else "at most"
        verdict = "met" if self.met else "MISSED"
        return f"  {verdict:<8}{self.text}: {self.value:.3g} ({sign} {self.limit:g})"


@dataclass
class Report:
    """A table, and which aims it meets.

    Attributes:
        name: The benchmark's.
        title: What the table shows, and in what.
        columns: The names of its columns; the first is that of the rows.
        rows: Texts and numbers, a row each.
        aims: What is to be reached.
        notes: What a reader has to know.
        samples: The costs behind it, for the JSON file.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: list[Sequence[Any]] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        cells = [[*map(str, self.columns)], *([_cell(value) for value in row] for row in self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(self.columns))]
        lines = [self.title]
        for row in cells:
            padded = [row[0].ljust(widths[0])]
            padded += [text.rjust(width) for text, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  " + "  ".join(padded).rstrip())
        return "\n".join([*lines, *(f"  {note}" for note in self.notes), *map(str, self.aims)])

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain JSON."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self), default=float))
        for aim, shown in zip(self.aims, plain["aims"], strict=True):
            shown["met"] = aim.met
        return plain


def compare(ways: Sequence[Way], *, rounds: int, cost: Cost = "cpu", warm_up: int = 1) -> Samples:
    """Run ways in turns.

    Args:
        ways: What is compared.
        rounds: How often each is run.
        cost: ``cpu``: CPU seconds, of this process and of those that it has waited for; or
            ``wall``.
        warm_up: Rounds before, that do not count.

    Returns:
        The costs.
    """
    draw = random.Random(0)
    clock = cpu_seconds if cost == "cpu" else time.perf_counter
    costs: dict[str, list[float]] = {way.name: [] for way in ways}
    for number in range(-warm_up, rounds):
        for way in draw.sample(list(ways), len(ways)):
            started = clock()
            own = way.run()
            seconds = clock() - started
            if number >= 0:
                costs[way.name].append(seconds if own is None else own)
        print(f"  round {max(0, number + 1)} of {rounds}", end="\r", file=sys.stderr, flush=True)
    print(" " * 30, end="\r", file=sys.stderr, flush=True)
    return Samples(costs)


def cpu_seconds() -> float:
    """Tell the CPU seconds of this process and of its children that have ended."""
    own = resource.getrusage(resource.RUSAGE_SELF)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def python(*arguments: str, folder: Path, **environment: str) -> str:
    """Run this Python in a folder, with the checkout in its path.

    Args:
        *arguments: Of the interpreter, such as ``-m entrypoints.train``.
        folder: Where it runs.
        **environment: More variables.

    Returns:
        What it printed on standard output.

    Raises:
        SystemExit: It failed; what it printed is told.
    """
    # Bytecode is written, as it is for every user: without it each process compiles its imports.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**inherited, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise SystemExit(f"{arguments}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def _cell(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
