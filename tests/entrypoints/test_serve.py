"""The command that serves."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.conftest import ROOT
from tests.servers import ROW, ServerProcess

Start = Callable[..., ServerProcess]


def serve(workspace: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command where it is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-m", "entrypoints.serve", *arguments],
        cwd=workspace,
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(ROOT), "HOME": str(workspace)},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_printed_command_gets_a_prediction(iris_model: Path, start_server: Start) -> None:
    server = start_server(f"model.path={iris_model}")
    line = next(line for line in server.output.splitlines() if line.startswith("curl "))
    command = [*shlex.split(line), "--silent", "--show-error"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    assert '"predictions":["setosa"]' in done.stdout
    assert httpx2.get(f"{server.address}/info").json()["name"] == "iris_gb"


def test_serving_imports_nothing_that_trained_the_model(
    iris_model: Path, start_server: Start
) -> None:
    server = start_server(f"model.path={iris_model}")
    httpx2.post(f"{server.address}/predict", json={"features": [ROW]})
    maps = Path(f"/proc/{server.process.pid}/maps").read_text()
    for name in ("torch", "sklearn", "scipy", "pandas", "pyarrow"):
        assert f"/{name}/" not in maps, name


def test_several_models_need_no_plus(iris_model: Path, start_server: Start) -> None:
    server = start_server(f"models.a.path={iris_model}", f"models.b.path={iris_model}")
    assert httpx2.get(f"{server.address}/info").json()["models"] == ["a", "b"]
    answer = httpx2.post(f"{server.address}/models/b/predict", json={"features": [ROW]})
    assert answer.json()["predictions"] == ["setosa"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["model.path", "is required"]),
        (["model.path=nope"], ["nope"]),
        (["model.path=x", "models.a.path=y"], ["model.path and models"]),
        (["models.a=x"], ["models.a.path"]),
        (["models.a.pth=x"], ["models.a.path"]),
        (["model.path=x", "server.port=70000"], ["server.port", "65536"]),
        (["model.path=x", "server.host=no.such.host.invalid"], ["server.host"]),
        (["model.path=x", "server.workers=0"], ["server.workers"]),
        (["model.path=x", "server.backend=onx"], ["server.backend", "onnxruntime"]),
        (["model.path=x", "server.max_rows=-1"], ["server.max_rows"]),
        (["model.path=x", "server.drain_seconds=-1"], ["server.drain_seconds"]),
        (["model.path=x", "server.prt=1"], ["prt", "port"]),
    ],
)
def test_a_wrong_setting_is_told_in_one_line(
    arguments: list[str], words: list[str], workspace: Path
) -> None:
    done = serve(workspace, *arguments)
    assert done.returncode == 1
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert all(word in lines[0] for word in words), lines[0]


def test_wrong_settings_are_told_before_a_model_is_loaded(
    in_process: Callable[..., tuple[int, str, str]],
) -> None:
    for arguments, words in (
        (["model.path=x", "server.workers=0"], "server.workers"),
        (["model.path=x", "server.backend=onx"], "server.backend"),
        (["models.a=x"], "models.a.path=..."),
        (["model.path=x", "models.a.path=y"], "give one of the two"),
        (["model.path=models:/iris@best", "server.port=-1"], "server.port"),
        (["model.path=x", "server.host=256.1.1.1"], "server.host"),
    ):
        status, _, errors = in_process("serve", *arguments)
        assert status == 1
        assert words in errors


def test_an_address_that_is_taken_is_told(iris_model: Path, workspace: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = serve(workspace, f"model.path={iris_model}", f"server.port={port}")
    assert done.returncode == 1
    assert f"server.port={port}" in done.stderr
    assert "Address already in use" in done.stderr
