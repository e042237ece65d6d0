"""Python's garbage collector, kept from looking through what is there to stay."""

from __future__ import annotations

import gc
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["uncollected"]


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
        # Libraries on nanobind, as torch's compiler is, complain on the terminal when the process
        # ends with something of theirs that was not collected.
        if "triton" not in sys.modules:
            gc.freeze()
        if was_enabled:
            gc.enable()
