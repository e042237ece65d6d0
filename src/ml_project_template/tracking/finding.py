"""Finding things on MLflow by what is known of them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeVar

from ml_project_template.errors import TrackingError
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = [
    "LOCAL_ID_TAG",
    "existing_run",
    "find_run",
    "found_or_none",
    "pages",
    "quoted",
    "runs_anywhere",
    "tagged",
]

Found = TypeVar("Found")

# What a run is called until it is made. MLflow's page shows no tags of its own kind.
LOCAL_ID_TAG = "mlflow.localRunId"

_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"})
_EXPERIMENTS_AT_ONCE = 100


def tagged(tags: Mapping[str, str]) -> str:
    """Write the filter of the runs that have all of these tags."""
    return " and ".join(f"tags.`{key}` = {quoted(value)}" for key, value in tags.items())


def quoted(text: str) -> str:
    """Put a text between the quotes that MLflow's filters take around it."""
    return f'"{text}"' if "'" in text else f"'{text}'"


def pages(search: Callable[..., Any], **arguments: Any) -> Iterator[Any]:
    """Give all that a search of MLflow finds, page after page."""
    token = None
    while True:
        page = search(page_token=token, **arguments)
        yield from page
        token = page.token
        if not token:
            return


def runs_anywhere(client: MlflowClient, query: str) -> Iterator[Run]:
    """Find runs in whatever experiments they are."""
    experiments = [each.experiment_id for each in pages(client.search_experiments)]
    for start in range(0, len(experiments), _EXPERIMENTS_AT_ONCE):
        yield from pages(
            client.search_runs,
            experiment_ids=experiments[start : start + _EXPERIMENTS_AT_ONCE],
            filter_string=query,
        )


def find_run(client: MlflowClient, run_id: str) -> Run | None:
    """Find a run by its id, or by the local id that it had before it could be made.

    Returns:
        The run; None if there is none.
    """
    run = found_or_none(lambda: client.get_run(run_id))
    if run is None and re.fullmatch(r"[0-9a-f]{32}", run_id) is not None:
        run = next(runs_anywhere(client, tagged({LOCAL_ID_TAG: run_id})), None)
    return run


def existing_run(client: MlflowClient, run_id: str, address: str) -> Run:
    """Find a run that has to be there.

    Args:
        client: The client.
        run_id: As for `find_run`.
        address: Where it is looked for, for the message.

    Raises:
        TrackingError: There is no such run.
    """
    run = find_run(client, run_id)
    if run is None:
        raise TrackingError(f"There is no run '{run_id}' at '{public_url(address)}'.")
    return run


def found_or_none(find: Callable[[], Found]) -> Found | None:
    """Find a thing on MLflow; None if it is not there."""
    from mlflow.exceptions import MlflowException

    try:
        return find()
    except MlflowException as error:
        if error.error_code not in _ABSENT:
            raise
        return None
