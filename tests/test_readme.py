"""What the README prints for users works: its commands are run in order, as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.servers import ServerProcess

README = (ROOT / "README.md").read_text(encoding="utf-8")


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def clone(workspace: Path) -> dict[str, str]:
    """A folder to run commands in, with a ``uv`` that runs what is installed already."""
    programs = workspace / "programs"
    programs.mkdir()
    python = Path(sys.executable).parent
    uv = programs / "uv"
    uv.write_text(f'#!/bin/sh\nshift\nPATH="{python}:$PATH" exec "$@"\n')
    uv.chmod(0o755)
    (workspace / "my.csv").write_text(
        "length,width,species\n" + "".join(f"{i % 9},{i % 4},{'ab'[i % 2]}\n" for i in range(60))
    )
    return {
        **os.environ,
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


def test_the_commands_of_the_readme_run(clone: dict[str, str], workspace: Path) -> None:
    commands = [block for block in _blocks("bash") if "uv run" in block]
    assert len(commands) >= 6
    main_job = "uv run python -m entrypoints.train model=mlp data=iris\n"
    script = "set -euo pipefail\n" + main_job + "".join(commands).replace("8000", _free_port())
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=workspace,
        env=clone,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert '"predictions":["setosa"]' in done.stdout
    assert (workspace / "scored.parquet").is_file()
    blocks = _blocks("python")
    (loading,) = [block for block in blocks if ".models/iris_mlp" in block]
    output = _run_python(loading, workspace, clone)
    assert "['setosa']" in output
    assert "mlp_classifier" in output
    server = ServerProcess(workspace, ["model.path=.models/iris_mlp"], {})
    try:
        server.wait()
        calls = [block for block in blocks if "127.0.0.1" in block]
        assert len(calls) == 3
        for code in calls:
            code = code.replace("8000", server.address.rpartition(":")[2])
            assert "setosa" in _run_python(code, workspace, clone), code
    finally:
        server.end()


def _run_python(code: str, workspace: Path, environment: dict[str, str]) -> str:
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=workspace,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_targets_of_the_makefile_that_the_readme_names_exist() -> None:
    named = set(re.findall(r"`?make ([a-z]+)", README))
    assert {"train", "test", "mlflow"} <= named
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in named - {"and"}:
        assert f"make {target} " in listed.stdout


def test_the_links_of_the_documents_lead_somewhere() -> None:
    for document in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def _free_port() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
