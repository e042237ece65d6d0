"""The runs of a workflow, closed when it has ended: whatever became of its processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ml_project_template.tracking.client import reached
from ml_project_template.tracking.finding import runs_anywhere, tagged
from ml_project_template.tracking.run import plain_tags
from ml_project_template.utils.secrets import find_secrets

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["FAILED_STEPS_TAG", "STATUS_TAG", "WORKFLOW_TAG", "ClosedRuns", "close_workflow_runs"]

WORKFLOW_TAG = "workflow"
STATUS_TAG = "workflow_status"
FAILED_STEPS_TAG = "workflow_failed_steps"

_OPEN = ("RUNNING", "SCHEDULED")


@dataclass(frozen=True)
class ClosedRuns:
    """What was done to the runs of a workflow.

    Attributes:
        tagged: The ids of all its runs.
        ended: Those among them that had not ended, and the state they were given.
    """

    tagged: tuple[str, ...]
    ended: Mapping[str, str]


def close_workflow_runs(
    workflow: str, status: str, failed_steps: Mapping[str, str], *, uri: str | None = None
) -> ClosedRuns:
    """Give the runs of a workflow that were left open an end, and tell all how it ended.

    A run whose process could not end it any more (out of memory, evicted, its machine gone) is
    RUNNING for ever. It becomes FAILED where the workflow failed, else KILLED.

    Args:
        workflow: The workflow's name: the tag ``workflow`` of its runs.
        status: How it ended: ``Succeeded``, ``Failed`` or ``Error``.
        failed_steps: Its failed steps with what is said of each.
        uri: The tracking address; None as for `tracking_uri`.

    Returns:
        The runs; none if the workflow has made none.

    Raises:
        TrackingError: The server can't be used.
    """
    from_end = {"Failed": "FAILED"}
    told = "; ".join(f"{step}: {message}".rstrip(": ") for step, message in failed_steps.items())
    tags = {STATUS_TAG: status, FAILED_STEPS_TAG: told or None}
    marked, ended = [], {}
    with reached(uri) as (client, address):
        rows = _tag_rows(tags, find_secrets({"uri": address}))
        for run in list(runs_anywhere(client, tagged({WORKFLOW_TAG: workflow}))):
            run_id = run.info.run_id
            client.log_batch(run_id, tags=rows)
            marked.append(run_id)
            if run.info.status in _OPEN:
                ended[run_id] = from_end.get(status, "KILLED")
                client.set_terminated(run_id, ended[run_id])
    return ClosedRuns(tuple(marked), ended)


def _tag_rows(tags: Mapping[str, Any], secrets: set[str]) -> list[Any]:
    from mlflow.entities import RunTag

    return [RunTag(key, text) for key, text in plain_tags(tags, secrets).items()]
