"""``entrypoints.evaluate`` as a gate: who does not reach it goes no further."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from entrypoints._composition import compose_config
from entrypoints.evaluate import pass_gate
from ml_project_template.errors import ModelError
from tests.object_store import ObjectStore

InProcess = Callable[..., tuple[int, str, str]]


@pytest.fixture
def model(iris_model: Path) -> str:
    return str(iris_model)


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (("gate.metric=accuracy", "gate.min=0.5"), "Gate: accuracy on test is "),
        (("gate.metric=loss", "gate.max=9"), "Gate: loss on test is "),
        (("gate.metric=roc_auc", "gate.min=0", "gate.max=1"), "Gate: roc_auc on test is "),
        ((), ""),
    ],
    ids=["at least", "at most", "both", "none"],
)
def test_a_model_that_is_good_enough_passes(
    gate: tuple[str, ...], told: str, model: str, in_process: InProcess
) -> None:
    status, out, err = in_process("evaluate", f"model.path={model}", *gate)
    assert (status, err) == (0, "")
    assert told in out
    assert ("good enough" in out) == bool(gate)


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        (("gate.metric=accuracy", "gate.min=1.01"), "accuracy on test is {value}, below gate.min="),
        (("gate.metric=loss", "gate.max=0"), "loss on test is {value}, above gate.max=0"),
    ],
    ids=["below", "above"],
)
def test_a_model_that_is_not_ends_the_command_after_all_is_told(
    gate: tuple[str, ...], told: str, model: str, in_process: InProcess, workspace: Path
) -> None:
    status, out, err = in_process("evaluate", f"model.path={model}", "output=m.json", *gate)
    metrics = json.loads((workspace / "m.json").read_text())
    value = metrics[gate[0].removeprefix("gate.metric=")]
    assert status == 1
    assert err.startswith(f"error: Gate: {told.format(value=f'{value:.6g}')}")
    assert err.count("\n") == 1
    assert "accuracy" in out


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        (
            ["gate.metric=acuracy", "gate.min=0.9"],
            "gate.metric: Unknown metric 'acuracy'. Did you mean 'accuracy'? Available: accuracy, "
            "average_precision, balanced_accuracy, f1_macro, log_loss, loss, mae, r2, rmse, "
            "roc_auc.",
        ),
        (["gate.metric=accuracy"], "gate.min: is required with gate.metric, or gate.max for a"),
        (["gate.min=0.9"], "gate.metric: is required with gate.min"),
        (["gate.metric=loss", "gate.max=low"], "gate.max: must be a number, got 'low'"),
        (["gate.metric=loss", "gate.max=true"], "gate.max: must be a number, got True"),
        (["gate.metric=loss", "gate.max=nan"], "gate.max: must be a number, got nan"),
        (
            ["gate.metric=loss", "gate.min=2", "gate.max=1"],
            "gate.min=2 is above gate.max=1: nothing passes",
        ),
    ],
    ids=["typo", "no bound", "no metric", "a word", "a bool", "not a number", "empty range"],
)
def test_a_gate_that_can_not_be_meant_is_told_before_the_model_is_looked_for(
    gate: list[str], message: str, in_process: InProcess
) -> None:
    status, _, err = in_process("evaluate", "model.path=nowhere", *gate)
    assert status == 1
    assert err.startswith(f"error: {message}")


@pytest.mark.parametrize("metrics", [{}, {"roc_auc": float("nan")}], ids=["absent", "nan"])
def test_a_metric_that_can_not_be_computed_does_not_pass(metrics: dict[str, Any]) -> None:
    cfg = compose_config("evaluate", ["model.path=x", "gate.metric=roc_auc", "gate.min=0"])
    with pytest.raises(ModelError, match="roc_auc can't be computed on these rows"):
        pass_gate(metrics, cfg)


def test_the_metrics_are_written_to_a_bucket_too(
    model: str,
    in_process: InProcess,
    object_store: ObjectStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    bucket = object_store.new_bucket()
    monkeypatch.setenv("S3_DATA_BUCKET", bucket)
    output = f"s3://{bucket}/reports/metrics.json"
    arguments = (f"model.path={model}", f"output={output}", "storage=minio")
    status, _, err = in_process("evaluate", *arguments, "gate.metric=loss", "gate.max=0")
    assert status == 1
    assert "above gate.max=0" in err
    body = object_store.client().get_object(Bucket=bucket, Key="reports/metrics.json")["Body"]
    assert json.loads(body.read())["accuracy"] > 0.5
