"""Break the saving of a model at each step there is: a reader finds the old one or the new one.

    python -m tests.soak.save_faults

A model is saved in the place of another one, in a process that is killed at its first step that
touches a file, then at its second, and so on until it comes through; the same with a disk that is
full at that step; and with files that can't grow beyond so many bytes, which is what a full disk
looks like in the middle of a file. After each the place has to hold the old model or the new one,
whole, and the next save has to leave nothing else behind. The exit status is 1 if not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, get_args

from ml_project_template import artifacts
from ml_project_template.errors import ArtifactError
from ml_project_template.models import BaseModel, ModelRegistry
from tests.soak.broken_files import FileFault, break_files, is_full
from tests.soak.mutated_models import make_models


def _save(source: Path, place: Path, fault: FileFault, step: int, steps: Any) -> None:
    model = ModelRegistry.load(str(source))
    break_files(fault, step, str(place.parent), steps)
    try:
        model.save(str(place))
    except OSError as error:
        os._exit(1 if is_full(error) else 2)
    except ArtifactError:
        os._exit(1)
    os._exit(0)


def _digest(place: Path) -> str | None:
    """Name the model at a place; None if there is none that can be loaded."""
    try:
        with artifacts.open_model_directory(place) as directory:
            found = artifacts.digest(directory)
        ModelRegistry.load(str(place))
    except ArtifactError:
        return None
    return found


def break_each_step(
    old: Path, new: Path, folder: Path, fault: FileFault
) -> tuple[Counter[str], int]:
    """Save a model over another one again and again, each time broken at another step.

    Args:
        old: The model that is there.
        new: The model that is saved.
        folder: An empty folder.
        fault: What happens.

    Returns:
        How often which model was found after it, or ``torn``; and how often something was left
        behind after the next save.
    """
    place = folder / "place" / "model"
    names = {}
    for name, source in (("old", old), ("new", new)):
        model: BaseModel = ModelRegistry.load(str(source))
        names[_digest(Path(model.save(str(folder / name))))] = name
    found: Counter[str] = Counter()
    left = 0
    model = ModelRegistry.load(str(old))
    sizes = [file.stat().st_size for file in new.iterdir()]
    steps = range(1, 1_000)
    if fault == "file too large":
        steps = range(0, max(sizes), max(1, max(sizes) // 40))
    context = multiprocessing.get_context("fork")
    for step in steps:
        model.save(str(place))
        reached = context.Value("q", 0)
        process = context.Process(target=_save, args=(new, place, fault, step, reached))
        process.start()
        process.join()
        found[names.get(_digest(place), "torn")] += 1
        if process.exitcode not in (0, 1, -signal.SIGKILL):
            found["failed"] += 1
        model.save(str(place))
        left += [file.name for file in place.parent.iterdir()] != [place.name]
        if reached.value < step and fault != "file too large":
            break
    return found, left


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs=2, default=["mlp", "gb"], help="the old and the new one")
    options = parser.parse_args(arguments)
    wrong = 0
    # A process that is forked where OpenMP has threads waits for them for ever. It is read when
    # scikit-learn is imported.
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as scratch:
        old, new = make_models(Path(scratch), options.models).values()
        for fault in get_args(FileFault):
            folder = Path(scratch) / fault
            folder.mkdir()
            found, left = break_each_step(old, new, folder, fault)
            told = ", ".join(f"{count} {name}" for name, count in sorted(found.items()))
            print(f"{fault}: {sum(found.values())} saves, found: {told}; {left} left behind")
            wrong += found["torn"] + found["failed"] + left
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
