"""Which process did something, and whether it still lives."""

from __future__ import annotations

import contextlib
import functools
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

__all__ = ["ProcessId", "is_running", "this_process"]


@dataclass(frozen=True)
class ProcessId:
    """A process, told from all others: of other machines, and of the same number later.

    Attributes:
        machine: The machine, since its last start, and the space of process numbers in it: a
            container has one of its own.
        pid: The number of the process there.
        started: When it was started, in the system's own ticks; 0 where the system doesn't tell.
    """

    machine: str
    pid: int
    started: int

    def is_alive(self) -> bool | None:
        """Say whether the process lives; None if it belongs to a machine that can't be asked."""
        if self.machine != _machine():
            return None
        return is_running(self.pid) and self.started == _started(self.pid)

    def to_dict(self) -> dict[str, Any]:
        """Give it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> Self:
        """Read what ``to_dict`` gave."""
        return cls(**state)


def this_process() -> ProcessId:
    """Name the process that calls."""
    pid = os.getpid()
    return ProcessId(_machine(), pid, _started(pid))


def is_running(pid: int) -> bool:
    """Say whether a process of this number lives on this machine.

    Args:
        pid: The number.
    """
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True
    # One that has ended and only waits for its parent to notice does nothing any more.
    return _stat(pid)[:1] not in (["Z"], ["X"])


def _started(pid: int) -> int:
    fields = _stat(pid)
    return int(fields[19]) if len(fields) > 19 else 0


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/<pid>/stat`` from the state on (proc(5)); empty without it."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # The name before stands in parentheses and may hold spaces and parentheses itself.
    return text.rpartition(")")[2].split()


@functools.cache
def _machine() -> str:
    boot, space = Path("/proc/sys/kernel/random/boot_id"), Path("/proc/self/ns/pid")
    parts = [platform.node()]
    # Where the system doesn't tell, the name of the machine has to do.
    with contextlib.suppress(OSError):
        parts += [boot.read_text(encoding="ascii").strip(), str(space.readlink())]
    return ":".join(parts)
