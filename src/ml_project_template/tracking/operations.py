"""What a run tells, as single operations that can be sent, kept on disk and sent again.

Each may be sent more than once and has its effect once: whoever was cut off while sending can not
know how far it came.
"""

from __future__ import annotations

import functools
import math
import os
import posixpath
import random
import re
import shutil
import tempfile
import threading
import time
import uuid
import weakref
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.client import (
    UnreachableError,
    asked_once,
    find_experiment,
    one_line,
    open_client,
    transfer_timeout,
)
from ml_project_template.tracking.database import write_inputs, write_rows
from ml_project_template.tracking.finding import LOCAL_ID_TAG, find_run, pages, tagged
from ml_project_template.tracking.models import MODEL_NAME
from ml_project_template.tracking_address import sqlite_path

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel, Run

__all__ = [
    "PARENT_TAG",
    "ROWS_AT_ONCE",
    "SESSION_TAG",
    "Opening",
    "Operation",
    "RunAddress",
    "Sender",
    "StagedFolder",
    "joined",
    "make_run",
    "model_operation",
]

ROWS_AT_ONCE = 1000
"""MLflow's own limit of what one request may bring in all, and those of each kind below."""

_ROWS_OF_KIND = {"params": 100, "tags": 100, "metrics": ROWS_AT_ONCE}
_FILES = frozenset({"artifact", "model"})
PARENT_TAG = "mlflow.parentRunId"
# How often a run was opened, on those that were opened again.
SESSION_TAG = "session"

_UPLOAD_TAG = "upload_id"
_INPUT_ATTEMPTS = 5
_MAKE_ATTEMPTS = 3
_MAKE_PAUSE = 1.0  # seconds
# So long after a request was given up it may still arrive at a server that had much to do.
_LATE_SECONDS = 2.0


@dataclass(frozen=True)
class Opening:
    """How a run is made that could not be made when it began.

    Attributes:
        experiment_name: Its experiment.
        run_name: Its name; None lets the server choose.
        tags: Its tags; `LOCAL_ID_TAG` tells it from all others.
        start_time: When it began, as milliseconds since 1970.
    """

    experiment_name: str
    run_name: str | None
    tags: dict[str, str]
    start_time: int


@dataclass(frozen=True)
class RunAddress:
    """Which run it is.

    Attributes:
        uri: The tracking address, without credentials.
        run_id: The run; its local id where it is still to be made.
        experiment_id: Its experiment; empty where it is still to be made.
        session: How often it was opened, this time included.
        opening: How it is made; None where it is there.
    """

    uri: str
    run_id: str
    experiment_id: str
    session: int = 1
    opening: Opening | None = None


class StagedFolder(os.PathLike[str]):
    """A temporary folder that is removed when nobody has this object any more.

    Whoever sends a folder may still be at it when it is kept elsewhere, and whoever told it has
    gone on.

    Args:
        name: Its name.
    """

    def __init__(self, name: str) -> None:
        staging = tempfile.mkdtemp()
        self._path = os.path.join(staging, name)  # noqa: PTH118
        weakref.finalize(self, shutil.rmtree, staging, ignore_errors=True)

    def __fspath__(self) -> str:
        return self._path


@dataclass
class Operation:
    """One thing that a run tells.

    Attributes:
        kind: ``"params"``, ``"metrics"``, ``"tags"``, ``"inputs"``, ``"artifact"``, ``"model"``,
            ``"once"`` or ``"end"``.
        content: What it says, as plain JSON, without secrets.
        data: The bytes of an artifact or the file that holds them; the folder of a model. Whoever
            reads a folder keeps hold of this object meanwhile, see `StagedFolder`.
        tried: It may have been sent before, in whole or in part.
        size: Bytes of its data, as they were first: others may move them at any time.
    """

    kind: str
    content: dict[str, Any]
    data: bytes | os.PathLike[str] | None = None
    tried: bool = field(default=False, compare=False)
    size: int = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.size = 0 if self.data is None else _size_of(self.data)

    @property
    def is_file(self) -> bool:
        """Whether it goes to the artifact store; all else goes to the database."""
        return self.kind in _FILES


def _size_of(data: bytes | os.PathLike[str]) -> int:
    if isinstance(data, bytes):
        return len(data)
    place = Path(data)
    files = [place] if place.is_file() else place.rglob("*")
    return sum(path.stat().st_size for path in files if path.is_file())


def model_operation(folder: os.PathLike[str]) -> Operation:
    """Send the folder of an MLflow model to a run."""
    return Operation("model", {"name": MODEL_NAME, "upload": uuid.uuid4().hex}, folder)


def make_run(
    client: MlflowClient, experiment_id: str, opening: Opening, uri: str
) -> tuple[Run, bool]:
    """Make a run, or find the one that an attempt has made of which nobody was told.

    Args:
        client: MLflow's client.
        experiment_id: Its experiment.
        opening: How it is made; without `LOCAL_ID_TAG` among its tags it is tried once.
        uri: The tracking address.

    Returns:
        The run; and whether it took several attempts, so that an earlier one may still arrive. What
        it makes then, an operation of the kind ``"once"`` removes.

    Raises:
        UnreachableError: It can't be made now.
        TrackingError: It is refused.
    """
    for attempt in range(1, _MAKE_ATTEMPTS + 1):
        try:
            with one_line(uri), asked_once():
                made = client.create_run(
                    experiment_id, opening.start_time, opening.tags, run_name=opening.run_name
                )
                return made, attempt > 1
        except UnreachableError:
            if attempt == _MAKE_ATTEMPTS or LOCAL_ID_TAG not in opening.tags:
                raise
        time.sleep(_MAKE_PAUSE)
        with one_line(uri):
            found = client.search_runs([experiment_id], _same_run(opening.tags), max_results=1)
        if found:
            return found[0], attempt > 1
    raise AssertionError  # the last attempt has returned or raised


def _same_run(tags: Mapping[str, str]) -> str:
    return tagged({LOCAL_ID_TAG: tags[LOCAL_ID_TAG]})


def joined(operations: Sequence[Operation]) -> list[int]:
    """Choose what goes into one request with the first of some operations.

    Params, metrics and tags go together, and so do data sets; what comes later never overtakes
    what came before of its kind.

    Args:
        operations: What waits, in order.

    Returns:
        The positions of those that are sent together; 0 is among them.
    """
    first = operations[0].kind
    if first == "inputs":
        return [i for i, operation in enumerate(operations) if operation.kind == first]
    if first not in _ROWS_OF_KIND:
        return [0]
    chosen: list[int] = []
    left, names = {**_ROWS_OF_KIND, "all": ROWS_AT_ONCE}, set[str]()
    for i, operation in enumerate(operations):
        if operation.kind not in _ROWS_OF_KIND:
            continue
        rows = operation.content["rows"]
        if chosen and len(rows) > min(left[operation.kind], left["all"]):
            break
        if operation.kind == "params":
            if not names.isdisjoint(rows):
                # In one request it would be an error, even with the same value.
                break
            names.update(rows)
        for key in (operation.kind, "all"):
            left[key] -= len(rows)
        chosen.append(i)
    return chosen


class Sender:
    """Sends the operations of a run, and makes the run where that is still to be done.

    Args:
        uri: The tracking address.
        run: The run.
        client: MLflow's client; None opens one when it is needed.
        artifact_uri: Where the run's artifacts go; None asks for it when it is needed.
    """

    def __init__(
        self,
        uri: str,
        run: RunAddress,
        client: MlflowClient | None = None,
        artifact_uri: str | None = None,
    ) -> None:
        self._uri = uri
        self._artifact_uri = artifact_uri
        self._run = run
        self._run_id, self._experiment_id = run.run_id, run.experiment_id
        self._opening = run.opening
        self._lock = threading.Lock()
        self._given_up_at = -math.inf  # when the making of a model was not answered
        if client is not None:
            self._client = client

    def is_running(self) -> bool:
        """Whether the run has no end yet.

        Raises:
            TrackingError: It can't be told.
        """
        with one_line(self._uri):
            self._ensure()
            status: str = self._client.get_run(self._run_id).info.status
        return status == "RUNNING"

    def send(self, operation: Operation) -> None:
        """Send one operation.

        Raises:
            UnreachableError: It could not be sent now.
            TrackingError: It is refused, and will always be.
        """
        self.send_together([operation])

    def send_together(self, operations: Sequence[Operation]) -> None:
        """Send operations that `joined` has chosen.

        Raises:
            UnreachableError: They could not be sent now.
            TrackingError: One of them is refused, and will always be; others may have been taken.
        """
        actions: dict[str, Callable[[Operation], None]] = {
            "artifact": self._artifact,
            "model": self._model,
            "once": self._once,
            "end": self._end,
        }
        first = operations[0]
        with one_line(self._uri):
            self._ensure()
            if first.kind in actions:
                actions[first.kind](first)
            elif first.kind == "inputs":
                self._inputs(operations)
            else:
                self._rows(operations)
        for operation in operations:
            operation.tried = True

    def _ensure(self) -> None:
        """See to it that there are a client and a run."""
        with self._lock:
            if not hasattr(self, "_client"):
                self._client = open_client(self._uri)
            if self._opening is not None:
                self._make(self._opening)
                self._opening = None

    def _make(self, opening: Opening) -> None:
        """Make the run, unless an earlier attempt did."""
        experiment_id = find_experiment(self._client, opening.experiment_name, self._uri)
        query = tagged({LOCAL_ID_TAG: self._run.run_id})
        made = self._client.search_runs([experiment_id], query, max_results=1)
        if made:
            run = made[0]
        else:
            tags = {**opening.tags, LOCAL_ID_TAG: self._run.run_id}
            if PARENT_TAG in tags:
                tags[PARENT_TAG] = self._parent(tags[PARENT_TAG])
            run, _ = make_run(self._client, experiment_id, replace(opening, tags=tags), self._uri)
        self._run_id, self._experiment_id = run.info.run_id, experiment_id
        self._artifact_uri = run.info.artifact_uri

    def _parent(self, run_id: str) -> str:
        """The id of the run above, which may have had to be made, too."""
        found = find_run(self._client, run_id)
        if found is None:
            raise UnreachableError(f"The run above, {run_id}, is not there yet.")
        return str(found.info.run_id)

    def _rows(self, operations: Sequence[Operation]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        rows: dict[str, list[tuple[Any, ...]]] = {kind: [] for kind in _ROWS_OF_KIND}
        for operation in operations:
            rows[operation.kind].extend(
                operation.content["rows"]
                if operation.kind == "metrics"
                else operation.content["rows"].items()
            )
        path = sqlite_path(self._uri)
        if path is not None and write_rows(path, self._run_id, **rows):
            return
        self._client.log_batch(
            self._run_id,
            metrics=[Metric(*row) for row in rows["metrics"]],
            params=[Param(*row) for row in rows["params"]],
            tags=[RunTag(*row) for row in rows["tags"]],
        )

    def _inputs(self, operations: Sequence[Operation]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        path = sqlite_path(self._uri)
        contents = [operation.content for operation in operations]
        pairs = [(content["dataset"], content["context"]) for content in contents]
        if path is not None and write_inputs(path, self._run_id, pairs):
            return
        inputs = [
            DatasetInput(Dataset(**dataset), [InputTag("mlflow.data.context", context)])
            for dataset, context in pairs
        ]
        for left in reversed(range(_INPUT_ATTEMPTS)):
            try:
                with one_line(self._uri):
                    self._client.log_inputs(self._run_id, inputs)
                return
            except TrackingError as error:
                # Runs that begin at once insert the same data set: MLflow looks for it first, and
                # the one that was slower finds it the next time.
                if left == 0 or not re.search("unique|duplicate", str(error), re.IGNORECASE):
                    raise
                time.sleep(random.SystemRandom().uniform(0.01, 0.1))

    def _artifact(self, operation: Operation) -> None:
        folder, name = posixpath.split(operation.content["path"])
        data = operation.data
        with tempfile.TemporaryDirectory() as staging, transfer_timeout(operation.size):
            if isinstance(data, bytes):
                path = Path(staging, name)
                path.write_bytes(data)
            else:
                assert data is not None
                path = Path(data)
            self._artifacts.log_artifact(str(path), folder or None)

    @functools.cached_property
    def _artifacts(self) -> Any:
        """Where the run's artifacts go: an ``ArtifactRepository`` of MLflow."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository
        from mlflow.utils.uri import add_databricks_profile_info_to_artifact_uri

        # By its id alone, MLflow's client would read the whole run to find it.
        uri = self._artifact_uri or self._client.get_run(self._run_id).info.artifact_uri
        complete: Any = add_databricks_profile_info_to_artifact_uri
        return get_artifact_repository(complete(uri, self._uri), tracking_uri=self._uri)

    def _model(self, operation: Operation) -> None:
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        # Has it stay to the end, also if the operation is kept elsewhere meanwhile.
        folder = operation.data
        assert isinstance(folder, os.PathLike)
        path = Path(folder)
        was_tried = operation.tried
        logged = self._logged_model(operation)
        try:
            model = Model.load(str(path))
            model.model_id = model.model_uuid = logged.model_id
            model.artifact_path = logged.artifact_location
            model.run_id = self._run_id
            # Who copies the folder meanwhile finds the file whole.
            fresh = path.parent / f"{path.name}.MLmodel"
            model.save(str(fresh))
            fresh.replace(path / "MLmodel")
            with transfer_timeout(operation.size), one_line(self._uri):
                self._client.log_model_artifacts(logged.model_id, str(path))
        except UnreachableError:
            raise
        except TrackingError:
            self._client.finalize_logged_model(logged.model_id, "FAILED")
            raise
        self._client.finalize_logged_model(logged.model_id, "READY")
        if was_tried:
            for other in self._models_of(operation):
                if other.model_id != logged.model_id:
                    # Of an attempt that arrived late.
                    self._client.delete_logged_model(other.model_id)
        if was_tried and logged.model_id in self._outputs():
            return
        try:
            with one_line(self._uri), asked_once():
                self._client.log_outputs(self._run_id, [LoggedModelOutput(logged.model_id, step=0)])
        except UnreachableError:
            raise
        except TrackingError:
            # A second time it is refused, also where the first one has just arrived.
            if logged.model_id not in self._outputs():
                raise

    def _outputs(self) -> set[str]:
        """The ids of the models that the run has."""
        outputs = self._client.get_run(self._run_id).outputs
        return {output.model_id for output in outputs.model_outputs} if outputs else set()

    def _logged_model(self, operation: Operation) -> LoggedModel:
        """Make the model's entry, or find the one that an earlier attempt has made."""
        if operation.tried:
            found = self._models_of(operation)
            pause = self._given_up_at + _LATE_SECONDS - time.monotonic()
            if not found and pause > 0:
                time.sleep(pause)
                found = self._models_of(operation)
            if found:
                return found[0]
        # Cut off from here on, it may be there.
        operation.tried = True
        try:
            with one_line(self._uri), asked_once():
                return self._client.create_logged_model(
                    self._experiment_id,
                    name=operation.content["name"],
                    source_run_id=self._run_id,
                    tags={_UPLOAD_TAG: operation.content["upload"]},
                )
        except UnreachableError:
            self._given_up_at = time.monotonic()
            raise

    def _models_of(self, operation: Operation) -> list[LoggedModel]:
        """Find the entries that attempts to send a model have made, the first one first."""
        query = f"tags.`{_UPLOAD_TAG}` = '{operation.content['upload']}'"
        order = [{"field_name": "creation_time", "ascending": True}]
        return [*self._client.search_logged_models([self._experiment_id], query, order_by=order)]

    def _once(self, operation: Operation) -> None:
        """Remove what attempts to make the run have made beside it."""
        query = tagged({LOCAL_ID_TAG: operation.content["local_id"]})
        found = pages(
            self._client.search_runs, experiment_ids=[self._experiment_id], filter_string=query
        )
        for run in list(found):
            if run.info.run_id != self._run_id:
                self._client.delete_run(run.info.run_id)

    def _end(self, operation: Operation) -> None:
        content = operation.content
        if operation.tried:
            # Told again, it must not end what others have gone on with, or ended, meanwhile.
            stored = self._client.get_run(self._run_id)
            if int(stored.data.tags.get(SESSION_TAG, 1)) > self._run.session:
                return
        self._client.set_terminated(self._run_id, content["status"], content["end_time"])
