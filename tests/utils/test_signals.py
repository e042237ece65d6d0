"""Signals that ask to stop."""

from __future__ import annotations

import signal
import threading

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
