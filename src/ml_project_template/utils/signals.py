"""Signals that ask a process to stop, as exceptions: what has to be closed is closed."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

__all__ = [
    "StopRequest",
    "Terminated",
    "stop_behind",
    "stopping_by_exception",
    "stopping_later",
    "stopping_on_request",
    "was_stopped",
]

# What a process that was asked to stop exits with: 128 + the number of the signal.
_STOPPED = frozenset(
    128 + number
    for name in ("SIGHUP", "SIGINT", "SIGTERM")
    if (number := getattr(signal, name, None)) is not None
)
_AGAIN_SECONDS = 0.01


class Terminated(SystemExit):
    """The process was asked to stop by a signal: ends with 128 + its number."""

    def __init__(self, signum: int) -> None:
        super().__init__(128 + signum)
        self.signum = signum

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.signum).name}"


@contextlib.contextmanager
def stopping_by_exception() -> Iterator[None]:
    """Turn SIGTERM and SIGHUP into `Terminated` for the time of a block.

    By default they end the process at once, and its run would stay RUNNING for ever. A handler
    that somebody else has set is left alone, and so are threads, which can't have any.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()
    asked: list[int] = []

    def stop(signum: int, _frame: FrameType | None) -> None:
        if os.getpid() != owner:
            # A forked worker dies as it always did: the run is not its own.
            signal.signal(signum, signal.SIG_DFL)
            os.kill(os.getpid(), signum)
        elif not asked:
            # A second signal must not cut short the closing that the first one began.
            asked.append(signum)
            raise Terminated(signum)

    numbers = [
        number
        for name in ("SIGTERM", "SIGHUP")
        if (number := getattr(signal, name, None)) is not None
        and signal.getsignal(number) == signal.SIG_DFL
    ]
    if not numbers:
        yield
        return

    def hear_again(unraisable: sys.UnraisableHookArgs) -> None:
        error = unraisable.exc_value
        if os.getpid() != owner or not isinstance(error, Terminated | KeyboardInterrupt):
            before(unraisable)
            return
        # Raised where nothing can be: in a destructor, or in what the garbage collector calls.
        asked.clear()
        number = error.signum if isinstance(error, Terminated) else signal.SIGINT
        again = threading.Timer(_AGAIN_SECONDS, os.kill, (owner, number))
        again.daemon = True
        again.start()

    for number in numbers:
        signal.signal(number, stop)
    before, sys.unraisablehook = sys.unraisablehook, hear_again
    try:
        yield
    finally:
        sys.unraisablehook = before
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def stopping_later() -> Iterator[None]:
    """Let the signals that ask to stop wait for the end of a block, and be heard there.

    For a few short steps that belong together, such as to make something elsewhere and to know of
    it here. In a thread other than the main one, which hears no signals, nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    heard: list[int] = []
    before = {
        number: handler
        for name in ("SIGINT", "SIGTERM", "SIGHUP")
        if (number := getattr(signal, name, None)) is not None
        and callable(handler := signal.getsignal(number))
    }
    for number in before:
        signal.signal(number, lambda signum, _frame: heard.append(signum))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if heard:
            signal.raise_signal(heard[0])


class StopRequest:
    """Whether the process was asked to stop, for work that stops where it can be gone on with.

    Attributes:
        asked: The number of the signal; None as long as there was none.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._before: dict[int, Any] = {}
        self._owner = os.getpid()

    def obey(self) -> None:
        """Do what the signal would have done at once, if there was one."""
        if self.asked is None:
            return
        number, self.asked = self.asked, None
        signal.signal(number, self._before[number])
        signal.raise_signal(number)

    def _hear(self, signum: int, _frame: FrameType | None) -> None:
        first, self.asked = self.asked is None, signum
        if not first or os.getpid() != self._owner:
            # Who asks twice does not want to wait; and a forked process has no steps of this work.
            self.obey()


@contextlib.contextmanager
def stopping_on_request() -> Iterator[StopRequest]:
    """Note the signals that ask to stop, for a block that looks at them between its steps.

    A second one is obeyed at once, and so is, at the end of the block, one that nobody has looked
    at. In a thread other than the main one, which hears no signals, there is never one.
    """
    request = StopRequest()
    if threading.current_thread() is threading.main_thread():
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)
            if number is None:
                continue
            handler = signal.getsignal(number)
            # What is ignored stays so, as below nohup, and so does what is not Python's.
            if handler not in (None, signal.SIG_IGN):
                request._before[number] = handler
        for number in request._before:
            signal.signal(number, request._hear)
    try:
        yield request
    finally:
        for number, handler in request._before.items():
            signal.signal(number, handler)
    request.obey()


def was_stopped(error: BaseException) -> bool:
    """Say whether an exception means that the process was asked to stop.

    Args:
        error: Ctrl-C, `Terminated`, or any exit with the code of a signal.
    """
    if isinstance(error, SystemExit):
        return error.code in _STOPPED
    return isinstance(error, KeyboardInterrupt)


def stop_behind(error: BaseException) -> BaseException | None:
    """Find what asked the process to stop behind an exception that took its place.

    A library that is interrupted may come across its own half-done work while it cleans up.

    Args:
        error: The exception.

    Returns:
        What it was raised out of; None if nobody asked to stop.
    """
    seen = set()
    behind = error.__context__
    while behind is not None and id(behind) not in seen:
        if was_stopped(behind):
            return behind
        seen.add(id(behind))
        behind = behind.__context__
    return None
