"""``entrypoints.reproduce``: a training is done once more as its run did it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_project_template.tracking.client import import_mlflow, open_client
from ml_project_template.tracking_address import tracking_uri

InProcess = Callable[..., tuple[int, str, str]]

QUICK = ("model=gb", "data=iris", "model.max_iter=2", "tracking.log_plots=false")


@pytest.fixture
def client(workspace: Path) -> Any:
    import_mlflow()
    return open_client(tracking_uri())


def _train(in_process: InProcess, *overrides: str) -> str:
    status, out, err = in_process("train", *QUICK, *overrides)
    assert status == 0, err
    runs = [line.split()[1] for line in out.splitlines() if line.startswith("run ")]
    return runs[0] if runs else ""


def test_the_same_comes_out(in_process: InProcess, client: Any, workspace: Path) -> None:
    (workspace / "uv.lock").write_text("version = 1\n")
    run_id = _train(in_process, "cv=2", "seed=3")
    before = sorted(workspace.rglob("*.parquet"))
    status, out, err = in_process("reproduce", f"run={run_id}")
    assert (status, err) == (0, "")
    assert f"Reproduce: run '{run_id}', and nothing that was kept is otherwise now" in out
    # Four of them for the folds, with their standard deviations.
    count = len([n for n in client.get_run(run_id).data.metrics if not n.startswith("epoch/")])
    identical = f"Reproduce: identical: all {count} metrics, to the bit; the weights are identical"
    assert identical in out
    assert sorted(workspace.rglob("*.parquet")) == before
    assert [path.name for path in (workspace / ".models").iterdir()] == ["iris_gb"]

    # By the model directory, without a server; the second model may be kept and tracked.
    status, out, err = in_process(
        *("reproduce", "model.path=.models/iris_gb", "model_path=.models/again", "tracking=mlflow")
    )
    assert (status, err) == (0, "")
    assert "identical: all 21 metrics, to the bit; the weights are identical" in out
    metadata = json.loads((workspace / ".models" / "again" / "metadata.json").read_text())
    again = client.get_run(metadata["run_id"])
    assert (again.data.tags["reproduces"], again.data.params["seed"]) == (run_id, "3")

    # A metric that is not what it was, and by how much it may be.
    client.log_metric(run_id, "test_accuracy", 0.5)
    (workspace / "uv.lock").write_text("version = 2\n")
    status, out, err = in_process("reproduce", f"run={run_id}")
    assert status == 1
    assert err.startswith(f"error: run '{run_id}' is not reproduced: 1 of {count} metrics differ")
    assert "tolerance=1e-06, test_accuracy most. What may explain it: uv.lock.\n" in err
    (row,) = [line.split() for line in out.splitlines() if line.startswith("test_accuracy")]
    assert row[:2] == ["test_accuracy", "0.5"]
    status, out, err = in_process("reproduce", f"run={run_id}", "tolerance=0.6")
    assert (status, f"equal within 0.6: {count} metrics" in out) == (0, True)

    fold = next(
        run.info.run_id
        for run in client.search_runs([again.info.experiment_id])
        if run.data.tags.get("fold") == "2"
    )
    status, out, err = in_process("reproduce", f"run={fold}")
    assert (status, out) == (1, "")
    assert err == f"error: run: '{fold}' is a fold of run '{run_id}': give run=<that one>\n"


def test_other_rows_are_refused_unless_they_are_allowed(
    in_process: InProcess, workspace: Path
) -> None:
    _train(in_process, "tracking=disabled")
    raw = workspace / ".data" / "raw" / "iris.csv"
    content = raw.read_bytes()
    (workspace / "elsewhere.csv").write_bytes(content)
    raw.write_bytes(content + b"5.1,3.5,1.4,0.2,setosa\n")
    arguments = ("reproduce", "model.path=.models/iris_gb")
    status, out, err = in_process(*arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(
        "error: data.path: '.data/raw/iris.csv' is not what it was for model '.models/iris_gb' "
        "(SHA-256 "
    )
    status, out, err = in_process(*arguments, "on_changed_data=allow")
    assert (status, "\ndata  " in out) == (1, True)
    assert "What may explain it: data." in err
    status, out, _ = in_process(*arguments, "data.path=elsewhere.csv")
    assert (status, "Reproduce: identical" in out) == (0, True)
    # Fetched again where it is gone.
    raw.unlink()
    status, out, _ = in_process(*arguments)
    assert (status, raw.read_bytes(), "Reproduce: identical" in out) == (0, content, True)


@pytest.mark.parametrize(("cv", "count"), [("null", 21), ("2", 14)])
def test_a_trial_is_reproduced_and_so_is_the_best_one_of_a_sweep(
    cv: str, count: int, in_process: InProcess, client: Any
) -> None:
    sweep = ("-m", "model.max_leaf_nodes=2", f"cv={cv}", "tracking.log_models=false")
    status, _, err = in_process("train", *QUICK, *sweep)
    assert status == 0, err
    experiment = client.get_experiment_by_name("iris").experiment_id
    runs = {run.data.tags.get("trial"): run for run in client.search_runs([experiment])}
    trial = runs["0"].info.run_id
    status, out, err = in_process("reproduce", f"run={trial}")
    told = f"identical: all {count} metrics, to the bit; there are no weights to compare with"
    assert (status, told in out) == (0, True), err
    assert "not known: commit, python, platform, uv.lock, libraries" in out
    # The run of the whole sweep has the best one's model.
    (above,) = (r.info.run_id for r in runs.values() if "mlflow.parentRunId" not in r.data.tags)
    status, out, err = in_process("reproduce", f"run={above}")
    assert (status, "metrics, to the bit; the weights are identical" in out) == (0, True), err


def test_what_was_hidden_is_asked_for_only_if_it_decides_the_training(
    in_process: InProcess, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert in_process("onboard", "data=iris")[0] == 0
    raw = (workspace / ".data" / "raw" / "iris.csv").read_bytes()
    (workspace / "s3cr3t").mkdir()
    (workspace / "s3cr3t" / "my.csv").write_bytes(raw)
    monkeypatch.setenv("SHARE_PASSWORD", "s3cr3t")
    data = ("data=csv", "data.target_column=target", "tracking=disabled", "data.name=my")
    _train(in_process, *data, "data.path=s3cr3t/my.csv", "model_path=.models/by_path")
    _train(in_process, *data, "data.source=s3cr3t/my.csv", "model_path=.models/by_source")
    _train(in_process, *data, "data.path=my.csv", "data.source=s3cr3t/my.csv", "run_name=s3cr3t")
    monkeypatch.delenv("SHARE_PASSWORD")
    by_path = ("reproduce", "model.path=.models/by_path")
    told = "hidden when model '.models/by_path' was recorded, as it held a secret"
    status, out, err = in_process(*by_path)
    assert (status, out) == (1, "")
    assert err == f"error: data.path: was {told}: give data.path=<where the raw table is>\n"
    status, out, _ = in_process(*by_path, "data.path=my.csv")
    assert (status, "Reproduce: identical" in out) == (0, True)

    # The source matters only where the table is gone.
    by_source = ("reproduce", "model.path=.models/by_source")
    assert in_process(*by_source)[0] == 0
    (workspace / ".data" / "raw" / "my.csv").unlink()
    status, _, err = in_process(*by_source)
    assert (status, "error: data.source: was hidden when" in err) == (1, True)

    # The name of a run matters only where there is one.
    named = ("reproduce", "model.path=.models/my_gb")
    assert in_process(*named)[0] == 0
    status, _, err = in_process(*named, "tracking=mlflow")
    assert (status, "error: run_name: was hidden when" in err) == (1, True)


def test_a_run_that_has_not_come_to_its_end_is_refused(in_process: InProcess, client: Any) -> None:
    run_id = client.create_run("0").info.run_id
    for state in ("RUNNING", "FAILED"):
        client.set_terminated(run_id, state)
        status, out, err = in_process("reproduce", f"run={run_id}")
        assert (status, out) == (1, "")
        assert err == (
            f"error: Run '{run_id}' is {state}: only what is FINISHED can be repeated.\n"
        )


def test_a_model_of_a_notebook_is_refused(in_process: InProcess, iris_model: Path) -> None:
    status, out, err = in_process("reproduce", f"model.path={iris_model}")
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(f"error: There is no configuration of model '{iris_model}' to train by")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run: is required: run=<run id>, or model.path=<model directory>"),
        (["run=1", "model.path=x"], "run and model.path: give one of the two"),
        (["run=abc"], "There is no run 'abc' at 'sqlite:///"),
        (
            ["run=abc", "tracking.uri=http://127.0.0.1:1"],
            "The tracking server 'http://127.0.0.1:1'",
        ),
        (["model.path=nowhere"], "'nowhere' is not a model directory: it does not exist."),
        (["run=1", "tolerance=-1"], "tolerance: must be at least 0, got -1"),
        (["run=1", "on_changed_data=x"], "on_changed_data: must be one of 'refuse' or 'allow'"),
        (["run=1", "tracking.enabled=1"], "tracking.enabled: must be true or false, got 1"),
        (["run=1", "data=iris.csv"], "data: holds settings"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_told(
    arguments: list[str], message: str, in_process: InProcess
) -> None:
    status, out, err = in_process("reproduce", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {message}"), err
    assert err.count("\n") == 1
