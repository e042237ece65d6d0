"""Requests that come together: one call, each its own answer."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ml_project_template.errors import DataError
from ml_project_template.serving.batching import Batcher
from ml_project_template.serving.http import RefusalError

Rows = NDArray[np.float64]


class Model:
    """Doubles what it gets, and remembers how it was asked; it can't take 13."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls: list[int] = []
        self.threads: list[threading.Thread] = []
        self.seconds = seconds

    def __call__(self, rows: Rows) -> Rows:
        self.calls.append(len(rows))
        self.threads.append(threading.current_thread())
        time.sleep(self.seconds)
        if (rows == 13).any():
            row = int(np.nonzero((rows == 13).any(axis=1))[0][0])
            raise DataError(f"Row {row + 1}: 13 is too much.")
        return rows * 2


def _rows(*values: float) -> Rows:
    return np.array(values, dtype=np.float64)[:, None]


def _answers(results: list[Any]) -> list[Any]:
    return [
        result.ravel().tolist() if isinstance(result, np.ndarray) else result for result in results
    ]


async def _ask(batcher: Batcher, *requests: Rows) -> list[Any]:
    return await asyncio.gather(
        *(batcher.probabilities(rows) for rows in requests), return_exceptions=True
    )


def test_what_comes_together_is_computed_in_one_call_and_keeps_its_order() -> None:
    model = Model()
    batcher = Batcher(model, max_queue=100)
    requests = [_rows(*range(i, i + 1 + i % 3)) for i in range(100, 150)]
    results = asyncio.run(_ask(batcher, *requests))
    assert model.calls == [sum(map(len, requests))]
    for rows, answers in zip(requests, results, strict=True):
        np.testing.assert_array_equal(answers, rows * 2)
    assert batcher.queue == 0


def test_a_single_request_waits_for_nobody() -> None:
    async def one_after_the_other() -> float:
        batcher = Batcher(model, max_queue=1)
        started = time.perf_counter()
        for i in range(100, 300):
            assert (await batcher.probabilities(_rows(i))).item() == 2 * i
        return time.perf_counter() - started

    model = Model()
    assert asyncio.run(one_after_the_other()) < 2
    assert model.calls == [1] * 200


def test_a_bad_request_spoils_no_other_and_is_told_of_its_own_row() -> None:
    model = Model()
    batcher = Batcher(model, max_queue=100)
    results = asyncio.run(_ask(batcher, _rows(1, 2), _rows(3, 13), _rows(4), _rows(13)))
    assert _answers([results[0], results[2]]) == [[2, 4], [8]]
    assert [str(results[1]), str(results[3])] == [
        "Row 2: 13 is too much.",
        "Row 1: 13 is too much.",
    ]
    assert all(isinstance(results[i], DataError) for i in (1, 3))
    assert batcher.queue == 0


def test_batches_are_split_at_their_largest_size() -> None:
    model = Model()
    batcher = Batcher(model, max_queue=100, max_batch=4)
    requests = [_rows(1, 2), _rows(3), _rows(4, 5), _rows(6, 7, 8, 9), _rows(10)]
    results = asyncio.run(_ask(batcher, *requests))
    assert model.calls == [3, 2, 4, 1]
    assert _answers(results) == [[2, 4], [6], [8, 10], [12, 14, 16, 18], [20]]


def test_others_have_their_turn_between_two_batches() -> None:
    async def turns() -> None:
        async def other() -> None:
            while len(model.calls) < 5:
                seen.append(len(model.calls))
                await asyncio.sleep(0)

        await asyncio.gather(other(), *(batcher.probabilities(_rows(1, 2)) for _ in range(5)))

    model = Model()
    batcher = Batcher(model, max_queue=100, max_batch=2)
    seen: list[int] = []
    asyncio.run(turns())
    assert set(seen) >= {1, 2, 3, 4}


def test_too_many_requests_are_refused_and_the_others_answered() -> None:
    batcher = Batcher(Model(), max_queue=3)
    results = asyncio.run(_ask(batcher, *(_rows(i) for i in range(5))))
    assert _answers(results[:3]) == [[0], [2], [4]]
    for refused in results[3:]:
        assert isinstance(refused, RefusalError)
        assert (refused.status, refused.retry_after) == (429, 1)
    assert _answers(asyncio.run(_ask(batcher, _rows(7)))) == [[14]]


def test_large_requests_are_computed_in_a_thread_and_count_for_the_queue() -> None:
    async def large_ones() -> list[Any]:
        large = [asyncio.create_task(batcher.probabilities(_rows(*range(5)))) for _ in range(2)]
        await asyncio.sleep(0.02)
        assert batcher.queue == 2
        with pytest.raises(RefusalError, match="busy"):
            await batcher.probabilities(_rows(1))
        # The loop goes on while they are computed.
        assert not any(task.done() for task in large)
        return await asyncio.gather(*large)

    model = Model(seconds=0.2)
    batcher = Batcher(model, max_queue=2, max_batch=4)
    results = asyncio.run(large_ones())
    assert _answers(results) == [[0, 2, 4, 6, 8]] * 2
    assert threading.main_thread() not in model.threads
    assert batcher.queue == 0


def test_a_large_bad_request_is_told_and_leaves_the_queue() -> None:
    batcher = Batcher(Model(), max_queue=2, max_batch=2)
    (error,) = asyncio.run(_ask(batcher, _rows(1, 2, 13)))
    assert isinstance(error, DataError)
    assert batcher.queue == 0


@pytest.mark.parametrize("bad", [False, True])
def test_who_has_gone_is_no_trouble(bad: bool) -> None:
    async def some_go() -> list[Any]:
        tasks = [
            asyncio.create_task(batcher.probabilities(_rows(13 if bad and i == 3 else i)))
            for i in range(6)
        ]
        await asyncio.sleep(0)
        for i in (0, 2, 5):
            tasks[i].cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        assert batcher.queue == 0
        assert (await batcher.probabilities(_rows(9))).item() == 18
        return list(results)

    batcher = Batcher(Model(), max_queue=100)
    results = asyncio.run(some_go())
    for i, result in enumerate(results):
        if i in (0, 2, 5):
            assert isinstance(result, asyncio.CancelledError)
        elif bad and i == 3:
            assert isinstance(result, DataError)
        else:
            assert result.item() == 2 * i


def test_when_all_have_gone_the_next_is_answered() -> None:
    async def all_go() -> float:
        task = asyncio.create_task(batcher.probabilities(_rows(1)))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return float((await batcher.probabilities(_rows(2))).item())

    batcher = Batcher(Model(), max_queue=1)
    assert asyncio.run(all_go()) == 4


def test_the_observer_is_told_of_each_row_once() -> None:
    seen: list[tuple[list[float], list[float]]] = []
    batcher = Batcher(
        Model(),
        max_queue=100,
        max_batch=4,
        observe=lambda rows, answers: seen.append(
            (rows.ravel().tolist(), answers.ravel().tolist())
        ),
    )
    asyncio.run(_ask(batcher, _rows(1), _rows(2, 3)))
    asyncio.run(_ask(batcher, _rows(4)))
    asyncio.run(_ask(batcher, _rows(5), _rows(13), _rows(6)))
    asyncio.run(_ask(batcher, _rows(1, 2, 3, 4, 5)))
    told = [[1, 2, 3], [4], [5], [6], [1, 2, 3, 4, 5]]
    assert seen == [(rows, [2 * value for value in rows]) for rows in told]


def test_an_observer_that_fails_costs_nobody_the_answer(caplog: pytest.LogCaptureFixture) -> None:
    def fail(rows: Rows, answers: Rows) -> None:
        raise RuntimeError("no room")

    async def ask() -> list[Any]:
        together = await asyncio.wait_for(_ask(batcher, _rows(1), _rows(2)), 5)
        spoilt = await asyncio.wait_for(_ask(batcher, _rows(3), _rows(13)), 5)
        return [*together, spoilt[0], *await asyncio.wait_for(_ask(batcher, _rows(*range(5))), 5)]

    batcher = Batcher(Model(), max_queue=100, max_batch=4, observe=fail)
    with caplog.at_level(logging.ERROR):
        assert _answers(asyncio.run(ask())) == [[2], [4], [6], [0, 2, 4, 6, 8]]
    assert "could not be counted" in caplog.text
