"""A PostgreSQL server for the tests that ask for one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.services import Services

_SECONDS_TO_START = 120


def _programs() -> Path | None:
    """Find Debian's PostgreSQL, or the one on the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    on_path = shutil.which("initdb")
    return found[-1].parent if found else Path(on_path).parent if on_path else None


def _unprivileged(command: Sequence[str]) -> list[str]:
    """Run a command as somebody else if we are root, whom PostgreSQL refuses to serve."""
    if os.getuid() == 0:
        return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
    return list(command)


@pytest.fixture(scope="session")
def postgresql(services: Services) -> str:
    """The address of an empty database; the server is one for all processes of the tests."""
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    url = services.share("postgresql", lambda folder: _start(services, folder, programs))
    return new_database(url)


def _start(services: Services, folder: Path, programs: Path) -> str:
    """Start a server with a folder of its own; gives its address."""
    from sqlalchemy.exc import OperationalError

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    make = [str(programs / "initdb"), "-D", "data", "-U", "tester", "--auth=trust", "--no-sync"]
    subprocess.run(_unprivileged(make), check=True, capture_output=True, cwd=folder, timeout=120)
    settings = ("listen_addresses=127.0.0.1", "fsync=off", f"unix_socket_directories={folder}")
    serve = [str(programs / "postgres"), "-D", "data", "-p", str(port)]
    serve += [word for setting in settings for word in ("-c", setting)]
    services.guard(folder, _unprivileged(serve))
    url = f"postgresql+psycopg://tester:hidden-word@127.0.0.1:{port}/postgres"
    deadline = time.monotonic() + _SECONDS_TO_START
    while True:
        try:
            new_database(url)
        except OperationalError:
            log = (folder / "log").read_text("utf-8", "replace")[-2_000:]
            assert not (folder / "ended").exists(), log
            assert time.monotonic() < deadline, log
            time.sleep(0.05)
        else:
            return url


def new_database(url: str) -> str:
    """Make an empty database beside another one; gives its address."""
    from sqlalchemy import create_engine, make_url, text

    name = f"tests_{os.getpid()}_{time.monotonic_ns()}"
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    finally:
        engine.dispose()
    return make_url(url).set(database=name).render_as_string(hide_password=False)
