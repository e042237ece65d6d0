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
    stop_behind,
    stopping_by_exception,
    stopping_later,
    stopping_on_request,
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


def test_a_request_to_stop_is_noted_and_obeyed_when_it_is_convenient() -> None:
    steps = []

    def work() -> None:
        with stopping_by_exception(), stopping_on_request() as request:
            request.obey()
            signal.raise_signal(signal.SIGTERM)
            assert request.asked == signal.SIGTERM
            steps.append("whole")
            request.obey()
            steps.append("never")

    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Terminated, match="SIGTERM"):
        work()
    assert steps == ["whole"]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_second_request_is_obeyed_at_once_and_one_that_nobody_saw_at_the_end() -> None:
    steps = []

    def impatient() -> None:
        with stopping_on_request():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            steps.append("never")

    def unseen() -> None:
        with stopping_on_request():
            signal.raise_signal(signal.SIGINT)
            steps.append("done")
        steps.append("never")

    for work in (impatient, unseen):
        with pytest.raises(KeyboardInterrupt):
            work()
    assert steps == ["done"]


def test_what_is_ignored_stays_ignored_and_a_thread_hears_nothing() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping_on_request() as request:
            signal.raise_signal(signal.SIGHUP)
            assert request.asked is None
    finally:
        signal.signal(signal.SIGHUP, before)
    handlers = []

    def elsewhere() -> None:
        with stopping_on_request():
            handlers.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGINT)]


def test_who_asked_to_stop_is_found_behind_what_came_of_it() -> None:
    with stopping_by_exception():
        try:
            try:
                signal.raise_signal(signal.SIGTERM)
            except BaseException:
                raise AttributeError("half done") from None
        except AttributeError as error:
            stop = stop_behind(error)
    assert isinstance(stop, Terminated)
    assert stop.signum == signal.SIGTERM
    assert stop_behind(stop) is None
    assert stop_behind(ValueError()) is None
