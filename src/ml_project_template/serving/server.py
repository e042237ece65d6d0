"""The process that serves: uvicorn with an orderly end, reloads, and several workers.

``SIGTERM`` ends without dropping a request: ``/ready`` says 503, each answer asks its client to
come back by another connection, and only after `ServerSettings.drain_seconds` nobody is let in any
more. ``SIGHUP`` loads the models again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn

from ml_project_template.errors import ProjectError
from ml_project_template.serving.door import close_door, somebody_waits
from ml_project_template.serving.metrics import ServerMetrics
from ml_project_template.serving.protocol import BoundedProtocol
from ml_project_template.serving.slow_clients import SlowClients

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ml_project_template.serving.app import ModelServer

__all__ = ["serve"]

_log = logging.getLogger(__name__)

_SHUTDOWN_SECONDS = 20  # for the answers that are still being computed
_KEEP_ALIVE_SECONDS = 75  # longer than the 60 s of the usual load balancers, who then close first
_RESTART_SECONDS = 1.0
_READY = b"r"
_LAST_ACCEPT_SECONDS = 0.2  # a round trip: who is half in when the door closes
_FIRST_REQUEST_SECONDS = 1.0
_LOOK_SECONDS = 0.05
_PASSES = 3  # of the event loop: to accept, to read, and to begin an answer
_ACCEPTS_AT_ONCE = 32
_TICKS_A_LOOK = 5  # at clients that stand still; ten ticks are a second


def serve(
    make_app: Callable[[ServerMetrics], ModelServer],
    listener: socket.socket,
    *,
    workers: int = 1,
    on_ready: Callable[[], None] | None = None,
) -> int:
    """Serve until the process is told to end.

    Args:
        make_app: Loads the models and makes the application; called once in each worker.
        listener: A bound socket.
        workers: Processes; they share the socket.
        on_ready: Called once, when the first worker has loaded its models.

    Returns:
        The exit status: 0 after a signal, 1 if a worker could not start.

    Raises:
        ProjectError: With one worker: a model can't be loaded.
    """
    # Workers share this, and so do copies: an accept that finds nobody must not wait.
    listener.setblocking(False)
    if workers == 1:
        app = make_app(ServerMetrics())
        if on_ready is not None:
            on_ready()
        _Server(app, listener).run()
        return 0
    with tempfile.TemporaryDirectory(prefix="ml-project-metrics-") as directory:
        return _Supervisor(make_app, listener, workers, Path(directory), on_ready).run()


class _Server(uvicorn.Server):
    """Uvicorn's server with an orderly end, reloads and a tick."""

    def __init__(self, app: ModelServer, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                loop="uvloop",
                http=BoundedProtocol,
                ws="none",
                lifespan="off",
                interface="asgi3",
                log_config=None,
                access_log=False,
                server_header=False,
                backlog=2048,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
            )
        )
        # What it says by itself at its start and end is no news.
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        self._app = app
        self._listener = listener
        self._drained_at: float | None = None
        self._reload_wanted = False
        self._tasks: set[asyncio.Task[object]] = set()
        self._slow = SlowClients(app.settings.client_timeout)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        # Of a socket libuv accepts one connection in each pass of the event loop: under load,
        # whoever asks for the health would stand behind a thousand who have come before.
        super().run(sockets=sockets or [self._listener.dup() for _ in range(_ACCEPTS_AT_ONCE)])
        self._app.close()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        def reload(_signal: int, _frame: FrameType | None) -> None:
            self._reload_wanted = True

        before = signal.signal(signal.SIGHUP, reload)
        try:
            with super().capture_signals():
                try:
                    yield
                finally:
                    # Uvicorn would raise them again, now that they are done with.
                    self._captured_signals.clear()
        finally:
            signal.signal(signal.SIGHUP, before)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002
        """Begin the end; a second signal ends at once."""
        if sig == signal.SIGTERM and self._drained_at is None:
            self._app.draining = True
            self._drained_at = time.monotonic() + self._app.settings.drain_seconds
            return
        if self.should_exit:
            self.force_exit = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._start(self._app.tick())

    async def on_tick(self, counter: int) -> bool:
        """Look ten times a second what signals have asked for."""
        if self._reload_wanted:
            self._reload_wanted = False
            self._start(self._app.models.reload())
        if self._drained_at is not None and (
            time.monotonic() >= self._drained_at or not self.server_state.connections
        ):
            self.should_exit = True
        if counter % _TICKS_A_LOOK == 0:
            self._slow.look(self.server_state.connections, time.monotonic())  # type: ignore[arg-type]
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.draining = True
        await self._let_in_the_last()
        self._listener.close()
        await super().shutdown(sockets)
        for task in self._tasks:
            task.cancel()

    async def _let_in_the_last(self) -> None:
        """Take in whoever stands at the door, and nobody after them.

        A connection that the kernel has made, but nobody has accepted when the listener is closed,
        is reset with the request that it brings; so is one without a request yet when uvicorn
        closes those.
        """
        close_door(self._listener)
        await asyncio.sleep(_LAST_ACCEPT_SECONDS)
        deadline = time.monotonic() + _FIRST_REQUEST_SECONDS
        while time.monotonic() < deadline and (
            somebody_waits(self._listener)
            or any(
                getattr(connection, "cycle", None) is None
                for connection in self.server_state.connections
            )
        ):
            await asyncio.sleep(_LOOK_SECONDS)
        # What came while this process had no processor: a timer goes off before sockets are read.
        for _ in range(_PASSES):
            await asyncio.sleep(0)

    def _start(self, work: object) -> None:
        # The loop itself holds tasks by weak references only.
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


class _Supervisor:
    """Forks workers, starts those anew that die, and passes signals on."""

    def __init__(
        self,
        make_app: Callable[[ServerMetrics], ModelServer],
        listener: socket.socket,
        workers: int,
        directory: Path,
        on_ready: Callable[[], None] | None,
    ) -> None:
        self._make_app = make_app
        self._listener = listener
        self._workers = workers
        self._directory = directory
        self._on_ready = on_ready
        self._pids: dict[int, int] = {}
        self._ending = False

    def run(self) -> int:
        """Serve until a signal; returns the exit status."""
        handlers = {
            number: signal.signal(number, self._pass_on)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        }
        try:
            # The first alone: a model that can't be loaded is told once, not by each.
            if not self._fork(0):
                return 0 if self._ending else 1
            if self._on_ready is not None:
                self._on_ready()
            for worker in range(1, self._workers):
                if not self._ending:
                    self._fork(worker)
            self._watch()
            return 0
        finally:
            for pid in self._pids:
                os.kill(pid, signal.SIGKILL)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def _watch(self) -> None:
        while self._pids:
            try:
                pid, status = os.wait()
            except ChildProcessError:
                return
            worker = self._pids.pop(pid, None)
            if worker is None or self._ending:
                continue
            _log.error(
                "Worker %d has ended (status %d), another is started",
                worker,
                os.waitstatus_to_exitcode(status),
            )
            time.sleep(_RESTART_SECONDS)
            while not self._ending and not self._fork(worker):
                # Its model can't be loaded at the moment; the other workers serve on.
                time.sleep(_RESTART_SECONDS)

    def _fork(self, worker: int) -> bool:
        """Start a worker and wait until it serves; False if it ended before."""
        reader, writer = os.pipe()
        # A signal between the fork and the entry would miss the worker.
        signals = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        signal.pthread_sigmask(signal.SIG_BLOCK, signals)
        pid = os.fork()
        if pid == 0:
            os.close(reader)
            self._work(worker, writer)
        self._pids[pid] = worker
        signal.pthread_sigmask(signal.SIG_UNBLOCK, signals)
        os.close(writer)
        with os.fdopen(reader, "rb") as pipe:
            ready = pipe.read(1) == _READY
        if not ready and pid in self._pids:
            os.waitpid(pid, 0)
            self._pids.pop(pid)
        return ready

    def _work(self, worker: int, ready: int) -> None:
        """Be a worker; never returns."""
        status = 1
        try:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(
                signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
            )
            self._pids = {}
            app = self._make_app(ServerMetrics(self._directory, worker))
            os.write(ready, _READY)
            os.close(ready)
            _Server(app, self._listener).run()
            status = 0
        except ProjectError as error:
            _log.error("%s", error)
        except Exception:
            _log.exception("Worker %d failed", worker)
        finally:
            logging.shutdown()
            os._exit(status)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGHUP:
            self._ending = True
        for pid in list(self._pids):
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
