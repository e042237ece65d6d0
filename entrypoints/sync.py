"""Send what could not be sent to the tracking server or the storage when it was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, run
from ml_project_template.errors import TrackingError

if TYPE_CHECKING:
    from ml_project_template.tracking import WaitingRun

__all__ = ["sync"]


def sync(cfg: DictConfig) -> list[str]:
    """Send what waits in ``.unsent``, and print a line for each part of it.

    Args:
        cfg: The configuration, see ``conf/sync.yaml``.

    Returns:
        A line for each part that is left, with the reason.
    """
    from ml_project_template.tracking import waiting_runs

    left, none = [], True
    for waiting in waiting_runs(cfg.tracking.uri, send=not cfg.dry_run):
        none = False
        line = _described(waiting)
        if waiting.problem is not None:
            left.append(line)
        else:
            print(line)
    if none:
        print("Nothing waits to be sent.")
    return left


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
