"""Directories that change in one step: the old one or the new one is there at any moment.

A new directory is made beside its place, under a name that tells the process that makes it, and
changes places with the old one by one call of the system. Where a file system has no such call,
the old one is moved aside for a moment; a process that dies in that moment leaves it there, and
the next reader or writer puts it back.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from ml_project_template.utils.processes import is_running

__all__ = ["held", "remove_abandoned", "replacing_directory", "restore_directory", "sync"]


@contextlib.contextmanager
def replacing_directory(
    place: Path, *, check: Callable[[Path], None] | None = None
) -> Iterator[Path]:
    """Fill a new directory that takes the place of another one when the block ends well.

    Args:
        place: Where the directory shall be; parents are made. If it is a link, what it points to is
            replaced.
        check: Called with the real place before the block and again right before the change; may
            raise to protect what is there.

    Yields:
        The new directory, empty. If the block raises, it is removed and nothing has changed.

    Raises:
        OSError: If the parent can't be made or written.
    """
    target = place.resolve()
    parent = target.parent
    parent.mkdir(parents=True, exist_ok=True)
    if check is not None:
        with held(parent):
            _restore(target)
            check(target)
    new = parent / f"{_staging_prefix(target)}{os.getpid()}-{secrets.token_hex(6)}"
    new.mkdir()
    try:
        with held(new):
            yield new
            with held(parent):
                _restore(target)
                if check is not None:
                    check(target)
                old = _put_in_place(new, target)
                sync(parent)
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if old is not None:
        shutil.rmtree(old, ignore_errors=True)
    _sweep(target)


def restore_directory(place: Path) -> bool:
    """Put a directory back if a writer died while it was moved aside.

    Args:
        place: Where it should be.

    Returns:
        Whether a directory is at the place now.
    """
    target = place.resolve()
    with contextlib.suppress(OSError), held(target.parent):
        _restore(target)
    return target.is_dir()


def sync(path: Path) -> None:
    """Make a file, or the names in a directory, last through a power cut.

    Args:
        path: A file or a directory.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        # Some network file systems can't sync a directory.
        with contextlib.suppress(OSError):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Hold the lock of a file or directory; the system frees it when its holder dies.

    Args:
        path: The file or directory.
        wait: Wait for whoever holds it.

    Raises:
        BlockingIOError: If somebody holds it and `wait` is False.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise
        except OSError:
            # Some network file systems know no locks. What follows is then still atomic; only two
            # writers or a sweep at the very same moment may get in each other's way.
            if not wait:
                raise
        yield
    finally:
        os.close(descriptor)


def remove_abandoned(leftover: Path, owner: str) -> None:
    """Remove what somebody was making under a name for the time being, if he is dead.

    Args:
        leftover: A file or a directory, whose maker holds its lock.
        owner: The number of its maker's process, from its name; anything else is left alone.
    """
    if not owner.isdigit() or is_running(int(owner)):
        return
    # A writer in another container has a process number of its own: its lock tells.
    with contextlib.suppress(OSError), held(leftover, wait=False):
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover, ignore_errors=True)
        else:
            leftover.unlink()


def _put_in_place(new: Path, target: Path) -> Path | None:
    """Put a finished directory at its place; returns where the old one went, if there was one."""
    try:
        # Also right where an empty directory is: POSIX replaces it.
        new.rename(target)
    except OSError as error:
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise
    else:
        return None
    if _exchange(new, target):
        return new
    old = target.with_name(_old_prefix(target) + secrets.token_hex(6))
    target.rename(old)
    try:
        new.rename(target)
    except BaseException:
        old.rename(target)
        raise
    return old


def _exchange(first: Path, second: Path) -> bool:
    """Let two directories change places in one step; False where the system can't."""
    libc = ctypes.CDLL(None, use_errno=True)
    one, other = os.fsencode(first), os.fsencode(second)
    try:
        if sys.platform == "darwin":
            done = libc.renamex_np(one, other, 2)  # RENAME_SWAP
        else:
            # AT_FDCWD, RENAME_EXCHANGE: linux/fcntl.h, linux/fs.h
            done = libc.renameat2(-100, one, -100, other, 2)
    except AttributeError:
        return False
    if done == 0:
        return True
    code = ctypes.get_errno()
    if code in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}:
        return False
    raise OSError(code, os.strerror(code), str(second))


def _staging_prefix(target: Path) -> str:
    return f".{target.name}.staging-"


def _old_prefix(target: Path) -> str:
    return f".{target.name}.old-"


def _beside(target: Path, prefix: str) -> list[Path]:
    """List what stands beside a directory under names with a prefix."""
    return sorted(path for path in target.parent.iterdir() if path.name.startswith(prefix))


def _restore(target: Path) -> None:
    """Put back the old directory if a writer died after it had moved it aside."""
    if target.exists():
        return
    for old in _beside(target, _old_prefix(target)):
        with contextlib.suppress(OSError):
            old.rename(target)
            return


def _sweep(target: Path) -> None:
    """Remove what writers that died left beside a directory."""
    with held(target.parent):
        if target.exists():
            for old in _beside(target, _old_prefix(target)):
                shutil.rmtree(old, ignore_errors=True)
        for staging in _beside(target, _staging_prefix(target)):
            owner = staging.name.removeprefix(_staging_prefix(target)).partition("-")[0]
            remove_abandoned(staging, owner)
