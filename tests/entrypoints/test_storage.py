"""Every stage on a real object storage: only the configuration differs from a laptop's."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx2
import pyarrow.parquet
import pytest

from ml_project_template.models import ModelRegistry
from ml_project_template.utils import io
from tests.conftest import ROOT, CommandLine
from tests.object_store import ObjectStore
from tests.servers import ROW, ServerProcess, wait_until

InProcess = Callable[..., tuple[int, str, str]]
Start = Callable[..., ServerProcess]

GB = ("model=gb", "model.max_iter=3", "tracking=disabled", "storage=minio")


@pytest.fixture
def settings(object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What a user puts into the environment; the buckets are empty."""
    buckets = {f"S3_{kind}_BUCKET": object_store.new_bucket() for kind in ("DATA", "MODEL")}
    environment = {**object_store.environment, **buckets}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return environment


def left_behind(folder: Path) -> set[str]:
    """Name what stages have left on this machine, but for what Hydra writes for each run."""
    files = (file for file in folder.rglob("*") if file.is_file() and ".hydra" not in file.parts)
    return {re.sub(r"[0-9-]{5,}", "*", str(file.relative_to(folder))) for file in files}


@pytest.mark.long
def test_the_whole_chain_leaves_nothing_on_this_machine_but_logs(
    workspace: Path, settings: dict[str, str], in_process: InProcess, start_server: Start
) -> None:
    data, models = (f"s3://{settings[f'S3_{kind}_BUCKET']}" for kind in ("DATA", "MODEL"))
    path = f"{models}/iris_gb"

    def run(stage: str, *overrides: str) -> str:
        status, out, errors = in_process(stage, "storage=minio", *overrides)
        assert (status, errors) == (0, ""), errors
        return out

    assert f"{data}/raw/iris.csv is new" in run("onboard")
    assert "is new (90 training" in run("preprocess")
    assert "is unchanged, nothing to do" in run("preprocess")
    assert f"model     {path}" in run("train", *GB)
    run("evaluate", f"model.path={path}", f"output={models}/metrics.json")
    assert io.read_json(f"{models}/metrics.json")["accuracy"] > 0.8
    scored = f"{data}/scored.parquet"
    run("predict", f"model.path={path}", f"input={data}/raw/iris.csv", f"output={scored}")
    with io.open_binary(scored) as file:
        assert pyarrow.parquet.read_table(file).num_rows == 150

    server = start_server(f"model.path={path}", "storage=minio", "server.watch_seconds=0.2")
    answer = httpx2.post(f"{server.address}/predict", json={"features": [ROW]})
    assert answer.json()["predictions"] == ["setosa"]
    before = httpx2.get(f"{server.address}/info").json()["version"]
    run("train", *GB, "model.max_iter=4")
    wait_until(lambda: httpx2.get(f"{server.address}/info").json()["version"] != before)
    assert server.end() == 0
    stages = {"onboard", "preprocess", "train", "evaluate", "predict", "serve"}
    # The last is the test's own: what the server has printed.
    logs = {f"outputs/*/*/{stage}.log" for stage in stages} | {"serve*.log"}
    assert left_behind(workspace) == logs


def test_a_network_trained_from_a_table_in_a_bucket_is_saved_there(
    settings: dict[str, str], in_process: InProcess
) -> None:
    bucket = settings["S3_DATA_BUCKET"]
    rows = "".join(f"{value},{'low' if value < 20 else 'high'}\n" for value in range(40))
    io.write_bytes(f"s3://{bucket}/mine/table.csv", f"a,label\n{rows}".encode())
    model = f"s3://{bucket}/mine/model"
    status, _, errors = in_process(
        "train",
        "storage=minio",
        "model=mlp",
        "training.max_epochs=2",
        "tracking=disabled",
        "data=csv",
        f"data.path=s3://{bucket}/mine/table.csv",
        "data.target_column=label",
        f"model_path={model}",
    )
    assert status == 0, errors
    assert ModelRegistry.load(model).signature.class_names == ("high", "low")  # type: ignore[union-attr]


@pytest.mark.long
def test_the_trials_of_a_sweep_and_the_best_model_lie_in_the_bucket(
    settings: dict[str, str], command_line: CommandLine, workspace: Path
) -> None:
    done = command_line("train", "-m", *GB[:1], *GB[2:], "model.max_iter=1,5", env=settings)
    assert done.returncode == 0, done.stderr
    models = f"s3://{settings['S3_MODEL_BUCKET']}"
    found = io.list_files(models)
    assert len([name for name in found if name.endswith("current.json")]) == 3
    assert ModelRegistry.load(f"{models}/iris_gb").get_params()["max_iter"] == 5
    assert not (workspace / ".models").exists()
    assert not (workspace / ".data").exists()


def test_the_keys_may_stand_in_a_file(
    settings: dict[str, str],
    command_line: CommandLine,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in settings:
        monkeypatch.delenv(name)
    lines = [f"{name}={value}\n" for name, value in settings.items()]
    (workspace / ".env").write_text("".join(lines))
    done = command_line("onboard", "storage=minio")
    assert done.returncode == 0, done.stderr
    written = [file.read_text() for file in (workspace / "outputs").rglob("*") if file.is_file()]
    assert written
    assert settings["AWS_SECRET_ACCESS_KEY"] not in "".join([*written, done.stdout, done.stderr])


COMMANDS = {
    "onboard": (),
    "preprocess": (),
    "train": GB,
    "evaluate": ("model.path=s3://models/iris_gb",),
    "predict": (
        "model.path=s3://models/iris_gb",
        "input=s3://models/a.csv",
        "output=s3://models/b.csv",
    ),
    "serve": ("model.path=s3://models/iris_gb", "server.port=0"),
}


@pytest.mark.parametrize("stage", COMMANDS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"AWS_SECRET_ACCESS_KEY": "hidden-word"},
            "refuses the key: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY do not belong together",
        ),
        (
            {"S3_DATA_BUCKET": "not-there", "S3_MODEL_BUCKET": "not-there"},
            "make it, or name another one by S3_DATA_BUCKET or S3_MODEL_BUCKET.",
        ),
        (
            {"S3_ENDPOINT_URL": "http://127.0.0.1:1"},
            "connection refused. Is S3_ENDPOINT_URL right, and does it run?",
        ),
    ],
    ids=["wrong secret", "no bucket", "dead endpoint"],
)
def test_every_command_tells_in_one_line_what_is_wrong_with_the_store(
    stage: str,
    change: dict[str, str],
    message: str,
    settings: dict[str, str],
    in_process: InProcess,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    bucket = os.environ["S3_MODEL_BUCKET"]
    overrides = [text.replace("s3://models", f"s3://{bucket}") for text in COMMANDS[stage]]
    status, _, errors = in_process(stage, "storage=minio", *overrides)
    assert status == 1
    assert message in errors
    assert len(errors.splitlines()) == 1, errors
    assert "hidden-word" not in errors


def test_preprocessing_that_dies_leaves_nothing_that_is_taken_for_whole(
    settings: dict[str, str], in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bytes = io.write_bytes

    def dies(path: str, *arguments: object) -> None:
        if path.endswith("train.parquet"):
            raise KeyboardInterrupt
        write_bytes(path, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(io, "write_bytes", dies)
        assert in_process("preprocess", "storage=minio")[0] == 130
    assert "is new (90 training" in in_process("preprocess", "storage=minio")[1]
    assert "nothing to do" in in_process("preprocess", "storage=minio")[1]


def test_two_trainings_to_one_place_both_end_well(
    settings: dict[str, str], workspace: Path, python: list[str]
) -> None:
    trainings = [
        subprocess.Popen(
            [*python, "-m", "entrypoints.train", *GB, f"seed={seed}"],
            cwd=workspace,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (1, 2)
    ]
    errors = [training.communicate(timeout=120)[1] for training in trainings]
    assert [training.returncode for training in trainings] == [0, 0], errors
    path = f"s3://{settings['S3_MODEL_BUCKET']}/iris_gb"
    assert ModelRegistry.load(path).metadata["seed"] in {1, 2}
