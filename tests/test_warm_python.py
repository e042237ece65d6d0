"""The processes of the warm Python are as those of a fresh one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.servers import wait_until

TOLD = """
import json, os, sys, tempfile
own = [name for name in sys.modules if name.split('.')[0] in ('ml_project_template', 'tests')]
print(json.dumps({
    'argv': sys.argv, 'name': __name__, 'path': sys.path, 'count': len(sys.orig_argv),
    'folder': os.getcwd(), 'variables': dict(os.environ), 'own': own, 'input': sys.stdin.read(),
    'temporary': tempfile.gettempdir(), 'executable': sys.executable,
    'handlers': [str(signal) for signal in map(__import__('signal').getsignal, (1, 2, 13, 15))],
}))
"""


@pytest.mark.parametrize("how", ["code", "module", "script"])
def test_a_program_sees_what_it_sees_in_a_fresh_process(
    how: str, python: list[str], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (workspace / "told.py").write_text(TOLD)
    (workspace / "elsewhere").mkdir()
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("TMPDIR", str(workspace / "elsewhere"))
    words = {"code": ["-c", TOLD], "module": ["-m", "told"], "script": ["told.py"]}[how]
    warm, cold = (
        subprocess.run([*each, *words, "one", "two"], input="in", stdout=-1, text=True, check=True)
        for each in (python, [sys.executable])
    )
    assert json.loads(warm.stdout) == json.loads(cold.stdout)


@pytest.mark.parametrize(
    "code",
    [
        "import sys; sys.exit(3)",
        "import sys; sys.exit('a reason')",
        "raise SystemExit",
        "raise ValueError('wrong')",
        "import os, signal; os.kill(os.getpid(), signal.SIGTERM)",
        "raise KeyboardInterrupt",
        "import atexit, threading, time\n"
        "threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
        "atexit.register(print, 'end')",
    ],
)
def test_a_program_ends_as_a_fresh_process_does(code: str, python: list[str]) -> None:
    warm, cold = (
        subprocess.run([*each, "-c", code], capture_output=True, text=True, check=False)
        for each in (python, [sys.executable])
    )
    assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
    assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


def test_the_large_libraries_are_there_unless_they_would_have_read_other_settings(
    python: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code = "import sys; print('torch' in sys.modules, sys.flags.optimize)"

    def told(*options: str) -> str:
        return subprocess.run(
            [*python, *options, "-c", code], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.strip()

    monkeypatch.setenv("KMP_INIT_AT_FORK", "FALSE")  # as scikit-learn does
    assert told() == f"{python != [sys.executable]} 0"
    assert told("-O") == "False 1"
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert told() == "False 0"


def test_every_program_draws_numbers_of_its_own(python: list[str]) -> None:
    code = "import random, numpy; print(random.random(), numpy.random.rand())"
    drawn = [
        subprocess.run([*python, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout
        for _ in range(2)
    ]
    assert set(drawn[0].split()).isdisjoint(drawn[1].split())


WAITING = """
import os, pathlib, signal, sys, time
def hear(number, frame):
    os.write(1, b'heard %d\\n' % number)
    sys.exit(7)
signal.signal(signal.SIGTERM, hear)
print('ready', flush=True)
while True:
    pathlib.Path('alive').touch()
    time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_signals_reach_the_program(
    number: signal.Signals, python: list[str], workspace: Path
) -> None:
    with subprocess.Popen(
        [*python, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == ("heard 15\n" if number == signal.SIGTERM else "")
    assert process.returncode == (7 if number == signal.SIGTERM else -number)

    def is_over() -> bool:
        (workspace / "alive").unlink(missing_ok=True)
        time.sleep(0.1)
        return not (workspace / "alive").exists()

    wait_until(is_over)
