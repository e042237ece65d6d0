"""Running an entrypoint inside of the test's own process: the shell, Hydra and the task."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from entrypoints import _shell


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
