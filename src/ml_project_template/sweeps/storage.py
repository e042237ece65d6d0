"""Where studies are kept, and a lock that everybody who shares one can hold.

A study is by default a file of its own, Optuna's journal, in a folder beside the runs: one line for
each thing that happens, quick for some tens of processes. A database (``postgresql://``) serves
many machines.

What belongs together, such as the end of a trial and all that is known of it, is written to a
journal at once: a write that waits for the disk takes longer than a short training's epoch.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import threading
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import ProjectError, SweepError
from ml_project_template.tracking_address import sqlite_path
from ml_project_template.utils.secrets import (
    database_credentials,
    find_secrets,
    public_url,
    redact,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from optuna.storages import BaseStorage

__all__ = ["DEFAULT_FOLDER", "StudyStore", "default_storage", "open_store"]

DEFAULT_FOLDER = ".sweeps"

_SUFFIX = ".journal"
_FIRST = b'{"op_code":'
# What Optuna raises when it reads something else.
_NO_JOURNAL = (AssertionError, AttributeError, KeyError, TypeError, ValueError)
_LOCK_SECONDS = 300


def default_storage(tracking_uri: str | None) -> str:
    """Say where studies are kept by default: beside the database of the runs.

    Args:
        tracking_uri: Where runs are kept; None without tracking.

    Returns:
        A folder: beside a SQLite file, else in the present folder.
    """
    path = None if tracking_uri is None else sqlite_path(tracking_uri)
    return str((Path.cwd() if path is None else path.parent) / DEFAULT_FOLDER)


def open_store(address: str) -> StudyStore:
    """Find the place where studies are kept.

    Args:
        address: A folder, or a database as Optuna takes it: ``sqlite:///studies.db``,
            ``postgresql://user@host/name``.

    Returns:
        The place; nothing is written yet.
    """
    return DatabaseStore(address) if "://" in address else JournalStore(Path(address))


class StudyStore(ABC):
    """A place where studies are kept.

    Attributes:
        shown: Its address without credentials.
    """

    shown: str

    @abstractmethod
    def names(self) -> list[str]:
        """List the studies that are there.

        Raises:
            SweepError: The place can't be read.
        """

    @abstractmethod
    def open(self, name: str) -> BaseStorage:
        """Open the storage of a study; it is made where it is not there yet.

        Raises:
            SweepError: The place can't be written.
        """

    @contextlib.contextmanager
    def reading(self, name: str) -> Iterator[None]:
        """Say in one line that a study can't be read.

        Raises:
            SweepError: What is there is none, or another one.
        """
        try:
            yield
        except ProjectError:
            raise
        except _NO_JOURNAL as error:
            raise SweepError(
                f"sweep.storage: '{self.shown}' holds something else under the name '{name}'."
            ) from error

    @abstractmethod
    def lock(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of a study for a block; who dies in it frees it."""

    @contextlib.contextmanager
    def one_write(self, *, lasting: bool = True) -> Iterator[None]:  # noqa: ARG002 - see below
        """Write what is told in a block to the storages that were opened here at its end, at once.

        A database writes each thing by itself.

        Args:
            lasting: Wait until it is on the disk: a power cut can't undo it.
        """
        yield


class JournalStore(StudyStore):
    """A folder with a journal for each study.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.expanduser().absolute()
        self.shown = str(folder)
        self._journals: list[Any] = []

    def names(self) -> list[str]:
        """List the studies that are there, the one that was worked on last at the end."""
        if not self._folder.is_dir():
            return []
        found = [path for path in self._folder.glob(f"*{_SUFFIX}") if path.stat().st_size]
        found.sort(key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [path.name.removesuffix(_SUFFIX) for path in found]

    def open(self, name: str) -> BaseStorage:
        """Open the journal of a study."""
        from optuna.storages import JournalStorage

        path = self._folder / f"{name}{_SUFFIX}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            path.touch()
            journal = _journal_file(path)
            storage = JournalStorage(journal)
            self._journals.append(journal)
            return storage
        except OSError as error:
            raise SweepError(f"sweep.storage: '{path}' can't be used: {error.strerror}") from error
        except _NO_JOURNAL as error:
            raise SweepError(f"sweep.storage: '{path}' is no journal of a study.") from error

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a file lock beside the journal."""
        with _flock(self._folder / f".{name}.claims.lock"):
            yield

    @contextlib.contextmanager
    def one_write(self, *, lasting: bool = True) -> Iterator[None]:
        """Write what is told in a block at its end, at once; see `StudyStore.one_write`."""
        with contextlib.ExitStack() as stack:
            for journal in self._journals:
                stack.enter_context(journal.one_write(lasting=lasting))
            yield


class DatabaseStore(StudyStore):
    """A database that holds any number of studies.

    Args:
        url: Its address.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        password, rest = database_credentials(url)
        self.shown = public_url(f"{url.partition('://')[0]}://{rest}")
        self._secrets = find_secrets({"url": url, "password": password})
        self._storage: Any = None

    def names(self) -> list[str]:
        """List the studies that are there, the oldest first."""
        path = sqlite_path(self._url)
        if path is not None and not path.is_file():
            return []
        with self._one_line():
            studies = sorted(self.open("").get_all_studies(), key=lambda study: study._study_id)
            return [study.study_name for study in studies]

    def open(self, name: str) -> BaseStorage:  # noqa: ARG002 - one storage holds them all
        """Open the database; its tables are made once, however many start at the same time."""
        if self._storage is None:
            from optuna.storages import RDBStorage
            from sqlalchemy import NullPool

            # A file is opened quickly, and closed when nobody uses it; a server is not.
            kept = {"pool_pre_ping": True}
            pool = kept if sqlite_path(self._url) is None else {"poolclass": NullPool}
            with self._one_line(), self.lock("tables"):
                self._storage = RDBStorage(self._url, engine_kwargs=pool)
        return self._storage  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold an advisory lock of the database's own, which ends with the connection."""
        path = sqlite_path(self._url)
        if path is not None:
            with _flock(path.with_name(f".{path.name}.claims.lock")):
                yield
            return
        import sqlalchemy

        with self._one_line():
            engine = sqlalchemy.create_engine(self._url, poolclass=sqlalchemy.NullPool)
            if engine.dialect.name not in _ADVISORY_LOCKS:
                raise SweepError(
                    f"sweep.storage: '{self.shown}' has no lock that workers could share. Use a "
                    "folder, sqlite:///, postgresql:// or mysql://."
                )
            take, give = _ADVISORY_LOCKS[engine.dialect.name]
            key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:7])
            connection = engine.connect()
            taken = connection.execute(sqlalchemy.text(take), {"key": str(key)}).scalar()
            if taken == 0:
                raise SweepError(f"sweep.storage: '{self.shown}' is held by somebody else.")
        try:
            yield
        finally:
            with contextlib.suppress(sqlalchemy.exc.SQLAlchemyError):
                connection.execute(sqlalchemy.text(give), {"key": str(key)})
            connection.close()
            engine.dispose()

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        """Say in one line what is wrong with the database."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

        try:
            yield
        except SweepError:
            raise
        except (NoSuchModuleError, ArgumentError, ValueError) as error:
            text = redact(str(error), self._secrets)
            raise SweepError(f"sweep.storage: '{self.shown}' is no database: {text}") from error
        except ImportError as error:
            raise SweepError(
                f"sweep.storage: '{self.shown}' needs a driver: {str(error).splitlines()[0]} For "
                "PostgreSQL: uv sync --extra postgresql"
            ) from error
        except (SQLAlchemyError, StorageInternalError) as error:
            # What the database itself said is plainer than the statement it said it about.
            told = (getattr(each, "orig", None) for each in (error, error.__cause__))
            cause = next((each for each in told if each is not None), error)
            lines = str(cause).strip().splitlines() or [type(cause).__name__]
            raise SweepError(
                f"sweep.storage: '{self.shown}' can't be used: {redact(lines[0], self._secrets)}"
            ) from error


# How a dialect takes and gives back a lock that lives as long as its connection.
_ADVISORY_LOCKS = {
    "postgresql": (
        "SELECT pg_advisory_lock(CAST(:key AS bigint))",
        "SELECT pg_advisory_unlock(CAST(:key AS bigint))",
    ),
    "mysql": (f"SELECT GET_LOCK(:key, {_LOCK_SECONDS})", "SELECT RELEASE_LOCK(:key)"),
    "mariadb": (f"SELECT GET_LOCK(:key, {_LOCK_SECONDS})", "SELECT RELEASE_LOCK(:key)"),
}


def _journal_file(path: Path) -> Any:
    """Make the file of a journal, as Optuna's storage wants it.

    Optuna's own file writes each line by itself. And its locks are files whose presence is the
    lock: after a kill they stand in everybody's way for half a minute. The system frees this one.
    Who takes it also cuts off a line that a power cut or a full disk has left unfinished, so that
    the next one does not run into it.
    """
    from optuna.storages.journal import BaseJournalBackend

    class JournalFile(BaseJournalBackend):
        def __init__(self) -> None:
            # The heartbeat of a trial writes in another thread.
            self._mutex = threading.Lock()
            self._held: list[bytes] | None = None
            # Up to where the file was read: so many lines, so many bytes.
            self._lines, self._bytes = 0, 0

        def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
            with self._mutex:
                if log_number_from < self._lines:
                    self._lines, self._bytes = 0, 0
                lines = [*self._new_lines(), *(self._held or ())]
                skipped = log_number_from - self._lines
                # Lines that are held are read again when they stand in the file.
                read = len(lines) - len(self._held or ())
                self._lines += read
                self._bytes += sum(map(len, lines[:read]))
                return [json.loads(line) for line in lines[skipped:]]

        def append_logs(self, logs: list[dict[str, Any]]) -> None:
            lines = [json.dumps(log, separators=(",", ":")).encode() + b"\n" for log in logs]
            with self._mutex:
                if self._held is not None:
                    self._held += lines
                    return
                with _locked_journal(path):
                    self._write(lines, lasting=True)

        @contextlib.contextmanager
        def one_write(self, *, lasting: bool) -> Iterator[None]:
            with contextlib.ExitStack() as stack:
                with self._mutex:
                    # Within another one it is a part of that.
                    if self._held is None:
                        # Until the end: a line has its number by the place it stands at.
                        stack.enter_context(_locked_journal(path))
                        self._held = []
                        stack.callback(self._let_go, lasting=lasting)
                yield

        def _let_go(self, *, lasting: bool) -> None:
            with self._mutex:
                lines, self._held = self._held or [], None
                self._write(lines, lasting=lasting)

        def _new_lines(self) -> list[bytes]:
            with path.open("rb") as file:
                file.seek(self._bytes)
                lines = file.read().splitlines(keepends=True)
            # The last one may be about to be written.
            return lines if not lines or lines[-1].endswith(b"\n") else lines[:-1]

        def _write(self, lines: list[bytes], *, lasting: bool) -> None:
            if not lines:
                return
            with path.open("ab") as file:
                file.write(b"".join(lines))
                file.flush()
                if lasting:
                    os.fsync(file.fileno())

    return JournalFile()


@contextlib.contextmanager
def _locked_journal(path: Path) -> Iterator[None]:
    with _flock(path.with_name(f".{path.name}.lock")):
        _cut_torn_line(path)
        yield


def _cut_torn_line(path: Path) -> None:
    with path.open("r+b") as journal:
        first = journal.read(len(_FIRST))
        if not first:
            return
        if not _FIRST.startswith(first):
            raise SweepError(f"sweep.storage: '{path}' is no journal of a study.")
        journal.seek(-1, os.SEEK_END)
        if journal.read(1) != b"\n":
            journal.seek(0)
            journal.truncate(journal.read().rfind(b"\n") + 1)


@contextlib.contextmanager
def _flock(path: Path) -> Iterator[None]:
    """Hold the lock of a file; the system frees it when its holder dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise SweepError(
            f"sweep.storage: '{path.parent}' can't be written: {error.strerror}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
