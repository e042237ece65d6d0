"""Files that are added to a run after its end."""

from __future__ import annotations

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.client import reached
from ml_project_template.tracking.finding import find_run
from ml_project_template.tracking.operations import Operation, RunAddress, Sender
from ml_project_template.utils.secrets import public_url

__all__ = ["attach"]


def attach(run_id: str, name: str, data: bytes, *, uri: str | None = None) -> None:
    """Store bytes among the artifacts of a run that is there.

    Args:
        run_id: The run.
        name: The path among its artifacts; what is there is replaced.
        data: The bytes.
        uri: The tracking address; None as for `tracking_uri`.

    Raises:
        TrackingError: There is no such run, or the server can't be reached.
    """
    with reached(uri) as (client, address):
        run = find_run(client, run_id)
        if run is None:
            raise TrackingError(f"There is no run '{run_id}' at '{public_url(address)}'.")
        place = RunAddress(public_url(address), run.info.run_id, run.info.experiment_id)
        sender = Sender(address, place, client, run.info.artifact_uri)
        sender.send(Operation("artifact", {"path": name}, data))
