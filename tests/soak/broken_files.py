"""Breaks what a process does with files: at one of its steps, or where a file is too large."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from typing import Any, Literal

__all__ = ["FileFault", "break_files", "is_full"]

FileFault = Literal["killed", "disk full", "file too large"]

_STEPS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.truncate")


def break_files(fault: FileFault, step: int, folder: str, steps: Any) -> None:
    """Have this process fail at a step that touches a file below a folder, and count the steps.

    Args:
        fault: What happens. Files that are too large are so in every folder.
        step: At which step, counted from 1; or how many bytes a file may have.
        folder: Where the steps count.
        steps: A shared number, in which they are counted.
    """
    if fault == "file too large":
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (step, step))
        return

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in _STEPS or not str(arguments[0]).startswith(folder):
            return
        steps.value += 1
        if steps.value != step:
            return
        if fault == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])

    sys.addaudithook(hook)


def is_full(error: OSError) -> bool:
    """Say whether an error is that of a full disk."""
    return error.errno in (errno.ENOSPC, errno.EFBIG)
