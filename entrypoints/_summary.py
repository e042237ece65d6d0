"""What a stage prints at its end: figures in columns, and the commands that come next."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig

from entrypoints._composition import own_words

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ml_project_template.models.base import TrainingReport
    from ml_project_template.sweeps.results import SweepResults

__all__ = [
    "best_facts",
    "command",
    "facts",
    "metrics_table",
    "model_commands",
    "terminal_width",
    "training_summary",
    "where_to_look",
]


def metrics_table(metrics: Mapping[str, Mapping[str, float]]) -> str:
    """Put metrics in a table: a row each, a column for each split.

    Args:
        metrics: Split to metric name to value. A metric with ``<name>_std`` beside it is shown
            with its standard deviation.

    Returns:
        Lines of text, without a last line break.
    """
    columns = {
        split: {
            name: _cell(value, values.get(f"{name}_std"))
            for name, value in values.items()
            if not (name.endswith("_std") and name.removesuffix("_std") in values)
        }
        for split, values in metrics.items()
        if values
    }
    names = list(dict.fromkeys(name for cells in columns.values() for name in cells))
    width = max((len(name) for name in names), default=0)
    widths = [
        max(10, len(title) + 2, *(len(cell) + 4 for cell in cells.values()))
        for title, cells in columns.items()
    ]
    titles = zip(columns, widths, strict=True)
    lines = [" " * width + "".join(f"{split:>{wide}}" for split, wide in titles)]
    for name in names:
        cells = zip(columns.values(), widths, strict=True)
        row = "".join(f"{column.get(name, '-'):>{wide}}" for column, wide in cells)
        lines.append(f"{name:<{width}}{row}")
    return "\n".join(lines)


def _cell(value: float, std: float | None) -> str:
    return f"{value:.4f}" if std is None else f"{value:.4f} ± {std:.4f}"


def training_summary(report: TrainingReport, cfg: DictConfig) -> str:
    """Sum a training up: its metrics, where the model and the run are, and what comes next."""
    by_split: dict[str, dict[str, float]] = {}
    for name, value in report.metrics.items():
        split, _, metric = name.partition("_")
        by_split.setdefault(split, {})[metric] = value
    rows = []
    model = report.model_path
    if model is not None:
        rows.append(("model", model))
    elif report.run_id is not None:
        # Not saved to a directory of its own; the tracker has it.
        model = f"runs:/{report.run_id}/model"
    if report.run_id is not None:
        rows.append(("run", f"{report.run_id} (experiment {cfg.experiment_name})"))
        rows += _unsent(report.run_id)
    rows.append(("took", f"{report.seconds:.1f} s"))
    steps = where_to_look(report.run_id, report.experiment_id, cfg)
    if model is not None:
        steps += model_commands(model)
    return "\n".join(["", metrics_table(by_split), "", *facts(rows), "", *facts(steps)])


def _unsent(run_id: str) -> list[tuple[str, str]]:
    """Say where what the tracking server did not take waits, and how it is sent."""
    from ml_project_template.tracking_address import UNSENT_RUNS

    folder = UNSENT_RUNS / run_id
    return [("unsent", f"{folder}: {command(['sync'])}")] if folder.is_dir() else []


def facts(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Put names and what they name in two columns."""
    return [f"{name:<10}{value}" for name, value in rows]


def model_commands(model: str) -> list[tuple[str, str]]:
    """Say how a model is evaluated and served."""
    # Without the folders of the user's own choices they would be unknown.
    own = own_words(HydraConfig.get())
    evaluate = ["evaluate", *own, f"model.path={model}", *_data_overrides()]
    serve = ["serve", f"model.path={model}", *_storage_overrides()]
    return [("evaluate", command(evaluate)), ("serve", command(serve))]


def terminal_width() -> int | None:
    """Say how wide lines may be; None where they go to a file, which loses nothing."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def best_facts(results: SweepResults) -> list[tuple[str, str]]:
    """Say which trial is the best, and by what settings; nothing where none is."""
    best = results.best
    if best is None or best.values is None:
        return []
    metric = results.objectives[0].metric
    rows = [("best", f"trial {best.number}: {metric} {best.values[0]:.4g}")]
    return [*rows, ("with", " ".join(best.overrides))] if best.overrides else rows


def where_to_look(
    run_id: str | None, experiment_id: str | None, cfg: DictConfig
) -> list[tuple[str, str]]:
    """Say where the page of a run is: on the server that keeps it, or on one to be started."""
    if run_id is None:
        return []
    from ml_project_template.tracking_address import DEFAULT_URI, tracking_uri
    from ml_project_template.utils.secrets import public_url

    address = tracking_uri(cfg.tracking.uri)
    page = f"#/experiments/{experiment_id}/runs/{run_id}"
    if address.startswith("http"):
        return [("look", f"{public_url(address).rstrip('/')}/{page}")]
    look = "make mlflow"
    if address != tracking_uri(DEFAULT_URI):
        look += f" MLFLOW_TRACKING_URI={public_url(address)}"
    return [("look", look), ("", f"http://127.0.0.1:5000/{page}")]


def command(words: Sequence[str]) -> str:
    """Write a command as it can be typed here: a stage and its arguments."""
    stage, *overrides = words
    return " ".join([f"{_python()} -m entrypoints.{stage}", *map(shlex.quote, overrides)])


def _python() -> str:
    """Say how to start Python here: by uv, which may be the Makefile's own, or as it is."""
    if shutil.which("uv") is not None:
        return "uv run python"
    if Path(".uv/bin/uv").is_file():
        return ".uv/bin/uv run python"
    return "python"


def _data_overrides() -> list[str]:
    """Repeat the choices that the next stage has to make the same way."""
    runtime = HydraConfig.get()
    choices = runtime.runtime.choices
    given = [text for text in runtime.overrides.task if text.lstrip("+").startswith("data.")]
    given = [_without_credentials(text) for text in given]
    return [f"data={choices['data']}", *_storage_overrides(), *given]


def _without_credentials(override: str) -> str:
    from ml_project_template.utils.secrets import public_url

    key, _, value = override.partition("=")
    return f"{key}={public_url(value)}" if "://" in value else override


def _storage_overrides() -> list[str]:
    runtime = HydraConfig.get()
    choice = runtime.runtime.choices["storage"]
    given = [text for text in runtime.overrides.task if text.startswith("storage.")]
    return [*([f"storage={choice}"] if choice != "local" else []), *given]
