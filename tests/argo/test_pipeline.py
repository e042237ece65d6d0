"""The workflows, run step by step: each container a process, the services real."""

from __future__ import annotations

import io
import json
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import httpx2
import pyarrow.parquet as pq
import pytest

from ml_project_template.utils.io import upload_directory
from tests.argo.conftest import Cluster
from tests.argo.runner import Runner
from tests.servers import ServerProcess

pytestmark = pytest.mark.long

MakeRunner = Callable[..., Runner]

# As a user types it: quotes for the words, and Hydra's own inside.
NASTY = 'a, [b] {c: d} $HOME $(HOSTNAME) $$ \\ it\'s "quoted" ünïcode #1'
QUOTED = "'run_name=\"a, [b] {c: d} $HOME $(HOSTNAME) $$ \\ it'\\''s \\\"quoted\\\" ünïcode #1\"'"


def _name(kind: str) -> str:
    return f"{kind}-{uuid.uuid4().hex[:8]}"


def test_the_pipeline_trains_and_promotes_whatever_dies_on_the_way(
    cluster: Cluster, runner: MakeRunner, start_server: Callable[..., ServerProcess]
) -> None:
    name = _name("train")

    def kill_the_first_training(attempt: str, process: subprocess.Popen[str]) -> None:
        """As a cluster does that is short of memory, when the run has begun."""

        def watch() -> None:
            while process.poll() is None and not cluster.runs(name):
                time.sleep(0.05)
            process.kill()

        if attempt == "train(0)":
            threading.Thread(target=watch).start()

    pipeline = runner("train-classifier-pipeline", on_start=kill_the_first_training)
    result = pipeline.run(
        name,
        overrides=f"model=gb data=wine seed=3 model.max_iter=5 {QUOTED}",
        model_root=f"s3://{cluster.models}",
        registered_name=name,
    )
    assert result.phase == "Succeeded", str(result)
    steps = ("check", "onboard", "preprocess", "train", "evaluate", "promote", "close-runs")
    phases = [node.phase for node in result.nodes if node.name in steps or node.name == name]
    assert phases == ["Succeeded"] * 7
    assert [node.name for node in result.failures] == ["train(0)"]
    assert result["train(0)"].exit_code == 137

    killed, trained = cluster.runs(name)
    assert (killed.info.status, trained.info.status) == ("KILLED", "FINISHED")
    for run in (killed, trained):
        assert run.info.run_name == NASTY
        assert run.data.tags["workflow_status"] == "Succeeded"
        assert run.data.tags["workflow_failed_steps"] == "train(0): Error (exit code 137)"
    params = trained.data.params
    assert (params["data.name"], params["seed"], params["model.max_iter"]) == ("wine", "3", "5")

    version = cluster.client.get_model_version_by_alias(name, "champion")
    assert (version.version, version.run_id) == ("1", trained.info.run_id)
    metrics = json.loads(cluster.read(f"{name}/metrics.json"))
    assert metrics["accuracy"] == pytest.approx(trained.data.metrics["test_accuracy"])
    assert cluster.store.keys(cluster.models, f"{name}/model/")

    # Nothing of it is on this machine but the logs of the steps.
    left = {path.suffix for path in pipeline.folder.rglob("*") if path.is_file()}
    assert left <= {".log", ".yaml"}

    server = start_server(
        f"model.path=models:/{name}@champion", MLFLOW_TRACKING_URI=cluster.tracking.uri
    )
    info = httpx2.get(f"{server.address}/info", timeout=10).json()
    assert "class_2" in json.dumps(info)


def test_a_model_that_is_not_good_enough_goes_no_further(
    cluster: Cluster, runner: MakeRunner
) -> None:
    name = _name("gate")
    result = runner("train-classifier-pipeline").run(
        name,
        overrides="model=gb data=wine model.max_iter=1 tracking.log_plots=false",
        model_root=f"s3://{cluster.models}",
        gate_metric="log_loss",
        gate_min="null",
        gate_max="0.001",
        registered_name=name,
    )
    assert result.phase == "Failed", str(result)
    assert result["train"].phase == "Succeeded"
    assert "above gate.max=0.001" in result["evaluate"].output
    # It would say so again: no second attempt.
    assert [node.name for node in result.nodes if node.name.startswith("evaluate")] == [
        "evaluate(0)",
        "evaluate",
    ]
    assert result["promote"].phase == "Omitted"
    assert cluster.client.search_model_versions(f"name='{name}'") == []
    (run,) = cluster.runs(name)
    assert (run.info.status, run.data.tags["workflow_status"]) == ("FINISHED", "Failed")
    assert run.data.tags["workflow_failed_steps"].startswith("evaluate(0): Error (exit code 1)")


def test_a_typo_ends_the_pipeline_before_anything_is_done(
    cluster: Cluster, runner: MakeRunner
) -> None:
    name = _name("typo")
    result = runner("train-classifier-pipeline").run(
        name, overrides="model=gb data=wein", model_root=f"s3://{cluster.models}"
    )
    assert result.phase == "Failed"
    assert "Unknown data 'wein'. Did you mean 'wine'?" in result["check"].output
    assert result["check"].exit_code == 1
    assert {node.phase for node in result.nodes if node.template in ("onboard", "promote")} == {
        "Omitted"
    }
    assert cluster.store.keys(cluster.data) == []
    assert cluster.runs(name) == []


def test_workers_of_a_sweep_share_one_study(
    cluster: Cluster, runner: MakeRunner, postgresql: str
) -> None:
    name = _name("sweep")
    cluster.config["secretRef ml-pipeline"]["SWEEP_STORAGE"] = postgresql
    result = runner("sweep").run(
        name,
        overrides="sweep=gb data=iris model.max_iter=5 sweep.n_trials=5",
        workers="2",
        model_root=f"s3://{cluster.models}",
    )
    assert result.phase == "Succeeded", str(result)
    workers = [node for node in result.nodes if node.name.startswith("work(")]
    assert len({node.name for node in workers if node.name.count("(") == 1}) == 2
    # At the same time.
    assert max(node.started for node in workers) < min(node.finished for node in workers)
    assert "hidden-word" not in str(result)

    runs = cluster.runs(name)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    trials = [run for run in runs if run is not parent]
    assert {run.data.tags["mlflow.parentRunId"] for run in trials} == {parent.info.run_id}
    assert sorted(int(run.data.tags["trial"]) for run in trials) == list(range(5))
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags["workflow_status"] for run in runs} == {"Succeeded"}
    assert "5 of 5" in result["report"].output
    assert b"<html" in cluster.read(f"{name}/sweep.html")
    assert cluster.store.keys(cluster.models, f"{name}/model/")


def test_many_files_are_scored_side_by_side(
    cluster: Cluster, runner: MakeRunner, iris_model: Path
) -> None:
    store, bucket = cluster.store, cluster.data
    options = {
        "key": store.access_key,
        "secret": store.secret_key,
        "client_kwargs": {"endpoint_url": store.endpoint_url},
    }
    upload_directory(iris_model, f"s3://{cluster.models}/iris", options)
    table = (iris_model.parent / "iris.csv").read_bytes()
    rows = b"".join(line.replace(b",", b";") for line in table.splitlines(keepends=True)[:11])
    files = [
        {"input": f"s3://{bucket}/{stem}.csv", "output": f"s3://{bucket}/out/{stem}.parquet"}
        for stem in ("a", "b c, [d] $(HOME) $$ it's", "missing")
    ]
    for file in files[:2]:
        store.client().put_object(
            Bucket=bucket, Key=file["input"].removeprefix(f"s3://{bucket}/"), Body=rows
        )
    result = runner("batch-predict").run(
        _name("batch"),
        files=json.dumps(files),
        model_path=f"s3://{cluster.models}/iris",
        overrides="chunk_size=5 'sep=\";\"'",
    )
    # One of them is not there, and the others are scored all the same.
    assert result.phase == "Failed"
    ended = {
        int(node.name.removeprefix("score(").split(":")[0]): node
        for node in result.nodes
        if node.template == "score" and not node.name.endswith("(0)")
    }
    assert [ended[n].phase for n in range(3)] == ["Succeeded", "Succeeded", "Failed"]
    assert "missing.csv" in ended[2].output
    for file in files[:2]:
        key = file["output"].removeprefix(f"s3://{bucket}/")
        body = store.client().get_object(Bucket=bucket, Key=key)["Body"].read()
        scored = pq.read_table(io.BytesIO(body))
        assert scored.num_rows == 10
        assert "prediction" in scored.column_names
