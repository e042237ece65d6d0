"""Give the runs of a workflow an end, when it has ended: for its exit handler."""

from __future__ import annotations

import json
from typing import Any

from omegaconf import DictConfig

from entrypoints._shell import entrypoint, run
from ml_project_template.errors import ConfigError, unknown

__all__ = ["close_runs", "failed_steps"]

_STATUSES = ("Error", "Failed", "Succeeded")


def close_runs(cfg: DictConfig) -> str:
    """End the runs of ``cfg.workflow`` that are left open, and tell all of them how it ended.

    Args:
        cfg: The configuration, see ``conf/close_runs.yaml``.

    Returns:
        One line that says what was done.

    Raises:
        ConfigError: A wrong setting.
        TrackingError: The tracking server can't be used.
    """
    if cfg.status not in _STATUSES:
        raise ConfigError(f"status: {unknown('status', str(cfg.status), _STATUSES)}")
    # The workflow as a whole is among them.
    steps = failed_steps(cfg.failures)
    steps.pop(str(cfg.workflow), None)
    if not cfg.tracking.enabled:
        return "Close: nothing is tracked, so there are no runs"

    from ml_project_template.tracking.closing import close_workflow_runs

    closed = close_workflow_runs(str(cfg.workflow), cfg.status, steps, uri=cfg.tracking.uri)
    if not closed.tagged:
        return f"Close: workflow {cfg.workflow} has no runs"
    ended = ", ".join(f"{run_id} is {state}" for run_id, state in closed.ended.items())
    return (
        f"Close: {len(closed.tagged)} runs of workflow {cfg.workflow} are marked {cfg.status}; "
        f"{ended or 'none was left open'}"
    )


def failed_steps(failures: Any) -> dict[str, str]:
    """Read the failed steps of a workflow.

    Args:
        failures: What ``{{workflow.failures}}`` is replaced by: a list of objects in JSON; Argo
            puts the whole between quotes once more. None and ``null`` are no failures.

    Returns:
        Step name to message, the first that has failed first.

    Raises:
        ConfigError: It is no such list.
    """
    found = failures
    try:
        while isinstance(found, str):
            found = json.loads(found)
    except ValueError:
        raise ConfigError("failures: must be a list in JSON, as {{workflow.failures}} is") from None
    if found is None:
        return {}
    if not isinstance(found, list) or not all(isinstance(step, dict) for step in found):
        raise ConfigError("failures: must be a list in JSON, as {{workflow.failures}} is")
    found.sort(key=lambda step: str(step.get("finishedAt")))
    return {str(step.get("displayName")): str(step.get("message") or "") for step in found}


@entrypoint("close_runs")
def main(cfg: DictConfig) -> None:
    """Run the stage from the command line."""
    print(close_runs(cfg))


if __name__ == "__main__":
    run(main)
