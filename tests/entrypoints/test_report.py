"""The command that writes the page of a table and of a model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

InProcess = Callable[..., tuple[int, str, str]]
QUICK_GB = ("model=gb", "model.max_iter=5")


def test_the_page_of_a_model_is_written_and_put_into_its_run(
    in_process: InProcess, workspace: Path
) -> None:
    in_process("train", *QUICK_GB)
    status, out, err = in_process(
        "report", "model.path=.models/iris_gb", "output=page.html", 'card.purpose="Names an iris."'
    )
    assert status == 0, err
    page = (workspace / "page.html").read_text()
    assert "Names an iris." in page
    run_id = json.loads((workspace / ".models/iris_gb/metadata.json").read_text())["run_id"]
    assert f"among the artifacts of run {run_id}" in out

    from mlflow import MlflowClient

    # By its whole path: MLflow keeps what it has once opened by a name.
    client = MlflowClient(f"sqlite:///{workspace}/mlflow.db")
    assert "report.html" in {item.path for item in client.list_artifacts(run_id)}


def test_the_page_is_written_where_its_run_is_not_known(
    in_process: InProcess, workspace: Path
) -> None:
    in_process("train", *QUICK_GB)
    status, out, err = in_process(
        "report",
        "model.path=.models/iris_gb",
        "output=page.html",
        "tracking.uri=sqlite:///other.db",
    )
    assert status == 0, err
    assert (workspace / "page.html").is_file()
    assert "The page is not among the artifacts of run" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["output=page.pdf"], "output: must name a file that ends in .html, got 'page.pdf'"),
        (["output=null"], "output: must name a file"),
        (["seed=-1"], "seed: must be a whole number"),
        (["model.path=nowhere"], "'nowhere'"),
    ],
)
def test_what_can_not_be_meant_is_told_in_one_line_and_nothing_is_written(
    arguments: list[str], message: str, in_process: InProcess, workspace: Path
) -> None:
    status, _, err = in_process("report", *arguments)
    assert status == 1
    assert message in err
    assert err.count("\n") == 1
    assert not list(workspace.glob("*.html"))
