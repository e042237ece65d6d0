"""Sends what a run tells; a server that does not answer costs the run little and loses nothing.

Threads do the sending: one for all that goes to the database, and one for files, which may go to
another store, where there are files. Whoever tells something does not wait: what the database gets
is sent once a second, in as few requests as it takes, for each is a transaction that waits for the
disk. `Outbox.flush` waits until all is sent.

When something can't be sent, or not in good time, it is kept in a `Journal`, and all that comes
after it, too, and the threads try again, now and then, until the run ends. What is left then is
sent by the next run, or by ``python -m entrypoints.sync``.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.client import UnreachableError, own_timeout
from ml_project_template.tracking.journal import Journal
from ml_project_template.tracking.operations import ROWS_AT_ONCE, Operation, joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ml_project_template.tracking.operations import RunAddress, Sender

__all__ = ["Entry", "Outbox", "is_known_away", "next_entry", "remember_away"]

# How often the database is sent what has been told since.
_SEND_SECONDS = 1.0
# Seconds that one thing may take to be sent, before it is kept; and that a run waits at its end.
_PATIENCE = 12.0
_LAST_PATIENCE = 8.0
# What whoever stops a run waits at most for each.
_LITTLE_PATIENCE = 3.0
# What a run waits at its end for a server that was away before it began.
_NO_PATIENCE = 1.0
# A file may take longer, by its size.
_BYTES_PER_SECOND = 20_000_000
_FIRST_PAUSE, _LONGEST_PAUSE = 2.0, 30.0
_NEVER = float("inf")
# So long a process takes a server for away, after that was seen: the trials of a sweep do not each
# wait for it anew.
_REMEMBERED = 60.0

# By address, and whether it is about files.
_away_until: dict[tuple[str, bool], float] = {}

_logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Entry:
    """An operation on its way.

    Attributes:
        operation: What is sent.
        number: Its number in the journal, None where it is in none.
        sent: It has arrived.
        refusal: Why it never will.
    """

    operation: Operation
    number: int | None = None
    sent: bool = False
    refusal: TrackingError | None = None
    _news: SimpleQueue[None] = field(default_factory=SimpleQueue)

    @property
    def waits(self) -> bool:
        """Whether it has neither arrived nor been refused."""
        return not self.sent and self.refusal is None

    def settle(self) -> None:
        """Have whoever waits for it go on."""
        self._news.put(None)

    def wait(self, seconds: float) -> bool:
        """Wait until somebody calls `settle`; False if nobody does in time."""
        # Not by a condition: a signal in its wait can leave its lock in disorder.
        with contextlib.suppress(Empty):
            self._news.get(timeout=seconds)
            return True
        return False


class Outbox:
    """What a run has to tell, and how it is sent.

    Args:
        sender: Sends one operation.
        run: The run, as its journal names it.
        root: The folder of the journals.

    Attributes:
        folder: The folder of its journal; None as long as nothing had to be kept.
    """

    def __init__(self, sender: Sender, run: RunAddress, root: Path) -> None:
        self._sender = sender
        self._run = run
        self._root = root
        self._changed = threading.Condition()
        self._queue: list[Entry] = []
        # Told without a lock, so that whoever reports an epoch never waits for whoever sends.
        self._rows: deque[Sequence[Any]] = deque()
        self._look_at = 0.0  # when whoever tells metrics looks after the threads
        self._send_at = 0.0  # when the database is sent what waits
        self._urgent = False  # somebody waits for it
        self._deadlines: dict[bool, float] = {}  # of what is being sent, by whether it is a file
        self._refusals: list[TrackingError] = []
        self._journal: Journal | None = None
        self.folder: Path | None = None
        self._keeps = False  # all is kept, and nobody waits any more
        self._threads: dict[bool, threading.Thread] = {}  # by whether they send files
        self._running = 0
        self._news: SimpleQueue[None] = SimpleQueue()  # something was settled, for `close`
        self._closing = False
        self._refused = 0
        self._full = False  # the disk, as far as is known
        self._failures = {False: 0, True: 0}  # in a row, by whether it is a file
        self._pause_until = {False: 0.0, True: 0.0}
        # A run that could not be made when it began has nobody to wait for.
        self._was_away = run.opening is not None or any(
            is_known_away(run.uri, is_file=is_file) for is_file in (False, True)
        )
        if run.opening is not None:
            # Whatever tells something first: a run is sent before those below it.
            with contextlib.suppress(OSError):
                self._open_journal()

    def put(self, operation: Operation, *, wait: bool = False, hurry: bool = False) -> None:
        """Have something sent, or kept where that does not work.

        Args:
            operation: What to send.
            wait: Until it is sent or kept.
            hurry: Wait a few seconds only.

        Raises:
            TrackingError: It, or something before it, is refused, and will always be. Where all is
                kept this is only logged.
        """
        with self._changed:
            entry = self._append(operation)
            self._look_after()
            self._urgent |= wait and not operation.is_file
            if wait or operation.is_file:
                self._changed.notify_all()
            wait = wait and not self._keeps
        if wait:
            self._wait(entry, _LITTLE_PATIENCE if hurry else _PATIENCE)
        self._raise_refusal()

    def put_metrics(self, rows: Iterable[Sequence[Any]]) -> None:
        """Have metrics sent with the others of their second.

        Args:
            rows: Name, value, milliseconds since 1970 and step of each.

        Raises:
            TrackingError: Something before them is refused, and will always be.
        """
        self._rows.extend(rows)
        if False not in self._threads or time.monotonic() >= self._look_at:
            with self._changed:
                self._start(is_file=False)
                self._look_after()
        self._raise_refusal()

    def flush(self) -> None:
        """Wait until all that was told is sent or kept.

        Raises:
            TrackingError: Something is refused, and will always be.
        """
        with self._changed:
            self._collect()
            self._urgent = True
            self._changed.notify_all()
            waiting = [*self._queue]
        for entry in waiting:
            if self._keeps:
                break
            self._wait(entry, _PATIENCE)
        self._raise_refusal()

    def take_refusals(self) -> list[TrackingError]:
        """Give what was refused and has not been raised yet."""
        taken = []
        while self._refusals:
            taken.append(self._refusals.pop(0))
        return taken

    def close(self, *, hurry: bool = False) -> int:
        """Try once more to send what waits, and end the threads.

        Args:
            hurry: Wait a few seconds only.

        Returns:
            How many operations are left; they are kept.
        """
        patience = _LITTLE_PATIENCE if hurry else _LAST_PATIENCE
        if self._was_away:
            patience = _NO_PATIENCE
        with self._changed:
            self._collect()
            self._closing = True
            self._changed.notify_all()
            left = len(self._queue)
            deadline = self._deadline(patience)
        while self._running and (seconds := deadline - time.monotonic()) > 0:
            with contextlib.suppress(Empty):
                self._news.get(timeout=seconds)
            with self._changed:
                if len(self._queue) < left:
                    left = len(self._queue)
                    deadline = self._deadline(patience)
        with self._changed:
            if self._queue:
                # Whoever is stopped has not waited for as long as it takes to be kept.
                self._keep_all("no answer before the run ended")
            left = len(self._queue) + self._refused
            threads = [] if self._running else [*self._threads.values()]
            # A thread may wait for its answer for long; the journal is for others now.
            self._release()
        for thread in threads:
            thread.join()
        return left

    def _raise_refusal(self) -> None:
        if self._refusals:
            raise self._refusals.pop(0)

    def _append(self, operation: Operation) -> Entry:
        """Put an operation at the end of the queue."""
        entry = Entry(operation)
        self._queue.append(entry)
        # The one for the database sees to it that nothing waits for too long, files included.
        for is_file in {False, operation.is_file}:
            self._start(is_file)
        if self._keeps:
            self._keep(entry)
        elif self._was_away:
            self._keep_all("it did not a moment ago")
        return entry

    def _collect(self) -> None:
        """Put the metrics that were told since into the queue."""
        # Nobody else takes any; those that come meanwhile are for the next time.
        rows = [self._rows.popleft() for _ in range(len(self._rows))]
        for start in range(0, len(rows), ROWS_AT_ONCE):
            self._append(Operation("metrics", {"rows": rows[start : start + ROWS_AT_ONCE]}))

    def _look_after(self) -> None:
        """Keep what a thread waits for in vain, and what it can't see to meanwhile."""
        now = time.monotonic()
        self._look_at = now + _SEND_SECONDS
        for is_file, deadline in self._deadlines.items():
            if now >= deadline and not self._keeps:
                self._keep_late(is_file)
        if self._keeps:
            self._collect()

    def _start(self, is_file: bool) -> None:
        if is_file not in self._threads:
            thread = threading.Thread(
                target=self._work, args=(is_file,), name="outbox", daemon=True
            )
            self._threads[is_file] = thread
            if not is_file:
                self._send_at = time.monotonic() + _SEND_SECONDS
            self._running += 1
            thread.start()

    def _release(self) -> None:
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def _deadline(self, patience: float) -> float:
        """When whoever waits for the next thing has waited long enough."""
        sizes = [entry.operation.size for entry in self._queue if entry.operation.is_file]
        return time.monotonic() + _patience(patience, max(sizes, default=0))

    def _wait(self, entry: Entry, patience: float) -> None:
        """Wait until an entry is sent or refused, but not for ever."""
        if not entry.waits:
            return
        try:
            settled = entry.wait(_patience(patience, entry.operation.size))
        except BaseException:
            # Stopped by a signal: it is sent all the same, if there is time for so much.
            if entry.operation.kind == "model":
                with self._changed:
                    self._keep_all("it was still being sent")
            raise
        if not settled:
            with self._changed:
                if entry.waits:
                    self._keep_late(entry.operation.is_file)

    def _keep_late(self, is_file: bool) -> None:
        remember_away(self._run.uri, is_file=is_file)
        self._keep_all("no answer in good time")

    def _keep_all(self, reason: str) -> None:
        """From now on keep everything, all that waits first."""
        if self._keeps:
            return
        self._keeps = True
        for entry in self._queue:
            self._keep(entry)
            entry.settle()
        self._collect()
        if self.folder is not None:
            _logger.warning(
                "The tracking server does not take what this run tells (%s). It is kept in %s "
                "and sent as soon as that works: by this run, a later one, or "
                "'python -m entrypoints.sync'.",
                reason,
                self.folder,
            )

    def _open_journal(self) -> Journal:
        if self._journal is None:
            self._journal = Journal.create(self._root, self._run)
            self.folder = self._journal.folder
        return self._journal

    def _keep(self, entry: Entry) -> None:
        try:
            entry.number = self._open_journal().append(entry.operation)
        except OSError as error:
            if self._full:
                return
            self._full = True
            _logger.warning(
                "What can't be sent to the tracking server can't be kept in '%s' either: %s. "
                "It is lost if the server does not answer before the run ends.",
                self._root,
                error,
            )

    def _work(self, is_file: bool) -> None:
        """Send what waits, files or all else: a thread."""
        while entries := self._take(is_file):
            self._send(entries)
        with self._changed:
            self._running -= 1
            if not self._running:
                self._release()
            self._news.put(None)

    def _send(self, entries: list[Entry]) -> None:
        error: Exception | None = None
        try:
            self._sender.send_together([entry.operation for entry in entries])
        except Exception as caught:
            error = caught
        if len(entries) > 1 and _is_refusal(error):
            # One of them is at fault, and the others are not.
            for entry in entries:
                self._send([entry])
            return
        with self._changed:
            self._settle(entries, error)
            for entry in entries:
                entry.settle()
            self._news.put(None)

    def _take(self, is_file: bool) -> list[Entry]:
        """Wait for something to send; nothing when the thread is to end."""
        with self._changed:
            self._deadlines.pop(is_file, None)
            while True:
                if not is_file:
                    self._look_after()
                now = time.monotonic()
                until = self._pause_until[is_file]
                if not (is_file or self._urgent):
                    until = max(until, self._send_at)
                # At the end one more attempt is made, whatever the pause.
                if until != _NEVER and (now >= until or self._closing):
                    if not is_file:
                        self._collect()
                    entry = next_entry(self._queue, paused={not is_file})
                    if entry is not None:
                        entries = self._joined(entry)
                        size = max(each.operation.size for each in entries)
                        self._deadlines[is_file] = now + _patience(_PATIENCE, size)
                        return entries
                    until = 0.0
                    if not is_file:
                        self._urgent = False
                        until = self._send_at = now + _SEND_SECONDS
                if self._closing:
                    return []
                pause = None if until in (0.0, _NEVER) else until - now
                # What is told meanwhile is kept in good time, even while nothing is sent.
                self._changed.wait(pause if is_file else min(pause or _NEVER, _SEND_SECONDS))

    def _joined(self, first: Entry) -> list[Entry]:
        """Find what can be sent in one request with an entry."""
        waiting = [entry for entry in self._queue if entry is not first]
        number = joined([first.operation, *(entry.operation for entry in waiting)])
        return [first, *(waiting[i - 1] for i in number if i)]

    def _settle(self, entries: list[Entry], error: Exception | None) -> None:
        """Note what became of entries that were sent together."""
        is_file = entries[0].operation.is_file
        if error is None:
            for entry in entries:
                entry.sent = True
                self._queue.remove(entry)
            _away_until.pop((self._run.uri, is_file), None)
            if self._failures[is_file]:
                _logger.info("The tracking server takes again what this run tells.")
                self._failures[is_file] = 0
            for entry in entries:
                if entry.number is not None and self._journal is not None:
                    self._journal.mark_sent(entry.number)
        elif isinstance(error, TrackingError) and _is_refusal(error):
            [entry] = entries
            entry.refusal = error
            self._queue.remove(entry)
            if entry.number is None:
                self._refusals.append(error)
            else:
                self._refused += 1
                _logger.warning("%s It is kept in %s.", error, self.folder)
        else:
            for entry in entries:
                entry.operation.tried = True
            remember_away(self._run.uri, is_file=is_file)
            self._keep_all(str(error))
            self._failures[is_file] += 1
            pause = min(_FIRST_PAUSE * 2 ** self._failures[is_file], _LONGEST_PAUSE)
            until = _NEVER if self._closing else time.monotonic() + pause
            # Files go through the server; where it is away, they need not be tried.
            for kind in {is_file, True}:
                self._pause_until[kind] = until


def _is_refusal(error: Exception | None) -> bool:
    """Whether something will never be taken."""
    return isinstance(error, TrackingError) and not isinstance(error, UnreachableError)


def is_known_away(uri: str, *, is_file: bool = False) -> bool:
    """Say whether a server did not answer this process a moment ago.

    Args:
        uri: Its address, without credentials.
        is_file: Whether it is about the files that the server takes.
    """
    return _away_until.get((uri, is_file), 0.0) > time.monotonic()


def remember_away(uri: str, *, is_file: bool = False) -> None:
    """Have later runs of this process know that a server is away; see `is_known_away`."""
    _away_until[uri, is_file] = time.monotonic() + _REMEMBERED


def next_entry(queue: Iterable[Entry], paused: set[bool]) -> Entry | None:
    """Choose what to send next: in order, but the end of a run when all else that can be is sent.

    Args:
        queue: What waits.
        paused: Kinds that can't be sent now: True for files, False for all else.
    """
    possible = [entry for entry in queue if entry.operation.is_file not in paused]
    rest = (entry for entry in possible if entry.operation.kind != "end")
    return next(rest, possible[0] if possible else None)


def _patience(seconds: float, size: int) -> float:
    """Seconds to wait for something of so many bytes."""
    return max(seconds, own_timeout() or 0.0) + size / _BYTES_PER_SECOND
