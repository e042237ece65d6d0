"""Runs, metrics and models on MLflow: the only place that imports it.

A run is a context whose end state is true whatever happens inside::

    with MLflowTracker().start_run(experiment_name="iris") as run:
        run.log_params({"model.dropout": 0.1})
        run.log_metrics({"val_loss": 0.2}, step=1)
        run.log_model(".models/iris", signature=signature, sample=rows)

It works by MLflow's client alone, never by its fluent interface, so nothing global is left behind:
no active run, no tracking address. MLflow is imported when the first run starts: about 2.5 seconds.
"""

from ml_project_template.runs import DisabledTracker, OpenRun, Run, RunReporter, Tracker
from ml_project_template.tracking.client import warm_up
from ml_project_template.tracking.models import add_to_model, download_model
from ml_project_template.tracking.replay import WaitingRun, waiting_runs
from ml_project_template.tracking.run import CONSOLE_LOG, LONG_PARAMS, MLflowRun
from ml_project_template.tracking.tracker import PARENT_TAG, MLflowTracker
from ml_project_template.tracking_address import (
    DEFAULT_URI,
    UnreachableError,
    check_reachable,
    tracking_uri,
)
from ml_project_template.utils.signals import Terminated

__all__ = [
    "CONSOLE_LOG",
    "DEFAULT_URI",
    "LONG_PARAMS",
    "PARENT_TAG",
    "DisabledTracker",
    "MLflowRun",
    "MLflowTracker",
    "OpenRun",
    "Run",
    "RunReporter",
    "Terminated",
    "Tracker",
    "UnreachableError",
    "WaitingRun",
    "add_to_model",
    "check_reachable",
    "download_model",
    "tracking_uri",
    "waiting_runs",
    "warm_up",
]
