"""Measure a saved model on a split of a table."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from entrypoints._comparison import (
    Comparison,
    check_classes,
    check_comparison,
    compare,
    comparison_table,
)
from entrypoints._shell import entrypoint, plain, run
from entrypoints._summary import metrics_table
from entrypoints.onboard import onboard, storage_options
from entrypoints.preprocess import raw_table
from ml_project_template.errors import ConfigError, ModelError, unknown
from ml_project_template.utils.io import write_json

if TYPE_CHECKING:
    from ml_project_template.data import Signature, TabularDataset
    from ml_project_template.predictor import Predictor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Evaluation:
    """How good a model is on a split.

    Attributes:
        metrics: Metric name to value.
        comparison: The model beside ``cfg.baseline.path``; None without one.
    """

    metrics: dict[str, float]
    comparison: Comparison | None = None


def evaluate(cfg: DictConfig) -> Evaluation:
    """Compute the metrics of ``cfg.model.path`` on the raw rows of a split of ``cfg.data``.

    The rows are split as they were for training, and go through the preprocessing that the model
    brings along, as they do when it is served.

    Args:
        cfg: The configuration, see ``conf/evaluate.yaml``.

    Returns:
        The metrics, and the comparison with a baseline if one is given. Also written to
        ``cfg.output``, if given.

    Raises:
        ArtifactError: A model can't be loaded.
        ConfigError: A gate or a comparison that can't be meant.
        DataError: The table lacks a feature of a model, or has a class unknown to it.
        ModelError: The two models tell apart other classes.
    """
    _check_gate(cfg)
    check_comparison(cfg)
    from ml_project_template.predictor import Predictor

    options = storage_options(cfg)
    predictor = Predictor.load(cfg.model.path, storage_options=options)
    path = cfg.baseline.path
    baseline = None
    if path is not None:
        baseline = Predictor.load(path, storage_options=options)
        check_classes(cfg, predictor, baseline)
    onboard(cfg)
    dataset = _rows(cfg, predictor, "model")
    metrics = predictor.evaluate(dataset)
    log.info("Evaluate: %s on %d rows of %s", cfg.model.path, len(dataset), cfg.data.name)
    written: dict[str, Any] = dict(metrics)
    comparison = None
    if baseline is not None:
        others = _rows(cfg, baseline, "baseline")
        comparison = compare(cfg, (predictor, dataset), (baseline, others))
        log.info("Evaluate: %s is the baseline on the same rows", path)
        written["comparison"] = comparison.to_dict()
    if cfg.output is not None:
        write_json(cfg.output, written, storage_options=options)
    return Evaluation(metrics, comparison)


def as_trained(signature: Signature) -> dict[str, Any]:
    """Say how a table is to be read so that it means the same as for the training.

    Args:
        signature: Of the model.

    Returns:
        Settings of a `RawTable`: what the columns of another table look like is of no account.
    """
    return {
        "task": signature.task,
        "class_names": list(signature.class_names) or None,
        "columns": signature.column_types,
        "only_columns": list(signature.feature_names),
    }


def pass_gate(metrics: Mapping[str, float], cfg: DictConfig) -> str | None:
    """See that a model is as good as ``cfg.gate`` asks.

    Args:
        metrics: Metric name to value.
        cfg: The configuration: ``gate.metric``, ``gate.min``, ``gate.max``, ``split``.

    Returns:
        One line that says so; None without a gate.

    Raises:
        ModelError: It is not.
    """
    gate = cfg.gate
    if gate.metric is None:
        return None
    value = metrics.get(gate.metric, math.nan)
    if math.isnan(value):
        raise ModelError(
            f"gate.metric: {gate.metric} can't be computed on these rows ({cfg.split})"
        )
    told = f"{gate.metric} on {cfg.split} is {value:.6g}"
    if gate.min is not None and value < gate.min:
        raise ModelError(f"Gate: {told}, below gate.min={gate.min}")
    if gate.max is not None and value > gate.max:
        raise ModelError(f"Gate: {told}, above gate.max={gate.max}")
    return f"Gate: {told}, good enough"


def _check_gate(cfg: DictConfig) -> None:
    """See that a gate can be meant, before anything is computed."""
    gate = cfg.gate
    bounds = {key: gate[key] for key in ("min", "max") if gate[key] is not None}
    for key, bound in bounds.items():
        if isinstance(bound, bool) or not isinstance(bound, int | float) or math.isnan(bound):
            raise ConfigError(f"gate.{key}: must be a number, got {bound!r}")
    if gate.metric is None:
        if bounds:
            raise ConfigError(f"gate.metric: is required with gate.{next(iter(bounds))}")
        return
    from ml_project_template.training.metrics import METRICS

    if gate.metric not in METRICS:
        raise ConfigError(f"gate.metric: {unknown('metric', str(gate.metric), METRICS)}")
    if not bounds:
        raise ConfigError("gate.min: is required with gate.metric, or gate.max for a loss")
    if "min" in bounds and "max" in bounds and bounds["min"] > bounds["max"]:
        raise ConfigError(f"gate.min={gate.min} is above gate.max={gate.max}: nothing passes")


def _rows(cfg: DictConfig, predictor: Predictor, what: str) -> TabularDataset:
    """Read the raw rows of the split for a model."""
    dataset = raw_table(cfg, **as_trained(predictor.signature)).split(cfg.split)
    if cfg.split != "all":
        warn_of_other_rows(cfg, predictor.model.metadata, dataset.digest, what)
    return dataset


def warn_of_other_rows(
    cfg: DictConfig, metadata: dict[str, Any], digest: str | None, what: str = "model"
) -> None:
    """Say so when a split is not that of the training: its rows may have been learned from."""
    if metadata.get("data", {}).get("digest") != digest:
        return
    trained = (metadata.get("config") or {}).get("data", {})
    here, was = _split_settings(plain(cfg.data)), _split_settings(trained)
    for key in was:
        if was[key] != here[key]:
            log.warning(
                "data.%s is %s here and was %s when the %s was trained: its training rows may "
                "be among these. Give data.%s=%s for the same split.",
                *(key, here[key], was[key], what, key, was[key]),
            )


def _split_settings(data: Mapping[str, Any]) -> dict[str, Any]:
    """Name what decides which rows are for what, as far as the settings of the data hold it."""
    nested = {f"split.{name}": value for name, value in (data.get("split") or {}).items()}
    keys = ("test_size", "val_size", "random_state")
    return {**{key: data[key] for key in keys if key in data}, **nested}


@entrypoint("evaluate")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    found = evaluate(cfg)
    print()
    if found.comparison is None:
        print(metrics_table({cfg.split: found.metrics}))
    else:
        print(comparison_table(found.metrics, found.comparison))
    passed = pass_gate(found.metrics, cfg)
    if passed:
        print(f"\n{passed}")


if __name__ == "__main__":
    run(main)
