"""Train a model once more as its run did, and see that the same comes out."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from entrypoints._problems import argument_problems
from entrypoints._shell import entrypoint, plain, run
from entrypoints.onboard import onboard, storage_options
from entrypoints.train import train
from ml_project_template.errors import ConfigError
from ml_project_template.utils.arguments import check_arguments
from ml_project_template.utils.io import exists, is_remote, local_path, sha256
from ml_project_template.utils.secrets import hidden_settings

if TYPE_CHECKING:
    from ml_project_template.models.base import TrainingReport
    from ml_project_template.reproduction import Outcome, Surroundings, TrainingRecord

__all__ = ["Reproduction", "reproduce"]

log = logging.getLogger(__name__)

# Where a training reads and writes and how it is tracked is the present command's to say.
_PRESENT = ("storage", "tracking", "model_path")
_NAMES = ("experiment_name", "run_name")


@dataclass(frozen=True)
class Reproduction:
    """A training that was done once more.

    Attributes:
        record: How the first model came about.
        surroundings: What was otherwise then.
        report: What came out of the second training.
        outcome: The figures of both.
    """

    record: TrainingRecord
    surroundings: Surroundings
    report: TrainingReport
    outcome: Outcome


def reproduce(cfg: DictConfig) -> Reproduction:
    """Repeat the training of ``cfg.run`` or ``cfg.model.path`` by the configuration it had.

    Args:
        cfg: The configuration, see ``conf/reproduce.yaml``.

    Returns:
        What was otherwise then, and the figures of both trainings.

    Raises:
        ArtifactError: There is no model directory, or a damaged one.
        ConfigError: A wrong setting, or a configuration that can't be trained by again.
        DataError: The data are not what they were.
        TrackingError: There is no such run, or it has not come to a good end.
    """
    _check_settings(cfg)
    from ml_project_template.reproduction import (
        check_data,
        compare,
        read_model_record,
        recorded_config,
        surroundings,
    )

    options = storage_options(cfg)
    record = _read_record(cfg)
    config = recorded_config(record)
    if cfg.model_path is not None:
        _check_target(cfg, config)
    training = _training_config(cfg, config, record)
    digest = _find_data(cfg, training, record)
    check_data(record, digest, path=training.data.path, on_changed_data=cfg.on_changed_data)
    found = surroundings(record, digest=digest)
    for line in _told(record, found):
        log.info(line)
    problems = argument_problems(training)
    if problems:
        raise ConfigError(
            "\n".join(f"{record.name} does not fit the present code: {line}" for line in problems)
        )
    with tempfile.TemporaryDirectory(prefix="ml-project-reproduce-") as scratch:
        training.model_path = cfg.model_path or str(Path(scratch) / "model")
        # Prepared rows that are there already may be of other code.
        training.storage.data_root = str(Path(scratch) / "data")
        report = train(training)
        weights = read_model_record(training.model_path, storage_options=options).weights
    outcome = compare(record, report.metrics, weights, tolerance=float(cfg.tolerance))
    return Reproduction(record, found, report, outcome)


def _check_settings(cfg: DictConfig) -> None:
    """See that the settings can be meant, before anything is looked for."""
    from ml_project_template.reproduction import check_data, compare

    problems = [
        *check_arguments(
            compare,
            {"tolerance": cfg.tolerance},
            where="",
            ignore=("record", "metrics", "weights"),
        ),
        *check_arguments(
            check_data,
            {"on_changed_data": cfg.on_changed_data},
            where="",
            ignore=("record", "digest", "path"),
        ),
    ]
    if not isinstance(cfg.tracking.enabled, bool):
        problems.append(f".tracking.enabled: must be true or false, got {cfg.tracking.enabled!r}")
    problems += [
        f".{key}: holds settings: write {key}.path=..."
        for key in ("model", "data")
        if not isinstance(cfg[key], DictConfig)
    ]
    if problems:
        raise ConfigError("\n".join(problem.removeprefix(".") for problem in problems))
    if (cfg.run is None) == (cfg.model.path is None):
        raise ConfigError(
            "run: is required: run=<run id>, or model.path=<model directory>"
            if cfg.run is None
            else "run and model.path: give one of the two"
        )


def _read_record(cfg: DictConfig) -> TrainingRecord:
    from ml_project_template.reproduction import read_model_record, read_run_record

    if cfg.run is not None:
        return read_run_record(str(cfg.run), cfg.tracking.uri)
    return read_model_record(
        str(cfg.model.path), storage_options=storage_options(cfg), uri=cfg.tracking.uri
    )


def _check_target(cfg: DictConfig, config: dict[str, Any]) -> None:
    """See that the second model does not take the place of the first."""
    first = [str(path) for path in (cfg.model.path, config.get("model_path")) if path]
    if any(_place(path) == _place(str(cfg.model_path)) for path in first):
        raise ConfigError(
            f"model_path: '{cfg.model_path}' is where the first model lies: give another place"
        )


def _place(path: str) -> str:
    return path.rstrip("/") if is_remote(path) else str(local_path(path).resolve())


def _training_config(cfg: DictConfig, config: dict[str, Any], record: TrainingRecord) -> DictConfig:
    """Make the configuration of the second training: the first's, where it goes apart."""
    tags = {**plain(cfg.tracking.tags), "reproduces": record.run_id}
    if not any(name.startswith("cv_") for name in record.metrics):
        # A model directory says nothing of the folds.
        config["cv"] = None
    config["data"] = dict(config["data"])
    if cfg.data.path is not None:
        config["data"] |= {"path": str(cfg.data.path), "source": None}
    hidden = hidden_settings(
        {
            key: value
            for key, value in config.items()
            if key not in (*_PRESENT, *(() if cfg.tracking.enabled else _NAMES))
        }
    )
    for key in [key for key in hidden if key not in ("data.path", "data.source")]:
        raise ConfigError(
            f"{key}: was hidden when {record.name} was recorded, as it held a secret, and without "
            "it the training is another one"
        )
    if "data.path" in hidden:
        raise ConfigError(
            f"data.path: was hidden when {record.name} was recorded, as it held a secret: give "
            "data.path=<where the raw table is>"
        )
    config |= {"storage": plain(cfg.storage), "tracking": {**plain(cfg.tracking), "tags": tags}}
    return OmegaConf.create(config)


def _find_data(cfg: DictConfig, training: DictConfig, record: TrainingRecord) -> str:
    """Find the raw table, or fetch it as the first training did; gives its SHA-256."""
    data, options = training.data, storage_options(cfg)
    if not exists(data.path, options):
        if data.source is None:
            raise ConfigError(
                f"data.path: there is no file '{data.path}': give data.path=<where the raw table "
                f"of {record.name} is>"
            )
        if hidden_settings({"source": data.source}):
            raise ConfigError(
                f"data.source: was hidden when {record.name} was recorded, as it held a secret: "
                "give data.path=<where the raw table is>"
            )
        onboard(training)
    # From here on it is the file that was looked at, whatever the source holds now.
    data.source = None
    return sha256(data.path, options)


def _told(record: TrainingRecord, found: Surroundings) -> list[str]:
    """Say what was otherwise when the model was trained."""
    if found.changes:
        rows = [(each.what, each.then, each.now) for each in found.changes]
        lines = [f"Reproduce: {record.name}, and what was otherwise then"]
        lines += _columns([("", "then", "now"), *rows])
    else:
        lines = [f"Reproduce: {record.name}, and nothing that was kept is otherwise now"]
    if found.unknown:
        lines.append(f"not known: {', '.join(found.unknown)}")
    return lines


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def _result(done: Reproduction) -> str:
    """Say in how far the same came out."""
    found = done.outcome
    weights = {
        True: "the weights are identical",
        False: "the weights are not the same to the bit",
        None: "there are no weights to compare with",
    }[found.same_weights]
    count = f"{len(found.then)} metrics"
    if found.identical:
        return f"Reproduce: identical: all {count}, to the bit; {weights}"
    if found.agrees:
        distance = found.distances[found.furthest]
        return (
            f"Reproduce: equal within {found.tolerance:g}: {count}, {distance:.2g} apart at most "
            f"({found.furthest}); {weights}"
        )
    rows = [
        (name, f"{found.then[name]:.6g}", _figure(found.now.get(name)), f"{distance:.2g}")
        for name, distance in found.distances.items()
        if distance > 0
    ]
    title = ("", "then", "now", "apart")
    return "\n".join([*_columns([title, *rows]), "", f"Reproduce: other metrics; {weights}"])


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"


@entrypoint("reproduce")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    done = reproduce(cfg)
    print()
    print(_result(done))
    if cfg.model_path is not None:
        print(f"model     {cfg.model_path}")
    if done.report.run_id is not None:
        print(f"run       {done.report.run_id}")
    from ml_project_template.reproduction import demand

    demand(done.outcome, done.record, done.surroundings)


if __name__ == "__main__":
    run(main)
