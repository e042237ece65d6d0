"""Train a model on a table, track the run and save a model directory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, plain, run
from entrypoints._summary import training_summary
from entrypoints._targets import build
from entrypoints.check import argument_problems
from entrypoints.onboard import storage_options
from entrypoints.preprocess import preprocess
from ml_project_template.errors import ConfigError

if TYPE_CHECKING:
    from ml_project_template.models.base import TrainingReport
    from ml_project_template.runs import Tracker


def train(cfg: DictConfig) -> TrainingReport:
    """Train ``cfg.model`` on ``cfg.data``; stages before it are run if they are missing.

    Args:
        cfg: The configuration, see ``conf/train.yaml``.

    Returns:
        The metrics, and where the model and the run are.

    Raises:
        ConfigError: A setting that is wrong, before anything is done.
        DataError: The table can't be used as it is.
    """
    from ml_project_template.models.base import BaseModel

    problems = argument_problems(cfg)
    if problems:
        raise ConfigError("\n".join(problems))
    # The data first: what is wrong with them is told before a framework is imported.
    data = preprocess(cfg)
    model = build(cfg.model, BaseModel, where="model")  # type: ignore[type-abstract]
    return model.train(
        experiment_name=cfg.experiment_name,
        run_name=cfg.run_name,
        train_data=data.train,
        val_data=data.val,
        test_data=data.test,
        model_path=cfg.model_path,
        save_model=cfg.save_model,
        seed=cfg.seed,
        tracking=_tracker(cfg),
        config=plain(cfg),
        storage_options=storage_options(cfg),
        **(plain(cfg.get("training")) or {}),
    )


def _tracker(cfg: DictConfig) -> Tracker:
    from ml_project_template.tracking import DisabledTracker, MLflowTracker

    return MLflowTracker(cfg.tracking.uri) if cfg.tracking.enabled else DisabledTracker()


@entrypoint("train")
def main(cfg: DictConfig) -> float | None:
    """Run the stage from the command line; Hydra's sweepers get the validation loss."""
    report = train(cfg)
    print(training_summary(report, cfg))
    return report.metrics.get("val_loss")


if __name__ == "__main__":
    run(main)
