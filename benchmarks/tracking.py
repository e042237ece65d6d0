"""What the tracking of a run costs, beside MLflow used in other ways.

    python -m benchmarks.tracking --help

Every way tells MLflow the same: 40 parameters, a tag, three data sets, the configuration as a
file, 5 metrics for each of 100 epochs, 15 metrics at the end, and the end of the run. Nothing is
trained between, and imports are not counted.

* **fluent**: ``mlflow.log_metrics`` once for each epoch, as its examples do.
* **fluent, asynchronous**: the same with ``synchronous=False``; the end waits for the queue.
* **client, one batch**: ``MlflowClient`` by hand, all rows in one ``log_batch`` at the end; nothing
  can be seen while the run goes on.

The others have the database that MLflow makes for itself; ours has a write-ahead log. On the server
a run of some seconds is told epoch by epoch, and what counts is how long its thread is held up, and
the CPU time of what goes on beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.harness import Aim, Report, Samples, Way, compare, cpu_seconds

EPOCHS = 100
PARAMS = {f"training.parameter_{number}": number / 7 for number in range(40)}
SPLITS = ("train", "val", "test")
CONFIG = "".join(f"{name}: {value}\n" for name, value in PARAMS.items())
FINAL = {
    f"{split}_{name}": 0.9
    for split in SPLITS
    for name in ("accuracy", "loss", "f1", "auc", "brier")
}
EXPERIMENT = "benchmark"
# Of a trial of a sweep.
CHILD_EPOCHS = 20

OURS = "ours"
OURS_WITH_PLOTS = "ours, with plots"
OURS_WITH_MODEL = "ours, with plots and model"
FLUENT = "fluent, log_metrics for each epoch"
ASYNCHRONOUS = "fluent, asynchronous"
SKLEARN = "sklearn, pip_requirements given"
BATCH = "client, one batch at the end"

_SHARE = 0.03
_MINUTE = 60.0
_VARIABLE = "MLFLOW_TRACKING_URI"


class Costs:
    """Runs ways in turns and keeps both costs of each: wall time, which counts, and CPU time."""

    def __init__(self) -> None:
        self.cpu: dict[str, list[float]] = {}

    def way(self, name: str, work: Callable[[], object]) -> Way:
        def run() -> float:
            cpu, wall = cpu_seconds(), time.perf_counter()
            work()
            spent = time.perf_counter() - wall
            self.cpu.setdefault(name, []).append(cpu_seconds() - cpu)
            return spent

        return Way(name, run)

    def compare(self, ways: list[Way], *, rounds: int, warm_up: int = 1) -> tuple[Samples, Samples]:
        """Run the ways; gives their wall times and their CPU times, in seconds."""
        self.cpu.clear()
        wall = compare(ways, rounds=rounds, cost="wall", warm_up=warm_up)
        return wall, Samples({name: costs[warm_up:] for name, costs in self.cpu.items()})


def measure(
    *,
    rounds: int = 5,
    children: int = 15,
    models: int = 1,
    seconds: float = 10.0,
    torch: bool = True,
    server: bool = True,
) -> list[Report]:
    """Measure the tracking of runs, of models, and of the trials of a sweep.

    Args:
        rounds: How often each way tells a run.
        children: How many trials each way tells below one run.
        models: How often each way logs a model.
        seconds: How long the run lasts that is told to a server.
        torch: Whether PyTorch models are logged, too.
        server: Whether a server is measured.
    """
    with _workplace() as folder:
        reports = [_runs(folder, rounds), _children(folder, children), _first(folder)]
        reports.append(_models(folder, models, torch=torch))
        if server:
            reports.append(_server(folder, seconds))
    return reports


# ---- what each way does


def _tell_ours(run: Any, epochs: int, pause: Callable[[], object] = lambda: None) -> None:
    from ml_project_template.runs import RunReporter

    run.log_params(PARAMS)
    run.log_tags({"model": "mlp_classifier"})
    run.log_text(CONFIG, "config.yaml")
    for split in SPLITS:
        run.log_dataset(
            "iris",
            digest="a" * 64,
            source="data/iris.csv",
            context=split,
            schema={"features": ["a", "b", "c", "d"]},
            profile={"rows": 100},
        )
    reporter = RunReporter(run)
    for epoch in range(1, epochs + 1):
        reporter.report(epoch, _epoch(epoch), epochs)
        pause()
    run.log_metrics(FINAL)


def _ours(uri: str, epochs: int = EPOCHS, parent: Any = None, more: Any = None) -> None:
    from ml_project_template.tracking import MLflowTracker

    tracker = MLflowTracker(uri)
    if parent is not None:
        tracker = tracker.below(parent, log_plots=False, log_models=False)
    with tracker.start_run(experiment_name=EXPERIMENT) as run:
        _tell_ours(run, epochs)
        if more is not None:
            more(run)


def _tell_fluent(epochs: int, pause: Callable[[], object], *, synchronous: bool = True) -> None:
    import mlflow

    run = mlflow.active_run()
    assert run is not None
    mlflow.log_params(PARAMS)
    mlflow.set_tag("model", "mlp_classifier")
    mlflow.log_text(CONFIG, "config.yaml")
    mlflow.MlflowClient().log_inputs(run.info.run_id, _inputs())
    for epoch in range(1, epochs + 1):
        metrics = {f"epoch/{name}": value for name, value in _epoch(epoch).items()}
        mlflow.log_metrics(metrics, step=epoch, synchronous=synchronous)
        pause()
    mlflow.log_metrics(FINAL, synchronous=synchronous)


def _fluent(
    uri: str, epochs: int = EPOCHS, *, synchronous: bool = True, nested: bool = False
) -> None:
    import mlflow

    if not nested:
        mlflow.set_tracking_uri(uri)
    with mlflow.start_run(experiment_id=_experiment(uri), nested=nested):
        _tell_fluent(epochs, lambda: None, synchronous=synchronous)
        if not synchronous:
            mlflow.flush_async_logging()


@functools.cache
def _experiment(uri: str) -> str:
    """Find or make the experiment, as ``set_experiment`` does, which would leave it set."""
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    found = client.get_experiment_by_name(EXPERIMENT)
    return found.experiment_id if found else client.create_experiment(EXPERIMENT)


def _batch(uri: str, epochs: int = EPOCHS, parent_id: str | None = None) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(uri)
    tags = {"model": "mlp_classifier"}
    if parent_id is not None:
        tags["mlflow.parentRunId"] = parent_id
    run_id = client.create_run(_experiment(uri), tags=tags).info.run_id
    now = int(time.time() * 1000)
    metrics = [
        Metric(f"epoch/{name}", value, now, epoch)
        for epoch in range(1, epochs + 1)
        for name, value in _epoch(epoch).items()
    ]
    metrics += [Metric(name, value, now, 0) for name, value in FINAL.items()]
    client.log_batch(
        run_id, metrics=metrics, params=[Param(name, str(value)) for name, value in PARAMS.items()]
    )
    client.log_inputs(run_id, _inputs())
    client.log_text(run_id, CONFIG, "config.yaml")
    client.set_terminated(run_id)


def _epoch(epoch: int) -> dict[str, float]:
    names = ("train_loss", "val_loss", "val_accuracy", "lr", "seconds")
    return {name: (number + 1) / epoch for number, name in enumerate(names)}


def _inputs() -> list[Any]:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    source = json.dumps({"uri": "data/iris.csv"})
    return [
        DatasetInput(
            Dataset(
                f"iris_{split}", "a" * 36, "local", source, '{"features": []}', '{"rows": 100}'
            ),
            [InputTag("mlflow.data.context", split)],
        )
        for split in SPLITS
    ]


# ---- the tables


def _runs(folder: Path, rounds: int, epochs: int = EPOCHS) -> Report:
    ours, theirs = _ready(folder)
    model, splits, history = _trained()

    def plots(run: Any) -> None:
        model._log_plots(run, splits, history)

    def all_of_it(run: Any) -> None:
        plots(run)
        model._log_model(run)

    costs = Costs()
    ways = [
        costs.way(OURS, functools.partial(_ours, ours, epochs)),
        costs.way(OURS_WITH_PLOTS, functools.partial(_ours, ours, epochs, more=plots)),
        costs.way(OURS_WITH_MODEL, functools.partial(_ours, ours, epochs, more=all_of_it)),
        costs.way(FLUENT, functools.partial(_fluent, theirs, epochs)),
        costs.way(ASYNCHRONOUS, functools.partial(_fluent, theirs, epochs, synchronous=False)),
        costs.way(BATCH, functools.partial(_batch, theirs, epochs)),
    ]
    wall, cpu = costs.compare(ways, rounds=rounds)
    report = _table(
        f"all tracking of a run of {epochs} epochs on SQLite, milliseconds", wall, cpu, base=OURS
    )
    report.aims = [
        Aim("a run of 100 epochs on SQLite: milliseconds", wall.median(OURS) * 1000, 150),
        Aim("times faster than fluent logging", wall.ratio(FLUENT, OURS), 5, at_least=True),
    ]
    report.notes.append("Plots and the model are drawn, written and kept: work of their own.")
    return report


def _children(folder: Path, children: int) -> Report:
    import mlflow

    from ml_project_template.tracking import MLflowTracker
    from ml_project_template.utils.git import remember_git_state

    ours, theirs = _ready(folder)
    mlflow.set_tracking_uri(theirs)
    # As a worker of a sweep does.
    remember_git_state()
    costs = Costs()
    with (
        MLflowTracker(ours).start_run(experiment_name=EXPERIMENT) as parent,
        mlflow.start_run(experiment_id=_experiment(theirs)) as other,
    ):
        ways = [
            costs.way(OURS, functools.partial(_ours, ours, CHILD_EPOCHS, parent=parent)),
            costs.way(FLUENT, functools.partial(_fluent, theirs, CHILD_EPOCHS, nested=True)),
            costs.way(
                BATCH,
                functools.partial(_batch, theirs, CHILD_EPOCHS, parent_id=other.info.run_id),
            ),
        ]
        wall, cpu = costs.compare(ways, rounds=children)
    report = _table(
        f"a trial of {CHILD_EPOCHS} epochs below another run on SQLite, milliseconds",
        wall,
        cpu,
        base=OURS,
    )
    report.aims = [Aim("a trial on SQLite: milliseconds of CPU time", cpu.median(OURS) * 1000, 30)]
    return report


def _first(folder: Path) -> Report:
    """Measure the run that finds no database."""

    def fresh(tell: Callable[[str], object]) -> None:
        with tempfile.TemporaryDirectory(dir=folder) as place, contextlib.chdir(place):
            tell(f"sqlite:///{place}/mlflow.db")

    costs = Costs()
    ways = [
        costs.way(OURS, lambda: fresh(functools.partial(_ours, epochs=1))),
        costs.way(FLUENT, lambda: fresh(functools.partial(_fluent, epochs=1))),
    ]
    wall, cpu = costs.compare(ways, rounds=1, warm_up=0)
    report = _table(
        "the first run of all, which makes the database, milliseconds", wall, cpu, base=OURS
    )
    report.notes.append("Once for each database: MLflow's own migrations, one after the other.")
    return report


def _models(folder: Path, rounds: int, *, torch: bool) -> Report:
    import mlflow
    from sklearn.linear_model import LogisticRegression

    from ml_project_template.tracking import MLflowTracker

    ours, theirs = _ready(folder)
    mlflow.set_tracking_uri(theirs)
    model, splits, _ = _trained()
    rows = splits["train"]
    fitted = LogisticRegression(max_iter=500).fit(rows.X, rows.y)
    example = rows.X[:5]
    directory = model.save(folder / "model")
    trusted = ["sklearn.linear_model._logistic.LogisticRegression"]

    def log(run: Any) -> None:
        run.log_model(
            directory,
            signature=model.signature,
            sample=model.signature.sample,
            requirements=model.packages,
        )

    def sklearn(name: str, **more: Any) -> None:
        mlflow.sklearn.log_model(
            fitted, name=name, input_example=example, skops_trusted_types=trusted, **more
        )

    costs = Costs()
    with (
        MLflowTracker(ours).start_run(experiment_name=EXPERIMENT) as run,
        mlflow.start_run(experiment_id=_experiment(theirs)),
    ):
        ways = [
            costs.way(OURS, lambda: log(run)),
            costs.way(SKLEARN, lambda: sklearn("b", pip_requirements=["scikit-learn", "skops"])),
        ]
        for way in ways:
            # The first of each imports what it needs; the others do so in a process of their own.
            way.run()
        costs.cpu.clear()
        ways.append(costs.way("sklearn as it comes", lambda: sklearn("a")))
        if torch:
            ways += _torch_ways(costs, example)
        wall, cpu = costs.compare(ways, rounds=rounds, warm_up=0)
    report = _table("log_model of a small model, milliseconds", wall, cpu, base=OURS)
    report.aims = [
        Aim(
            "log_model: times sklearn with pip_requirements",
            wall.ratio(OURS, SKLEARN),
            1.5,
        )
    ]
    report.notes.append(
        "CPU time includes that of the process in which MLflow loads the model to find what it "
        "requires."
    )
    return report


def _torch_ways(costs: Costs, example: Any) -> list[Way]:
    import mlflow
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3))
    rows = example.astype("float32")

    def log(name: str, **more: Any) -> None:
        mlflow.pytorch.log_model(module, name=name, input_example=rows, **more)

    return [
        costs.way("pytorch as it comes", lambda: log("c")),
        costs.way("pytorch, pip_requirements given", lambda: log("d", pip_requirements=["torch"])),
    ]


def _server(folder: Path, seconds: float) -> Report:
    import mlflow

    from ml_project_template.tracking import MLflowTracker
    from tests.tracking_server import start_tracking_server

    place = folder / "server"
    report = Report(
        "tracking",
        f"a run of {EPOCHS} epochs in {seconds:g} seconds, told to an MLflow server on SQLite",
        ["way", "held up, ms", "CPU beside, ms", "share of it", "share of a minute"],
    )
    with start_tracking_server(
        place, backend_uri=f"sqlite:///{place}/mlflow.db", artifacts=str(place / "artifacts")
    ) as server:

        def paced(tell: Callable[[Callable[[], object]], object]) -> tuple[float, float]:
            slept = 0.0

            def pause() -> None:
                nonlocal slept
                began = time.perf_counter()
                time.sleep(seconds / EPOCHS)
                slept += time.perf_counter() - began

            cpu, wall = time.process_time(), time.perf_counter()
            tell(pause)
            held_up = time.perf_counter() - wall - slept
            return held_up, time.process_time() - cpu

        def ours(pause: Callable[[], object]) -> None:
            tracker = MLflowTracker(server.uri)
            with tracker.start_run(experiment_name=EXPERIMENT) as run:
                _tell_ours(run, EPOCHS, pause)

        def fluent(pause: Callable[[], object], *, synchronous: bool = True) -> None:
            mlflow.set_tracking_uri(server.uri)
            with mlflow.start_run(experiment_id=_experiment(server.uri)):
                _tell_fluent(EPOCHS, pause, synchronous=synchronous)
                if not synchronous:
                    mlflow.flush_async_logging()

        # The experiment and the connections are there before.
        _ours(server.uri, epochs=1)
        ways: dict[str, Callable[[Callable[[], object]], object]] = {
            OURS: ours,
            FLUENT: fluent,
            ASYNCHRONOUS: functools.partial(fluent, synchronous=False),
        }
        shares = {}
        for name, tell in ways.items():
            held_up, cpu = paced(tell)
            # In a longer run more is sent beside, once a second.
            beside = cpu * max(1.0, _MINUTE / seconds)
            shares[name] = (held_up + beside) / max(_MINUTE, seconds)
            of_it = (held_up + cpu) / seconds
            report.rows.append((name, held_up * 1000, cpu * 1000, of_it, shares[name]))
    report.samples = {"share of a minute": shares}
    report.aims = [Aim("share of a run of a minute against a server", shares[OURS], _SHARE)]
    report.notes.append(
        "Both count for the share, as if nothing could be done beside. That of a minute is "
        f"worked out from {seconds:g} seconds."
    )
    return report


def _table(title: str, wall: Samples, cpu: Samples, *, base: str) -> Report:
    report = Report("tracking", title, ["way", "wall", "CPU", "times ours, wall", "CPU"])
    for name in wall.costs:
        report.rows.append(
            (
                name,
                wall.median(name) * 1000,
                cpu.median(name) * 1000,
                wall.ratio(name, base),
                cpu.ratio(name, base),
            )
        )
    report.samples = {"wall": wall.costs, "cpu": cpu.costs}
    return report


# ---- what is there before


@contextlib.contextmanager
def _workplace() -> Iterator[Path]:
    """Work in a folder that is gone afterwards, with MLflow's own lines left out."""
    from ml_project_template.tracking import warm_up

    warm_up()
    import mlflow

    before = os.environ.get(_VARIABLE)
    levels = {name: logging.getLogger(name).level for name in ("mlflow", "alembic")}
    with (
        tempfile.TemporaryDirectory() as place,
        contextlib.chdir(place),
        warnings.catch_warnings(),
        Path(os.devnull).open("w") as nowhere,
        contextlib.redirect_stdout(nowhere),
    ):
        warnings.simplefilter("ignore")
        for name in levels:
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            yield Path(place)
        finally:
            mlflow.set_tracking_uri(None)  # type: ignore[arg-type]
            # It is put there, and taken from there, by MLflow.
            if before is not None:
                os.environ[_VARIABLE] = before
            _experiment.cache_clear()
            for name, level in levels.items():
                logging.getLogger(name).setLevel(level)


def _ready(folder: Path) -> tuple[str, str]:
    """Give the addresses of two databases that have been used: ours, and MLflow's own."""
    ours, theirs = (f"sqlite:///{folder / name}" for name in ("ours.db", "theirs.db"))
    if not (folder / "ours.db").is_file():
        _ours(ours, epochs=1)
        _fluent(theirs, epochs=1)
    return ours, theirs


@functools.cache
def _trained() -> tuple[Any, dict[str, Any], Any]:
    """Fit a small model: it, the splits and its history."""
    import pandas as pd
    from sklearn.datasets import load_iris

    from ml_project_template.data import TabularDataset
    from ml_project_template.models import ModelRegistry
    from ml_project_template.training.reporting import History

    data: Any = load_iris(as_frame=True)
    columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    table = TabularDataset(
        data.data.set_axis(columns, axis=1),
        pd.Series(data.target_names[data.target]),
        target_column="species",
        name="iris",
    )
    history = History()
    make: Any = ModelRegistry.get("gb_classifier")
    model = make(max_iter=20)
    model.train(
        experiment_name="none",
        train_data=table,
        val_data=table,
        seed=0,
        tracking=False,
        progress=False,
        reporters=[history],
    )
    return model, {"train": table, "val": table}, history


def main(arguments: list[str] | None = None) -> None:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--children", type=int, default=15)
    parser.add_argument("--models", type=int, default=1, help="rounds of log_model")
    parser.add_argument(
        "--seconds", type=float, default=10.0, help="of the run on a server; 60 for a minute"
    )
    parser.add_argument("--no-torch", action="store_true", help="log no PyTorch models")
    parser.add_argument("--no-server", action="store_true", help="start no server")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args(arguments)
    reports = measure(
        rounds=options.rounds,
        children=options.children,
        models=options.models,
        seconds=options.seconds,
        torch=not options.no_torch,
        server=not options.no_server,
    )
    for report in reports:
        print(f"{report}\n")
    if options.json:
        found = [report.to_dict() for report in reports]
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
