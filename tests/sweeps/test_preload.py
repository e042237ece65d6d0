"""What is imported once for all workers."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from ml_project_template.sweeps import preload
from ml_project_template.sweeps.preload import PRELOAD_VARIABLE


@pytest.fixture(autouse=True)
def _collector() -> Iterator[None]:
    yield
    gc.unfreeze()


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module that nobody has imported yet, with functions that can be called."""
    name = f"preloaded_{tmp_path.name.replace('-', '_')}"
    code = (
        "calls = []\n"
        "class Model:\n"
        "    @classmethod\n"
        "    def warm_up(cls):\n"
        "        calls.append(cls.__name__)\n"
        "def fail():\n"
        "    raise OSError\n"
    )
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    (tmp_path / f"{name}_broken.py").write_text("1 / 0\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def _imported(name: str) -> types.ModuleType | None:
    return sys.modules.get(name)


def test_modules_are_imported_and_functions_called(module: str) -> None:
    preload._preload([module, f"{module}:Model.warm_up", f"{module}:Model.warm_up"])
    imported = _imported(module)
    assert imported is not None
    assert imported.calls == ["Model", "Model"]


def test_what_cannot_be_imported_or_called_does_not_keep_the_others_away(module: str) -> None:
    preload._preload(
        [
            "no_such_module_anywhere",
            f"{module}_broken",
            f"{module}:no_such_function",
            f"{module}:fail",
            f"{module}:Model.warm_up",
        ]
    )
    imported = _imported(module)
    assert imported is not None
    assert imported.calls == ["Model"]


def test_the_collector_leaves_what_is_imported_alone_and_goes_on() -> None:
    code = (
        "import gc, ml_project_template.sweeps.preload\n"
        "print(gc.isenabled(), gc.get_freeze_count() > 0, flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, preload.PRELOAD_VARIABLE: '["fractions"]'},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True True"


@pytest.mark.parametrize("names", [["json", "fractions"], None])
def test_names_come_by_the_environment_and_without_them_nothing_is_done(
    names: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    if names is not None:
        monkeypatch.setenv(PRELOAD_VARIABLE, json.dumps(names))
    code = (
        # Python 3.12 has left some of its own alone before a program begins.
        "import atexit, sys, gc; gc.unfreeze()\n"
        "atexit.register(print, 'cleaned up', flush=True)\n"
        "import ml_project_template.sweeps.preload\n"
        "print('fractions' in sys.modules, gc.get_freeze_count() > 0, flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # What only forks ends without cleaning up.
    expected = ["False False", "cleaned up"] if names is None else ["True True"]
    assert done.stdout.splitlines() == expected
