"""What a command imports, and what a package exports."""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import ml_project_template

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(
    module.name
    for module in pkgutil.walk_packages(ml_project_template.__path__, "ml_project_template.")
    if module.ispkg
)


def _modules_after(code: str, cwd: Path) -> set[str]:
    """Run code in a fresh process and give the top-level modules it has imported."""
    script = f"{code}\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}


def _command(stage: str, *overrides: str) -> str:
    return (
        f"import sys; sys.argv = {['x', *overrides]!r}\n"
        "import contextlib\n"
        f"from entrypoints import _shell, {stage}\n"
        f"with contextlib.suppress(SystemExit): _shell.run({stage}.main)"
    )


@pytest.mark.parametrize(
    "stage", ["onboard", "preprocess", "train", "check", "evaluate", "predict"]
)
def test_help_imports_nothing_heavy(stage: str, workspace: Path) -> None:
    loaded = _modules_after(_command(stage, "--help"), workspace)
    assert loaded.isdisjoint({"torch", "mlflow", "sklearn", "lightning", "pandas", "matplotlib"})


def test_a_wrong_key_is_told_before_anything_heavy_is_imported(workspace: Path) -> None:
    loaded = _modules_after(_command("train", "model=mpl"), workspace)
    assert loaded.isdisjoint({"torch", "mlflow", "sklearn", "lightning", "pandas"})


def test_boosting_never_imports_torch(workspace: Path) -> None:
    train = _command("train", "model=gb", "data=iris", "model.max_iter=5")
    loaded = _modules_after(train, workspace)
    assert (workspace / ".models" / "iris_gb" / "manifest.json").is_file()
    assert {"mlflow", "sklearn"} <= loaded
    assert loaded.isdisjoint({"torch", "lightning"})
    for stage, *overrides in (
        ("evaluate", "model.path=.models/iris_gb"),
        ("predict", "model.path=.models/iris_gb", "input=.data/raw/iris.csv", "output=out.csv"),
    ):
        loaded = _modules_after(_command(stage, *overrides), workspace)
        assert loaded.isdisjoint({"torch", "lightning"})
    assert (workspace / "out.csv").is_file()


def test_onboarding_imports_no_framework(workspace: Path) -> None:
    (workspace / "my.csv").write_text("a,y\n1,u\n")
    overrides = ("data=csv", "data.source=my.csv", "data.target_column=y")
    loaded = _modules_after(_command("onboard", *overrides), workspace)
    assert (workspace / ".data" / "raw" / "my.csv").is_file()
    assert loaded.isdisjoint({"torch", "mlflow", "lightning", "sklearn"})


@pytest.mark.parametrize("package", ["ml_project_template", *PACKAGES])
def test_the_exports_of_a_package_exist_and_stand_once(package: str) -> None:
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    assert all(hasattr(module, name) for name in names)
