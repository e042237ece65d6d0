"""A run on MLflow: what a training logs, and the end state."""

from __future__ import annotations

import json
import logging
import posixpath
import random
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.runs import Run
from ml_project_template.tracking.client import log_level, one_line
from ml_project_template.tracking.models import (
    LOADER_MODULE,
    MODEL_NAME,
    model_signature,
    pinned,
)
from ml_project_template.utils.secrets import find_secrets, public_url, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlflow import MlflowClient

    from ml_project_template.runs import SignatureLike

__all__ = ["CONSOLE_LOG", "ERROR_TAG", "LONG_PARAMS", "MLflowRun", "plain_tags"]

CONSOLE_LOG = "logs/console.log"
LONG_PARAMS = "params_long.json"
ERROR_TAG = "error"

# MLflow's own limits (mlflow.utils.validation): more than this in one request is refused.
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
_PARAM_LENGTH = 6000
_KEY_LENGTH = 250
_TAG_LENGTH = 8000
_DIGEST_LENGTH = 36
_ERROR_LENGTH = 500

_INPUT_ATTEMPTS = 5
_FLUSH_SECONDS = 1.0
_RETRY_SECONDS = 30.0

_logger = logging.getLogger(__name__)


class MLflowRun(Run):
    """A run on MLflow; made by `MLflowTracker.start_run`."""

    def __init__(
        self,
        client: MlflowClient,
        *,
        uri: str,
        run_id: str,
        experiment_id: str,
        secrets: set[str],
        log_plots: bool,
        log_models: bool,
        session: int = 1,
    ) -> None:
        self._session = session
        self.id: str = run_id
        self.ended = False
        self.experiment_id: str = experiment_id
        self._client = client
        self._uri = uri
        self._secrets = secrets
        self.wants_plots = log_plots
        self.wants_model = log_models
        self._long_params: dict[str, str] = {}
        self._metrics: list[Any] = []
        self._flush_at = 0.0

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log flat parameters; a long value is kept whole in ``params_long.json``."""
        from mlflow.entities import Param

        # The console log is written at the end, so it hides what the configuration made known.
        self._secrets |= find_secrets(params)
        texts = {key: redact(str(value), self._secrets) for key, value in params.items()}
        long = {
            key: text
            for key, text in texts.items()
            if len(text) > _PARAM_LENGTH or not _is_loggable(key)
        }
        short = {key: text for key, text in texts.items() if _is_loggable(key)} | {
            key: f"{text[:200]}... (whole in {LONG_PARAMS})"
            for key, text in long.items()
            if _is_loggable(key)
        }
        rows = [Param(key, text) for key, text in short.items()]
        with one_line(self._uri):
            for batch in _batches(rows, _PARAMS_PER_BATCH):
                self._client.log_batch(self.id, params=batch)
        if long:
            self._long_params |= long
            self.log_text(json.dumps(self._long_params, indent=2), self._own(LONG_PARAMS))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, of one step where `step` is given; sent in batches.

        A batch that can't be sent is kept and tried again later, so that a server's short absence
        does not end a long training.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        for key, value in metrics.items():
            name = re.sub(r"[^\w\-. :/]", "_", key)[:_KEY_LENGTH]
            self._metrics.append(Metric(name, float(value), now, step or 0))
        if time.monotonic() < self._flush_at:
            return
        try:
            self.flush()
        except TrackingError as error:
            _logger.warning("%s The metrics are kept and sent later.", error)
            self._flush_at = time.monotonic() + _RETRY_SECONDS

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; None values are left out."""
        from mlflow.entities import RunTag

        rows = [RunTag(key, text) for key, text in plain_tags(tags, self._secrets).items()]
        with one_line(self._uri):
            for batch in _batches(rows, _PARAMS_PER_BATCH):
                self._client.log_batch(self.id, tags=batch)

    def log_dataset(
        self,
        name: str,
        *,
        digest: str | None,
        source: str | None,
        context: str,
        schema: Any = None,
        profile: Any = None,
    ) -> None:
        """Record a data set as an input of the run.

        MLflow takes two inputs of one name and digest for the same, so the name carries the
        context: the three splits of a file are three inputs.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        dataset = Dataset(
            name=f"{name}_{context}",
            digest=(digest or "unknown")[:_DIGEST_LENGTH],
            source_type="local" if source is None or "://" not in source else "remote",
            source=redact(json.dumps({"uri": public_url(source or name)}), self._secrets),
            schema=None if schema is None else json.dumps(schema),
            profile=None if profile is None else json.dumps(profile),
        )
        tags = [InputTag("mlflow.data.context", context)]
        for left in reversed(range(_INPUT_ATTEMPTS)):
            try:
                with one_line(self._uri):
                    self._client.log_inputs(self.id, [DatasetInput(dataset, tags)])
                return
            except TrackingError as error:
                # Runs that begin at once insert the same data set: MLflow looks for it first, and
                # the one that was slower finds it the next time.
                if left == 0 or not re.search("unique|duplicate", str(error), re.IGNORECASE):
                    raise
                time.sleep(random.SystemRandom().uniform(0.01, 0.1))

    def log_text(self, text: str, artifact: str) -> None:
        """Store a text under a path among the run's artifacts; secrets are hidden."""
        self.log_bytes(redact(text, self._secrets).encode(), artifact)

    def log_bytes(self, data: bytes, artifact: str) -> None:
        """Store bytes, such as a PNG, under a path among the run's artifacts."""
        folder, name = posixpath.split(artifact)
        with tempfile.TemporaryDirectory() as staging, one_line(self._uri):
            path = Path(staging, name)
            path.write_bytes(data)
            self._client.log_artifact(self.id, str(path), folder or None)

    def log_model(
        self,
        directory: str | Path,
        *,
        signature: SignatureLike,
        sample: Sequence[Mapping[str, Any]],
        requirements: Sequence[str] = (),
    ) -> None:
        """Store a local model directory as an MLflow model that scores raw rows.

        The model is a folder of plain files: MLflow's ``loader_module`` names the function that
        reads it, so nothing is pickled, and the requirements are given, so that MLflow does not
        load the model in a process of its own to find them.
        """
        if not self.wants_model:
            return
        from mlflow.entities import LoggedModelOutput
        from mlflow.models import Model
        from mlflow.pyfunc import save_model
        from pandas import DataFrame

        with tempfile.TemporaryDirectory() as staging, one_line(self._uri):
            logged = self._client.create_logged_model(
                self.experiment_id, name=MODEL_NAME, source_run_id=self.id
            )
            try:
                path = Path(staging, MODEL_NAME)
                # It warns of what no user can mend, such as a virtual environment without pip.
                with log_level("mlflow.utils.environment", logging.ERROR):
                    save_model(
                        path=path,
                        loader_module=LOADER_MODULE,
                        data_path=str(Path(directory).resolve()),
                        signature=model_signature(signature),
                        input_example=DataFrame([dict(row) for row in sample]),
                        pip_requirements=pinned(requirements),
                        mlflow_model=Model(
                            artifact_path=logged.artifact_location,
                            model_uuid=logged.model_id,
                            run_id=self.id,
                            model_id=logged.model_id,
                        ),
                    )
                self._client.log_model_artifacts(logged.model_id, str(path))
            except BaseException:
                self._client.finalize_logged_model(logged.model_id, "FAILED")
                raise
            self._client.finalize_logged_model(logged.model_id, "READY")
            self._client.log_outputs(self.id, [LoggedModelOutput(logged.model_id, step=0)])

    def end(self, status: str, console: Path, error: BaseException | None = None) -> None:
        """Send what is left and set the end state.

        Args:
            status: ``"FINISHED"``, ``"FAILED"`` or ``"KILLED"``.
            console: The file with the console's lines.
            error: What ended the run, None where it came to its end by itself.

        Raises:
            TrackingError: A finished run could not be completed. After an error it is only logged:
                the first error is the one to show.
        """
        failures: list[TrackingError] = []

        def attempt(step: Callable[[], None]) -> None:
            try:
                step()
            except TrackingError as failure:
                failures.append(failure)

        if error is not None:
            # The state comes first: whoever stops a run may have little patience.
            attempt(lambda: self._terminate(status))
            text = f"{type(error).__name__}: {error}"
            tag = {ERROR_TAG: redact(text, self._secrets)[:_ERROR_LENGTH]}
            attempt(lambda: self.log_tags(tag))
        attempt(self.flush)
        log = self._own(CONSOLE_LOG)
        attempt(lambda: self.log_text(console.read_text(encoding="utf-8"), log))
        if error is None:
            attempt(lambda: self._terminate("FAILED" if failures else status))
            if failures:
                raise failures[0]
        for failure in failures:
            _logger.warning("%s", failure)

    def flush(self) -> None:
        """Send the metrics that wait; those that can't be sent go on waiting.

        Raises:
            TrackingError: They can't be sent now.
        """
        self._flush_at = time.monotonic() + _FLUSH_SECONDS
        with one_line(self._uri):
            while self._metrics:
                batch = self._metrics[:_METRICS_PER_BATCH]
                self._client.log_batch(self.id, metrics=batch)
                del self._metrics[: len(batch)]

    def _own(self, artifact: str) -> str:
        """Name a file so that it does not take the place of one of an earlier session."""
        stem, ending = posixpath.splitext(artifact)
        return artifact if self._session == 1 else f"{stem}_{self._session}{ending}"

    def _terminate(self, status: str) -> None:
        with one_line(self._uri):
            self._client.set_terminated(self.id, status)
            self.ended = True


def plain_tags(tags: Mapping[str, Any], secrets: set[str]) -> dict[str, str]:
    """Put tags in text that MLflow takes: None left out, secrets hidden, long ones cut."""
    return {
        key: redact(str(value), secrets)[:_TAG_LENGTH]
        for key, value in tags.items()
        if value is not None
    }


def _is_loggable(key: str) -> bool:
    """Whether MLflow takes a parameter's name."""
    return (
        len(key) <= _KEY_LENGTH
        and re.fullmatch(r"[/\w.\- :]+", key) is not None
        and posixpath.normpath(key) == key
        and not key.startswith(("/", ".."))
        and key != "."
    )


def _batches(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
