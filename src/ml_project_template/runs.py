"""What a training tells of itself: the interface of a run and of whatever keeps runs.

The pair that keeps nothing stands here too, so that a training without tracking imports no MLflow.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from ml_project_template.errors import TrackingError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

__all__ = [
    "DisabledTracker",
    "FeatureLike",
    "OpenRun",
    "Run",
    "RunReporter",
    "SignatureLike",
    "Tracker",
]


class FeatureLike(Protocol):
    """One raw input column: its name and ``"float"``, ``"int"`` or ``"bool"``."""

    @property
    def name(self) -> str:
        """The column's name."""
        ...

    @property
    def type(self) -> str:
        """The column's type."""
        ...


class SignatureLike(Protocol):
    """The raw columns a model takes and the classes it tells apart."""

    @property
    def features(self) -> Sequence[FeatureLike]:
        """The raw columns, in order."""
        ...

    @property
    def class_names(self) -> Sequence[str]:
        """The classes, in order."""
        ...


class Run:
    """One training, as the tracker sees it. This one is kept nowhere; a tracker's own keeps it.

    Nobody waits for what a run is told to be sent: it is on its way when a method returns. What is
    refused is raised by whatever is called next, by `flush` at the latest.

    Attributes:
        id: The run's id, None where nothing is tracked.
        experiment_id: The id of its experiment, None where nothing is tracked.
        wants_plots: Whether plots are worth drawing for it.
        wants_model: Whether it keeps a copy of the model.
    """

    id: str | None = None
    experiment_id: str | None = None
    wants_plots: bool = False
    wants_model: bool = False

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log flat parameters; a long value is kept whole in ``params_long.json``."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log metrics, of one step where `step` is given; sent about once a second."""

    def flush(self) -> None:
        """Wait until all that was told is sent, or kept where that does not work."""

    def log_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags; None values are left out."""

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

        Args:
            name: The data set's name.
            digest: SHA-256 of the file it came from; its first 36 characters are kept.
            source: The path or address it came from.
            context: What it was used for: ``"train"``, ``"val"`` or ``"test"``.
            schema: What describes its columns, as plain JSON.
            profile: What describes its size, as plain JSON.
        """

    def log_text(self, text: str, artifact: str) -> None:
        """Store a text under a path among the run's artifacts; secrets are hidden."""

    def log_bytes(self, data: bytes, artifact: str) -> None:
        """Store bytes, such as a PNG, under a path among the run's artifacts."""

    def log_model(
        self,
        directory: str | Path,
        *,
        signature: SignatureLike,
        sample: Sequence[Mapping[str, Any]],
        requirements: Sequence[str] = (),
    ) -> None:
        """Store a local model directory as an MLflow model that scores raw rows.

        Args:
            directory: The model directory, on this machine.
            signature: The raw columns and the class names.
            sample: Some raw rows, shown as the input example.
            requirements: Names of installed packages that loading needs, besides this one
                (``"torch"``); each is pinned to the version installed here.
        """


class Tracker(ABC):
    """Where runs are kept."""

    @abstractmethod
    def start_run(
        self, *, experiment_name: str, run_name: str | None = None
    ) -> AbstractContextManager[Run]:
        """Open a run for the time of a ``with`` block.

        Args:
            experiment_name: The experiment; made where it is not there yet.
            run_name: The run's name; None lets the tracker find one.
        """

    def continue_run(self, run_id: str) -> AbstractContextManager[Run]:
        """Go on with a run that was opened before, for the time of a ``with`` block.

        Args:
            run_id: The run's id.

        Raises:
            TrackingError: This tracker can't.
        """
        raise TrackingError(f"A {type(self).__qualname__} can't go on with run '{run_id}'.")

    def last_step(self, run_id: str, metric: str) -> int:  # noqa: ARG002
        """Find the last step of a metric of a run that is kept; 0 if there is none.

        Args:
            run_id: The run.
            metric: The metric's name.
        """
        return 0

    @abstractmethod
    def below(
        self,
        run: Run,
        *,
        tags: Mapping[str, Any] | None = None,
        log_plots: bool = True,
        log_models: bool = True,
    ) -> Tracker:
        """Give a tracker in the same place, whose runs stand under a run of this one.

        Args:
            run: The parent of the runs.
            tags: Tags that each of them gets.
            log_plots: False leaves plots out.
            log_models: False leaves copies of the models out.
        """


class OpenRun(Tracker):
    """Has a training log to a run that is open already; whoever opened it ends it.

    Args:
        run: The run.
        tracker: Where it is kept.
    """

    def __init__(self, run: Run, tracker: Tracker) -> None:
        self._run = run
        self._tracker = tracker

    @contextlib.contextmanager
    def start_run(
        self,
        *,
        experiment_name: str,  # noqa: ARG002 - the run has its names already
        run_name: str | None = None,  # noqa: ARG002
    ) -> Iterator[Run]:
        """Give the open run."""
        yield self._run

    @contextlib.contextmanager
    def continue_run(self, run_id: str) -> Iterator[Run]:  # noqa: ARG002
        """Give the open run."""
        yield self._run

    def below(
        self,
        run: Run,
        *,
        tags: Mapping[str, Any] | None = None,
        log_plots: bool = True,
        log_models: bool = True,
    ) -> Tracker:
        """Give a tracker of runs under a run; see `Tracker.below`."""
        return self._tracker.below(run, tags=tags, log_plots=log_plots, log_models=log_models)


class DisabledTracker(Tracker):
    """Keeps nothing: imports no MLflow and writes no file."""

    @contextlib.contextmanager
    def start_run(
        self,
        *,
        experiment_name: str,  # noqa: ARG002 - the name is the interface's
        run_name: str | None = None,  # noqa: ARG002
    ) -> Iterator[Run]:
        """Give a run that is kept nowhere."""
        yield Run()

    @contextlib.contextmanager
    def continue_run(self, run_id: str) -> Iterator[Run]:  # noqa: ARG002
        """Give a run that is kept nowhere."""
        yield Run()

    def below(
        self,
        run: Run,  # noqa: ARG002 - the names are the interface's
        *,
        tags: Mapping[str, Any] | None = None,  # noqa: ARG002
        log_plots: bool = True,  # noqa: ARG002
        log_models: bool = True,  # noqa: ARG002
    ) -> Tracker:
        """Keep nothing below it either."""
        return self


class RunReporter:
    """Sends what a fit reports to a run, as the series ``epoch/<name>``.

    Args:
        run: The run.
        after: The last step that the run has already.
    """

    def __init__(self, run: Run, after: int = 0) -> None:
        self.run = run
        self._after = after

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        total: int | None = None,  # noqa: ARG002 - the name is the interface's
    ) -> None:
        """Log the metrics of one step.

        Args:
            step: The epoch or boosting stage.
            metrics: Its values by name, such as ``val_loss``.
            total: How many steps there will be; of no use here.
        """
        if step <= self._after:
            return
        self.run.log_metrics({f"epoch/{name}": value for name, value in metrics.items()}, step)
