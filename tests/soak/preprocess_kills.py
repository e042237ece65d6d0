"""Break onboarding and preprocessing at each step there is: what is found is whole, or not there.

    python -m tests.soak.preprocess_kills --kills 100

A table that has changed at its source takes the place of the one that was onboarded before, and is
prepared, in a process that is killed at its first step that touches a file, then at its second, and
so on until it comes through; the same with a disk that is full at that step; with files that can't
grow beyond so many bytes; and in a process that is killed at a random moment. After each, the table
in its place has to be the old one or the new one, data that are found prepared have to be those
that an undisturbed preparation gives, and the next command has to find or make all of it and to
leave nothing else behind. The exit status is 1 if not.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Literal, get_args

from ml_project_template.data import Preprocessor, RawTable
from ml_project_template.data.prepare import prepare
from ml_project_template.data.sources import onboard
from ml_project_template.errors import ProjectError
from ml_project_template.utils import io
from tests.soak.broken_files import FileFault, break_files, is_full

Fault = FileFault | Literal["killed at random"]
FAULTS: tuple[Fault, ...] = (*get_args(FileFault), "killed at random")

_FORK = multiprocessing.get_context("fork")


class Place:
    """A folder in which tables are onboarded and prepared.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.source = folder.parent / "source.csv"
        self.table = folder / "raw" / "table.csv"

    def work(self) -> bool:
        """Onboard and prepare; returns whether all of it was there."""
        onboarded = onboard(source=str(self.source), path=str(self.table))
        table = RawTable(path=str(self.table), target_column="y", name="table", random_state=1)
        prepared = prepare(table, preprocessor=Preprocessor(), output_root=str(self.folder / "out"))
        return prepared.reused and not onboarded.changed

    def files(self) -> dict[str, str]:
        """Name all files, with the digests of their contents, but for when it was written."""
        found = {}
        for path in sorted(self.folder.rglob("*")):
            if path.is_file():
                content = path.read_bytes()
                if path.name == "table.csv.json":
                    content = repr({**io.read_json(str(path)), "created_at": ""}).encode()
                found[str(path.relative_to(self.folder))] = hashlib.sha256(content).hexdigest()
        return found


def make_table(seed: int, rows: int = 400) -> bytes:
    """Write a table of numbers, texts and labels."""
    chance = random.Random(seed)
    lines = ["a,b,c,y"]
    for _ in range(rows):
        values = (chance.random(), chance.randint(0, 9), chance.choice("pqr"))
        lines.append(",".join(map(str, (*values, chance.choice(["no", "yes"])))))
    return "\n".join(lines).encode()


def _work(place: Place, fault: Fault, step: int, steps: Any) -> None:
    if fault != "killed at random":
        break_files(fault, step, str(place.folder), steps)
    try:
        place.work()
    except OSError as error:
        os._exit(1 if is_full(error) else 2)
    except ProjectError:
        os._exit(1)
    except BaseException:
        os._exit(2)
    os._exit(0)


class _Damage(logging.Handler):
    """Hears when prepared data are found and are not whole."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.heard: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "damaged" in record.getMessage():
            self.heard.append(record.getMessage())


def break_each_step(folder: Path, fault: Fault, kills: int = 0, seed: int = 0) -> Counter[str]:
    """Onboard and prepare a changed table again and again, each time broken at another step.

    Args:
        folder: An empty folder.
        fault: What happens.
        kills: How often, where that is at random.
        seed: Of the moments.

    Returns:
        How often the old table was found after it, and how often the new one, prepared or not;
        ``torn`` if it was neither, or data were taken for prepared that were not; ``failed`` if the
        command did not say why; ``left`` if the next one did not put all in order.
    """
    contents = {name: make_table(number) for number, name in enumerate(("old", "new"))}
    place = Place(folder / "place")
    template, complete = folder / "template", folder / "complete"
    place.source.write_bytes(contents["old"])
    place.work()
    shutil.copytree(place.folder, template)
    place.source.write_bytes(contents["new"])
    began = time.monotonic()
    place.work()
    seconds = time.monotonic() - began
    expected = place.files()
    place.folder.rename(complete)
    old_files = Place(template).files()
    damage, chance = _Damage(), random.Random(seed)
    logger = logging.getLogger("ml_project_template")
    logger.addHandler(damage)
    logger.propagate = False
    found: Counter[str] = Counter()
    steps = range(1, 1_000)
    if fault == "file too large":
        largest = max(path.stat().st_size for path in complete.rglob("*") if path.is_file())
        steps = range(0, largest, max(1, largest // 40))
    elif fault == "killed at random":
        steps = range(kills)
    for step in steps:
        shutil.rmtree(place.folder, ignore_errors=True)
        shutil.copytree(template, place.folder)
        reached = _FORK.Value("q", 0)
        process = _FORK.Process(target=_work, args=(place, fault, step, reached))
        process.start()
        if fault == "killed at random":
            process.join(chance.uniform(0, 1.2 * seconds))
            process.kill()
        process.join()
        if process.exitcode not in (0, 1, -signal.SIGKILL):
            found["failed"] += 1
        damage.heard.clear()
        name = next((n for n, c in contents.items() if place.table.read_bytes() == c), "torn")
        kept = place.files()
        if any(kept.get(path) != digest for path, digest in old_files.items() if "out/" in path):
            name = "torn"
        is_new = set(expected) <= set(kept)
        place.work()
        if damage.heard:
            name = "torn"
        found[f"{name} prepared" if name == "new" and is_new else name] += 1
        if place.files() != expected or not place.work() or _hidden(place.folder):
            found["left"] += 1
        if reached.value < step and fault in ("killed", "disk full"):
            break
    logger.removeHandler(damage)
    logger.propagate = True
    return found


def _hidden(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != "."]


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="at random moments")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args(arguments)
    wrong = 0
    for fault in FAULTS:
        with tempfile.TemporaryDirectory() as scratch:
            found = break_each_step(Path(scratch), fault, options.kills, options.seed)
        names = ("old", "new", "new prepared", "torn", "failed", "left")
        told = ", ".join(f"{found[name]} {name}" for name in names)
        tried = sum(found.values()) - found["failed"] - found["left"]
        print(f"{fault}: {tried} commands, found: {told}", flush=True)
        wrong += found["torn"] + found["failed"] + found["left"]
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
