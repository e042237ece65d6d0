"""Imported once, by the process that the workers of a sweep are forked from.

It imports, in turn, what the workers will need, so that each of them has it from its first moment.
Nothing here may start a thread or touch a device: a fork would not survive it.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os

from ml_project_template.utils.collecting import uncollected

__all__ = ["PRELOAD_VARIABLE"]

PRELOAD_VARIABLE = "ML_PROJECT_PRELOAD"


def _preload(names: list[str]) -> None:
    with uncollected():
        for name in names:
            module_name, _, function = name.partition(":")
            try:
                found = importlib.import_module(module_name)
                for attribute in function.split(".") if function else ():
                    found = getattr(found, attribute)
                if function:
                    found()  # type: ignore[operator]
            except Exception:  # noqa: S112 - whoever needs it tells what is wrong with it
                continue


if PRELOAD_VARIABLE in os.environ:
    _preload(json.loads(os.environ[PRELOAD_VARIABLE]))
    # Torch included: the collector of a worker need not look through what it is forked with.
    gc.freeze()
    # The process only forks: there is nothing to clean up at its end, and libraries whose modules
    # were not collected would complain of that on the terminal.
    atexit.register(os._exit, 0)
