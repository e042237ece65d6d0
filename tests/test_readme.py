"""What the README prints for users works: its commands are run in order, as they stand."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.object_store import ObjectStore
from tests.servers import ServerProcess

README = (ROOT / "README.md").read_text(encoding="utf-8")
USE = "## Use a model"


def _blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture
def clone(workspace: Path, object_store: ObjectStore, python: list[str]) -> dict[str, str]:
    """A folder to run commands in, with a ``uv`` that runs what is installed, and an S3 store."""
    programs = workspace / "programs"
    programs.mkdir()
    installed = Path(sys.executable).parent
    for name, script in {
        "uv": f'shift\nPATH="{programs}:{installed}:$PATH" exec "$@"',
        "python": f'exec {shlex.join(python)} "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    (workspace / "my.csv").write_text(
        "length,width,species\n" + "".join(f"{i % 9},{i % 4},{'ab'[i % 2]}\n" for i in range(60))
    )
    return {
        **os.environ,
        **object_store.environment,
        "S3_DATA_BUCKET": object_store.new_bucket(),
        "S3_MODEL_BUCKET": object_store.new_bucket(),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.long
def test_the_commands_run_in_their_order(clone: dict[str, str], workspace: Path) -> None:
    # What `make train` runs, in an empty folder.
    done = _run_script("uv run python -m entrypoints.train model=mlp data=iris", clone, workspace)
    assert done.stderr == ""
    assert (workspace / ".models" / "iris_mlp" / "manifest.json").is_file()
    assert (workspace / "mlflow.db").is_file()

    trained, used = README[: README.index(USE)], README[README.index(USE) :]
    output = _run_commands(trained, clone, workspace)
    assert "again     uv run python -m entrypoints.train --config-dir" in output
    assert (workspace / ".data" / "raw" / "wine.csv").is_file()
    assert (workspace / ".models" / "my_mlp" / "manifest.json").is_file()

    output = _run_commands(used, clone, workspace)
    assert '"predictions":["setosa"]' in output
    assert re.search(r"Gate: accuracy on test is (0\.9|1)", output)
    assert "Promote: iris@champion is version 1 now" in output
    assert (workspace / "scored.parquet").is_file()
    blocks = _blocks("python", used)
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


def _run_commands(text: str, clone: dict[str, str], workspace: Path) -> str:
    """Run the commands of a part of the README after the main job."""
    commands = [block for block in _blocks("bash", text) if "uv run" in block]
    assert len(commands) >= 4
    script = "".join(commands).replace("8000", _free_port())
    script = script.replace("s3://datasets/", f"s3://{clone['S3_DATA_BUCKET']}/")
    script = script.replace("s3://models/", f"s3://{clone['S3_MODEL_BUCKET']}/")
    return _run_script(script, clone, workspace).stdout


def _run_script(
    script: str, clone: dict[str, str], workspace: Path
) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["bash", "-c", f"set -euo pipefail\n{script}"],
        cwd=workspace,
        env=clone,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def _run_python(code: str, workspace: Path, environment: dict[str, str]) -> str:
    ran = subprocess.run(
        [str(workspace / "programs" / "python"), "-c", code],
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
    documents = [
        path for pattern in ("*.md", "docs/*.md", "examples/*/*.md") for path in ROOT.glob(pattern)
    ]
    for document in documents:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def _free_port() -> str:
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])
