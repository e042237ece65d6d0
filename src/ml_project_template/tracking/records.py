"""What MLflow knows of a training that came to its end."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.client import reached, transfer_timeout
from ml_project_template.tracking.finding import existing_run, tagged
from ml_project_template.tracking.models import download_model, logged_model
from ml_project_template.tracking.tracker import PARENT_TAG

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["CONFIG_FILE", "FinishedRun", "read_finished_run"]

CONFIG_FILE = "config.yaml"


@dataclass(frozen=True)
class FinishedRun:
    """A run, as it was told.

    Attributes:
        id: Its id.
        metrics: Metric name to its last value.
        tags: Tag to value.
        digest: How the SHA-256 of its data begins; None if it has none.
        config: The composed configuration, its secrets hidden; that of its folds where it has none
            of its own; None if there is none.
        model: A local copy of its model directory; None if it has logged none.
    """

    id: str
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    digest: str | None
    config: Any
    model: str | None


def read_finished_run(run_id: str, uri: str | None = None) -> FinishedRun:
    """Read what is known of a run.

    Args:
        run_id: The run.
        uri: The tracking address; None as for `tracking_uri`.

    Raises:
        TrackingError: There is no such run, it has not come to a good end, or the server can't be
            used.
    """
    with reached(uri) as (client, address):
        run = existing_run(client, run_id, address)
        found = run.info.run_id
        if run.info.status != "FINISHED":
            raise TrackingError(
                f"Run '{found}' is {run.info.status}: only what is FINISHED can be repeated."
            )
        config = _read_config(client, found)
        if config is None:
            config = _config_of_fold(client, run)
        model_id = logged_model(client, run)
        inputs = run.inputs.dataset_inputs if run.inputs else []
        digests = {each.dataset.digest for each in inputs}
    return FinishedRun(
        id=found,
        metrics=run.data.metrics,
        tags=run.data.tags,
        digest=digests.pop() if len(digests) == 1 else None,
        config=config,
        model=None if model_id is None else download_model(f"models:/{model_id}", uri),
    )


def _config_of_fold(client: MlflowClient, run: Run) -> Any:
    """Read the configuration of a trial that is cross-validated: each of its folds has it.

    Folds of several seeds are left out: how many there were is no part of the configuration.
    """
    query = tagged({PARENT_TAG: run.info.run_id, "fold": "1"})
    folds = client.search_runs([run.info.experiment_id], query, max_results=1)
    if not folds or "seed" in folds[0].data.tags:
        return None
    return _read_config(client, folds[0].info.run_id)


def _read_config(client: MlflowClient, run_id: str) -> Any:
    import yaml

    if all(file.path != CONFIG_FILE for file in client.list_artifacts(run_id)):
        return None
    with tempfile.TemporaryDirectory() as folder, transfer_timeout():
        text = Path(client.download_artifacts(run_id, CONFIG_FILE, folder)).read_bytes()
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrackingError(f"The {CONFIG_FILE} of run '{run_id}' can't be read.") from error
