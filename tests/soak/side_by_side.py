"""Runs cases that mostly wait, many at once, each in processes of its own."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

__all__ = ["OUTPUT", "Part", "run_side_by_side"]

OUTPUT = Path("output")
"""What a `Part` has said, in the folder that its case works in."""

Case = TypeVar("Case")
_FORK = multiprocessing.get_context("fork")


class Part:
    """A process that a case starts first, and which begins when it is sent its argument.

    A process that is forked beside threads may find a lock taken for ever: so it is there before
    they are.

    Args:
        work: What it does; returns its exit status. Whatever it says goes to `OUTPUT`.
        arguments: More arguments of it, which come first.
    """

    def __init__(self, work: Callable[..., int], *arguments: Any) -> None:
        self._ours, theirs = _FORK.Pipe()
        self.process = _FORK.Process(target=_work, args=(theirs, work, arguments))
        self.process.start()
        theirs.close()

    def run(self, argument: Any) -> int:
        """Have it begin, and wait for its end; returns its exit status."""
        self.begin(argument)
        self.process.join()
        assert self.process.exitcode is not None
        return self.process.exitcode

    def begin(self, argument: Any) -> None:
        """Have it begin."""
        self._ours.send(argument)

    @staticmethod
    def said() -> str:
        """The last line that it has said."""
        lines = OUTPUT.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1][:300] if lines else ""


def _work(start: Connection, work: Callable[..., int], arguments: tuple[Any, ...]) -> None:
    argument = start.recv()
    logging.disable(logging.NOTSET)
    with OUTPUT.open("w", encoding="utf-8") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        status = 1
        try:
            status = work(*arguments, argument)
        except BaseException as error:
            print(f"{type(error).__name__}: {error}".replace("\n", " / "), flush=True)
        # As at the end of a program: threads that wait do not live on.
        os._exit(status)


def run_side_by_side(
    cases: Sequence[Case], examine: Callable[[Case], Any], *, together: int, seconds: float
) -> Iterator[tuple[Case, Any]]:
    """Examine cases, each in a process and in a folder of its own.

    Args:
        cases: What to examine.
        examine: What is done with each.
        together: How many at once.
        seconds: How long one may take.

    Yields:
        Each case, as it ends, and what was found: the exception where one was raised, and a
        `TimeoutError` where it took too long.
    """
    waiting = list(cases)
    running: dict[Connection, tuple[Case, Any, float]] = {}
    while waiting or running:
        while waiting and len(running) < together:
            case = waiting.pop(0)
            ours, theirs = _FORK.Pipe(duplex=False)
            process = _FORK.Process(target=_examine, args=(theirs, examine, case))
            process.start()
            theirs.close()
            running[ours] = (case, process, time.monotonic())
        ready = wait(list(running), timeout=1.0)
        for ours, (case, process, began) in list(running.items()):
            if ours in ready:
                try:
                    found = ours.recv()
                except EOFError:
                    found = RuntimeError("the process has died")
            elif time.monotonic() - began > seconds:
                found = TimeoutError(f"no end in {seconds:.0f} s")
                # With what it has started, which is in its group.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid or 0, 9)
            else:
                continue
            process.join()
            del running[ours]
            ours.close()
            yield case, found


def _examine(outlet: Connection, examine: Callable[[Case], Any], case: Case) -> None:
    os.setpgid(0, 0)
    logging.disable()
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        try:
            found = examine(case)
        except Exception as error:
            text = f"{type(error).__name__}: {error}".replace("\n", " / ")
            found = RuntimeError(text[:300])
    outlet.send(found)
    outlet.close()
    os._exit(0)
