"""The gate before the model registry, on runs that were trained for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ml_project_template.tracking.client import import_mlflow, open_client
from ml_project_template.tracking_address import tracking_uri

InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture
def client(workspace: Path) -> Any:
    import_mlflow()
    return open_client(tracking_uri())


class Runs:
    """Trains boosters on iris, and changes what their runs say."""

    def __init__(self, in_process: InProcess, client: Any) -> None:
        self.client = client
        self._in_process = in_process

    def train(self, *overrides: str, accuracy: float | None = None, path: str = "m") -> str:
        settings = ("model=gb", "data=iris", "model.max_iter=3", "tracking.log_plots=false")
        directory = f"model_path=.models/{path}"
        status, out, err = self._in_process("train", *settings, directory, *overrides)
        assert status == 0, err
        run_id = next(line.split()[1] for line in out.splitlines() if line.startswith("run "))
        if accuracy is not None:
            self.client.log_metric(run_id, "test_accuracy", accuracy)
        return run_id

    def version(self, name: str = "iris", alias: str = "champion") -> str:
        return str(self.client.get_model_version_by_alias(name, alias).version)

    def count(self, name: str = "iris") -> int:
        return len(self.client.search_model_versions(f"name='{name}'"))


@pytest.fixture
def runs(in_process: InProcess, client: Any) -> Runs:
    return Runs(in_process, client)


def test_a_model_is_promoted_only_if_it_is_as_good(runs: Runs, in_process: InProcess) -> None:
    first = runs.train(accuracy=0.9)
    status, out, err = in_process("promote", "model.path=.models/m", "name=iris")
    assert (status, err) == (0, "")
    assert "Promote: iris@champion is version 1 now, test_accuracy 0.9, the first" in out
    assert "serve     python -m entrypoints.serve model.path=models:/iris@champion" in out
    status, out, _ = in_process("evaluate", "model.path=models:/iris@champion")
    assert status == 0

    # Once more: nothing is doubled.
    status, out, _ = in_process("promote", f"run={first}", "name=iris")
    assert (status, "iris@champion is version 1 already, of this run" in out) == (0, True)
    assert runs.count() == 1

    worse = runs.train(accuracy=0.85)
    status, out, err = in_process("promote", f"run={worse}", "name=iris")
    assert (status, out) == (1, "")
    assert err == (
        "error: iris@champion (version 1) stays: its test_accuracy is 0.9, and that of run "
        f"{worse} is 0.85 (tolerance=0, direction=maximize). force=true compares nothing.\n"
    )
    # A refusal leaves nothing behind.
    assert (runs.version(), runs.count()) == ("1", 1)

    status, out, _ = in_process("promote", f"run={worse}", "name=iris", "tolerance=0.06")
    assert "is version 2 now, test_accuracy 0.85, in place of version 1 with 0.9" in out
    assert runs.version() == "2"

    # Back again: the run keeps its version.
    status, out, _ = in_process("promote", f"model.path=runs:/{first}/model", "name=iris")
    assert (status, runs.version(), runs.count()) == (0, "1", 2)

    # As good is good enough, unless it is asked to be better.
    equal = runs.train(accuracy=0.9)
    status, _, err = in_process("promote", f"run={equal}", "name=iris", "tolerance=-0.01")
    assert (status, "iris@champion (version 1) stays" in err) == (1, True)
    status, _, _ = in_process("promote", f"run={equal}", "name=iris")
    assert (status, runs.version()) == (0, "3")

    # Another alias has a champion of its own, and of losses the lower one is better.
    arguments = ("name=iris", "alias=candidate", "metric=test_loss")
    assert in_process("promote", f"run={first}", *arguments)[0] == 0
    runs.client.log_metric(worse, "test_loss", 1e6)
    status, _, err = in_process("promote", f"run={worse}", *arguments)
    assert (status, "is 1e+06 (tolerance=0, direction=minimize)" in err) == (1, True)
    assert in_process("promote", f"run={worse}", *arguments, "force=true")[0] == 0
    assert (runs.version(alias="candidate"), runs.version()) == ("2", "3")

    # Nothing is better than what is no number.
    runs.client.log_metric(worse, "test_accuracy", float("nan"))
    status, _, err = in_process("promote", f"run={worse}", "name=iris", "tolerance=1")
    assert (status, f"that of run {worse} is nan" in err) == (1, True)


def test_a_model_that_was_tested_on_other_rows_is_not_compared(
    runs: Runs, in_process: InProcess, workspace: Path
) -> None:
    runs.train(accuracy=0.5)
    assert in_process("promote", "model.path=.models/m", "name=iris")[0] == 0
    runs.train("data.random_state=7", "data.test_size=0.3", accuracy=0.99)
    status, _, err = in_process("promote", "model.path=.models/m", "name=iris")
    assert status == 1
    assert err == (
        "error: iris@champion (version 1) was tested on other rows: data.test_size=0.3, it was "
        "0.2, data.random_state=7, it was 42. on_other_data=allow compares all the same.\n"
    )
    with (workspace / ".data" / "raw" / "iris.csv").open("a") as file:
        file.write("5.1,3.5,1.4,0.2,setosa\n")
    other = runs.train("data.source=null", accuracy=0.99)
    status, _, err = in_process("promote", f"run={other}", "name=iris")
    assert (status, "was tested on other rows: data " in err) == (1, True)
    status, _, _ = in_process("promote", f"run={other}", "name=iris", "on_other_data=allow")
    assert (status, runs.version()) == (0, "2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["name=iris"], "run: is required: run=<run id>, or model.path=<model directory>"),
        (["name=iris", "run=1", "model.path=x"], "run and model.path: give one of the two"),
        (["run=1"], "name: is required: name=..."),
        (["name=", "run=1"], "name: must have at least 1 character"),
        (["name=iris", "model.path=models:/iris@x"], "model.path: must be a model directory or"),
        (["name=iris", "model.path=nowhere"], "'nowhere' is not a model directory"),
        (["name=iris", "run=abc"], "There is no run 'abc' at 'sqlite:///"),
        (
            ["name=iris", "run=1", "direction=up"],
            "direction: must be one of 'minimize', 'maximize'",
        ),
        (["name=iris", "run=1", "tolerance=much"], "tolerance: must be a number, got 'much'"),
        (["name=iris", "run=1", "on_other_data=x"], "on_other_data: must be one of 'refuse'"),
        (["name=iris", "run=1", "force=1"], "force: must be true or false, got 1"),
        (["name=iris", "run=1", "tracking=disabled"], "tracking.enabled: runs and versions are"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_told(
    arguments: list[str], message: str, in_process: InProcess
) -> None:
    status, out, err = in_process("promote", *arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {message}"), err
    assert err.count("\n") == 1


def test_a_model_that_its_run_has_not_logged_is_logged_when_it_is_promoted(
    runs: Runs, in_process: InProcess
) -> None:
    # As the best trial of a sweep.
    bare = runs.train("tracking.log_models=false")
    for _ in range(2):
        status, _, err = in_process("promote", "model.path=.models/m", "name=iris")
        assert (status, err) == (0, "")
    assert (runs.version(), runs.count()) == ("1", 1)
    assert runs.client.get_run(bare).info.status == "FINISHED"
    status, out, err = in_process("evaluate", "model.path=models:/iris@champion")
    assert status == 0, err
    of_directory = in_process("evaluate", "model.path=.models/m")[1]
    assert out.replace("models:/iris@champion", ".models/m") == of_directory


def test_a_run_without_what_a_promotion_needs_is_told(runs: Runs, in_process: InProcess) -> None:
    bare = runs.train("tracking.log_models=false")
    status, _, err = in_process("promote", f"run={bare}", "name=iris")
    assert status == 1
    assert err == (
        f"error: Run '{bare}' has no model in MLflow: give its model.path=<model directory>, or "
        "train with tracking.log_models=true.\n"
    )
    good = runs.train()
    status, _, err = in_process("promote", f"run={good}", "name=iris", "metric=test_acuracy")
    assert status == 1
    assert "metric: Unknown metric 'test_acuracy'. Did you mean 'test_accuracy'? Available: " in err
    assert "epoch/" not in err
    runs.client.log_metric(good, "speed", 1.0)
    status, _, err = in_process("promote", f"run={good}", "name=iris", "metric=speed")
    assert status == 1
    assert err == "error: direction: is required for 'speed': minimize or maximize\n"
    arguments = (f"run={good}", "name=iris", "metric=speed", "direction=minimize")
    assert in_process("promote", *arguments)[0] == 0
