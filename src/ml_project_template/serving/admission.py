"""Who has their turn, and who is sent away: what keeps a server going that is asked for too much.

One thread reads, decodes and answers. If all that has come were worked on as it comes, an overload
would be a queue that only grows, and whoever asks for the health would stand at its end. So work is
done in turns of a few milliseconds, between which the event loop reads and answers what is small;
and nobody is let into a line in which they would stand for too long: a refusal costs a fraction of
an answer, and comes before the body is read.
"""

from __future__ import annotations

import asyncio
from collections import deque
from time import perf_counter

from ml_project_template.serving.http import RefusalError

__all__ = ["Admission"]

_TURN_SECONDS = 0.005
_MOST_AT_ONCE = 256
_PASSES = 3  # of the event loop for a new connection: to accept it, to read, and to answer
_NEW_SHARE = 0.1  # of what is measured now in the mean of what was measured before


class Admission:
    """The line of those who wait for the event loop's time.

    Args:
        max_queue: How many may stand in it.
        max_wait: Seconds that one may have to stand in it, as far as that can be told.
    """

    def __init__(self, max_queue: int, max_wait: float) -> None:
        self._max_queue = max_queue
        self._max_wait = max_wait
        self._line: deque[asyncio.Future[None]] = deque()
        self._has_begun = False
        self._began = 0.0
        self._let_in = 0  # in this turn
        self._at_once = 1
        self._spent = 0.0  # on this turn, without the passes after it
        self._seconds_each = 0.0

    def __len__(self) -> int:
        """Count those who stand in the line."""
        return len(self._line)

    def check(self) -> None:
        """Refuse a request that would have to wait for too long.

        Raises:
            RefusalError: 429.
        """
        waiting = len(self._line)
        if waiting >= self._max_queue or waiting * self._seconds_each > self._max_wait:
            raise RefusalError(429, "The server is busy: too many requests wait.", retry_after=1)

    async def turn(self) -> None:
        """Wait until it is one's turn; costs nothing where nobody waits.

        Raises:
            RefusalError: 429.
        """
        loop = asyncio.get_running_loop()
        if not self._has_begun:
            self._has_begun = True
            self._began = perf_counter()
            self._let_in = 0
            loop.call_soon(self._next, loop)
        elif self._line or perf_counter() - self._began > _TURN_SECONDS:
            self.check()
            place = loop.create_future()
            self._line.append(place)
            await place
            return
        self._let_in += 1

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """End a turn, and let those in who have their turn next."""
        elapsed = perf_counter() - self._began
        spent = self._spent or elapsed
        self._spent = 0.0
        if self._let_in:
            each = elapsed / self._let_in
            self._seconds_each += _NEW_SHARE * (each - self._seconds_each)
        if not self._line:
            self._has_begun = False
            return
        more = self._at_once * 2 if spent < _TURN_SECONDS / 2 else self._at_once
        self._at_once = min(more, _MOST_AT_ONCE) if spent < _TURN_SECONDS else max(1, more // 2)
        self._began = perf_counter()
        self._let_in = 0
        while self._line and self._let_in < self._at_once:
            place = self._line.popleft()
            # Its task may have been cancelled meanwhile.
            if not place.done():
                place.set_result(None)
                self._let_in += 1
        # After them: they work, the event loop looks at its sockets, and comes here again.
        loop.call_soon(self._pass, loop, _PASSES)

    def _pass(self, loop: asyncio.AbstractEventLoop, more: int) -> None:
        """Let the event loop look at its sockets some times before the next turn."""
        if more == _PASSES:
            self._spent = perf_counter() - self._began
        if more:
            loop.call_soon(self._pass, loop, more - 1)
        else:
            self._next(loop)
