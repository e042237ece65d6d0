"""Runs whose process is gone, given an end: nobody else would."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from typing import TYPE_CHECKING

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.client import quiet, reached
from ml_project_template.tracking.database import PROCESS_TAG, running_runs
from ml_project_template.tracking.finding import pages, quoted
from ml_project_template.tracking_address import sqlite_path, tracking_uri
from ml_project_template.utils.processes import ProcessId, this_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from mlflow import MlflowClient

__all__ = ["PROCESS_TAG", "REAPED_TAG", "process_tag", "reap", "reaping"]

# Of a run that was ended for a process that is gone: "true", until somebody knows better.
REAPED_TAG = "mlflow.reaped"

# Its last report is about the last moment that the process was alive.
_SERIES = "epoch/train_loss"

# What a run waits at its end for this.
_JOIN_SECONDS = 2.0

_logger = logging.getLogger(__name__)


def process_tag() -> str:
    """Give the value of the tag that tells which process a run is of."""
    return json.dumps(this_process().to_dict())


def reap(
    uri: str | None = None, experiment_ids: Sequence[str] | None = None, *, dry_run: bool = False
) -> list[str]:
    """End the runs of this machine that are RUNNING and whose process is gone: they are KILLED.

    Args:
        uri: The tracking address, as for `tracking_uri`.
        experiment_ids: Where to look; None looks in all experiments. In a database of MLflow's
            known tables it is always all of them.
        dry_run: Change nothing.

    Returns:
        The ids of these runs.

    Raises:
        TrackingError: The server or database can't be used.
    """
    address = tracking_uri(uri)
    path = sqlite_path(address)
    running = None if path is None else running_runs(path) if path.exists() else {}
    if running is not None and not any(map(_is_gone, running.values())):
        # MLflow takes a second to import.
        return []
    reaped = []
    with quiet(), reached(address) as (client, _):
        if running is None:
            running = _search(client, experiment_ids)
        for run_id, tag in running.items():
            if not _is_gone(tag):
                continue
            reaped.append(run_id)
            if dry_run:
                continue
            client.set_tag(run_id, REAPED_TAG, "true")
            points = client.get_metric_history(run_id, _SERIES)
            ended = max((point.timestamp for point in points), default=int(time.time() * 1000))
            client.set_terminated(run_id, "KILLED", ended)
    return reaped


@contextlib.contextmanager
def reaping(uri: str, experiment_id: str) -> Iterator[None]:
    """End the runs of an experiment whose processes are gone, beside the block.

    Nothing that goes wrong disturbs the block.

    Args:
        uri: The tracking address.
        experiment_id: The experiment.
    """

    def work() -> None:
        with contextlib.suppress(TrackingError):
            for run_id in reap(uri, [experiment_id]):
                _logger.info("Run %s had lost its process: it is KILLED now.", run_id)

    thread = threading.Thread(target=work, name="reaping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        thread.join(_JOIN_SECONDS)


def _search(client: MlflowClient, experiment_ids: Sequence[str] | None) -> dict[str, str]:
    """Find the runs that have not ended: id to the tag of their process."""
    if experiment_ids is None:
        experiment_ids = [each.experiment_id for each in pages(client.search_experiments)]
    machine = json.dumps(this_process().machine)
    # The exact comparison comes after: for the filter some characters stand for any.
    here = f"tags.`{PROCESS_TAG}` LIKE {quoted(f'%{machine}%')}"
    runs = pages(
        client.search_runs,
        experiment_ids=list(experiment_ids),
        filter_string=f"attributes.status = 'RUNNING' and {here}",
    )
    return {run.info.run_id: run.data.tags[PROCESS_TAG] for run in runs}


def _is_gone(tag: str) -> bool:
    """Say whether a process is known to be gone: one of this machine."""
    try:
        return ProcessId.from_dict(json.loads(tag)).is_alive() is False
    except (TypeError, ValueError):
        return False
