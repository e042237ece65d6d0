"""A service of a test run is started once, and ends with the run, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.servers import wait_until
from tests.services import Services

# The service says which process it is, and keeps on.
RUN = """
import signal, sys
from pathlib import Path
from tests.services import Services, _begin_run
# As a shell does for what it runs in the background.
signal.signal(signal.SIGQUIT, signal.SIG_IGN)
program = "import os, time; open('pid', 'w').write(str(os.getpid())); time.sleep(600)"
with _begin_run() as folder:
    def start(own):
        services.guard(own, [sys.executable, "-IS", "-c", program])
        while not (own / "pid").exists() or not (own / "pid").read_text():
            assert not (own / "ended").exists()
        return int((own / "pid").read_text())
    services = Services(folder)
    print(folder, services.share("sleeper", start), services.share("sleeper", start), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("killed", [False, True])
def test_a_service_ends_with_the_run_and_leaves_nothing(killed: bool) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as run:
        assert run.stdout is not None
        folder, service, again = run.stdout.readline().split()
        assert again == service
        os.kill(int(service), 0)
        if killed:
            run.kill()
    assert run.returncode == (-signal.SIGKILL if killed else 0)
    if killed:
        wait_until(lambda: not Path(folder).exists())
    assert not Path(folder).exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int(service), 0)


def test_what_could_not_be_started_is_tried_again(services: Services) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").touch()
        raise OSError(folder)

    def succeed(folder: Path) -> list[str]:
        return [path.name for path in folder.iterdir()]

    with pytest.raises(OSError, match="tried"):
        services.share("tried", fail)
    assert services.share("tried", succeed) == []
