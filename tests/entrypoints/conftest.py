"""Running an entrypoint inside of the test's own process: the shell, Hydra and the task."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from entrypoints import _shell
from tests.conftest import ROOT, StopTraining


@pytest.fixture
def in_process(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """Run a stage as its command line does; give its exit status, stdout and stderr."""
    root = logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), logging.root.disabled

    def run(stage: str, *overrides: str) -> tuple[int, str, str]:
        module = importlib.import_module(f"entrypoints.{stage}")
        monkeypatch.setattr(sys, "argv", [stage, *overrides])
        GlobalHydra.instance().clear()
        status = 0
        try:
            _shell.run(module.main)
        except SystemExit as ended:
            status = int(ended.code or 0)
        finally:
            for handler in [h for h in root.handlers if h not in handlers]:
                root.removeHandler(handler)
                handler.close()
            root.setLevel(level)
            root.disabled = disabled
        return status, *capfd.readouterr()

    yield run
    HydraConfig.instance().cfg = None


@pytest.fixture
def stop_training(workspace: Path, python: list[str]) -> StopTraining:
    """Start a training in a process of its own, and send it a signal once it has come so far."""

    def stop(number: signal.Signals, *overrides: str, when: Callable[[], bool]) -> tuple[int, str]:
        process = subprocess.Popen(
            [*python, "-m", "entrypoints.train", *overrides],
            cwd=workspace,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 120
        while not when() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        try:
            output, _ = process.communicate(timeout=60)
        finally:
            process.kill()
        return process.returncode, output

    return stop
