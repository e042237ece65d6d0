"""What a command imports, and what a package exports."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import json
import os
import pkgutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import ml_project_template
from tests.servers import BODY, wait_until

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = sorted(
    module.name
    for module in pkgutil.walk_packages(ml_project_template.__path__, "ml_project_template.")
    if module.ispkg
)


def _modules_after(code: str, cwd: Path, *, depth: int = 1) -> set[str]:
    """Run code in a fresh process and give the modules it has imported, down to a depth."""
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
    names = json.loads(done.stdout.splitlines()[-1])
    return {".".join(name.split(".")[:depth]) for name in names}


def _command(stage: str, *overrides: str) -> str:
    return (
        f"import sys; sys.argv = {['x', *overrides]!r}\n"
        "import contextlib\n"
        f"from entrypoints import _shell, {stage}\n"
        f"with contextlib.suppress(SystemExit): _shell.run({stage}.main)"
    )


@pytest.mark.parametrize(
    "stage", ["onboard", "preprocess", "train", "check", "evaluate", "predict", "reproduce"]
)
def test_help_imports_nothing_heavy(stage: str, workspace: Path) -> None:
    loaded = _modules_after(_command(stage, "--help"), workspace)
    assert loaded.isdisjoint({"torch", "mlflow", "sklearn", "lightning", "pandas", "matplotlib"})


def test_a_wrong_key_is_told_before_anything_heavy_is_imported(workspace: Path) -> None:
    loaded = _modules_after(_command("train", "model=mpl"), workspace)
    assert loaded.isdisjoint({"torch", "mlflow", "sklearn", "lightning", "pandas"})


@pytest.mark.long
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


def test_a_network_is_trained_without_trainer_compiler_and_scikit_learn(workspace: Path) -> None:
    rows = "".join(f"{n},{n % 3},{'uvw'[n % 3]}\n" for n in range(60))
    (workspace / "my.csv").write_text(f"a,b,y\n{rows}")
    # Rows are drawn by scikit-learn, once.
    data = ("data=csv", "data.path=my.csv", "data.target_column=y")
    undivided = ("data.test_size=0", "data.val_size=0")
    settings = ("model=mlp", "debug=one_epoch", "tracking=disabled")
    train = _command("train", *settings, *data, *undivided)
    loaded = _modules_after(train, workspace, depth=2)
    assert (workspace / ".models" / "my_mlp" / "manifest.json").is_file()
    assert {"torch", "lightning.fabric"} <= loaded
    heavy = {"lightning.pytorch", "torch._dynamo", "torch._inductor", "torchmetrics", "sklearn"}
    assert loaded.isdisjoint(heavy | {"scipy", "matplotlib", "sympy", "mlflow"})


def test_onboarding_imports_no_framework(workspace: Path) -> None:
    (workspace / "my.csv").write_text("a,y\n1,u\n")
    overrides = ("data=csv", "data.source=my.csv", "data.target_column=y")
    loaded = _modules_after(_command("onboard", *overrides), workspace)
    assert (workspace / ".data" / "raw" / "my.csv").is_file()
    assert loaded.isdisjoint({"torch", "mlflow", "lightning", "sklearn"})


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def site_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the folder of an environment that holds the packages of an extra and no others."""

    @functools.cache
    def make(extra: str) -> Path:
        site = tmp_path_factory.mktemp("site")
        _link_packages(site, extra)
        return site

    return make


@pytest.fixture
def start_with(site_of: Callable[[str], Path], workspace: Path) -> Start:
    """Start a stage in the environment of an extra."""

    def start(extra: str, stage: str, *overrides: str) -> subprocess.Popen[str]:
        # Without -S all packages of the tests would be there.
        return subprocess.Popen(
            [sys.executable, "-S", "-m", f"entrypoints.{stage}", *overrides],
            cwd=workspace,
            env={**os.environ, "PYTHONPATH": f"{site_of(extra)}:{ROOT / 'src'}:{ROOT}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return start


def _link_packages(folder: Path, extra: str) -> None:
    """Link the files of the packages that an extra installs, and of those that these need."""
    todo = [("ml-project-template", extra)]
    done: set[tuple[str, str]] = set()
    linked: set[str] = set()
    while todo:
        name, extra = todo.pop()
        if (name, extra) in done:
            continue
        done.add((name, extra))
        distribution = importlib.metadata.distribution(name)
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                todo += [(needed, more) for more in ("", *requirement.extras)]
        if name in linked:
            continue
        linked.add(name)
        for file in distribution.files or []:
            if file.parts[0] == ".." or file.suffix in (".pyc", ".pth"):
                continue
            source, link = Path(str(distribution.locate_file(file))), folder / file
            if not link.parent.is_dir():
                link.parent.mkdir(parents=True)
                (link.parent / "__pycache__").symlink_to(source.parent / "__pycache__")
            # MLflow and its client have files in common.
            with contextlib.suppress(FileExistsError):
                link.symlink_to(source)


@pytest.mark.long
@pytest.mark.parametrize(
    ("extra", "stage", "overrides"),
    [
        ("data", "preprocess", ["data=iris"]),
        ("train", "train", ["model=gb", "data=iris", "model.max_iter=5", "tracking=disabled"]),
    ],
)
def test_a_stage_runs_with_the_packages_of_its_extra(
    start_with: Start, extra: str, stage: str, overrides: list[str]
) -> None:
    process = start_with(extra, stage, *overrides)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output


def test_a_server_runs_with_the_packages_of_its_extra(start_with: Start, iris_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    arguments = (f"model.path={iris_model}", f"server.port={port}", "server.drain_seconds=0")
    process = start_with("serve", "serve", *arguments)
    try:

        def is_ready() -> bool:
            assert process.poll() is None, process.communicate()[0]
            with contextlib.suppress(httpx2.TransportError):
                return httpx2.get(f"http://127.0.0.1:{port}/ready").status_code == 200
            return False

        wait_until(is_ready)
        answer = httpx2.post(f"http://127.0.0.1:{port}/predict", json=BODY)
        assert answer.json()["predictions"] == ["setosa"]
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output


@pytest.mark.parametrize(
    ("extra", "model", "module", "lacking"),
    [("data", "gb", "skops", "train"), ("train", "mlp", "lightning", "torch")],
)
def test_what_an_environment_lacks_is_told_by_its_extra(
    start_with: Start, extra: str, model: str, module: str, lacking: str
) -> None:
    process = start_with(extra, "train", f"model={model}", "tracking=disabled")
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    told = f"'{module}' is not installed here: it comes with the extra '{lacking}' (uv sync "
    assert f"error: {told}" in output
    assert "Traceback" not in output


@pytest.mark.parametrize("package", ["ml_project_template", *PACKAGES])
def test_the_exports_of_a_package_exist_and_stand_once(package: str) -> None:
    module = importlib.import_module(package)
    names = getattr(module, "__all__", [])
    assert len(names) == len(set(names))
    assert all(hasattr(module, name) for name in names)
