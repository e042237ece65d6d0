"""Training a model once more: what it was made with, what is otherwise now, and what came out.

A training keeps what it takes to do it again, on MLflow and in its model directory: the composed
configuration, the digest of the data, library versions, the commit. Here it is read, set beside the
present, and the figures of the second training are set beside those of the first.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal, cast

from pydantic import Field

from ml_project_template import artifacts
from ml_project_template.errors import ConfigError, DataError, ModelError
from ml_project_template.utils.environment import environment_state
from ml_project_template.utils.git import git_state
from ml_project_template.utils.io import read_json
from ml_project_template.utils.names import flatten
from ml_project_template.utils.secrets import public_url

__all__ = [
    "Change",
    "Outcome",
    "Surroundings",
    "TrainingRecord",
    "check_data",
    "compare",
    "demand",
    "read_model_record",
    "read_run_record",
    "recorded_config",
    "surroundings",
]

_FINAL_METRIC = re.compile(r"(train|val|test|cv)_")
_SHOWN_DIGITS = 12

# What a training can't be done without, as entrypoints.train composes it.
_NEEDED = ("data", "model", "preprocessing", "save_model", "seed")
_GROUPS = ("data", "model", "preprocessing")

_CHANGED = ", with changes"


@dataclass(frozen=True)
class TrainingRecord:
    """How a model came about, as far as it was kept.

    Attributes:
        name: What it is called in messages, such as ``run '5d0c'``.
        run_id: Its run; None if it was tracked nowhere.
        config: The composed configuration, its secrets hidden; None if it was trained without one.
        metrics: Its final metrics.
        digest: The SHA-256 of the raw data, or how it begins.
        commit: The commit of the code.
        dirty: Whether files differed from that commit.
        python: The version of Python.
        versions: Library to version.
        platform: Such as ``Linux x86_64``.
        lock: The SHA-256 of ``uv.lock``.
        weights: File of weights to its SHA-256; empty where there is no model.
    """

    name: str
    run_id: str | None
    config: Mapping[str, Any] | None
    metrics: Mapping[str, float]
    digest: str | None = None
    commit: str | None = None
    dirty: bool | None = None
    python: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    platform: str | None = None
    lock: str | None = None
    weights: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Change:
    """What was otherwise when a model was trained.

    Attributes:
        what: Its name, such as ``commit`` or ``numpy``.
        then: What it was.
        now: What it is.
    """

    what: str
    then: str
    now: str


@dataclass(frozen=True)
class Surroundings:
    """What a training depends on besides its configuration, then beside now.

    Attributes:
        changes: What differs.
        unknown: What was not kept, or can't be told now.
    """

    changes: list[Change]
    unknown: list[str]


@dataclass(frozen=True)
class Outcome:
    """The figures of a second training beside those of the first.

    Attributes:
        then: Metric name to value.
        now: The same metrics of the second training; those that it lacks are not there.
        same_weights: Whether the weights are the same to the bit; None where they are not known.
        tolerance: How far two metrics may be apart.
    """

    then: dict[str, float]
    now: dict[str, float]
    same_weights: bool | None
    tolerance: float

    @property
    def distances(self) -> dict[str, float]:
        """How far apart the two values of each metric are."""
        return {
            name: _distance(value, self.now.get(name, math.inf))
            for name, value in self.then.items()
        }

    @property
    def identical(self) -> bool:
        """Whether nothing differs that can be compared."""
        return self.same_weights is not False and not any(self.distances.values())

    @property
    def agrees(self) -> bool:
        """Whether each metric is as close as it has to be."""
        return all(distance <= self.tolerance for distance in self.distances.values())

    @property
    def furthest(self) -> str:
        """The metric whose values are furthest apart."""
        distances = self.distances
        return max(distances, key=lambda name: distances[name])


def read_run_record(run_id: str, uri: str | None = None) -> TrainingRecord:
    """Read how the model of a run came about.

    Args:
        run_id: The run, also that of a trial.
        uri: The tracking address; None as for `tracking_uri`.

    Raises:
        ArtifactError: The run's model is damaged.
        ConfigError: The run is a part of another one, or says nothing that can be compared.
        TrackingError: There is no such run, it has not come to a good end, or the server can't be
            used.
    """
    from ml_project_template.tracking import PARENT_TAG
    from ml_project_template.tracking.records import read_finished_run

    run = read_finished_run(run_id, uri)
    name = f"run '{run.id}'"
    if "fold" in run.tags:
        raise ConfigError(
            f"run: '{run.id}' is a fold of run '{run.tags.get(PARENT_TAG)}': give run=<that one>"
        )
    metrics = {key: value for key, value in run.metrics.items() if _FINAL_METRIC.match(key)}
    if run.model is not None:
        model = read_model_record(run.model)
        return replace(model, name=name, run_id=run.id, metrics=metrics)
    dirty = {"True": True, "False": False}.get(run.tags.get("git_dirty", ""))
    return TrainingRecord(
        name=name,
        run_id=run.id,
        config=run.config,
        metrics=metrics,
        digest=run.digest,
        commit=run.tags.get("mlflow.source.git.commit"),
        dirty=dirty,
    )


def read_model_record(
    path: str, *, storage_options: Mapping[str, Any] | None = None, uri: str | None = None
) -> TrainingRecord:
    """Read how a model came about.

    Args:
        path: A model directory, local or remote, or ``runs:/<run id>/model`` or
            ``models:/<name>@<alias>``.
        storage_options: For a remote directory.
        uri: The tracking address; None as for `tracking_uri`.

    Raises:
        ArtifactError: There is no model directory, or it was damaged.
        TrackingError: The model can't be had from MLflow.
    """
    source = path
    if path.startswith(("runs:/", "models:/")):
        from ml_project_template.tracking import download_model

        source, storage_options = download_model(path, uri), None
    with artifacts.open_model_directory(source, storage_options=storage_options) as directory:
        metadata = _mapping(read_json(str(directory / artifacts.METADATA)))
        files = _mapping(read_json(str(directory / artifacts.MANIFEST))["files"])
    git, environment = _mapping(metadata.get("git")), _mapping(metadata.get("environment"))
    return TrainingRecord(
        name=f"model '{public_url(path)}'",
        run_id=metadata.get("run_id"),
        config=metadata.get("config"),
        metrics=_mapping(metadata.get("metrics")),
        digest=_mapping(metadata.get("data")).get("digest"),
        commit=git.get("commit"),
        dirty=git.get("dirty"),
        python=metadata.get("python"),
        versions=_mapping(metadata.get("versions")),
        platform=environment.get("platform"),
        lock=environment.get("uv_lock"),
        weights={
            name: entry["sha256"] for name, entry in files.items() if name.startswith("weights.")
        },
    )


def recorded_config(record: TrainingRecord) -> dict[str, Any]:
    """Give the configuration of a training, if another one can be made of it.

    Args:
        record: How the model came about.

    Returns:
        The configuration; some of its values may be hidden.

    Raises:
        ConfigError: There is none, it is none of ``entrypoints.train``, it holds what a
            configuration system would act on, or there is nothing to compare the outcome with.
    """
    if record.config is None:
        raise ConfigError(
            f"There is no configuration of {record.name} to train by: it was not trained by "
            "entrypoints.train, or it is the mean of several trainings."
        )
    config = _mapping(record.config)
    missing = [
        key
        for key in _NEEDED
        if key not in config or (key in _GROUPS and not isinstance(config[key], Mapping))
    ]
    if missing:
        raise ConfigError(
            f"The configuration of {record.name} lacks {', '.join(missing)}: it is none of "
            "entrypoints.train."
        )
    for key, value in flatten(config).items():
        if "${" in str(value):
            # It was resolved when it was recorded: what stands here now, somebody has put here.
            raise ConfigError(f"The configuration of {record.name} has '${{' in {key}: not read.")
    if not record.metrics:
        raise ConfigError(
            f"There are no final metrics of {record.name} to compare with: it was ended early, or "
            "it is no training."
        )
    return dict(config)


def check_data(
    record: TrainingRecord,
    digest: str,
    *,
    path: str,
    on_changed_data: Literal["refuse", "allow"] = "refuse",
) -> None:
    """See that the raw data are those of the training.

    Args:
        record: How the model came about.
        digest: The SHA-256 of the raw file of now.
        path: Where it lies, for the message.
        on_changed_data: Whether other data will do.

    Raises:
        DataError: They will not.
    """
    if on_changed_data == "refuse" and not _same_digest(record.digest, digest):
        raise DataError(
            f"data.path: '{public_url(path)}' is not what it was for {record.name} (SHA-256 "
            f"{_short(digest)}, it was {_short(str(record.digest))}): its rows are others. "
            "on_changed_data=allow trains on them all the same."
        )


def surroundings(record: TrainingRecord, *, digest: str) -> Surroundings:
    """Set what a training depends on beside what it is now.

    Args:
        record: How the model came about.
        digest: The SHA-256 of the raw file of now.
    """
    git, environment = git_state(), environment_state()
    then_and_now = {
        "commit": (_code(record.commit, record.dirty), _code(git.commit, git.dirty)),
        "python": (record.python, platform.python_version()),
        **{name: (version, _installed(name)) for name, version in record.versions.items()},
        "platform": (record.platform, environment["platform"]),
        "uv.lock": (
            None if record.lock is None else _short(record.lock),
            None if environment["uv_lock"] is None else _short(environment["uv_lock"]),
        ),
    }
    unknown = [name for name, (then, now) in then_and_now.items() if then is None or now is None]
    changes = [
        Change(name, then, now)
        for name, (then, now) in then_and_now.items()
        # Two times "with changes" need not be the same changes.
        if then is not None and now is not None and (then != now or _CHANGED in then)
    ]
    if not record.versions:
        unknown.append("libraries")
    if record.digest is None:
        unknown.append("data")
    elif not _same_digest(record.digest, digest):
        changes.append(Change("data", _short(record.digest), _short(digest)))
    return Surroundings(changes, unknown)


def compare(
    record: TrainingRecord,
    metrics: Mapping[str, float],
    weights: Mapping[str, str],
    *,
    tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1e-6,
) -> Outcome:
    """Set the figures of a second training beside those of the first.

    Args:
        record: How the first model came about.
        metrics: The final metrics of the second. Those that the first lacks are of no account.
        weights: Its files of weights and their SHA-256.
        tolerance: How far two metrics may be apart.
    """
    return Outcome(
        then=dict(record.metrics),
        now={name: metrics[name] for name in record.metrics if name in metrics},
        same_weights=record.weights == weights if record.weights else None,
        tolerance=tolerance,
    )


def demand(outcome: Outcome, record: TrainingRecord, found: Surroundings) -> None:
    """Refuse a second training that has come out otherwise, and say what may be the reason.

    Args:
        outcome: What `compare` gave.
        record: How the first model came about.
        found: What `surroundings` gave.

    Raises:
        ModelError: A metric is further apart than the tolerance.
    """
    if outcome.agrees:
        return
    reasons = [change.what for change in found.changes]
    if record.config is not None and record.config.get("seed") is None:
        reasons.insert(0, "seed=null, which draws anew each time")
    why = (
        f"What may explain it: {', '.join(reasons)}."
        if reasons
        else "Nothing that was kept differs: the hardware, its threads or what was not kept does."
    )
    far = sum(distance > outcome.tolerance for distance in outcome.distances.values())
    raise ModelError(
        f"{record.name} is not reproduced: {far} of {len(outcome.then)} metrics differ by more "
        f"than tolerance={outcome.tolerance:g}, {outcome.furthest} most. {why}"
    )


def _code(commit: str | None, dirty: bool | None) -> str | None:
    return None if commit is None else f"{_short(commit)}{_CHANGED if dirty else ''}"


def _installed(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _same_digest(then: str | None, now: str) -> bool:
    """Compare two digests; MLflow keeps the beginning of one alone."""
    return then is None or now.startswith(then)


def _short(digest: str) -> str:
    return digest[:_SHOWN_DIGITS]


def _distance(then: float, now: float) -> float:
    if then == now or (math.isnan(then) and math.isnan(now)):
        return 0.0
    distance = abs(now - then)
    return math.inf if math.isnan(distance) else distance


def _mapping(value: Any) -> Mapping[str, Any]:
    """Read what should be a mapping out of a file."""
    return cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {}
