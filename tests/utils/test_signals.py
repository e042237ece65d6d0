"""Signals that ask to stop."""

from __future__ import annotations

import signal
import sys
import threading
import time
import weakref

import pytest

from ml_project_template.utils.signals import (
    Terminated,
    stopping_by_exception,
    stopping_later,
)


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_waits_for_the_end_of_a_block(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    steps = []

    def block() -> None:
        with stopping_later():
            steps.append("made")
            signal.raise_signal(number)
            steps.append("known")

    with stopping_by_exception():
        before = signal.getsignal(number)
        with pytest.raises(raised):
            block()
        assert signal.getsignal(number) == before
    assert steps == ["made", "known"]


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGTERM, Terminated), (signal.SIGINT, KeyboardInterrupt)]
)
def test_a_signal_is_heard_again_where_the_exception_was_swallowed(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    class Thing:
        pass

    heard = []

    def gone(_: object) -> None:
        # As the garbage collector calls it, from where no exception gets out.
        heard.append(number)
        signal.raise_signal(number)
        heard.append(number)

    things = [Thing()]
    references = [weakref.ref(things[0], gone)]

    def work() -> None:
        things.clear()
        time.sleep(60)

    hook = sys.unraisablehook
    with pytest.raises(raised), stopping_by_exception():
        work()
    assert heard == [number]
    assert references[0]() is None
    assert sys.unraisablehook is hook


def test_what_else_can_not_be_raised_is_told_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Thing:
        def __del__(self) -> None:
            raise KeyError("lost")

    told: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: told.append(args.exc_type))
    with stopping_by_exception():
        Thing()
    assert told == [KeyError]


def test_an_error_of_the_block_is_not_lost_where_nobody_asks_to_stop() -> None:
    with pytest.raises(KeyError), stopping_later():
        raise KeyError


def test_a_thread_goes_through_the_block_as_if_it_were_not_there() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def block() -> None:
        with stopping_later():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=block)
    thread.start()
    thread.join()
    assert seen == [before]
