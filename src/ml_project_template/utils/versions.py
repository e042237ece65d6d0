"""Directories on a remote storage that change in one step: immutable versions behind a pointer.

An object storage can't rename a directory, so a new version is written beside the old ones, and
one small object, which is replaced in one step, names the version that counts::

    <path>/current.json                         the names of the present and the previous version
    <path>/versions/20261124T133000Z-<12 hex>/  the files of one version, never changed

A writer that dies leaves the old version in its place. The version before the present one is kept
for those who are reading it; what came before is removed by the next writer.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ml_project_template.errors import DataError
from ml_project_template.utils import io
from ml_project_template.utils.secrets import public_url

__all__ = ["POINTER", "Pointer", "own_names", "publish", "read_pointer"]

POINTER = "current.json"
_VERSIONS = "versions"

_FORMAT_VERSION = 1
_MAX_POINTER = 4096  # bytes
_VERSION = re.compile(r"\d{8}T\d{6}Z-[0-9a-f]{12}")
_OWN_NAME = re.compile(rf"{_VERSIONS}/({_VERSION.pattern})/([^/]+)")
# By the clock of the storage: no writer is silent for so long between two files.
_ABANDONED_AFTER = 3600  # seconds

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pointer:
    """Which version of a directory counts.

    Attributes:
        version: Its name.
        previous: The one before; None if it is the first.
    """

    version: str
    previous: str | None = None

    def place(self, path: str) -> str:
        """Say where the version lies that counts."""
        return io.join(path, _VERSIONS, self.version)


def _parse_pointer(content: bytes, *, where: str) -> Pointer:
    """Read what a pointer says.

    Args:
        content: The bytes of ``current.json``.
        where: What an error calls it.

    Raises:
        DataError: It is no pointer.
    """
    found = io.parse_json(content, where=where)
    if isinstance(found, dict) and found.get("format_version") == _FORMAT_VERSION:
        version, previous = found.get("version"), found.get("previous")
        if _is_version(version) and (previous is None or _is_version(previous)):
            return Pointer(str(version), previous)
    raise DataError(f"{where} does not name a version: it was changed or damaged.")


def read_pointer(path: str, storage_options: Mapping[str, Any] | None = None) -> Pointer | None:
    """Read which version of a directory counts.

    Args:
        path: The directory, remote or a local copy of one.
        storage_options: Options of S3.

    Returns:
        The pointer; None if the directory has none.

    Raises:
        DataError: It is damaged.
    """
    place = io.join(path, POINTER)
    try:
        content = io.read_bytes(place, max_bytes=_MAX_POINTER, storage_options=storage_options)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return _parse_pointer(content, where=f"'{public_url(place)}'")


def own_names(names: Collection[str]) -> set[str]:
    """Find the names below a directory that belong to versions of it."""
    return {name for name in names if _OWN_NAME.fullmatch(name)}


def publish(
    path: str,
    files: Path,
    *,
    digest: str,
    last: str,
    replaced: Collection[str] = (),
    storage_options: Mapping[str, Any] | None = None,
) -> str:
    """Make a local directory the version that counts.

    Args:
        path: The remote directory.
        files: A local directory of plain files.
        digest: Names the content: at least 12 hexadecimal digits.
        last: The file that is written after all others.
        replaced: Names in the directory, no part of any version, that go when the new one counts.
        storage_options: Options of S3.

    Returns:
        The name of the version.

    Raises:
        DataError: Somebody removes the files while they are written.
        OSError: The storage can't be reached or refuses.
    """
    before = _pointer_or_none(path, storage_options)
    version = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{digest[:12]}"
    previous = before.version if before is not None else None
    if before is not None and previous == version:
        # The same content once more within a second.
        previous = before.previous
    new = Pointer(version, previous)
    _upload(files, new.place(path), last, storage_options)
    content = {
        "format_version": _FORMAT_VERSION,
        "version": new.version,
        "previous": new.previous,
    }
    io.write_json(io.join(path, POINTER), content, storage_options)
    try:
        for name in sorted(replaced, key=lambda name: (name != last, name)):
            io.remove_tree(io.join(path, name), storage_options)
        _sweep(path, before, last, storage_options)
    except OSError as error:
        # The new version is in its place: old ones are a matter of space.
        _logger.warning("Old versions in '%s' were not removed: %s", public_url(path), error)
    return version


def _is_version(name: object) -> bool:
    return isinstance(name, str) and _VERSION.fullmatch(name) is not None


def _pointer_or_none(path: str, storage_options: Mapping[str, Any] | None) -> Pointer | None:
    """Read a pointer that is about to be replaced: a damaged one is none."""
    try:
        return read_pointer(path, storage_options)
    except DataError:
        return None


def _upload(files: Path, place: str, last: str, storage_options: Mapping[str, Any] | None) -> None:
    """Write the files of a version, and see that all of them have arrived."""
    sizes = io.list_files(str(files))
    for name in sorted(sizes, key=lambda name: (name == last, name)):
        io.copy(str(files / name), io.join(place, name), storage_options)
    arrived = io.list_files(place, storage_options)
    missing = sorted(name for name, size in sizes.items() if arrived.get(name) != size)
    if missing:
        # A writer that took longer than an hour may have been taken for dead.
        raise DataError(
            f"'{public_url(place)}': '{missing[0]}' was removed while the others were written."
        )


def _sweep(
    path: str, before: Pointer | None, last: str, storage_options: Mapping[str, Any] | None
) -> None:
    """Remove what nobody reads any more, and what writers that died have left."""
    times = io.modification_times(path, storage_options)
    now = times.get(POINTER)
    present = _pointer_or_none(path, storage_options)
    if now is None or present is None:
        return
    versions: dict[str, list[str]] = {}
    for name in own_names(times):
        versions.setdefault(name.split("/")[1], []).append(name)
    kept = {present.version, present.previous}
    for version, names in sorted(versions.items()):
        if version in kept:
            continue
        replaced_twice = before is not None and version == before.previous
        if replaced_twice or now - max(times[name] for name in names) > _ABANDONED_AFTER:
            place = io.join(path, _VERSIONS, version)
            # Without this one it is no version, also if the rest stays for now.
            io.remove_tree(io.join(place, last), storage_options)
            io.remove_tree(place, storage_options)
