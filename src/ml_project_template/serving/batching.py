"""Requests that come together are computed together."""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from ml_project_template.serving.http import RefusalError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Compute = Callable[[NDArray[np.float64]], NDArray[np.float64]]

__all__ = ["Batcher"]

_log = logging.getLogger(__name__)

_Waiting = tuple["NDArray[np.float64]", "asyncio.Future[NDArray[np.float64]]"]


@functools.cache
def _threads() -> ThreadPoolExecutor:
    """Make the threads of all models: more than cores would only take them from the event loop."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return ThreadPoolExecutor(cores, thread_name_prefix="model")


class Batcher:
    """Gathers the rows of concurrent requests into one call of the model.

    All that the event loop has read in one turn is computed at the end of that turn: nobody waits
    for a clock, a single request is computed at once, and the busier the server, the larger the
    batches. Large ones are computed in a thread, so that the loop goes on answering.

    Args:
        compute: Turns raw rows into probabilities, or into the numbers of a regression.
        max_queue: Requests that may wait; more are refused with 429.
        max_batch: Rows that are computed in the event loop's own thread at most.
        observe: Is told the rows and answers of each call.
    """

    def __init__(
        self,
        compute: Compute,
        *,
        max_queue: int,
        max_batch: int = 256,
        observe: Callable[[NDArray[np.float64], NDArray[np.float64]], None] | None = None,
    ) -> None:
        self._compute = compute
        self._max_queue = max_queue
        self._max_batch = max_batch
        self._observe = observe
        self._waiting: list[_Waiting] = []
        self._in_threads = 0

    @property
    def queue(self) -> int:
        """How many requests wait or are being computed now."""
        return len(self._waiting) + self._in_threads

    async def probabilities(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Compute the probabilities of the rows of one request.

        Args:
            rows: Raw rows of shape ``(n_rows, n_features)``.

        Returns:
            Shape ``(n_rows, n_classes)``, or ``(n_rows, 1)``.

        Raises:
            RefusalError: 429, too many requests wait already.
            DataError: The model can't take a value.
        """
        if len(self._waiting) + self._in_threads >= self._max_queue:
            raise RefusalError(429, "The server is busy: too many requests wait.", retry_after=1)
        if len(rows) > self._max_batch:
            return await self._in_thread(rows)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[NDArray[np.float64]] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self._flush)
        self._waiting.append((rows, answer))
        return await answer

    async def _in_thread(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        self._in_threads += 1
        try:
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(_threads(), self._compute, rows)
        finally:
            self._in_threads -= 1
        self._note(rows, answers)
        return answers

    def _note(self, rows: NDArray[np.float64], answers: NDArray[np.float64]) -> None:
        """Tell the observer, whose failure shall cost nobody the answer."""
        if self._observe is None:
            return
        try:
            self._observe(rows, answers)
        except Exception:
            _log.exception("A call of the model could not be counted")

    def _flush(self) -> None:
        """Compute what has gathered, at most `max_batch` rows before others have their turn."""
        taken, total = 0, 0
        for rows, _ in self._waiting:
            if taken and total + len(rows) > self._max_batch:
                break
            taken, total = taken + 1, total + len(rows)
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._flush)
        if taken == 1:
            self._alone(*batch[0])
            return
        try:
            together = np.concatenate([rows for rows, _ in batch])
            answers = self._compute(together)
        except Exception:
            # One of them is at fault; each shall have its own answer.
            for rows, answer in batch:
                self._alone(rows, answer)
            return
        self._note(together, answers)
        start = 0
        for rows, answer in batch:
            end = start + len(rows)
            if not answer.done():
                answer.set_result(answers[start:end])
            start = end

    def _alone(
        self, rows: NDArray[np.float64], answer: asyncio.Future[NDArray[np.float64]]
    ) -> None:
        if answer.done():
            return
        try:
            answers = self._compute(rows)
        except Exception as error:
            answer.set_exception(error)
            return
        self._note(rows, answers)
        answer.set_result(answers)
