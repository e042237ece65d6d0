"""A PostgreSQL server for the tests that ask for one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest


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
def postgresql() -> Iterator[str]:
    """Start a server with a folder of its own; give the address of an empty database."""
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(tempfile.mkdtemp(prefix="postgresql-"))
    if os.getuid() == 0:
        shutil.chown(folder, "postgres", "postgres")
    data, log = str(folder / "data"), str(folder / "log")
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
    control = [str(programs / "pg_ctl"), "-D", data, "-l", log, "-w"]

    def run(*command: str) -> None:
        subprocess.run(
            _unprivileged(command), check=True, capture_output=True, cwd=folder, timeout=120
        )

    try:
        run(str(programs / "initdb"), "-D", data, "-U", "tester", "--auth=trust", "--no-sync")
        run(*control, "-o", options, "start")
        yield f"postgresql+psycopg://tester:hidden-word@127.0.0.1:{port}/postgres"
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            run(*control, "-m", "immediate", "stop")
        shutil.rmtree(folder, ignore_errors=True)
