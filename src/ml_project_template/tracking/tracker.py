"""Where runs are kept on MLflow: opened, continued, found and ended."""

from __future__ import annotations

import contextlib
import getpass
import os
import posixpath
import sys
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ml_project_template.errors import TrackingError
from ml_project_template.runs import Run, Tracker
from ml_project_template.tracking.client import (
    OutageError,
    find_experiment,
    own_randomness,
    quiet,
    reached,
)
from ml_project_template.tracking.finding import LOCAL_ID_TAG, existing_run, pages, tagged
from ml_project_template.tracking.operations import (
    PARENT_TAG,
    SESSION_TAG,
    Opening,
    RunAddress,
    Sender,
    make_run,
)
from ml_project_template.tracking.outbox import Outbox, is_known_away, remember_away
from ml_project_template.tracking.reaping import (
    PROCESS_TAG,
    REAPED_TAG,
    process_tag,
    reaping,
)
from ml_project_template.tracking.replay import sending_journals
from ml_project_template.tracking.run import CONSOLE_LOG, ERROR_TAG, MLflowRun, plain_tags
from ml_project_template.tracking_address import (
    UNSENT_RUNS,
    UnreachableError,
    sqlite_path,
    tracking_uri,
)
from ml_project_template.utils.console import captured_log
from ml_project_template.utils.git import git_state
from ml_project_template.utils.secrets import find_secrets, public_url
from ml_project_template.utils.signals import stopping_by_exception, stopping_later, was_stopped

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from mlflow import MlflowClient

__all__ = ["PARENT_TAG", "MLflowTracker"]


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

        A run whose server goes away while it is made, or one below another run whose server is
        away, is made later; it has a local id until then.

        Raises:
            TrackingError: The server or database can't be used.
        """
        with quiet(), contextlib.ExitStack() as stack:
            local_id = uuid.uuid4().hex
            tags = _origin() | {PROCESS_TAG: process_tag()} | dict(self.tags or {})
            if self.parent_run_id is not None:
                tags |= {PARENT_TAG: self.parent_run_id}
            if self.parent_run_id is not None or sqlite_path(tracking_uri(self.uri)) is None:
                # By it a run is found that a server has made, though its answer did not come.
                tags |= {LOCAL_ID_TAG: local_id}
            now = int(time.time() * 1000)
            shown = public_url(tracking_uri(self.uri))
            secrets = find_secrets({"uri": tracking_uri(self.uri)})
            opening = Opening(experiment_name, run_name, plain_tags(tags, secrets), now)
            try:
                if self.parent_run_id is not None and is_known_away(shown):
                    raise UnreachableError(f"The tracking server '{shown}' is away.")
                with self._client() as (client, uri, _):
                    experiment_id = find_experiment(client, experiment_name, uri)
                    # Nobody else would end a run whose making was cut off before it is known here.
                    with stopping_later():
                        with own_randomness():
                            created, unsure = make_run(client, experiment_id, opening, uri)
                        address = RunAddress(shown, created.info.run_id, experiment_id)
                        where = created.info.artifact_uri
                        run = stack.enter_context(
                            self._running(
                                address, uri, secrets, client, where, local_id if unsure else None
                            )
                        )
            except UnreachableError as error:
                if self.parent_run_id is None and not isinstance(error, OutageError):
                    raise
                # Its server was there a moment ago, or when the run above was opened: this one is
                # made later.
                if not is_known_away(shown):
                    remember_away(shown)
                uri = tracking_uri(self.uri)
                opening = replace(opening, run_name=run_name or f"run {local_id[:8]}")
                address = RunAddress(shown, local_id, "", opening=opening)
                run = stack.enter_context(self._running(address, uri, secrets, local_id=local_id))
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
            before = existing_run(client, run_id, uri)
            # It may have been known here by a local id.
            run_id = before.info.run_id
            if ERROR_TAG in before.data.tags:
                # Of the end that it does not have any more.
                client.delete_tag(run_id, ERROR_TAG)
            logs = len(client.list_artifacts(run_id, posixpath.dirname(CONSOLE_LOG)))
            # What an earlier session could not send yet has its number, too.
            session = max(logs, int(before.data.tags.get(SESSION_TAG, 1))) + 1
            client.set_tag(run_id, SESSION_TAG, str(session))
            client.set_tag(run_id, PROCESS_TAG, process_tag())
            client.update_run(run_id, status="RUNNING")
        address = RunAddress(public_url(uri), run_id, before.info.experiment_id, session)
        where = before.info.artifact_uri
        with quiet(), self._running(address, uri, secrets, client, where) as run:
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
            where = [experiment.experiment_id]
            found = client.search_runs(where, tagged(tags), max_results=1)
            return found[0].info.run_id if found else None

    def last_step(self, run_id: str, metric: str) -> int:
        """Find the last step of a metric of a run that is kept; 0 if there is none.

        Raises:
            TrackingError: The server or database can't be used.
        """
        with self._client() as (client, uri, _):
            found = existing_run(client, run_id, uri).info.run_id
            history = client.get_metric_history(found, metric)
        return max((point.step for point in history), default=0)

    def final_metrics(self, run_id: str) -> dict[str, float]:
        """Read the last value of each metric of a run, but for the series of its fit.

        Raises:
            TrackingError: There is no such run, or the server or database can't be used.
        """
        with self._client() as (client, _, _):
            metrics = client.get_run(run_id).data.metrics
        return {name: value for name, value in metrics.items() if not name.startswith("epoch/")}

    def open_children(self, run_id: str) -> dict[str, dict[str, str]]:
        """Find the runs below a run that have not ended, or were ended for a process that is gone.

        Args:
            run_id: The parent.

        Returns:
            Run id to tags.

        Raises:
            TrackingError: The server or database can't be used.
        """
        with self._client() as (client, _, _):
            experiment_ids = [client.get_run(run_id).info.experiment_id]
            below = tagged({PARENT_TAG: run_id})
            return {
                run.info.run_id: dict(run.data.tags)
                for how in ("attributes.status = 'RUNNING'", tagged({REAPED_TAG: "true"}))
                for run in pages(
                    client.search_runs,
                    experiment_ids=experiment_ids,
                    filter_string=f"{below} and {how}",
                )
            }

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
            known = {**(tags or {}), REAPED_TAG: "false"}
            rows = [RunTag(key, text) for key, text in plain_tags(known, secrets).items()]
            client.log_batch(run_id, tags=rows)
            client.set_terminated(run_id, status)

    @contextlib.contextmanager
    def _client(self) -> Iterator[tuple[MlflowClient, str, set[str]]]:
        """Reach the store: a client, the address, and the secrets in the address."""
        with reached(self.uri) as (client, uri):
            yield client, uri, find_secrets({"uri": uri})

    def _reaping(self, uri: str, address: RunAddress) -> contextlib.AbstractContextManager[None]:
        """End what others have left RUNNING; once for a sweep, and not where the server is away."""
        if self.parent_run_id is not None or address.opening is not None:
            return contextlib.nullcontext()
        return reaping(uri, address.experiment_id)

    @contextlib.contextmanager
    def _running(
        self,
        address: RunAddress,
        uri: str,
        secrets: set[str],
        client: MlflowClient | None = None,
        artifact_uri: str | None = None,
        local_id: str | None = None,
    ) -> Iterator[Run]:
        """Give an open run to a block, and set the end state on the way out.

        With a local id other runs that bear it, made by attempts to make this one, are removed.
        """
        root = UNSENT_RUNS.absolute()
        run = MLflowRun(
            Outbox(Sender(uri, address, client, artifact_uri), address, root),
            uri=uri,
            run_id=address.run_id,
            experiment_id=address.experiment_id,
            secrets=secrets,
            log_plots=self.log_plots,
            log_models=self.log_models,
            session=address.session,
            local_id=local_id,
        )
        with (
            captured_log(secrets) as console,
            stopping_by_exception(),
            sending_journals(uri, root),
            self._reaping(uri, address),
        ):
            closing = False
            try:
                yield run
                closing = True
                run.end("FINISHED", console)
            except BaseException as error:
                # A signal can also come while a finished run is being closed; what is refused then
                # is not told once more.
                if not run.ended and not (closing and isinstance(error, TrackingError)):
                    state = _state(error)
                    run.end(state, console, None if state == "FINISHED" else error)
                raise


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
