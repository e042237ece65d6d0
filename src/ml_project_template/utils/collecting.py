"""Python's garbage collector, kept from looking through what is there to stay."""

from __future__ import annotations

import atexit
import gc
import importlib
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "collect_rarely",
    "collecting_as_usual",
    "import_large",
    "importing",
    "settle",
    "uncollected",
]

# New objects before the collector looks at them; Python's own number is some hundred.
_RARELY = 50_000

_usual = gc.get_threshold()
_settled_for_a_fit = False


def collect_rarely() -> None:
    """Have the collector look at new objects rarely, and not at all at the end of the process.

    For the process of a command: most of the objects that it makes are the modules that it
    imports, and looking through them again and again costs a third of a short command.
    """
    gc.set_threshold(_RARELY, *_usual[1:])
    atexit.register(_leave_alone)


def settle() -> None:
    """In the process of a command, keep the collector from what was made so far.

    Garbage that is not collected yet stays, too: to be called now and then, not for each of many
    trials. Elsewhere, in a program whose objects are not ours, it does nothing.
    """
    if gc.get_threshold()[0] == _RARELY:
        _leave_alone()


@contextmanager
def importing() -> Iterator[None]:
    """Import something large that was not imported before, without the collector.

    In the process of a command it leaves alone what was imported.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        settle()
        if was_enabled:
            gc.enable()


def import_large(name: str) -> None:
    """Import a large module that is needed now, as `importing` does, if it is not there.

    Args:
        name: The module.
    """
    if name not in sys.modules:
        with importing():
            importlib.import_module(name)


@contextmanager
def collecting_as_usual() -> Iterator[None]:
    """Collect as Python does by itself, for a block that may make cycles of large objects."""
    global _settled_for_a_fit
    if not _settled_for_a_fit:
        # All that was imported for the first fit would be looked through in its first steps.
        settle()
        _settled_for_a_fit = True
    present = gc.get_threshold()
    gc.set_threshold(*_usual)
    try:
        yield
    finally:
        gc.set_threshold(*present)


@contextmanager
def uncollected() -> Iterator[None]:
    """Import modules, or build what stays, without the collector, which then leaves it alone.

    While modules are made the collector finds nothing and costs as much again as making them; at
    the end of a process it looks through all of them once more.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        _leave_alone()
        if was_enabled:
            gc.enable()


def _leave_alone() -> None:
    """Keep the collector from whatever there is now."""
    # Libraries on nanobind, as torch's compiler is, complain on the terminal when the process ends
    # with something of theirs that was not collected.
    if "triton" not in sys.modules:
        gc.freeze()
