"""Signing from the command line, what is promoted of it, and the commands of the document."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ml_project_template.artifacts import open_model_directory
from ml_project_template.models import ModelRegistry
from ml_project_template.signing import key_name, trusted_keys
from ml_project_template.tracking import MLflowTracker
from tests.conftest import ROOT
from tests.test_signing import Keys, keys
from tests.tracking_server import TrackingServer

__all__ = ["keys"]

InProcess = Callable[..., tuple[int, str, str]]

TRAIN = ("model=gb", "data=iris", "model.max_iter=3", "tracking.log_plots=false", "model_path=m")


@pytest.fixture
def local(iris_model: Path, workspace: Path) -> str:
    """A model in the working folder."""
    shutil.copytree(iris_model, workspace / "m")
    return "model.path=m"


def test_a_model_is_signed_and_verified(local: str, keys: Keys, in_process: InProcess) -> None:
    keys.trust("team")
    assert in_process("sign", local, "verify_only=true") == (
        1,
        "",
        "error: 'm' is not signed: ML_PROJECT_TRUSTED_KEYS asks for a manifest.ed25519 beside its "
        "manifest.json.\n",
    )
    assert in_process("predict", local, "input=x.csv", "output=y.csv")[0] == 1
    keys.sign_with("team")
    status, out, errors = in_process("sign", local)
    assert (status, errors) == (0, "")
    found = re.fullmatch(r"Sign: m, version (\w{12}), by key (\w{16})\n", out)
    assert found is not None
    assert found[2] == key_name(trusted_keys()[0])
    keys.sign_with(None)
    expected = f"Verify: m, version {found[1]}, is signed by key {found[2]}\n"
    assert in_process("sign", local, "verify_only=true") == (0, expected, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model.path: is required"),
        (
            ["model.path=m"],
            "ML_PROJECT_SIGNING_KEY: is required to sign: the path of",
        ),
        (["model.path=m", "verify_only=true"], "ML_PROJECT_TRUSTED_KEYS: is required to verify"),
        (["model.path=m", "verify_only=1"], "verify_only: must be true or false, got 1"),
        (["model.path=m", "verify=true"], "verify: "),
    ],
)
def test_a_wrong_argument_is_told(
    arguments: list[str], message: str, in_process: InProcess
) -> None:
    status, out, errors = in_process("sign", *arguments)
    assert (status, out) == (1, "")
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1


def test_a_path_without_a_model_is_told(keys: Keys, in_process: InProcess) -> None:
    keys.sign_with("team")
    status, _, errors = in_process("sign", "model.path=nowhere")
    assert (status, errors) == (
        1,
        "error: 'nowhere' is not a model directory: it does not exist.\n",
    )


def test_what_a_training_leaves_is_signed_and_shows_nothing_of_the_key(
    keys: Keys, workspace: Path, in_process: InProcess
) -> None:
    keys.sign_with("hidden-name")
    keys.trust("hidden-name")
    status, out, errors = in_process("train", *TRAIN)
    assert (status, errors) == (0, "")
    run_id = next(line.split()[1] for line in out.splitlines() if line.startswith("run "))
    for path in ("m", f"runs:/{run_id}/model"):
        assert in_process("sign", f"model.path={path}", "verify_only=true")[0] == 0
    # It is promoted as it is.
    assert in_process("promote", "model.path=m", "name=iris")[0] == 0
    private = keys.private("hidden-name")
    secret = "".join(private.read_text().splitlines()[1:-1])
    files = (file for file in workspace.rglob("*") if file.is_file())
    written = [file for file in files if "keys" not in file.parts]
    assert len(written) > 20
    for file in written:
        content = file.read_bytes()
        assert secret.encode() not in content, file
        assert private.name.encode() not in content, file
    assert private.name not in out


def test_what_was_trained_unsigned_is_promoted_when_somebody_has_signed_it(
    keys: Keys, in_process: InProcess
) -> None:
    status, out, _ = in_process("train", *TRAIN)
    assert status == 0
    run_id = next(line.split()[1] for line in out.splitlines() if line.startswith("run "))
    logged = f"runs:/{run_id}/model"
    keys.trust("team")
    keys.sign_with("team")
    # What is registered is what the run has logged, not the directory that is named.
    assert in_process("sign", "model.path=m")[0] == 0
    for named in ("model.path=m", f"run={run_id}", f"model.path={logged}"):
        status, out, errors = in_process("promote", named, "name=iris")
        assert (status, out) == (1, "")
        assert "is not signed" in errors
        assert errors.count("\n") == 1
    status, _, errors = in_process("evaluate", f"model.path={logged}")
    assert (status, "is not signed" in errors) == (1, True)
    status, out, errors = in_process("sign", f"model.path={logged}")
    assert (status, errors) == (0, "")
    status, out, errors = in_process("promote", f"run={run_id}", "name=iris")
    assert (status, errors) == (0, "")
    assert "iris@champion is version 1 now" in out
    assert in_process("evaluate", "model.path=models:/iris@champion")[0] == 0


def test_a_model_on_a_tracking_server_is_signed_there(
    tracking_server: TrackingServer,
    iris_model: Path,
    keys: Keys,
    in_process: InProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = ModelRegistry.load(iris_model)
    assert model.signature is not None
    with MLflowTracker(tracking_server.uri).start_run(experiment_name="signed") as run:
        run.log_model(iris_model, signature=model.signature, sample=model.signature.sample)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_server.uri)
    path = f"model.path=runs:/{run.id}/model"
    keys.trust("team")
    assert in_process("sign", path, "verify_only=true")[0] == 1
    keys.sign_with("team")
    assert in_process("sign", path)[0] == 0
    assert in_process("sign", path, "verify_only=true")[0] == 0
    with open_model_directory(iris_model, check_signature=False) as directory:
        assert not (directory / "manifest.ed25519").exists(), "the directory here is another one"


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")
def test_the_commands_of_the_document_run_in_their_order(
    iris_model: Path, workspace: Path, python: list[str]
) -> None:
    text = (ROOT / "docs" / "model-directory.md").read_text(encoding="utf-8")
    section = text[text.index("## Signing") :]
    section = section[: section.index("\n## ", 1)]
    blocks = re.findall(r"^```bash\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 2
    shutil.copytree(iris_model, workspace / ".models" / "iris_mlp")
    shutil.copyfile(iris_model.parent / "iris.csv", workspace / "new.csv")
    programs = workspace / "programs"
    programs.mkdir()
    (programs / "uv").write_text(f'#!/bin/sh\nshift 2\nexec {shlex.join(python)} "$@"\n')
    (programs / "uv").chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", "set -euo pipefail\n" + "".join(blocks)],
        cwd=workspace,
        env={**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Verify: .models/iris_mlp, version " in done.stdout
    assert "Signature Verified Successfully" in done.stdout
    assert (workspace / "scored.csv").is_file()
    assert oct((workspace / "signing.pem").stat().st_mode & 0o777) == "0o600"
