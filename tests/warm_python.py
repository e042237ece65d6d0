"""A Python that has imported the large libraries already, for tests that run programs.

Half a second to five of each process go into importing torch, MLflow and scikit-learn. A server has
done so once and forks a process for each program (`tests.warm.server`); to its caller it looks like
a process of its own (`tests.warm.client`).

What is about the process itself (how a program starts, what it imports, how it is killed, stopped
or grouped) is tested with `sys.executable`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import FOREIGN
from tests.services import Services

_WARM = Path(__file__).with_name("warm")
_SECONDS_TO_START = 120


@pytest.fixture(scope="session")
def python(services: Services) -> list[str]:
    """How to run Python in a process of its own: ``subprocess.run([*python, "-c", ...])``."""
    # Elsewhere a process that was forked after such imports is not to be relied on.
    if sys.platform != "linux":
        return [sys.executable]
    address = services.share("python", lambda folder: _start(services, folder))
    return [sys.executable, "-IS", str(_WARM / "client.py"), address]


def _start(services: Services, folder: Path) -> str:
    variables = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN)}
    variables |= {"MLFLOW_DISABLE_TELEMETRY": "true"}
    for name in ("PYTHONPATH", "PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE"):
        variables.pop(name, None)
    address = folder / "socket"
    services.guard(folder, [sys.executable, str(_WARM / "server.py"), str(address)], variables)
    deadline = time.monotonic() + _SECONDS_TO_START
    while True:
        with socket.socket(socket.AF_UNIX) as client:
            if client.connect_ex(str(address)) == 0:
                return str(address)
        log = (folder / "log").read_text("utf-8", "replace")[-2_000:]
        assert not (folder / "ended").exists(), log
        assert time.monotonic() < deadline, log
        time.sleep(0.05)
