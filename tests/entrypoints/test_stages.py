"""The stages, run as a user runs them, on real data."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from ml_project_template.models.registry import ModelRegistry
from ml_project_template.training.metrics import CLASSIFICATION_METRICS
from tests.conftest import StopTraining

InProcess = Callable[..., tuple[int, str, str]]

QUICK_GB = ("model=gb", "model.max_iter=10")


def _digest(directory: Path) -> dict[str, str]:
    files = json.loads((directory / "manifest.json").read_text())["files"]
    return {name: entry["sha256"] for name, entry in files.items() if name.startswith("weights")}


def test_onboard_writes_the_table_once_with_its_digest(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, _ = in_process("onboard", "data=wine")
    assert status == 0
    assert "is new" in out
    table = pd.read_csv(workspace / ".data" / "raw" / "wine.csv")
    assert table.shape == (178, 14)
    assert "is there" in in_process("onboard", "data=wine")[1]


def test_onboard_takes_a_local_file_unchanged(in_process: InProcess, workspace: Path) -> None:
    (workspace / "mine.csv").write_bytes(b"a;b\r\n1;2\r\n")
    status, _, err = in_process(
        "onboard", "data=csv", "data.source=mine.csv", "data.target_column=b"
    )
    assert status == 0, err
    assert (workspace / ".data" / "raw" / "mine.csv").read_bytes() == b"a;b\r\n1;2\r\n"


def test_preprocess_does_nothing_the_second_time(in_process: InProcess, workspace: Path) -> None:
    assert "is new" in in_process("preprocess")[1]
    before = {p: p.stat().st_mtime_ns for p in workspace.rglob("*.parquet")}
    assert len(before) == 3
    assert "is unchanged, nothing to do" in in_process("preprocess")[1]
    assert {p: p.stat().st_mtime_ns for p in workspace.rglob("*.parquet")} == before
    assert "is new" in in_process("preprocess", "preprocessing=none")[1]


@pytest.mark.parametrize(
    ("overrides", "floor"),
    [(("model=mlp",), 0.93), (("model=gb",), 0.9), (("experiment=iris_gb",), 0.9)],
    ids=["mlp", "gb", "experiment"],
)
def test_train_learns_iris_and_says_what_comes_next(
    overrides: tuple[str, ...], floor: float, in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process("train", *overrides, "tracking=disabled")
    assert status == 0, err
    row = next(line.split() for line in out.splitlines() if line.startswith("accuracy"))
    assert float(row[2]) >= floor
    name = "iris_mlp" if "model=mlp" in overrides else "iris_gb"
    assert f"model.path=.models/{name} data=iris" in out
    assert ModelRegistry.load(str(workspace / ".models" / name)).signature is not None


@pytest.mark.parametrize(
    "model", [("model=mlp", "training.max_epochs=5"), QUICK_GB], ids=["mlp", "gb"]
)
def test_the_same_command_twice_gives_the_same_weights(
    model: tuple[str, ...], in_process: InProcess, workspace: Path
) -> None:
    results = []
    for name in "ab":
        status, _, err = in_process(
            "train", *model, "seed=0", "tracking=disabled", f"model_path={name}"
        )
        assert status == 0, err
        metrics = json.loads((workspace / name / "metadata.json").read_text())["metrics"]
        results.append((_digest(workspace / name), metrics))
    assert results[0] == results[1]


def test_a_run_holds_all_that_is_needed_to_understand_it(
    in_process: InProcess, workspace: Path
) -> None:
    from mlflow import MlflowClient

    status, out, err = in_process("train", *QUICK_GB, "run_name=first", "seed=0")
    assert status == 0, err
    client = MlflowClient(f"sqlite:///{workspace / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("iris")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.info.run_name) == ("FINISHED", "first")
    assert run.data.params["model.max_iter"] == "10"
    assert run.data.params["data.test_size"] == "0.2"
    assert run.data.params["seed"] == "0"
    for split in ("train", "val", "test"):
        for metric in ("loss", "accuracy", "f1_macro", "roc_auc", "log_loss"):
            assert np.isfinite(run.data.metrics[f"{split}_{metric}"])
    assert run.inputs is not None
    assert len(run.inputs.dataset_inputs) == 3
    files = {
        entry.path
        for folder in ("", "plots", "logs")
        for entry in client.list_artifacts(run.info.run_id, folder)
    }
    assert {"config.yaml", "logs/console.log"} <= files
    assert {
        "plots/test_confusion_matrix.png",
        "plots/loss_curve.png",
        "plots/test_roc.png",
    } <= files
    assert run.info.run_id in out
    assert "make mlflow" in out


def test_evaluate_repeats_the_metrics_of_the_training(
    in_process: InProcess, workspace: Path
) -> None:
    in_process("train", *QUICK_GB, "tracking=disabled")
    trained = json.loads((workspace / ".models/iris_gb/metadata.json").read_text())["metrics"]
    for split in ("train", "val", "test"):
        status, _, err = in_process(
            "evaluate", "model.path=.models/iris_gb", f"split={split}", "output=metrics.json"
        )
        assert status == 0, err
        metrics = json.loads((workspace / "metrics.json").read_text())
        assert metrics.keys() == set(CLASSIFICATION_METRICS)
        for name, value in metrics.items():
            assert value == pytest.approx(trained[f"{split}_{name}"], rel=1e-6)


def test_predict_scores_raw_rows_to_parquet(in_process: InProcess, workspace: Path) -> None:
    in_process("train", *QUICK_GB, "tracking=disabled")
    status, _, err = in_process(
        "predict",
        "model.path=.models/iris_gb",
        "input=.data/raw/iris.csv",
        "output=scored.parquet",
        "chunk_size=40",
    )
    assert status == 0, err
    scored = pd.read_parquet(workspace / "scored.parquet")
    assert len(scored) == 150
    assert (scored["prediction"] == scored["target"]).mean() > 0.9
    assert np.allclose(scored.filter(like="probability_").sum(axis=1), 1)


def test_anybodys_table_needs_no_yaml(in_process: InProcess, workspace: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"größe in cm": rng.normal(size=90), "b c": rng.normal(size=90)})
    table["ja/nein"] = np.where(table["größe in cm"] > 0, "ja", "nein")
    table.loc[3, "b c"] = None
    table.to_csv("my table.csv", index=False)
    for model in (("model=mlp", "training.max_epochs=5"), QUICK_GB):
        status, _, err = in_process(
            "train",
            *model,
            "data=csv",
            "data.path=my table.csv",
            "data.target_column=ja/nein",
            "tracking=disabled",
            "model_path=m",
        )
        assert status == 0, err
        signature = json.loads((workspace / "m/signature.json").read_text())
        assert signature["class_names"] == ["ja", "nein"]
        assert [f["name"] for f in signature["features"]] == ["größe in cm", "b c"]


def test_a_table_with_semicolons_and_decimal_commas_is_read_and_scored(
    in_process: InProcess, workspace: Path
) -> None:
    rows = [f"{row % 7},5;{row % 5},25;{'ab'[row % 2]}" for row in range(40)]
    (workspace / "my.csv").write_text("\n".join(["length;width;species", *rows]))
    status, _, err = in_process(
        *("train", *QUICK_GB, "data=csv", "data.path=my.csv", "data.target_column=species"),
        *('data.read_options.sep=";"', 'data.read_options.decimal=","', "tracking=disabled"),
    )
    assert status == 0, err
    (workspace / "new.csv").write_text("length;width\n6,5;1,25\n")
    status, _, err = in_process(
        *("predict", "model.path=.models/my_gb", "input=new.csv", "output=out.csv"),
        *('sep=";"', 'decimal=","'),
    )
    assert status == 0, err
    header, row = (workspace / "out.csv").read_text().splitlines()
    assert header == "length;width;prediction;probability_a;probability_b"
    assert row.startswith("6,5;1,25;")
    assert sum(float(text.replace(",", ".")) for text in row.split(";")[3:]) == pytest.approx(1)
    assert "." not in row


def test_a_split_that_was_not_the_trainings_is_warned_of(
    in_process: InProcess, workspace: Path
) -> None:
    in_process("train", *QUICK_GB, "tracking=disabled", "data.random_state=7")
    evaluate = ("evaluate", "model.path=.models/iris_gb")
    assert "data.random_state is 42 here and was 7" in in_process(*evaluate)[1]
    assert "random_state" not in in_process(*evaluate, "data.random_state=7")[1]


def test_a_storage_without_a_root_is_refused(in_process: InProcess) -> None:
    for stage in ("onboard", "preprocess", "train", "check"):
        status, _, err = in_process(stage, "storage.data_root=")
        assert status == 1
        assert "storage.data_root: must not be empty" in err


def test_a_table_is_fetched_before_its_target_is_known(
    in_process: InProcess, workspace: Path
) -> None:
    (workspace / "mine.csv").write_text("a,b\n1,2\n")
    status, _, err = in_process("onboard", "data=csv", "data.source=mine.csv")
    assert status == 0, err
    assert (workspace / ".data/raw/mine.csv").is_file()


def test_scoring_a_file_onto_itself_is_refused(in_process: InProcess, workspace: Path) -> None:
    in_process("train", *QUICK_GB, "tracking=disabled")
    before = (workspace / ".data/raw/iris.csv").read_bytes()
    status, _, err = in_process(
        *("predict", "model.path=.models/iris_gb"),
        *("input=.data/raw/iris.csv", f"output={workspace}/.data/raw/iris.csv"),
    )
    assert status == 1
    assert "is the input" in err
    assert (workspace / ".data/raw/iris.csv").read_bytes() == before


def test_an_address_that_cannot_be_served_is_told_before_the_model_is_loaded(
    in_process: InProcess,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for given in ("abc", "99999", str(port)):
            status, _, err = in_process("serve", "model.path=none", f"server.port={given}")
            assert status == 1
            assert "server.port" in err
            assert len(err.strip().splitlines()) == 1


def test_check_tells_all_at_once_and_runs_nothing(in_process: InProcess, workspace: Path) -> None:
    status, _, err = in_process(
        "check",
        "data=csv",
        "data.path=no.csv",
        "data.target_column=y",
        "training.lr=abc",
        "model.dropout=2",
        "training.epocs=3",
        "tracking.uri=http://127.0.0.1:9",
    )
    assert status == 1
    for words in ("no.csv", "training.lr", "model.dropout", "training.epocs", "127.0.0.1:9"):
        assert sum(words in line for line in err.splitlines()) == 1, err
    assert {path.name for path in workspace.iterdir()} <= {"outputs"}


def test_check_finds_nothing_wrong_with_the_defaults(
    in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process("check")
    assert (status, err) == (0, "")
    assert "Nothing is wrong" in out
    assert not (workspace / ".models").exists()


def test_a_missing_model_directory_is_named(in_process: InProcess) -> None:
    for stage, *overrides in (
        ("evaluate",),
        ("predict", "input=x.csv", "output=y.csv"),
        ("serve", "server.port=0"),
    ):
        status, _, err = in_process(stage, "model.path=.models/none", *overrides)
        assert status == 1
        assert ".models/none" in err
        assert len(err.strip().splitlines()) == 1


def test_secrets_are_in_no_file(in_process: InProcess, workspace: Path) -> None:
    (workspace / ".env").write_text("MY_API_TOKEN=canary-in-env\n")
    status, _, err = in_process(
        "train",
        *QUICK_GB,
        "+note.db_password=canary-in-config",
        "+note.url='https://user:canary-in-url@example.org/x'",
        "+note.env=${oc.env:MY_API_TOKEN}",
    )
    assert status == 0, err
    assert len(list(workspace.rglob("*.yaml"))) >= 4
    for path in workspace.rglob("*"):
        if path.is_file() and path.name != ".env":
            assert b"canary" not in path.read_bytes(), path
    os.environ.pop("MY_API_TOKEN")


def test_hydra_keeps_the_composed_configuration_of_each_run(
    in_process: InProcess, workspace: Path
) -> None:
    in_process("train", *QUICK_GB, "tracking=disabled")
    (saved,) = workspace.glob("outputs/*/*/.hydra/config.yaml")
    assert yaml.safe_load(saved.read_text())["model"]["max_iter"] == 10


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_training_as_killed_and_keeps_the_old_model(
    number: signal.Signals, in_process: InProcess, workspace: Path, stop_training: StopTraining
) -> None:
    from mlflow import MlflowClient

    in_process("train", *QUICK_GB, "tracking=disabled", "model_path=m")
    before = _digest(workspace / "m")
    status, output = stop_training(
        number,
        *("model=gb", "model_path=m", "model.max_iter=1000000"),
        *("training.patience=null", "model.booster=exact"),
        when=lambda: _is_fitting(workspace / "mlflow.db"),
    )
    assert status == 128 + number, output
    (run,) = MlflowClient(f"sqlite:///{workspace}/mlflow.db").search_runs(["1"])
    assert run.info.status == "KILLED"
    assert _digest(workspace / "m") == before
    assert list(workspace.glob(".m*")) == []


def _is_fitting(database: Path) -> bool:
    """Look into the database without MLflow, which would build it at the same time."""
    if not database.is_file():
        return False
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        try:
            return bool(connection.execute("SELECT 1 FROM metrics LIMIT 1").fetchall())
        except sqlite3.OperationalError:
            return False
