"""Two models on the same rows: is the one better, or is it chance?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from entrypoints._shell import plain
from entrypoints._summary import metrics_table
from ml_project_template.errors import ConfigError, DataError, ModelError
from ml_project_template.utils.arguments import check_arguments

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ml_project_template.data import TabularDataset
    from ml_project_template.predictor import Predictor
    from ml_project_template.training.significance import McNemar, PairedDifference

__all__ = ["Comparison", "check_classes", "check_comparison", "compare", "comparison_table"]


@dataclass(frozen=True)
class Comparison:
    """A model beside a baseline.

    Attributes:
        baseline: The baseline's metrics on the same rows.
        rows: How many rows there are.
        confidence: The part of the resampled differences that an interval holds.
        intervals: The difference, model less baseline, of each metric that is a mean over rows.
        mcnemar: Whether both are right equally often; ``only_first`` is of the model. None for a
            regression.
    """

    baseline: dict[str, float]
    rows: int
    confidence: float
    intervals: dict[str, PairedDifference]
    mcnemar: McNemar | None

    def to_dict(self) -> dict[str, Any]:
        """Give all of it as plain values, to be written as JSON."""
        return asdict(self)

    def told_apart(self) -> list[str]:
        """Name the metrics by which the rows tell the models apart."""
        found = {name: not each.holds_zero for name, each in self.intervals.items()}
        if self.mcnemar is not None:
            # The exact test knows how few rows there are, which the interval does not.
            found["accuracy"] = self.mcnemar.p_value < 1 - self.confidence
        return [name for name, apart in found.items() if apart]


def check_comparison(cfg: DictConfig) -> None:
    """See that ``cfg.baseline`` can be meant, before anything is computed.

    Raises:
        ConfigError: A setting is out of range; all of them are named.
    """
    from ml_project_template.training.significance import paired_difference

    if not isinstance(cfg.baseline, DictConfig):
        raise ConfigError("baseline: holds settings: write baseline.path=<model directory>")
    problems = check_arguments(
        paired_difference, _settings(cfg), where="baseline", ignore=("first", "second")
    )
    if problems:
        raise ConfigError("\n".join(problems))


def check_classes(cfg: DictConfig, predictor: Predictor, baseline: Predictor) -> None:
    """See that a model and a baseline answer the same question.

    Raises:
        ModelError: They do not.
    """
    tasks = (predictor.signature.task, baseline.signature.task)
    if tasks[0] != tasks[1]:
        raise ModelError(
            f"baseline.path: '{cfg.baseline.path}' is for {tasks[1]}, the model for {tasks[0]}"
        )
    if predictor.class_names != baseline.class_names:
        raise ModelError(
            f"baseline.path: '{cfg.baseline.path}' tells apart {', '.join(baseline.class_names)}; "
            f"the model tells apart {', '.join(predictor.class_names)}"
        )


def compare(
    cfg: DictConfig,
    model: tuple[Predictor, TabularDataset],
    baseline: tuple[Predictor, TabularDataset],
) -> Comparison:
    """Compare two models on the rows of a split.

    Args:
        cfg: The configuration: ``baseline``.
        model: The model, and the raw rows as it reads them.
        baseline: The baseline, and the same rows as it reads them.

    Raises:
        DataError: There are too few rows, or the table was changed in between.
    """
    from ml_project_template.training.significance import mcnemar_test, paired_difference

    rows, others = model[1], baseline[1]
    if rows.digest != others.digest or len(rows) != len(others):
        raise DataError(f"data.path: '{cfg.data.path}' was changed while it was read")
    mine, theirs = _values_of_rows(*model), _values_of_rows(*baseline)
    settings = _settings(cfg)
    return Comparison(
        baseline=baseline[0].evaluate(others),
        rows=len(rows),
        confidence=settings["confidence"],
        intervals={
            name: paired_difference(values, theirs[name], **settings)
            for name, values in mine.items()
        },
        mcnemar=mcnemar_test(mine["accuracy"], theirs["accuracy"]) if "accuracy" in mine else None,
    )


def comparison_table(metrics: Mapping[str, float], comparison: Comparison) -> str:
    """Put a model beside its baseline, and say by what they can be told apart.

    Args:
        metrics: The model's metrics.
        comparison: What `compare` gave.

    Returns:
        Lines of text, without a last line break.
    """
    found = comparison
    columns = {
        "model": metrics,
        "baseline": found.baseline,
        "difference": {
            name: value - found.baseline[name]
            for name, value in metrics.items()
            if name in found.baseline
        },
    }
    intervals = [
        f"{name:<10}{each.value:+.4f}, {found.confidence:.0%} interval "
        f"{each.low:+.4f} to {each.high:+.4f}"
        for name, each in found.intervals.items()
    ]
    test = found.mcnemar
    by = found.told_apart()
    not_by = [name for name in found.intervals if name not in by]
    told = f"tell the two apart by {' and '.join(by)}" if by else "do not tell the two apart"
    told += f", not by {' and '.join(not_by)}" if by and not_by else ""
    lines = list(intervals)
    if test is not None:
        lines.append(
            f"{'McNemar':<10}{test.only_first} right by the model alone, {test.only_second} by the "
            f"baseline alone: p = {test.p_value:.4g}"
        )
    lines += [
        f"{'so':<10}these {found.rows} rows {told}",
    ]
    return "\n".join([metrics_table(columns), "", *lines])


def _values_of_rows(predictor: Predictor, rows: TabularDataset) -> dict[str, NDArray[np.float64]]:
    """Give what each row adds to the metrics that are means over rows."""
    from ml_project_template.training.metrics import log_losses

    outputs = predictor.model.answer(predictor.prepare(rows))
    if rows.task == "regression":
        errors = outputs[:, 0] - rows.y
        return {"loss": errors**2, "mae": abs(errors)}
    right = (predictor.signature.decide(outputs) == rows.y).astype(float)
    return {"accuracy": right, "log_loss": log_losses(rows.y, outputs)}


def _settings(cfg: DictConfig) -> dict[str, Any]:
    return {key: value for key, value in plain(cfg.baseline).items() if key != "path"}
