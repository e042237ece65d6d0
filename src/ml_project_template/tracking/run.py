"""A run on MLflow: what a training logs, and the end state."""

from __future__ import annotations

import functools
import json
import logging
import posixpath
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.runs import Run
from ml_project_template.tracking.client import one_line
from ml_project_template.tracking.database import KEY_LENGTH, is_loggable
from ml_project_template.tracking.models import MODEL_NAME, ModelFiles, write_mlflow_model
from ml_project_template.tracking.operations import Operation, StagedFolder, model_operation
from ml_project_template.utils.secrets import find_secrets, public_url, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from ml_project_template.runs import SignatureLike
    from ml_project_template.tracking.outbox import Outbox

__all__ = ["CONSOLE_LOG", "ERROR_TAG", "LONG_PARAMS", "MLflowRun", "plain_tags"]

CONSOLE_LOG = "logs/console.log"
LONG_PARAMS = "params_long.json"
ERROR_TAG = "error"

# MLflow's own limits (mlflow.utils.validation): more than this in one request is refused.
_PARAMS_PER_BATCH = 100
_PARAM_LENGTH = 6000
_TAG_LENGTH = 8000
_DIGEST_LENGTH = 36
_ERROR_LENGTH = 500

_logger = logging.getLogger(__name__)


class MLflowRun(Run):
    """A run on MLflow; made by `MLflowTracker.start_run`.

    What it is told goes to its `Outbox`: an absence of the server is no error. What the server
    refuses is one.
    """

    def __init__(
        self,
        outbox: Outbox,
        *,
        uri: str,
        run_id: str,
        experiment_id: str,
        secrets: set[str],
        log_plots: bool,
        log_models: bool,
        session: int = 1,
        local_id: str | None = None,
    ) -> None:
        self._session = session
        self._local_id = local_id
        self.id: str = run_id
        self.ended = False
        self.experiment_id: str = experiment_id
        self._outbox = outbox
        self._uri = uri
        self._secrets = secrets
        self.wants_plots = log_plots
        self.wants_model = log_models
        self._long_params: dict[str, str] = {}

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log flat parameters; a long value is kept whole in ``params_long.json``."""
        # The console log is written at the end, so it hides what the configuration made known.
        self._secrets |= find_secrets(params)
        texts = {key: redact(str(value), self._secrets) for key, value in params.items()}
        long = {
            key: text
            for key, text in texts.items()
            if len(text) > _PARAM_LENGTH or not is_loggable(key)
        }
        short = {key: text for key, text in texts.items() if is_loggable(key)} | {
            key: f"{text[:200]}... (whole in {LONG_PARAMS})"
            for key, text in long.items()
            if is_loggable(key)
        }
        for batch in _batches([*short.items()], _PARAMS_PER_BATCH):
            self._outbox.put(Operation("params", {"rows": dict(batch)}))
        if long:
            self._long_params |= long
            self.log_text(json.dumps(self._long_params, indent=2), self._own(LONG_PARAMS))

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, of one step where `step` is given; sent once a second, by a thread."""
        now = int(time.time() * 1000)
        self._outbox.put_metrics(
            [(_metric_name(key), float(value), now, step or 0) for key, value in metrics.items()]
        )

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; None values are left out."""
        rows = [*plain_tags(tags, self._secrets).items()]
        for batch in _batches(rows, _PARAMS_PER_BATCH):
            self._outbox.put(Operation("tags", {"rows": dict(batch)}))

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
        dataset = {
            "name": f"{name}_{context}",
            "digest": (digest or "unknown")[:_DIGEST_LENGTH],
            "source_type": "local" if source is None or "://" not in source else "remote",
            "source": redact(json.dumps({"uri": public_url(source or name)}), self._secrets),
            "schema": None if schema is None else json.dumps(schema),
            "profile": None if profile is None else json.dumps(profile),
        }
        self._outbox.put(Operation("inputs", {"dataset": dataset, "context": context}))

    def log_text(self, text: str, artifact: str) -> None:
        """Store a text under a path among the run's artifacts; secrets are hidden."""
        self.log_bytes(redact(text, self._secrets).encode(), artifact)

    def log_bytes(self, data: bytes, artifact: str) -> None:
        """Store bytes, such as a PNG, under a path among the run's artifacts."""
        self._outbox.put(Operation("artifact", {"path": artifact}, data))

    def log_model(
        self,
        directory: str | Path,
        *,
        signature: SignatureLike,
        sample: Sequence[Mapping[str, Any]],
        requirements: Sequence[str] = (),
    ) -> None:
        """Store a local model directory as an MLflow model that scores raw rows.

        See `write_mlflow_model`.
        """
        if not self.wants_model:
            return
        folder = StagedFolder(MODEL_NAME)
        with one_line(self._uri):
            files = ModelFiles(Path(directory), signature, sample, requirements)
            write_mlflow_model(Path(folder), files, run_id=self.id)
        self._outbox.put(model_operation(folder), wait=True)

    def end(self, status: str, console: Path, error: BaseException | None = None) -> None:
        """Send what is left and set the end state.

        Args:
            status: ``"FINISHED"``, ``"FAILED"`` or ``"KILLED"``.
            console: The file with the console's lines.
            error: What ended the run, None where it came to its end by itself.

        Raises:
            TrackingError: What a finished run told last is refused. After an error it is only
                logged: the first error is the one to show.
        """
        # Whoever stops a run may have little patience.
        hurry = error is not None
        try:
            failures = self._tell_end(status, console, error)
        except BaseException:
            if self.ended:
                self._outbox.close(hurry=True)
            raise
        left = self._outbox.close(hurry=hurry)
        failures += self._outbox.take_refusals()
        if left and self._outbox.folder is None:
            _logger.warning("Not all of this run was sent: %d entries are lost.", left)
        elif left:
            _logger.warning(
                "Not all of this run was sent: %d of its entries wait in %s. Send them by "
                "'python -m entrypoints.sync'; a later run tries it, too.",
                left,
                self._outbox.folder,
            )
        if error is None and failures:
            raise failures[0]
        for failure in failures:
            _logger.warning("%s", failure)

    def _tell_end(
        self, status: str, console: Path, error: BaseException | None
    ) -> list[TrackingError]:
        """Put all that belongs to the end; returns what was refused of it."""
        failures: list[TrackingError] = []

        def attempt(step: Callable[[], None]) -> None:
            try:
                step()
            except TrackingError as failure:
                failures.append(failure)

        log = self._own(CONSOLE_LOG)
        if error is not None:
            # The state comes first: there may be no time for more.
            attempt(lambda: self._put_end(status, hurry=True))
            text = redact(f"{type(error).__name__}: {error}", self._secrets)[:_ERROR_LENGTH]
            attempt(lambda: self.log_tags({ERROR_TAG: text}))
        else:
            attempt(self.flush)
        attempt(lambda: self.log_text(console.read_text(encoding="utf-8"), log))
        if error is None:
            attempt(self.flush)
            if self._local_id is not None:
                # Late, so that all that is to be removed is there.
                self._outbox.put(Operation("once", {"local_id": self._local_id}))
            # It can't come to a good end if anything at all was refused.
            failures += self._outbox.take_refusals()
            attempt(lambda: self._put_end("FAILED" if failures else status))
        return failures

    def flush(self) -> None:
        """Wait until all that this run was told is sent, or kept where that does not work.

        Raises:
            TrackingError: Something is refused.
        """
        self._outbox.flush()

    def _own(self, artifact: str) -> str:
        """Name a file so that it does not take the place of one of an earlier session."""
        stem, ending = posixpath.splitext(artifact)
        return artifact if self._session == 1 else f"{stem}_{self._session}{ending}"

    def _put_end(self, status: str, *, hurry: bool = False) -> None:
        # Whoever is stopped while this waits for its answer has told it all the same.
        self.ended = True
        end_time = int(time.time() * 1000)
        operation = Operation("end", {"status": status, "end_time": end_time})
        self._outbox.put(operation, wait=True, hurry=hurry)


def plain_tags(tags: Mapping[str, Any], secrets: set[str]) -> dict[str, str]:
    """Put tags in text that MLflow takes: None left out, secrets hidden, long ones cut."""
    return {
        key: redact(str(value), secrets)[:_TAG_LENGTH]
        for key, value in tags.items()
        if value is not None
    }


@functools.lru_cache(maxsize=10_000)
def _metric_name(key: str) -> str:
    """Put a metric's name in characters that MLflow takes."""
    return re.sub(r"[^\w\-. :/]", "_", key)[:KEY_LENGTH]


def _batches(rows: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
