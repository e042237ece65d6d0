"""Build the images from nothing and run the stages in them, on a real store and tracking server.

``make images-test`` runs this, as root on Debian; it takes some minutes and is no part of
``make check``. Where a folder that pip looks for wheels in (``PIP_FIND_LINKS``) has one of PyTorch
for the CPU, it is taken from there rather than from PyTorch's index.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.conftest import ROOT
from tests.images.engine import Container, Engine, install_programs, open_engine
from tests.object_store import ObjectStore
from tests.postgresql import new_database
from tests.servers import BODY, wait_until
from tests.tracking_server import s3_environment

BOOSTING = "training-job-boosting"
# Megabytes at most, beside the base image.
SIZES = {
    "preprocessing-job": 700,
    "training-job": 2100,
    BOOSTING: 1100,
    "model-server": 650,
    "tracking-server": 1000,
}
STAGES = {
    "preprocessing-job": "preprocess",
    "training-job": "train",
    BOOSTING: "train",
    "model-server": "serve",
    "tracking-server": "mlflow",
}
# What an image has no use for; "nvidia-" stands for all that begin so.
ABSENT = {
    "preprocessing-job": {"torch", "lightning", "mlflow", "optuna", "fastapi", "onnxruntime"},
    "training-job": {"onnxruntime", "msgspec", "nvidia-", "cuda-", "triton", "boto3"},
    BOOSTING: {"torch", "lightning", "nvidia-", "cuda-", "triton", "onnxruntime", "boto3"},
    "model-server": {
        *("torch", "lightning", "mlflow", "flask", "sqlalchemy", "optuna", "scikit-learn"),
        *("scipy", "pandas", "matplotlib", "boto3", "nvidia-"),
    },
    "tracking-server": {"torch", "lightning", "optuna", "nvidia-"},
}
TOOLS = ("cc", "gcc", "g++", "make", "git", "uv", "pytest")
LIST_PACKAGES = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({d.name.lower(): d.version for d in m.distributions()}))"
)
SECONDS = 600


@dataclass(frozen=True)
class Services:
    """Where the stages work.

    Attributes:
        options: What a container needs of the environment.
        tracking_uri: The tracking server, which runs in a container too.
        models: The bucket of the models.
        seconds: How long the tracking server took to start.
        container: The tracking server.
    """

    options: tuple[str, ...]
    tracking_uri: str
    models: str
    seconds: float
    container: Container


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    assert os.getuid() == 0, "the images are built and run as root"
    install_programs()
    with open_engine() as opened:
        yield opened


@pytest.fixture(scope="session")
def commit() -> str:
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    return subprocess.check_output(describe, cwd=ROOT, text=True).strip()


@pytest.fixture(scope="session")
def base(engine: Engine) -> str:
    return engine.make_base()


@pytest.fixture(scope="session")
def build_seconds(engine: Engine, base: str, commit: str) -> dict[str, float]:
    """Build all images; gives the seconds it took for each."""
    seconds = {}
    for name, stage in STAGES.items():
        arguments = {"PYTHON_IMAGE": base, "GIT_COMMIT": commit}
        folders = {}
        if name == BOOSTING:
            arguments["EXTRAS"] = "train sweep postgresql"
        elif name == "training-job" and (wheel := _local_torch(base)) is not None:
            folders[str(wheel.parent)] = "/wheels"
            version = wheel.name.split("-")[1].partition("+")[0]
            arguments |= {"TORCH_FIND_LINKS": "/wheels", "TORCH_VERSION": version}
        started = time.perf_counter()
        engine.build(name, ROOT / "docker" / stage / "Dockerfile", ROOT, arguments, folders)
        seconds[name] = time.perf_counter() - started
    return seconds


@pytest.fixture(scope="session")
def services(
    engine: Engine, build_seconds: dict[str, float], object_store: ObjectStore, postgresql: str
) -> Iterator[Services]:
    """Start the tracking server from its image, on PostgreSQL and the store."""
    port = _free_port()
    uri = f"http://127.0.0.1:{port}"
    buckets = {name: f"{name}-{os.urandom(4).hex()}" for name in ("datasets", "models", "mlflow")}
    make = ("--entrypoint", "python", *_environment(object_store.environment))
    for state in ("new", "there"):
        done = engine.run(
            "tracking-server", "/opt/make_buckets.py", *buckets.values(), options=make
        )
        assert done.stdout.count(state) == len(buckets), done.stdout
    settings = {
        **object_store.environment,
        "MLFLOW_TRACKING_URI": uri,
        "S3_DATA_BUCKET": buckets["datasets"],
        "S3_MODEL_BUCKET": buckets["models"],
    }
    with engine.start(
        "tracking-server",
        # The last one wins.
        *(f"--port={port}", f"--allowed-hosts=127.0.0.1:{port}", "--workers=1"),
        f"--backend-store-uri={new_database(postgresql)}",
        *("--serve-artifacts", f"--artifacts-destination=s3://{buckets['mlflow']}"),
        options=_environment(s3_environment(object_store)),
    ) as container:
        seconds = _wait_until_ready(container, f"{uri}/health")
        yield Services(_environment(settings), uri, buckets["models"], seconds, container)
        assert container.stop() != 137, container.log
    for bucket in buckets.values():
        for key in object_store.keys(bucket):
            object_store.client().delete_object(Bucket=bucket, Key=key)
        object_store.client().delete_bucket(Bucket=bucket)


@pytest.fixture(scope="session")
def trained(engine: Engine, services: Services) -> dict[str, str]:
    """Prepare the data and train a network and a booster; gives the printed summaries."""
    prepared = engine.run(
        "preprocessing-job", "data=iris", "storage=minio", options=services.options
    )
    assert "is new" in prepared.stderr + prepared.stdout
    summaries = {}
    for model, image in {"mlp": "training-job", "gb": BOOSTING}.items():
        done = engine.run(
            image, f"model={model}", "data=iris", "storage=minio", options=services.options
        )
        assert "is unchanged, nothing to do" in done.stderr + done.stdout
        summaries[model] = done.stdout
    return summaries


@pytest.mark.parametrize("image", STAGES)
def test_an_image_runs_without_rights_and_says_what_it_is(
    engine: Engine, build_seconds: dict[str, float], commit: str, image: str
) -> None:
    config = engine.config(image)
    assert re.fullmatch(r"[1-9]\d*:0", config["User"])
    assert config["WorkingDir"] == "/work"
    assert config["StopSignal"] in ("SIGTERM", "15")
    assert config["Entrypoint"][0] in ("python", "mlflow")
    labels = config["Labels"]
    assert labels["org.opencontainers.image.revision"] == commit
    assert labels["org.opencontainers.image.title"].endswith(STAGES[image])


@pytest.mark.parametrize("image", STAGES)
def test_an_image_holds_what_its_stage_needs_and_no_more(
    engine: Engine, base: str, build_seconds: dict[str, float], image: str
) -> None:
    assert (engine.size(image) - engine.size(base)) / 1e6 <= SIZES[image]
    python = ("--entrypoint", "python")
    listed = engine.run(image, "-c", LIST_PACKAGES, options=python).stdout
    packages: dict[str, str] = json.loads(listed)
    absent = tuple(name for name in ABSENT[image] if name.endswith("-"))
    assert ABSENT[image].isdisjoint(packages)
    assert not [name for name in packages if absent and name.startswith(absent)]
    find = f"for t in {' '.join(TOOLS)}; do command -v $t; done; ls -d /opt/project/tests /build"
    shell = ("--entrypoint", "sh")
    assert engine.run(image, "-c", find, options=shell, check=False).stdout == ""
    # It may not even look into some folders of the system.
    find = "find /opt /usr /etc /work -writable -not -type l"
    assert engine.run(image, "-c", find, options=shell, check=False).stdout.split() == ["/work"]


def test_the_versions_are_those_of_the_lock(
    engine: Engine, build_seconds: dict[str, float]
) -> None:
    lock = (ROOT / "uv.lock").read_text()
    locked = set(re.findall(r'^name = "(.+)"\nversion = "(.+)"$', lock, re.MULTILINE))
    for image in STAGES:
        listed = engine.run(image, "-I", "-c", LIST_PACKAGES, options=("--entrypoint", "python"))
        packages: dict[str, str] = json.loads(listed.stdout)
        for name, version in packages.items():
            # PyTorch may be another build, and a wheel at hand another version.
            assert name == "torch" or (name.replace("_", "-"), version) in locked, name


def test_the_stages_leave_all_in_the_store_and_on_the_tracking_server(
    engine: Engine, services: Services, trained: dict[str, str], commit: str
) -> None:
    search = f"{services.tracking_uri}/api/2.0/mlflow/runs/search"
    runs = httpx2.post(search, json={"experiment_ids": ["1"]}).json()["runs"]
    found = {run["info"]["run_id"]: run for run in runs}
    assert len(found) == len(trained)
    for model, summary in trained.items():
        assert f"model     s3://{services.models}/iris_{model}" in summary
        [run_id] = re.findall(r"runs/([0-9a-f]{32})", summary)
        assert found[run_id]["info"]["status"] == "FINISHED"
        tags = {tag["key"]: tag["value"] for tag in found[run_id]["data"]["tags"]}
        assert tags["mlflow.source.git.commit"] == commit.removesuffix("-dirty")
        done = engine.run(
            "training-job",
            *("-m", "entrypoints.evaluate", "data=iris", "storage=minio"),
            f"model.path=s3://{services.models}/iris_{model}",
            options=("--entrypoint", "python", *services.options),
        )
        assert "accuracy" in done.stdout


@pytest.mark.parametrize("source", ["store", "run"])
@pytest.mark.parametrize("model", ["mlp", "gb"])
def test_a_model_is_served(
    engine: Engine, services: Services, trained: dict[str, str], model: str, source: str
) -> None:
    [run_id] = re.findall(r"runs/([0-9a-f]{32})", trained[model])
    path = f"s3://{services.models}/iris_{model}" if source == "store" else f"runs:/{run_id}/model"
    with _serving(engine, services, f"model.path={path}") as (address, container, _):
        answer = httpx2.post(f"{address}/predict", json=BODY).json()
        assert answer["predictions"] == ["setosa"]
        table = "sepal_length_cm,sepal_width_cm,petal_length_cm,petal_width_cm\n5.1,3.5,1.4,0.2\n"
        headers = {"Content-Type": "text/csv", "Accept": "text/csv"}
        scored = httpx2.post(f"{address}/predict/table", content=table, headers=headers)
        assert "setosa" in scored.text
        assert httpx2.get(f"{address}/").headers["Content-Type"].startswith("text/html")
        assert httpx2.get(f"{address}/info").json()
        assert container.is_healthy()
        assert container.stop() == 0, container.log


def test_health_is_asked_for_at_the_port_of_the_command_line(
    engine: Engine, services: Services, trained: dict[str, str]
) -> None:
    arguments = ("model.path=nowhere", f"server.port={_free_port()}")
    with engine.start("model-server", *arguments, options=services.options) as container:
        assert not container.is_healthy()


@pytest.mark.parametrize("user", ["10001:0", "1234567:0"])
def test_a_server_runs_as_any_user_on_files_that_nobody_can_change(
    engine: Engine, services: Services, trained: dict[str, str], user: str
) -> None:
    options = ("--user", user, "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/work:mode=0777")
    path = f"model.path=s3://{services.models}/iris_gb"
    with _serving(engine, services, path, options=options) as (address, container, _):
        assert httpx2.post(f"{address}/predict", json=BODY).status_code == 200
        assert container.stop() == 0, container.log


def test_a_model_that_needs_what_the_image_lacks_is_told_in_a_line(
    engine: Engine, build_seconds: dict[str, float]
) -> None:
    done = engine.run(BOOSTING, "model=mlp", "data=iris", "tracking=disabled", check=False)
    assert done.returncode == 1
    assert "'lightning' is not installed here: it comes with the extra 'torch'" in done.stderr


@pytest.mark.parametrize("image", ["training-job", BOOSTING])
def test_a_training_ends_at_once_when_it_is_stopped(
    engine: Engine, services: Services, image: str
) -> None:
    model = "gb" if image == BOOSTING else "mlp"
    steps = "model.max_iter=100000" if model == "gb" else "training.max_epochs=100000"
    arguments = (f"model={model}", "data=iris", steps, "training.patience=null", "storage=minio")
    with engine.start(image, *arguments, options=services.options) as container:
        wait_until(lambda: "step " in container.log or "epoch " in container.log, SECONDS)
        status = container.stop()
        assert status == 143, container.log


def test_a_run_in_a_folder_of_the_machine_writes_there_alone(
    engine: Engine, build_seconds: dict[str, float], tmp_path: Path
) -> None:
    tmp_path.chmod(0o777)
    options = ("--volume", f"{tmp_path}:/work", "--read-only", "--tmpfs", "/tmp")
    engine.run("preprocessing-job", "data=wine", options=options)
    engine.run(BOOSTING, "model=gb", "data=wine", "model.max_iter=5", options=options)
    assert (tmp_path / ".models/wine_gb/manifest.json").is_file()
    assert {place.name for place in tmp_path.iterdir()} >= {".data", ".models", "mlflow.db"}


def test_packages_in_the_folder_of_the_work_add_to_the_image_and_change_nothing_in_it(
    engine: Engine, build_seconds: dict[str, float], tmp_path: Path
) -> None:
    (tmp_path / "entrypoints").mkdir()
    (tmp_path / "entrypoints/__init__.py").write_text(
        "raise SystemExit('not the code of the image')"
    )
    (tmp_path / "own_models.py").touch()
    tmp_path.chmod(0o755)
    options = ("--volume", f"{tmp_path}:/work:ro", "--entrypoint", "python")
    ask = "import entrypoints, own_models; print(entrypoints.__file__, own_models.__file__)"
    done = engine.run(BOOSTING, "-c", ask, options=options)
    assert done.stdout.split() == ["/opt/project/entrypoints/__init__.py", "/work/own_models.py"]


def test_the_table_of_sizes_and_times(
    engine: Engine,
    base: str,
    build_seconds: dict[str, float],
    services: Services,
    trained: dict[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    starts = {"tracking-server": services.seconds}
    path = f"model.path=s3://{services.models}/iris_gb"
    with _serving(engine, services, path) as (_, _, starts["model-server"]):
        pass
    for image in ("preprocessing-job", "training-job", BOOSTING):
        started = time.perf_counter()
        engine.run(image, "--help")
        starts[image] = time.perf_counter() - started
    of_base = engine.size(base) / 1e6
    with capsys.disabled():
        print(
            f"\n\nbase {base} from Debian's packages: {of_base:.0f} MB; layers by {engine.driver}"
        )
        print("image                   size MB  beside the base  build s  start s")
        for image in STAGES:
            size = engine.size(image) / 1e6
            print(
                f"{image:22} {size:8.0f} {size - of_base:16.0f} {build_seconds[image]:8.0f} "
                f"{starts[image]:8.1f}"
            )
        print("start: until a server answers, until a job has shown its --help and ended")
    assert set(starts) == set(STAGES)


@contextmanager
def _serving(
    engine: Engine, services: Services, *arguments: str, options: tuple[str, ...] = ()
) -> Iterator[tuple[str, Container, float]]:
    """Start a server; gives its address, its container and the seconds it took."""
    port = _free_port()
    arguments = (*arguments, f"server.port={port}", "server.drain_seconds=0")
    options = (*services.options, *options)
    with engine.start("model-server", *arguments, options=options) as container:
        address = f"http://127.0.0.1:{port}"
        yield address, container, _wait_until_ready(container, f"{address}/ready")


def _wait_until_ready(container: Container, url: str) -> float:
    """Wait for an answer; gives the seconds since the container was started."""

    def answers() -> bool:
        with contextlib.suppress(httpx2.TransportError):
            return httpx2.get(url, timeout=10).status_code == 200
        assert container.is_running, container.log
        return False

    wait_until(answers, SECONDS)
    return time.perf_counter() - container.started


def _environment(settings: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(word for key, value in settings.items() for word in ("--env", f"{key}={value}"))


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    return port


def _local_torch(base: str) -> Path | None:
    """Find a wheel of PyTorch for the CPU and the Python of the base image."""
    version = "cp" + re.sub(r"\D", "", base.rpartition(":")[2])
    for folder in os.environ.get("PIP_FIND_LINKS", "").split():
        found = sorted(
            Path(folder).glob(f"torch-*+cpu-{version}-{version}-*{os.uname().machine}.whl")
        )
        if found:
            return found[-1]
    return None
