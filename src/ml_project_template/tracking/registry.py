"""Registered models on MLflow: a run's model becomes the one that an alias names."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field

from ml_project_template.errors import ConfigError, ModelError, TrackingError, unknown
from ml_project_template.tracking.client import reached
from ml_project_template.tracking.finding import existing_run, found_or_none, quoted
from ml_project_template.tracking.models import (
    MODEL_NAME,
    ModelFiles,
    logged_model,
    write_mlflow_model,
)
from ml_project_template.tracking.operations import RunAddress, Sender, model_operation
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

__all__ = ["Direction", "Promotion", "promote_model"]

Direction = Literal["minimize", "maximize"]

# What decides which rows of a table are for the test, and what they are tested for.
_SPLIT_PARAMS = (
    *("target_column", "test_size", "val_size", "random_state"),
    *("split.method", "split.column", "split.file"),
)


@dataclass(frozen=True)
class Promotion:
    """What a promotion did.

    Attributes:
        version: The version that the alias names now.
        previous: The version that it named before; None if there was none.
        changed: Whether the alias was moved.
        value: The metric of the run; None if it has none.
        previous_value: That of the version before; None if it is not known.
    """

    version: str
    previous: str | None
    changed: bool
    value: float | None
    previous_value: float | None


def promote_model(
    run_id: str,
    *,
    name: Annotated[str, Field(min_length=1)],
    alias: Annotated[str, Field(min_length=1)] = "champion",
    metric: str = "test_accuracy",
    direction: Direction | None = None,
    tolerance: Annotated[float, Field(allow_inf_nan=False)] = 0.0,
    on_other_data: Literal["refuse", "allow"] = "refuse",
    force: bool = False,
    uri: str | None = None,
    files: Callable[[], ModelFiles] | None = None,
    check: Callable[[str], None] | None = None,
) -> Promotion:
    """Register a run's model and have an alias name it, if it is as good as the one before.

    The first model that an alias names passes. A run has one version of a registered model,
    however often it is promoted. Nothing is registered when the promotion is refused.

    Args:
        run_id: The run that has logged the model.
        name: The registered model; made where it is not there yet.
        alias: The alias.
        metric: What the two are compared by: a metric of both runs.
        direction: Which way the metric gets better; has to be given to compare by it.
        tolerance: How much worse the model may be; a negative one asks for so much better.
        on_other_data: What to do if the two were not tested on the same rows.
        force: Compare nothing.
        uri: The tracking address; None as for `tracking_uri`.
        files: Gives the run's model directory, which is logged to the run where it has no model, as
            the trials of a sweep have none.
        check: Is given the address of the model; raises to refuse it.

    Returns:
        The versions, and whether anything was changed.

    Raises:
        ConfigError: A metric that the run does not have, or one without a direction.
        ModelError: The model is not good enough, or can't be compared.
        TrackingError: There is no such run, there is no model of it, or the server can't be used.
    """
    with reached(uri) as (client, address):
        run = existing_run(client, run_id, address)
        run_id = run.info.run_id
        model_id = logged_model(client, run)
        if model_id is None and files is None:
            raise TrackingError(
                f"Run '{run_id}' has no model in MLflow: give its model.path=<model directory>, or "
                "train with tracking.log_models=true."
            )
        champion = _version_of_alias(client, name, alias)
        before = _run_of(client, champion)
        values = (_value(run, metric), _value(before, metric))
        if champion is not None and champion.run_id == run_id:
            return Promotion(champion.version, champion.version, False, *values)
        if not force:
            _check_metric(run, metric)
            if direction is None:
                raise ConfigError(f"direction: is required for '{metric}': minimize or maximize")
            if champion is not None:
                _compare(
                    run,
                    before,
                    metric=metric,
                    direction=direction,
                    tolerance=tolerance,
                    shown=f"{name}@{alias} (version {champion.version})",
                    on_other_data=on_other_data,
                )
        if model_id is None:
            assert files is not None
            model_id = _log_model(client, run, address, files())
        if check is not None:
            check(f"models:/{model_id}")
        version = _version_of_run(client, name, run_id, model_id)
        client.set_registered_model_alias(name, alias, version)
        return Promotion(version, None if champion is None else champion.version, True, *values)


def _log_model(client: MlflowClient, run: Run, address: str, files: ModelFiles) -> str:
    """Log a model to a run that has ended, and give its id."""
    info = run.info
    sender = Sender(
        address, RunAddress(public_url(address), info.run_id, info.experiment_id), client
    )
    with tempfile.TemporaryDirectory() as staging:
        path = Path(staging, MODEL_NAME)
        write_mlflow_model(path, files, run_id=info.run_id)
        sender.send(model_operation(path))
    found = logged_model(client, client.get_run(info.run_id))
    assert found is not None, "it was just logged"
    return found


def _version_of_alias(client: MlflowClient, name: str, alias: str) -> ModelVersion | None:
    return found_or_none(lambda: client.get_model_version_by_alias(name, alias))


def _run_of(client: MlflowClient, version: ModelVersion | None) -> Run | None:
    """The run of a version; None if it has none that is still there."""
    run_id = None if version is None else version.run_id
    return found_or_none(lambda: client.get_run(run_id)) if run_id else None


def _version_of_run(client: MlflowClient, name: str, run_id: str, model_id: str) -> str:
    """Find the version that a run has already, or make it."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    source = f"models:/{model_id}"
    known = client.search_model_versions(f"name={quoted(name)} and run_id='{run_id}'")
    for version in sorted(known, key=lambda version: int(version.version), reverse=True):
        if version.source == source:
            return str(version.version)
    made = client.create_model_version(name, source, run_id=run_id, model_id=model_id)
    return str(made.version)


def _value(run: Run | None, metric: str) -> float | None:
    return None if run is None else run.data.metrics.get(metric)


def _check_metric(run: Run, metric: str) -> None:
    if metric in run.data.metrics:
        return
    choices = [name for name in run.data.metrics if not name.startswith("epoch/")]
    raise ConfigError(f"metric: {unknown('metric', metric, choices)}")


def _compare(
    run: Run,
    champion: Run | None,
    *,
    metric: str,
    direction: Direction,
    tolerance: float,
    shown: str,
    on_other_data: str,
) -> None:
    """Let a run pass that is as good as the champion's."""
    if champion is None or metric not in champion.data.metrics:
        missing = "its run is gone" if champion is None else f"its run has no {metric}"
        raise ModelError(f"{shown} can't be compared with: {missing}. force=true compares nothing.")
    others = _other_data(run, champion)
    if others and on_other_data == "refuse":
        raise ModelError(
            f"{shown} was tested on other rows: {', '.join(others)}. on_other_data=allow compares "
            "all the same."
        )
    value, best = run.data.metrics[metric], champion.data.metrics[metric]
    loss = best - value if direction == "maximize" else value - best
    # Not a number is no better than anything; what came before may be such a number.
    if math.isnan(value) or loss > tolerance:
        raise ModelError(
            f"{shown} stays: its {metric} is {best:.6g}, and that of run {run.info.run_id} is "
            f"{value:.6g} (tolerance={tolerance:g}, direction={direction}). force=true compares "
            "nothing."
        )


def _other_data(run: Run, champion: Run) -> list[str]:
    """Say in what the test rows of two runs differ, as far as it is known."""
    digests, before = _digests(run), _digests(champion)
    found = []
    if digests != before:
        found.append(f"data {_short(digests)}, it was {_short(before)}")
    for name in _SPLIT_PARAMS:
        key = f"data.{name}"
        value, was = run.data.params.get(key), champion.data.params.get(key)
        if value != was:
            found.append(f"{key}={value}, it was {was}")
    return found


def _digests(run: Run) -> set[str]:
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return {each.dataset.digest for each in inputs}


def _short(digests: set[str]) -> str:
    return "/".join(sorted(digest[:12] for digest in digests)) or "unknown"
