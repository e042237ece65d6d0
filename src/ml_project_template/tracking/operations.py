"""What a run tells, as single operations that can be sent, kept on disk and sent again.

Each may be sent more than once and has its effect once: whoever was cut off while sending can not
know how far it came.
"""

from __future__ import annotations

import posixpath
import random
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.tracking.client import UnreachableError, one_line, transfer_timeout

if TYPE_CHECKING:
    from collections.abc import Callable

    from mlflow import MlflowClient
    from mlflow.entities import LoggedModel

__all__ = ["SESSION_TAG", "Operation", "Sender"]

_FILES = frozenset({"artifact", "model"})
# How often a run was opened, on those that were opened again.
SESSION_TAG = "session"

_UPLOAD_TAG = "upload_id"
_INPUT_ATTEMPTS = 5


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


class Sender:
    """Sends the operations of a run.

    Args:
        client: MLflow's client.
        uri: The tracking address, for messages.
        run_id: The run.
        experiment_id: Its experiment.
        session: How often it was opened, this time included.
    """

    def __init__(
        self, client: MlflowClient, uri: str, run_id: str, experiment_id: str, session: int = 1
    ) -> None:
        self._client = client
        self._uri = uri
        self._run_id = run_id
        self._experiment_id = experiment_id
        self._session = session

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
            actions[operation.kind](operation)
        operation.tried = True

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
            if int(stored.data.tags.get(SESSION_TAG, 1)) > self._session:
                return
        self._client.set_terminated(self._run_id, content["status"], content["end_time"])
