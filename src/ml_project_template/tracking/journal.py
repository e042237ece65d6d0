"""What a run could not send, kept on the local disk until it can be sent.

A journal is a folder::

    .unsent/runs/<run id>/
        journal.jsonl      a line for each operation, and one for each that was sent
        files/<number>/    the files of an operation

A line counts when it is there with its end, and is on the disk before anybody relies on it: a
process may be killed, and the power may fail, at any time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.operations import Opening, Operation, RunAddress

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Journal", "list_journals"]

_NAME = "journal.jsonl"
_FORMAT = 1


class Journal:
    """The journal of a run, which this process alone writes to; `create` or `open` gives one.

    Attributes:
        folder: Where it is.
        run: Which run it is about.
        pending: What waits to be sent, by number, in order.
        ended: The run's end is in it, sent or not.
    """

    def __init__(self, folder: Path, run: RunAddress, lock: Any) -> None:
        self.folder = folder
        self.run = run
        self.pending: dict[int, Operation] = {}
        self.ended = False
        self._lock = lock
        self._next = 0

    @classmethod
    def create(cls, root: Path, run: RunAddress) -> Journal:
        """Begin a journal.

        Args:
            root: The folder of all journals.
            run: The run.

        Raises:
            OSError: The disk is full, or can't be written.
        """
        root.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            name = run.run_id if number == 1 else f"{run.run_id}-{number}"
            lock = _lock(root / name)
            # What an earlier session of the run has left is another journal.
            if lock is not None and not (root / name).exists():
                break
            if lock is not None:
                lock.release()
            number += 1
        journal = cls(root / name, run, lock)
        journal.folder.mkdir()
        head = {"format": _FORMAT, "kept_at": time.time(), **dataclasses.asdict(run)}
        journal._write(head)
        for folder in (journal.folder, root):
            _sync_folder(folder)
        return journal

    @classmethod
    def open(cls, folder: Path) -> Journal | None:
        """Open a journal that another process has left.

        Args:
            folder: Its folder.

        Returns:
            The journal; None if nothing is there any more.

        Raises:
            TrackingError: A run that has not ended has it, or it is damaged so that nobody can
                tell which run it is about.
        """
        lock = _lock(folder)
        if lock is None:
            raise TrackingError(f"'{folder}' is in use by a run that has not ended.")
        try:
            journal = cls._read(folder, lock)
        except BaseException:
            lock.release()
            raise
        if journal is None:
            # Whoever began it was killed before there was anything in it, or all has been sent.
            _remove(folder, lock)
            lock.release()
        return journal

    @staticmethod
    def uri_of(folder: Path) -> str | None:
        """Read the tracking address of a journal, whoever has it; None if it can't be told."""
        return _head(folder).get("uri")

    @property
    def last_written(self) -> float:
        """When it was last written to, as seconds since 1970."""
        return (self.folder / _NAME).stat().st_mtime

    @classmethod
    def _read(cls, folder: Path, lock: Any) -> Journal | None:
        path = folder / _NAME
        if not path.is_file():
            return None
        _cut_torn_line(path)
        if path.stat().st_size == 0:
            return None
        head, *lines = [*_lines(path)] or [{}]
        if head.get("format") != _FORMAT:
            raise TrackingError(
                f"'{path}' can't be read: its first line does not say which run it is about."
            )
        names = [field.name for field in dataclasses.fields(RunAddress)]
        run = RunAddress(**{name: head[name] for name in names})
        if head["opening"] is not None:
            run = dataclasses.replace(run, opening=Opening(**head["opening"]))
        journal = cls(folder, run, lock)
        for line in lines:
            if "sent" in line:
                journal.pending.pop(line["sent"], None)
            else:
                number = line["number"]
                data = None
                if line["file"] is not None:
                    data = folder / "files" / str(number) / line["file"]
                journal.pending[number] = Operation(line["kind"], line["content"], data, tried=True)
                journal._next = number + 1
                journal.ended |= line["kind"] == "end"
        return journal

    def append(self, operation: Operation) -> int:
        """Keep an operation; its data are copied, and taken from the copy from now on.

        Returns:
            Its number.

        Raises:
            OSError: The disk is full, or can't be written.
        """
        number, name = self._next, None
        if operation.data is not None:
            name = Path(operation.content.get("path", "model")).name
            target = self.folder / "files" / str(number) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            _store(operation.data, target)
            for folder in (target.parent, target.parent.parent, self.folder):
                _sync_folder(folder)
        self._write(
            {
                "number": number,
                "kind": operation.kind,
                "content": operation.content,
                "file": name,
            }
        )
        if operation.data is not None:
            operation.data = target
        self.pending[number] = operation
        self.ended |= operation.kind == "end"
        self._next += 1
        return number

    def mark_sent(self, number: int) -> None:
        """Note that an operation was sent."""
        self.pending.pop(number, None)
        with contextlib.suppress(OSError):
            # Without the note it is sent once more, which changes nothing.
            self._write({"sent": number})
        shutil.rmtree(self.folder / "files" / str(number), ignore_errors=True)

    def close(self) -> None:
        """Leave it to others; it is removed if nothing waits in it."""
        if not self.pending:
            _remove(self.folder, self._lock)
        self._lock.release()

    def _write(self, line: Mapping[str, Any]) -> None:
        content = json.dumps(line).encode() + b"\n"
        with (self.folder / _NAME).open("ab", buffering=0) as file:
            start = file.tell()
            written = file.write(content)
            if written != len(content):
                # The next line must not become part of this one.
                file.truncate(start)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.folder / _NAME))
            os.fsync(file.fileno())


def list_journals(root: Path) -> list[Path]:
    """Find the folders of all journals, the oldest first; also of those that were never written."""
    entries = [*root.iterdir()] if root.is_dir() else []
    folders = {entry.with_suffix("") for entry in entries if entry.suffix == ".lock"}
    folders |= {entry for entry in entries if entry.is_dir()}
    if not folders:
        # Whoever made it, or emptied it, was killed.
        _remove_empty(root)
    return sorted(folders, key=lambda folder: (_head(folder).get("kept_at", 0.0), folder.name))


def _head(folder: Path) -> dict[str, Any]:
    """Read the first line of a journal, whoever has it; empty if it can't be read."""
    with contextlib.suppress(OSError):
        return next(_lines(folder / _NAME), {})
    # Somebody has just sent it.
    return {}


def _remove(folder: Path, lock: Any) -> None:
    """Remove a journal, whose lock this process has, and the folders above it if they are empty."""
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(lock.lock_file)  # noqa: PTH108 - the lock gives a text
    _remove_empty(folder.parent)


def _remove_empty(root: Path) -> None:
    """Remove the folder of all journals, and the one above it, if nothing is in them."""
    for folder in (root, root.parent):
        with contextlib.suppress(OSError):
            # As long as there are others in it, it stays.
            folder.rmdir()


def _lock(folder: Path) -> Any:
    """Take a journal for this process; None while another one has it."""
    from filelock import FileLock, Timeout

    lock = FileLock(f"{folder}.lock", blocking=False, thread_local=False)
    try:
        lock.acquire()
    except (Timeout, OSError):
        return None
    return lock


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                # A damaged disk: what can be read is sent all the same.
                continue
            if isinstance(line, dict):
                yield line


def _cut_torn_line(path: Path) -> None:
    """Take off a last line without an end, so that the next one does not become part of it."""
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        with path.open("r+b") as file:
            file.truncate(content.rfind(b"\n") + 1)


def _store(data: bytes | os.PathLike[str], target: Path) -> None:
    """Put bytes, or a copy of a file or folder, on the disk for good."""
    if isinstance(data, bytes):
        target.write_bytes(data)
    elif Path(data).is_dir():
        shutil.copytree(data, target)
    else:
        shutil.copyfile(data, target)
    files = [target] if target.is_file() else [p for p in target.rglob("*") if p.is_file()]
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the system can do so."""
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)
