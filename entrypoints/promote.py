"""Have an alias of MLflow's model registry name a run's model, if it is good enough."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, run
from entrypoints.onboard import storage_options
from ml_project_template.errors import ArtifactError, ConfigError
from ml_project_template.utils.arguments import check_arguments

if TYPE_CHECKING:
    from ml_project_template.tracking.registry import Promotion

__all__ = ["promote"]

_RUNS = "runs:/"


def promote(cfg: DictConfig) -> Promotion:
    """Register the model of ``cfg.run`` or ``cfg.model.path`` and move the alias to it.

    Args:
        cfg: The configuration, see ``conf/promote.yaml``.

    Returns:
        The versions before and after.

    Raises:
        ArtifactError: There is no model directory, it is of no run, or no trusted key has signed
            what is to be promoted.
        ConfigError: A wrong setting.
        ModelError: The model is not as good as the present one, or can't be compared with it.
        TrackingError: There is no such run, or it has no model.
    """
    from ml_project_template.signing import trusted_keys
    from ml_project_template.tracking.registry import promote_model
    from ml_project_template.training.metrics import better_direction

    if cfg.tracking.enabled is not True:
        raise ConfigError("tracking.enabled: runs and versions are kept by the tracking server")
    keys = ("name", "alias", "metric", "direction", "tolerance", "on_other_data", "force")
    settings: dict[str, Any] = {key: cfg[key] for key in keys}
    for key in ("name", "alias"):
        # A number is a name as well.
        settings[key] = "" if settings[key] is None else str(settings[key])
    if settings["direction"] is None:
        settings["direction"] = better_direction(str(cfg.metric))
    problems = check_arguments(promote_model, settings, where="", ignore=("run_id", "uri"))
    if problems:
        raise ConfigError("\n".join(problem.removeprefix(".") for problem in problems))
    if trusted_keys():
        settings["check"] = functools.partial(_check_signature, cfg.tracking.uri)
    path = cfg.model.path
    if (cfg.run is None) == (path is None):
        raise ConfigError(
            "run: is required: run=<run id>, or model.path=<model directory>"
            if path is None
            else "run and model.path: give one of the two"
        )
    if path is None or str(path).startswith(_RUNS):
        run_id = str(cfg.run) if path is None else str(path).removeprefix(_RUNS).split("/")[0]
        return promote_model(run_id, uri=cfg.tracking.uri, **settings)
    if str(path).startswith("models:/"):
        raise ConfigError("model.path: must be a model directory or runs:/<run id>/model")
    return _promote_directory(str(path), cfg, settings)


def _promote_directory(path: str, cfg: DictConfig, settings: dict[str, Any]) -> Promotion:
    """Promote a model directory, as the model of the run that has written it."""
    from ml_project_template.artifacts import METADATA, open_model_directory
    from ml_project_template.models import ModelRegistry
    from ml_project_template.tracking.models import ModelFiles
    from ml_project_template.tracking.registry import promote_model
    from ml_project_template.utils.io import read_json

    with open_model_directory(path, storage_options=storage_options(cfg)) as directory:
        metadata = read_json(str(directory / METADATA))
        run_id = metadata.get("run_id") if isinstance(metadata, dict) else None
        if not run_id:
            raise ArtifactError(f"'{path}' is of no run: it was trained with tracking=disabled.")

        def files() -> ModelFiles:
            model = ModelRegistry.load(str(directory))
            if model.signature is None:
                raise ArtifactError(f"'{path}' does not say which rows it takes.")
            return ModelFiles(directory, model.signature, model.signature.sample, model.packages)

        return promote_model(str(run_id), uri=cfg.tracking.uri, files=files, **settings)


def _check_signature(store: str | None, uri: str) -> None:
    """See that a model can be read where keys are trusted: a server would refuse it later."""
    from ml_project_template.artifacts import open_model_directory
    from ml_project_template.tracking import download_model

    with open_model_directory(download_model(uri, store)):
        pass


@entrypoint("promote")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    done = promote(cfg)
    print(_told(done, cfg))


def _told(done: Promotion, cfg: DictConfig) -> str:
    now = f"{cfg.name}@{cfg.alias}"
    if not done.changed:
        return f"Promote: {now} is version {done.version} already, of this run; nothing to do"
    value = "" if done.value is None else f", {cfg.metric} {done.value:.6g}"
    before = f"in place of version {done.previous}" if done.previous else "the first"
    if done.previous_value is not None:
        before += f" with {done.previous_value:.6g}"
    return (
        f"Promote: {now} is version {done.version} now{value}, {before}\n\n"
        f"serve     python -m entrypoints.serve model.path=models:/{now}"
    )


if __name__ == "__main__":
    run(main)
