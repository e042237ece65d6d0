"""The example of a package of one's own: installed beside the project, it changes no file of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import ROOT

EXAMPLE = ROOT / "examples" / "own_package"
UV = os.environ.get("UV") or shutil.which("uv")

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(UV is None, reason="builds wheels with uv"),
]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with wheels of the project and the example, and the packages that are here."""
    folder = tmp_path_factory.mktemp("installed")
    sources = folder / "sources"
    shutil.copytree(EXAMPLE, sources / "example", ignore=shutil.ignore_patterns(".*", "uv.lock"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, sources / name)
    for name in ("src", "entrypoints", "conf"):
        shutil.copytree(ROOT / name, sources / name, ignore=shutil.ignore_patterns("__pycache__"))
    for source in (sources, sources / "example"):
        _uv("build", "--quiet", "--offline", "--wheel", "--out-dir", folder / "wheels", source)
    shutil.rmtree(sources)
    made = folder / "venv"
    venv.create(made, symlinks=True)
    wheels = sorted((folder / "wheels").glob("*.whl"))
    assert len(wheels) == 2
    _uv("pip", "install", "--quiet", "--offline", "--no-deps", "--python", made, *wheels)
    (packages,) = made.glob("lib/python*/site-packages")
    # Paths alone: what is installed there in development mode, as the project is, is not found.
    (packages / "here.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return made


def _uv(*words: str | Path) -> None:
    assert UV is not None
    done = subprocess.run([UV, *words], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def run(environment: Path, workspace: Path) -> Run:
    """Run a program of the environment in a folder that holds the table of the example alone."""
    (workspace / "data").mkdir()
    shutil.copy(EXAMPLE / "data" / "fruits.csv", workspace / "data")
    (workspace / "uv").write_text('#!/bin/sh\nshift\nexec "$@"\n')
    (workspace / "uv").chmod(0o755)

    def run_there(*words: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        path = f"{workspace}:{environment / 'bin'}:{os.environ['PATH']}"
        return subprocess.run(
            words,
            cwd=workspace,
            env={**clean, "PATH": path, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )

    return run_there


def test_the_commands_of_the_document_train_and_evaluate_from_a_wheel(
    run: Run, environment: Path, workspace: Path
) -> None:
    place = run("python", "-c", "import entrypoints.train as t; print(t.__file__)").stdout.strip()
    assert Path(place).is_relative_to(environment)
    document = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```", document, flags=re.MULTILINE | re.DOTALL)
    (commands,) = [block for block in blocks if "entrypoints.train" in block]
    done = run("bash", "-ec", commands)
    assert done.returncode == 0, done.stderr
    assert "Nothing is wrong with these arguments." in done.stdout
    evaluate = "model.path=.models/fruits_naive_bayes data=fruits"
    assert re.search(rf"^evaluate +.* {re.escape(evaluate)}$", done.stdout, re.MULTILINE)
    (accuracy, *_) = re.findall(r"^accuracy +([\d.]+)$", done.stdout, re.MULTILINE)
    assert float(accuracy) > 0.85
    config = (workspace / ".models" / "fruits_naive_bayes" / "config.json").read_text()
    assert "naive_bayes_classifier" in config


def test_a_sweep_and_messages_know_the_choices_of_the_package(run: Run) -> None:
    swept = run(
        *("python", "-m", "entrypoints.train", "-m", "data=fruits", "tracking=disabled"),
        *("model=naive_bayes", "training.use_priors=true,false"),
    )
    assert swept.returncode == 0, swept.stderr
    assert "best      trial" in swept.stdout
    wrong = run("python", "-m", "entrypoints.check", "model=naive_bays", "data=fruit")
    assert wrong.returncode == 1
    models = [path.stem for path in (ROOT / "conf" / "model").glob("*.yaml")]
    assert wrong.stderr.splitlines() == [
        "error: Unknown model 'naive_bays'. Did you mean 'naive_bayes'? "
        f"Available: {', '.join(sorted([*models, 'naive_bayes']))}.",
        "error: Unknown data 'fruit'. Did you mean 'fruits'? "
        "Available: breast_cancer, csv, digits, fruits, iris, wine.",
    ]


def test_the_tests_of_the_example_pass(run: Run) -> None:
    options = ("-q", "-p", "no:cacheprovider", "-c", str(EXAMPLE / "pyproject.toml"))
    done = run("python", "-m", "pytest", *options, str(EXAMPLE / "tests"))
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout
