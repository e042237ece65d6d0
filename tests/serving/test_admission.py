"""Whose turn it is: short turns, nobody in a line that is too long, and the others in between."""

from __future__ import annotations

import asyncio
import socket
import time

import pytest

from ml_project_template.serving.admission import Admission
from ml_project_template.serving.http import RefusalError

LONG = 0.006  # seconds, more than a turn


async def _work(admission: Admission, done: list[str], name: str, seconds: float = LONG) -> None:
    try:
        admission.check()
        await admission.turn()
    except RefusalError:
        done.append("refused")
        return
    time.sleep(seconds)  # as decoding does, it keeps the event loop
    done.append(name)


def test_all_have_their_turn_in_their_order() -> None:
    done: list[str] = []

    async def ask() -> None:
        admission = Admission(max_queue=100, max_wait=60)
        names = [str(number) for number in range(60)]
        await asyncio.gather(*(_work(admission, done, name, 0.0002) for name in names))
        assert len(admission) == 0
        await _work(admission, done, "later")
        assert done == [*names, "later"]

    asyncio.run(ask())


def test_who_asks_for_little_is_answered_between_the_turns_of_the_others() -> None:
    done: list[str] = []

    async def ask() -> None:
        admission = Admission(max_queue=100, max_wait=60)
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.setblocking(False)

            def read() -> None:
                ours.recv(1)
                done.append("small")

            loop = asyncio.get_running_loop()
            loop.add_reader(ours, read)
            work = [asyncio.create_task(_work(admission, done, "large")) for _ in range(8)]
            theirs.send(b"x")
            await asyncio.gather(*work)
            loop.remove_reader(ours)

    asyncio.run(ask())
    assert done.index("small") <= 2
    assert done.count("large") == 8


def test_more_than_may_wait_are_refused() -> None:
    done: list[str] = []

    async def ask() -> None:
        admission = Admission(max_queue=5, max_wait=60)
        await asyncio.gather(*(_work(admission, done, "done") for _ in range(20)))

    asyncio.run(ask())
    # One has its turn at once, five wait.
    assert done.count("done") == 6
    assert done.count("refused") == 14


def test_nobody_is_let_into_a_line_that_takes_too_long() -> None:
    done: list[str] = []

    async def ask() -> None:
        admission = Admission(max_queue=1_000, max_wait=0.1)
        for _ in range(30):  # it learns how long one takes
            await _work(admission, done, "done")
            await asyncio.sleep(0)
        done.clear()
        await asyncio.gather(*(_work(admission, done, "done") for _ in range(100)))
        assert done.count("refused") > 50
        assert done.count("done") > 1
        # At once afterwards.
        done.clear()
        await _work(admission, done, "done")
        assert done == ["done"]

    asyncio.run(ask())


def test_one_who_has_gone_costs_the_others_nothing() -> None:
    done: list[str] = []

    async def ask() -> None:
        admission = Admission(max_queue=100, max_wait=60)
        tasks = [asyncio.create_task(_work(admission, done, str(n))) for n in range(4)]
        await asyncio.sleep(0)
        tasks[1].cancel()
        tasks[2].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert [isinstance(result, asyncio.CancelledError) for result in results] == [
            False,
            True,
            True,
            False,
        ]

    asyncio.run(ask())
    assert done == ["0", "3"]


@pytest.mark.parametrize("waiting", [0, 1])
def test_it_says_how_many_wait(waiting: int) -> None:
    async def ask() -> int:
        admission = Admission(max_queue=100, max_wait=60)
        tasks = [asyncio.create_task(_work(admission, [], "")) for _ in range(waiting + 1)]
        await asyncio.sleep(0)
        found = len(admission)
        await asyncio.gather(*tasks)
        return found

    assert asyncio.run(ask()) == waiting
