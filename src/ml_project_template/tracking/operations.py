"""What a run tells, as single operations that can be sent, kept on disk and sent again.

Each may be sent more than once and has its effect once: whoever was cut off while sending can not
know how far it came.
"""

from __future__ import annotations

import posixpath
import random
import re
import tempfile
import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.client import (
    UnreachableError,
    find_experiment,
    one_line,
    open_client,
    transfer_timeout,
)
from ml_project_template.tracking.finding import LOCAL_ID_TAG, find_run, tagged
from ml_project_template.tracking.models import MODEL_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

__all__ = [
    "PARENT_TAG",
    "SESSION_TAG",
    "Opening",
    "Operation",
    "RunAddress",
    "Sender",
    "model_operation",
]

_FILES = frozenset({"artifact", "model"})
PARENT_TAG = "mlflow.parentRunId"
# How often a run was opened, on those that were opened again.
SESSION_TAG = "session"

_UPLOAD_TAG = "upload_id"
_INPUT_ATTEMPTS = 5


@dataclass(frozen=True)
class Opening:
    """How a run is made that could not be made when it began.

    Attributes:
        experiment_name: Its experiment.
        run_name: Its name.
        tags: Its tags; `LOCAL_ID_TAG` tells it from all others.
        start_time: When it began, as milliseconds since 1970.
    """

    experiment_name: str
    run_name: str
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


@dataclass
class Operation:
    """One thing that a run tells.

    Attributes:
        kind: ``"params"``, ``"metrics"``, ``"tags"``, ``"inputs"``, ``"artifact"``, ``"model"`` or
            ``"end"``.
        content: What it says, as plain JSON, without secrets.
        data: The bytes of an artifact or the file that holds them; the folder of a model.
        tried: It may have been sent before, in whole or in part.
    """

    kind: str
    content: dict[str, Any]
    data: bytes | Path | None = None
    tried: bool = field(default=False, compare=False)

    @property
    def is_file(self) -> bool:
        """Whether it goes to the artifact store; all else goes to the database."""
        return self.kind in _FILES

    @property
    def size(self) -> int:
        """Bytes of its data."""
        if self.data is None:
            return 0
        if isinstance(self.data, bytes):
            return len(self.data)
        files = [self.data] if self.data.is_file() else self.data.rglob("*")
        return sum(path.stat().st_size for path in files if path.is_file())


def model_operation(path: Path) -> Operation:
    """Send the folder of an MLflow model to a run."""
    return Operation("model", {"name": MODEL_NAME, "upload": uuid.uuid4().hex}, path)


class Sender:
    """Sends the operations of a run, and makes the run where that is still to be done.

    Args:
        uri: The tracking address.
        run: The run.
        client: MLflow's client; None opens one when it is needed.
    """

    def __init__(self, uri: str, run: RunAddress, client: MlflowClient | None = None) -> None:
        self._uri = uri
        self._run = run
        self._run_id, self._experiment_id = run.run_id, run.experiment_id
        self._opening = run.opening
        self._lock = threading.Lock()
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
        actions: dict[str, Callable[[Operation], None]] = {
            "params": self._params,
            "metrics": self._metrics,
            "tags": self._tags,
            "inputs": self._inputs,
            "artifact": self._artifact,
            "model": self._model,
            "end": self._end,
        }
        with one_line(self._uri):
            self._ensure()
            actions[operation.kind](operation)
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
            tags = {**opening.tags}
            if PARENT_TAG in tags:
                tags[PARENT_TAG] = self._parent(tags[PARENT_TAG])
            run = self._client.create_run(
                experiment_id, opening.start_time, tags, run_name=opening.run_name
            )
        self._run_id, self._experiment_id = run.info.run_id, experiment_id

    def _parent(self, run_id: str) -> str:
        """The id of the run above, which may have had to be made, too."""
        found = find_run(self._client, run_id)
        if found is None:
            raise UnreachableError(f"The run above, {run_id}, is not there yet.")
        return str(found.info.run_id)

    def _params(self, operation: Operation) -> None:
        from mlflow.entities import Param

        rows = [Param(key, text) for key, text in operation.content["rows"].items()]
        self._client.log_batch(self._run_id, params=rows)

    def _metrics(self, operation: Operation) -> None:
        from mlflow.entities import Metric

        rows = [Metric(*row) for row in operation.content["rows"]]
        self._client.log_batch(self._run_id, metrics=rows)

    def _tags(self, operation: Operation) -> None:
        from mlflow.entities import RunTag

        rows = [RunTag(key, text) for key, text in operation.content["rows"].items()]
        self._client.log_batch(self._run_id, tags=rows)

    def _inputs(self, operation: Operation) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(**operation.content["dataset"])
        tags = [InputTag("mlflow.data.context", operation.content["context"])]
        for left in reversed(range(_INPUT_ATTEMPTS)):
            try:
                with one_line(self._uri):
                    self._client.log_inputs(self._run_id, [DatasetInput(dataset, tags)])
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
                path = data
            self._client.log_artifact(self._run_id, str(path), folder or None)

    def _model(self, operation: Operation) -> None:
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model

        path = operation.data
        assert isinstance(path, Path)
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
        outputs = self._client.get_run(self._run_id).outputs
        known = {output.model_id for output in outputs.model_outputs} if outputs else set()
        if logged.model_id not in known:
            self._client.log_outputs(self._run_id, [LoggedModelOutput(logged.model_id, step=0)])

    def _logged_model(self, operation: Operation) -> LoggedModel:
        """Make the model's entry, or find the one that an earlier attempt has made."""
        upload = operation.content["upload"]
        if operation.tried:
            query = f"tags.`{_UPLOAD_TAG}` = '{upload}'"
            found = self._client.search_logged_models([self._experiment_id], query)
            if found:
                return found[0]
        # Cut off from here on, it may be there.
        operation.tried = True
        return self._client.create_logged_model(
            self._experiment_id,
            name=operation.content["name"],
            source_run_id=self._run_id,
            tags={_UPLOAD_TAG: upload},
        )

    def _end(self, operation: Operation) -> None:
        content = operation.content
        if operation.tried:
            # Told again, it must not end what others have gone on with, or ended, meanwhile.
            stored = self._client.get_run(self._run_id)
            if int(stored.data.tags.get(SESSION_TAG, 1)) > self._run.session:
                return
        self._client.set_terminated(self._run_id, content["status"], content["end_time"])
