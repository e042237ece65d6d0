"""What a training runs on besides code and data, so that a later one can be compared with it."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import platform
from pathlib import Path

__all__ = ["environment_state", "package_version"]

_LOCK = "uv.lock"


def environment_state(directory: str | Path = ".") -> dict[str, str | None]:
    """Describe the machine, and the lock file that its packages are installed by.

    Args:
        directory: Where to look for ``uv.lock``; the folders above it are next.

    Returns:
        ``platform``, such as ``Linux x86_64``, and ``uv_lock``, the SHA-256 of the file; None where
        there is none.
    """
    place = Path(directory).absolute()
    locks = (folder / _LOCK for folder in (place, *place.parents))
    lock = next((path for path in locks if path.is_file()), None)
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "uv_lock": None if lock is None else hashlib.sha256(lock.read_bytes()).hexdigest(),
    }


@functools.cache
def package_version(name: str) -> str:
    """Read the version of an installed package, once: a sweep asks for the same ones each time.

    Args:
        name: Of the distribution.

    Raises:
        PackageNotFoundError: It is not installed.
    """
    return importlib.metadata.version(name)
