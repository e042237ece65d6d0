"""The notebooks run from their first cell to their last, and are committed as they were written."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests.notebooks.strip import NOTEBOOKS, strip

PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
NAMES = [path.stem for path in PATHS]


def test_there_are_notebooks() -> None:
    assert NAMES == ["01_explore_data", "02_train", "03_read_a_sweep", "04_call_the_service"]


@pytest.mark.long
@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_notebook_runs_and_leaves_nothing_behind(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its working folder is not that of the project: no path of it may depend on that."""
    folders = {name: tmp_path / name for name in ("work", "scratch", "home")}
    for folder in folders.values():
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folders["scratch"]))
    # History, sockets and settings of the kernel: not those of whoever runs the tests.
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(folders["home"]))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(folders["work"])}},
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert outputs
    told = [output.text for output in outputs if output.get("name") == "stderr"]
    assert told == []
    assert list(folders["work"].iterdir()) == []
    # Libraries keep files of their own there.
    assert list(folders["scratch"].glob("tmp*")) == []


@pytest.mark.parametrize("path", PATHS, ids=NAMES)
def test_a_notebook_is_committed_without_what_running_it_has_put_in(path: Path) -> None:
    text = path.read_text("utf-8")
    nbformat.validate(nbformat.reads(text, as_version=4))
    assert text == strip(text), "python -m tests.notebooks.strip mends it"
    assert text.startswith('{\n "cells": [\n  {\n   "cell_type": "markdown"'), "begin with a text"


def test_what_running_has_put_in_is_stripped() -> None:
    text = PATHS[0].read_text("utf-8")
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata.language_info.version = "3.99"
    for number, cell in enumerate(notebook.cells):
        cell.id = f"drawn{number}"
        cell.metadata.scrolled = True
        if cell.cell_type == "code":
            cell.execution_count = number
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text="/home/me\n")]
    ran = nbformat.writes(notebook)
    assert "/home/me" in ran
    assert strip(ran) == text
