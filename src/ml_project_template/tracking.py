"""Runs, metrics and models on MLflow: the only place that imports it.

A run is a context whose end state is true whatever happens inside::

    with MLflowTracker().start_run(experiment_name="iris") as run:
        run.log_params({"model.dropout": 0.1})
        run.log_metrics({"val_loss": 0.2}, step=1)
        run.log_model(".models/iris", signature=signature, sample=rows)

It works by MLflow's client alone, never by its fluent interface, so nothing global is left behind:
no active run, no tracking address. MLflow is imported when the first run starts: about 2.5 seconds.
"""

from __future__ import annotations

import atexit
import contextlib
import getpass
import importlib
import importlib.metadata
import json
import logging
import os
import posixpath
import random
import re
import shutil
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.runs import (
    DisabledTracker,
    OpenRun,
    Run,
    RunReporter,
    SignatureLike,
    Tracker,
)
from ml_project_template.tracking_address import (
    DEFAULT_URI,
    build_once,
    check_reachable,
    sqlite_path,
    tracking_uri,
)
from ml_project_template.utils.console import captured_log
from ml_project_template.utils.git import git_state
from ml_project_template.utils.secrets import find_secrets, public_url, redact
from ml_project_template.utils.signals import Terminated, stopping_by_exception, was_stopped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

__all__ = [
    "CONSOLE_LOG",
    "DEFAULT_URI",
    "LONG_PARAMS",
    "DisabledTracker",
    "MLflowRun",
    "MLflowTracker",
    "OpenRun",
    "Run",
    "RunReporter",
    "Terminated",
    "Tracker",
    "check_reachable",
    "download_model",
    "tracking_uri",
    "warm_up",
]

CONSOLE_LOG = "logs/console.log"
LONG_PARAMS = "params_long.json"
PARENT_TAG = "mlflow.parentRunId"
MODEL_NAME = "model"
LOADER_MODULE = "ml_project_template.predictor"

# MLflow's own limits (mlflow.utils.validation): more than this in one request is refused.
_PARAMS_PER_BATCH = 100
_METRICS_PER_BATCH = 1000
_PARAM_LENGTH = 6000
_KEY_LENGTH = 250
_TAG_LENGTH = 8000
_DIGEST_LENGTH = 36
_ERROR_TAG = "error"
_ERROR_LENGTH = 500

_INPUT_ATTEMPTS = 5
_FLUSH_SECONDS = 1.0
_RETRY_SECONDS = 30.0

_ENVIRONMENT = {
    # A server that went away is noticed within a minute, not after MLflow's own quarter of an hour.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    # The console shows our lines only.
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_PRINT_MODEL_URLS_ON_CREATION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    # A model holds what loading it needs, not the lock file of the folder it was trained in.
    "MLFLOW_UV_AUTO_DETECT": "false",
    # A training sends nothing to anybody but the tracking server.
    "MLFLOW_DISABLE_TELEMETRY": "true",
}

_logger = logging.getLogger(__name__)
_import_lock = threading.Lock()


class MLflowTracker(Tracker):
    """Keeps runs on MLflow.

    Args:
        uri: A database (``sqlite:///mlflow.db``) or a server (``http://...``). None takes
            ``MLFLOW_TRACKING_URI``, and ``sqlite:///mlflow.db`` where that is unset.
        parent_run_id: The run this tracker's runs stand under, for sweeps.
        tags: Tags that every run gets.
        log_plots: False leaves plots out.
        log_models: False keeps the models out of the tracking store; runs are kept all the same.
    """

    def __init__(
        self,
        uri: str | None = None,
        *,
        parent_run_id: str | None = None,
        tags: Mapping[str, Any] | None = None,
        log_plots: bool = True,
        log_models: bool = True,
    ) -> None:
        self.uri = uri
        self.parent_run_id = parent_run_id
        self.tags = tags
        self.log_plots = log_plots
        self.log_models = log_models

    @contextlib.contextmanager
    def start_run(self, *, experiment_name: str, run_name: str | None = None) -> Iterator[Run]:
        """Open a run, keep the console's lines, and set its end state on the way out.

        The state is FINISHED; FAILED with the error as a tag where an exception leaves the block;
        KILLED on Ctrl-C, SIGTERM and SIGHUP. What left the block is always raised again.

        Raises:
            TrackingError: The server or database can't be used.
        """
        with self._client() as (client, uri, secrets):
            experiment_id = _experiment(client, experiment_name, uri)
            tags = _origin() | dict(self.tags or {})
            if self.parent_run_id is not None:
                tags[PARENT_TAG] = self.parent_run_id
            with _own_randomness():
                created = client.create_run(
                    experiment_id, tags=_plain_tags(tags, secrets), run_name=run_name
                )
        with self._running(client, created.info.run_id, experiment_id, uri, secrets) as run:
            yield run

    @contextlib.contextmanager
    def continue_run(self, run_id: str) -> Iterator[Run]:
        """Go on with a run that was opened before, by this process or another one.

        It is RUNNING again meanwhile, and ends as one of `start_run` does. The console's lines of
        each session are kept: ``logs/console.log``, ``logs/console_2.log``.

        Raises:
            TrackingError: There is no such run, or the server or database can't be used.
        """
        with self._client() as (client, uri, secrets):
            before = client.get_run(run_id)
            if _ERROR_TAG in before.data.tags:
                # Of the end that it does not have any more.
                client.delete_tag(run_id, _ERROR_TAG)
            sessions = len(client.list_artifacts(run_id, posixpath.dirname(CONSOLE_LOG)))
            client.update_run(run_id, status="RUNNING")
        with self._running(
            client, run_id, before.info.experiment_id, uri, secrets, session=sessions + 1
        ) as run:
            yield run

    def below(
        self,
        run: Run,
        *,
        tags: Mapping[str, Any] | None = None,
        log_plots: bool = True,
        log_models: bool = True,
    ) -> MLflowTracker:
        """Give a tracker in the same place, whose runs stand under a run; see `Tracker.below`."""
        return MLflowTracker(
            self.uri,
            parent_run_id=run.id,
            tags={**(self.tags or {}), **(tags or {})},
            log_plots=self.log_plots and log_plots,
            log_models=self.log_models and log_models,
        )

    def find_run(self, experiment_name: str, tags: Mapping[str, str]) -> str | None:
        """Find the newest run of an experiment with these tags.

        Args:
            experiment_name: The experiment.
            tags: Tag to value.

        Returns:
            Its id; None if there is none.

        Raises:
            TrackingError: The server or database can't be used.
        """
        with self._client() as (client, _, _):
            experiment = client.get_experiment_by_name(experiment_name)
            if experiment is None:
                return None
            quoted = {key: f'"{v}"' if "'" in v else f"'{v}'" for key, v in tags.items()}
            wanted = " and ".join(f"tags.`{key}` = {value}" for key, value in quoted.items())
            found = client.search_runs([experiment.experiment_id], wanted, max_results=1)
            return found[0].info.run_id if found else None

    def final_metrics(self, run_id: str) -> dict[str, float]:
        """Read the last value of each metric of a run, but for the series of its fit.

        Raises:
            TrackingError: There is no such run, or the server or database can't be used.
        """
        with self._client() as (client, _, _):
            metrics = client.get_run(run_id).data.metrics
        return {name: value for name, value in metrics.items() if not name.startswith("epoch/")}

    def open_children(self, run_id: str) -> dict[str, dict[str, str]]:
        """Find the runs below a run that have not ended.

        Args:
            run_id: The parent.

        Returns:
            Run id to tags.

        Raises:
            TrackingError: The server or database can't be used.
        """
        found: dict[str, dict[str, str]] = {}
        with self._client() as (client, _, _):
            experiment_id = client.get_run(run_id).info.experiment_id
            token = None
            while True:
                page = client.search_runs(
                    [experiment_id],
                    f"tags.`{PARENT_TAG}` = '{run_id}' and attributes.status = 'RUNNING'",
                    page_token=token,
                )
                found |= {run.info.run_id: dict(run.data.tags) for run in page}
                token = page.token
                if not token:
                    return found

    def mark_running(self, run_id: str) -> None:
        """Say that others still work on a run that this process has ended.

        Raises:
            TrackingError: The server or database can't be used.
        """
        with self._client() as (client, _, _):
            client.update_run(run_id, status="RUNNING")

    def end_run(self, run_id: str, status: str, tags: Mapping[str, Any] | None = None) -> None:
        """Set the end state of a run whose process is gone.

        Args:
            run_id: The run.
            status: ``"FINISHED"``, ``"FAILED"`` or ``"KILLED"``.
            tags: Tags that tell more.

        Raises:
            TrackingError: The server or database can't be used.
        """
        from mlflow.entities import RunTag

        with self._client() as (client, _, secrets):
            rows = [RunTag(key, text) for key, text in _plain_tags(tags or {}, secrets).items()]
            if rows:
                client.log_batch(run_id, tags=rows)
            client.set_terminated(run_id, status)

    @contextlib.contextmanager
    def _client(self) -> Iterator[tuple[MlflowClient, str, set[str]]]:
        """Reach the store: a client, the address, and the secrets in the address."""
        uri = tracking_uri(self.uri)
        check_reachable(uri)
        with _one_line(uri), _log_level("mlflow", logging.WARNING):
            yield _open(uri), uri, find_secrets({"uri": uri})

    @contextlib.contextmanager
    def _running(
        self,
        client: MlflowClient,
        run_id: str,
        experiment_id: str,
        uri: str,
        secrets: set[str],
        *,
        session: int = 1,
    ) -> Iterator[Run]:
        """Give an open run to a block, and set the end state on the way out."""
        run = MLflowRun(
            client,
            uri=uri,
            run_id=run_id,
            experiment_id=experiment_id,
            secrets=secrets,
            log_plots=self.log_plots,
            log_models=self.log_models,
            session=session,
        )
        with captured_log(secrets) as console, stopping_by_exception():
            closing = False
            try:
                with _log_level("mlflow", logging.WARNING):
                    yield run
                closing = True
                run.end("FINISHED", console)
            except BaseException as error:
                # A signal can also come while a finished run is being closed; a server that does
                # not answer then is not asked once more.
                if not run.ended and not (closing and isinstance(error, TrackingError)):
                    state = _state(error)
                    run.end(state, console, None if state == "FINISHED" else error)
                raise


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
        with _one_line(self._uri):
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

        rows = [RunTag(key, text) for key, text in _plain_tags(tags, self._secrets).items()]
        with _one_line(self._uri):
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
                with _one_line(self._uri):
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
        with tempfile.TemporaryDirectory() as staging, _one_line(self._uri):
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

        with tempfile.TemporaryDirectory() as staging, _one_line(self._uri):
            logged = self._client.create_logged_model(
                self.experiment_id, name=MODEL_NAME, source_run_id=self.id
            )
            try:
                path = Path(staging, MODEL_NAME)
                # It warns of what no user can mend, such as a virtual environment without pip.
                with _log_level("mlflow.utils.environment", logging.ERROR):
                    save_model(
                        path=path,
                        loader_module=LOADER_MODULE,
                        data_path=str(Path(directory).resolve()),
                        signature=_model_signature(signature),
                        input_example=DataFrame([dict(row) for row in sample]),
                        pip_requirements=_pinned(requirements),
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
            tag = {_ERROR_TAG: redact(text, self._secrets)[:_ERROR_LENGTH]}
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
        with _one_line(self._uri):
            while self._metrics:
                batch = self._metrics[:_METRICS_PER_BATCH]
                self._client.log_batch(self.id, metrics=batch)
                del self._metrics[: len(batch)]

    def _own(self, artifact: str) -> str:
        """Name a file so that it does not take the place of one of an earlier session."""
        stem, ending = posixpath.splitext(artifact)
        return artifact if self._session == 1 else f"{stem}_{self._session}{ending}"

    def _terminate(self, status: str) -> None:
        with _one_line(self._uri):
            self._client.set_terminated(self.id, status)
            self.ended = True


def warm_up() -> None:
    """Import what a run on a database needs, without opening one."""
    _import_mlflow()
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")


def download_model(uri: str, store: str | None = None) -> str:
    """Find the model directory inside an MLflow model.

    Args:
        uri: ``runs:/<run id>/model``, ``models:/<name>@<alias>``, ``models:/<name>/<version>`` or
            ``models:/<model id>``.
        store: The tracking address; None as for `tracking_uri`.

    Returns:
        A local path. What had to be downloaded is removed when the process ends.

    Raises:
        TrackingError: There is no such model, or it is none of ours.
    """
    address = tracking_uri(store)
    check_reachable(address)
    with _one_line(address):
        client = _open(address)
        from mlflow.artifacts import download_artifacts
        from mlflow.models import Model

        location = _model_location(client, uri)
        local = Path(urllib.request.url2pathname(urllib.parse.urlsplit(location).path))
        if urllib.parse.urlsplit(location).scheme not in ("", "file"):
            target = tempfile.mkdtemp(prefix="mlflow-model-")
            atexit.register(shutil.rmtree, target, ignore_errors=True)
            local = Path(
                download_artifacts(artifact_uri=location, dst_path=target, tracking_uri=address)
            )
        if not (local / "MLmodel").is_file():
            raise TrackingError(f"'{uri}' holds no MLflow model.")
        flavor = Model.load(str(local)).flavors.get("python_function", {})
    data = (local / str(flavor.get("data"))).resolve()
    if flavor.get("loader_module") != LOADER_MODULE or local.resolve() not in data.parents:
        raise TrackingError(f"'{uri}' is an MLflow model, but none that this project wrote.")
    return str(data)


def _model_location(client: MlflowClient, uri: str) -> str:
    """The address of an MLflow model's files."""
    parts = urllib.parse.urlsplit(uri)
    names = parts.path.strip("/").split("/")
    if parts.scheme == "runs" and len(names) == 2:
        run_id, name = names
        outputs = client.get_run(run_id).outputs
        for output in reversed(outputs.model_outputs if outputs else []):
            logged = client.get_logged_model(output.model_id)
            if logged.name == name:
                return str(logged.artifact_location)
        raise TrackingError(f"Run '{run_id}' has no model '{name}'.")
    if parts.scheme == "models" and len(names) == 1:
        name, _, alias = names[0].partition("@")
        if not alias:
            return str(client.get_logged_model(name).artifact_location)
        version = client.get_model_version_by_alias(name, alias).version
        return _version_location(client, name, version)
    if parts.scheme == "models" and len(names) == 2:
        return _version_location(client, *names)
    raise TrackingError(
        f"'{uri}' names no model. Write runs:/<run id>/model, models:/<name>@<alias> or "
        "models:/<name>/<version>."
    )


def _version_location(client: MlflowClient, name: str, version: str) -> str:
    """The address of a registered version's files; it may be that of a logged model."""
    source = client.get_model_version_download_uri(name, version)
    return _model_location(client, source) if source.startswith(("models:", "runs:")) else source


def _import_mlflow() -> None:
    """Import MLflow with our settings, and without its own warnings about its type hints."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "mlflow.pyfunc" in sys.modules:
        return
    with _import_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("mlflow.pyfunc")


def _open(uri: str) -> MlflowClient:
    """Make the database where it is missing, and give a client."""
    from mlflow import MlflowClient

    path = sqlite_path(uri)
    if path is not None:
        build_once(path, _build_tables)
    return MlflowClient(uri, registry_uri=uri)


def _build_tables(path: Path) -> None:
    """Make MLflow's tables in a fresh SQLite file."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    # Artifacts stand beside the database, wherever it is moved to when it is complete.
    make: Any = SqlAlchemyStore
    make(f"sqlite:///{path}", str(path.parent.parent / "mlruns")).engine.dispose()


def _experiment(client: MlflowClient, name: str, uri: str) -> str:
    """Find or make an experiment and give its id."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        path = sqlite_path(uri)
        location = None
        if path is not None:
            # Beside the database, not in whatever folder the first run was started in.
            folder = re.sub(r"[^\w\-.]+", "_", name).strip(".") or "default"
            location = str(path.parent / "mlruns" / folder)
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:
            # Another process was faster, or there is a real reason, which the next lines show.
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error from None
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"Experiment '{name}' was deleted. Choose another experiment_name, or bring it back "
            f"with: mlflow experiments restore --experiment-id {found.experiment_id}"
        )
    return str(found.experiment_id)


@contextlib.contextmanager
def _one_line(uri: str) -> Iterator[None]:
    """Turn what MLflow and the databases below it raise into one line for the user."""
    _import_mlflow()
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except TrackingError:
        raise
    except (MlflowException, SQLAlchemyError, OSError) as error:
        # What the database itself said is plainer than the statement it said it about.
        cause = getattr(error.__cause__ or error, "orig", None) or error
        lines = str(cause).strip().splitlines() or [type(cause).__name__]
        text = redact(lines[0], find_secrets({"uri": uri}))
        raise TrackingError(f"Tracking at '{public_url(uri)}' failed: {text}") from error


@contextlib.contextmanager
def _own_randomness() -> Iterator[None]:
    """Draw from fresh randomness for the time of a block, and leave Python's generator as it was.

    MLflow draws the names of runs from the generator that trainings seed: without this, all runs of
    one seed would have the same name.
    """
    state = random.getstate()
    random.seed()
    try:
        yield
    finally:
        random.setstate(state)


@contextlib.contextmanager
def _log_level(name: str, least: int) -> Iterator[None]:
    """Silence a logger below a level, for the time of a block."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(max(level, least))
    try:
        yield
    finally:
        logger.setLevel(level)


def _state(error: BaseException) -> str:
    """The end state of a run that an exception left."""
    if was_stopped(error):
        return "KILLED"
    finished = isinstance(error, SystemExit) and error.code in (None, 0)
    return "FINISHED" if finished else "FAILED"


def _origin() -> dict[str, Any]:
    """The tags by which MLflow's page shows who started a run, and with what."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        # A container may run under a number that has no name.
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    state = git_state()
    return {
        "mlflow.user": user,
        "mlflow.source.name": sys.argv[0] if sys.argv else "",
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": state.commit,
        "git_dirty": state.dirty,
    }


def _plain_tags(tags: Mapping[str, Any], secrets: set[str]) -> dict[str, str]:
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


def _model_signature(signature: SignatureLike) -> ModelSignature:
    """The raw columns and the predictions in MLflow's words."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema, TensorSpec

    types = {"float": DataType.double, "int": DataType.long, "bool": DataType.boolean}
    inputs: list[ColSpec | TensorSpec] = [
        ColSpec(types[feature.type], feature.name) for feature in signature.features
    ]
    outputs: list[ColSpec | TensorSpec] = [ColSpec(DataType.string, "prediction")]
    outputs += [ColSpec(DataType.double, f"probability_{name}") for name in signature.class_names]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema(outputs))


def _pinned(names: Sequence[str]) -> list[str]:
    """Requirements at the versions that are installed here."""
    wanted = sorted({"ml-project-template", "mlflow", *names})
    return [f"{name}=={importlib.metadata.version(name)}" for name in wanted]
