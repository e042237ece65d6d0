"""Send what could not be sent to the storage or the tracking server when it was made."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, run
from ml_project_template.errors import ArtifactError, TrackingError

if TYPE_CHECKING:
    from ml_project_template.tracking import WaitingRun

__all__ = ["sync"]


def sync(cfg: DictConfig, tell: Callable[[str], None] = print) -> list[str]:
    """Send what waits in ``.unsent``: models to their storage, runs to their tracking server.

    Runs of this machine whose process is gone, and that are RUNNING therefore, are ended.

    Args:
        cfg: The configuration, see ``conf/sync.yaml``.
        tell: Gets a line for each model and run that is complete.

    Returns:
        A line for each that is not, with the reason.
    """
    left, nothing = [], True
    for line, is_done in [*_models(cfg.dry_run), *_runs(cfg), *_reaped(cfg)]:
        nothing = False
        if is_done:
            tell(line)
        else:
            left.append(line)
    if nothing:
        tell("Nothing waits to be sent.")
    return left


def _models(dry_run: bool) -> Iterator[tuple[str, bool]]:
    """Send the models; gives a line for each, and whether all is well with it."""
    from ml_project_template.unsent import UNSENT, waiting_models

    # A store that is away is not waited for again for each model.
    away: dict[str | None, str] = {}
    try:
        models = waiting_models()
    except ArtifactError as error:
        yield str(error), False
        return
    for model in models:
        line = f"model {model.target}"
        if dry_run:
            yield f"{line}: left in {model.model}", True
            continue
        try:
            if model.endpoint_url not in away:
                model.send()
        except ArtifactError as error:
            yield f"{line}: left in {model.model} ({error})", False
            continue
        except OSError as error:
            away[model.endpoint_url] = str(error).splitlines()[0]
        if model.endpoint_url in away:
            yield f"{line}: left in {model.model} ({away[model.endpoint_url]})", False
        else:
            yield f"{line}: sent", True
    for folder in (UNSENT, UNSENT.parent):
        # As long as there is something in it, it stays.
        with contextlib.suppress(OSError):
            folder.rmdir()


def _runs(cfg: DictConfig) -> Iterator[tuple[str, bool]]:
    """Send what waits of runs; gives a line for each, and whether all is well with it."""
    from ml_project_template.tracking_address import UNSENT_RUNS

    if not UNSENT_RUNS.is_dir():
        # MLflow takes seconds to import.
        return
    from ml_project_template.tracking import waiting_runs

    for waiting in waiting_runs(cfg.tracking.uri, send=not cfg.dry_run):
        yield _described(waiting), waiting.problem is None


def _reaped(cfg: DictConfig) -> Iterator[tuple[str, bool]]:
    """End the runs whose process is gone; gives a line for each."""
    from ml_project_template.tracking.reaping import reap

    # Whose server is away is no worse off than before.
    with contextlib.suppress(TrackingError):
        for run_id in reap(cfg.tracking.uri, dry_run=cfg.dry_run):
            yield (
                f"run {run_id}: its process is gone, {'KILLED' if not cfg.dry_run else 'left'}",
                True,
            )


def _described(waiting: WaitingRun) -> str:
    name = f"run {waiting.folder.name}"
    if waiting.run is not None:
        name += f" at {waiting.run.uri}"
    counts = [(waiting.sent, "sent"), (waiting.left, "left")]
    parts = [f"{number} {what}" for number, what in counts if number]
    reason = "" if waiting.problem is None else f" ({waiting.problem})"
    return f"{name}: {', '.join(parts) or 'not sent'}{reason}"


@entrypoint("sync")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    left = sync(cfg)
    if left:
        raise TrackingError("\n".join(left))


if __name__ == "__main__":
    run(main)
