"""Services that all processes of a test run share: each is started once, by whoever needs it first.

A service lives until the run ends, however that comes: its guard waits for a lock which the system
takes from the first process of the run even if that is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import pytest

_SECONDS_TO_START = 120

# In the background, with the service in a group of its own. A shell has its background jobs ignore
# the signal that ends the service, and what is ignored is inherited. The last guard of a run that
# was killed removes what is left of it.
_GUARD = """
import fcntl, os, shutil, signal, subprocess, sys, threading
run, folder, *command = sys.argv[1:]
guards = open(run + "/guards")
fcntl.flock(guards, fcntl.LOCK_SH)
if os.fork():
    os._exit(0)
os.setsid()
signal.signal(signal.SIGQUIT, signal.SIG_DFL)
service = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
running = open(run + "/running")
over = threading.Event()
def wait():
    fcntl.flock(running, fcntl.LOCK_SH)
    over.set()
    service.stdin.close()
    service.send_signal(signal.SIGQUIT)
    try:
        service.wait(10)
    except subprocess.TimeoutExpired:
        service.kill()
threading.Thread(target=wait, daemon=True).start()
service.wait()
try:
    os.killpg(service.pid, signal.SIGKILL)
except ProcessLookupError:
    pass
if not over.is_set():
    open(folder + "/ended", "w").close()
    os._exit(1)
shutil.rmtree(folder, ignore_errors=True)
try:
    fcntl.flock(guards, fcntl.LOCK_EX | fcntl.LOCK_NB)
    shutil.rmtree(run, ignore_errors=True)
except BlockingIOError:
    pass
os._exit(0)
"""


class Services:
    """The services of a test run.

    Args:
        folder: What the processes of the run have in common.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def share(self, name: str, start: Callable[[Path], Any]) -> Any:
        """Start a service unless another process has done so.

        Args:
            name: Of the service.
            start: Starts it, with `guard`, and waits until it answers; is given its folder, and
                gives what its users must know, as plain values.

        Returns:
            What ``start`` gave, here or there.
        """
        known = self._folder / f"{name}.json"
        with self._open(f"{name}.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not known.is_file():
                folder = self._folder / name
                # Of no worth if somebody else had begun with it and was killed, or has failed.
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                told = json.dumps(start(folder))
                known.write_text(told, encoding="utf-8")
        return json.loads(known.read_text(encoding="utf-8"))

    def guard(
        self,
        folder: Path,
        command: Sequence[str],
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        """Start a program that ends with the run: by the end of its input, and by SIGQUIT.

        Args:
            folder: Its own; holds its log, and is removed at its end.
            command: The program and its arguments.
            environment: Its variables, as for `subprocess.run`.
            cwd: What it runs in; its own folder without.
        """
        with (folder / "log").open("ab") as log:
            subprocess.run(
                [sys.executable, "-IS", "-c", _GUARD, str(self._folder), str(folder), *command],
                cwd=cwd or folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
            )

    def _open(self, name: str) -> TextIO:
        return (self._folder / name).open("a", encoding="utf-8")


@contextlib.contextmanager
def _begin_run() -> Iterator[Path]:
    """Be the first process of a run; what was started in the block has ended after it."""
    folder = Path(tempfile.mkdtemp(prefix="tests-"))
    # Those who are served by another user's process look into it.
    folder.chmod(0o755)
    with (folder / "running").open("w") as running, (folder / "guards").open("w") as guards:
        fcntl.flock(running, fcntl.LOCK_EX)
        yield folder
        fcntl.flock(running, fcntl.LOCK_UN)
        fcntl.flock(guards, fcntl.LOCK_EX)
    shutil.rmtree(folder, ignore_errors=True)


_folder = pytest.StashKey[Path]()
_block = pytest.StashKey[contextlib.ExitStack]()


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        config.stash[_folder] = Path(config.workerinput["services"])
        return
    config.stash[_block] = stack = contextlib.ExitStack()
    config.stash[_folder] = stack.enter_context(_begin_run())


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell the processes that pytest-xdist starts where it is."""
    node.workerinput["services"] = str(node.config.stash[_folder])


def pytest_unconfigure(config: pytest.Config) -> None:
    if _block in config.stash:
        config.stash[_block].close()


@pytest.fixture(scope="session")
def services(pytestconfig: pytest.Config) -> Services:
    """What all processes of this run share."""
    return Services(pytestconfig.stash[_folder])


def wait_until_up(url: str, log: Path, has_ended: Callable[[], bool]) -> None:
    """Wait until a server answers; what it has said is told if it does not."""
    deadline = time.monotonic() + _SECONDS_TO_START
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5):  # noqa: S310 - our own address
                return
        except (urllib.error.URLError, OSError):
            text = log.read_text("utf-8", "replace")[-2_000:]
            assert not has_ended(), f"{url} has ended: {text}"
            assert time.monotonic() < deadline, f"{url} does not start: {text}"
        time.sleep(0.05)
