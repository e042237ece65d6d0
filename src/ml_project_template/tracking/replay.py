"""Sends what earlier runs could not: at the start of a later run, or by a command."""

from __future__ import annotations

import contextlib
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.client import UnreachableError, quiet
from ml_project_template.tracking.journal import Journal, list_journals
from ml_project_template.tracking.operations import Operation, RunAddress, Sender
from ml_project_template.tracking.outbox import Entry, next_entry
from ml_project_template.tracking_address import UNSENT_RUNS, check_reachable, tracking_uri
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["WaitingRun", "sending_journals", "waiting_runs"]

# What a run waits at its end for what it sends of others.
_JOIN_SECONDS = 2.0

_logger = logging.getLogger(__name__)


@dataclass
class WaitingRun:
    """What waits of one run, and what became of it.

    Attributes:
        folder: The journal's folder.
        run: Which run it is; None if the journal can't be read.
        sent: How many operations were sent.
        left: How many are left.
        problem: Why, in one line; None if nothing is left, or nothing was tried.
    """

    folder: Path
    run: RunAddress | None = None
    sent: int = 0
    left: int = 0
    problem: str | None = None


def waiting_runs(
    uri: str | None = None, root: Path = UNSENT_RUNS, *, send: bool = True
) -> Iterator[WaitingRun]:
    """Go through all journals, the oldest first, and send what is in them.

    Args:
        uri: The tracking address, as for `tracking_uri`. It is taken for the runs that were kept
            there, with its credentials; all others are sent to where they were kept.
        root: The folder of the journals.
        send: False only tells what waits.

    Yields:
        What became of each.
    """
    address = tracking_uri(uri)
    away: dict[str, str] = {}
    for folder in list_journals(root):
        waiting = WaitingRun(folder)
        try:
            with quiet(), _opened(folder) as journal:
                if journal is None:
                    continue
                waiting.run, waiting.left = journal.run, len(journal.pending)
                if send:
                    same = public_url(address) == journal.run.uri
                    _send(journal, address if same else journal.run.uri, waiting, away)
        except (TrackingError, OSError) as error:
            waiting.problem = str(error)
        yield waiting


@contextlib.contextmanager
def sending_journals(uri: str, root: Path) -> Iterator[None]:
    """Send what earlier runs at an address have left, beside the block.

    Nothing that goes wrong disturbs the block; whatever is not sent at its end waits on.

    Args:
        uri: The tracking address.
        root: The folder of the journals.
    """
    here = [folder for folder in list_journals(root) if Journal.uri_of(folder) == public_url(uri)]
    if not here:
        yield
        return
    stopped = threading.Event()

    def work() -> None:
        for folder in here:
            waiting = WaitingRun(folder)
            with contextlib.suppress(TrackingError, OSError), _opened(folder) as journal:
                if journal is not None:
                    _send(journal, uri, waiting, away={}, stopped=stopped)
            if waiting.sent and not waiting.left:
                _logger.info("What was kept of an earlier run, %s, has been sent.", folder.name)

    thread = threading.Thread(target=work, name="replay", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join(_JOIN_SECONDS)


@contextlib.contextmanager
def _opened(folder: Path) -> Iterator[Journal | None]:
    """Have a journal for the time of a block; None if nothing is there any more."""
    journal = Journal.open(folder)
    try:
        yield journal
    finally:
        if journal is not None:
            journal.close()


def _send(
    journal: Journal,
    uri: str,
    waiting: WaitingRun,
    away: dict[str, str],
    stopped: threading.Event | None = None,
) -> None:
    """Send a journal, unless its server was away a moment ago."""
    if uri not in away:
        try:
            check_reachable(uri)
        except TrackingError as error:
            away[uri] = str(error)
    if uri in away:
        waiting.problem = away[uri]
        return
    try:
        sender = Sender(uri, journal.run)
        if not _replay(journal, sender, waiting, stopped):
            away[uri] = str(waiting.problem)
        if not journal.pending and not journal.ended:
            _end_for_dead(journal, sender)
    except TrackingError as error:
        waiting.problem = str(error)
    waiting.left = len(journal.pending)


def _replay(
    journal: Journal, sender: Sender, waiting: WaitingRun, stopped: threading.Event | None
) -> bool:
    """Send what can be sent; returns whether the server is there."""
    queue = [Entry(operation, number) for number, operation in journal.pending.items()]
    paused: set[bool] = set()
    while (entry := next_entry(queue, paused)) is not None:
        if stopped is not None and stopped.is_set():
            break
        try:
            sender.send(entry.operation)
        except UnreachableError as error:
            waiting.problem = str(error)
            # Files go through the server; where it is away, they need not be tried.
            paused |= {entry.operation.is_file, True}
        except TrackingError as error:
            # It is refused; the others are sent all the same.
            waiting.problem = str(error)
            queue.remove(entry)
        else:
            waiting.sent += 1
            queue.remove(entry)
            assert entry.number is not None
            journal.mark_sent(entry.number)
    return False not in paused


def _end_for_dead(journal: Journal, sender: Sender) -> None:
    """End the run of a process that was killed: nobody has its journal, and no end is in it."""
    if sender.is_running():
        end_time = int(journal.last_written * 1000)
        sender.send(Operation("end", {"status": "KILLED", "end_time": end_time}, tried=True))
