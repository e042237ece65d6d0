"""Have several processes do the same at the same moment: all come to a good end, nothing is lost.

    python -m tests.soak.two_at_once --processes 2 --times 40
    python -m tests.soak.two_at_once --processes 8 --times 10

In a fresh folder several processes onboard the same table, prepare it, train on it with a seed of
their own, save the model to the same place and track the run in the same database, which is not
there yet, in the same experiment. Meanwhile somebody loads the model again and again. Each process
has to end with status 0, each run has to be FINISHED and hold all that it was told, the data have
to be prepared once, and the model has to be that of one of them, whole, whenever it is loaded. The
exit status is 1 if not.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, RawTable
from ml_project_template.data.prepare import Prepared, prepare
from ml_project_template.data.sources import onboard
from ml_project_template.errors import ArtifactError
from ml_project_template.models import BaseModel, ModelRegistry
from ml_project_template.tracking import MLflowTracker, warm_up
from ml_project_template.utils import io

_HANG_SECONDS = 300
_STEPS = 5
_FORK = multiprocessing.get_context("fork")
_MODEL = "models/iris"


def _prepare(output_root: str) -> Prepared:
    onboard(source="sklearn:iris", path="raw/iris.csv")
    table = RawTable(path="raw/iris.csv", target_column="target", name="iris", random_state=1)
    return prepare(table, preprocessor=Preprocessor(), output_root=output_root)


def _train(seed: int, started: Any) -> None:
    """Be one of the processes."""
    with Path(f"output-{seed}").open("w", encoding="utf-8") as output:
        for number in (1, 2):
            os.dup2(output.fileno(), number)
        status = 1
        try:
            started.wait()
            prepared = _prepare("prepared")
            model: BaseModel = ModelRegistry.get("gb_classifier")(max_iter=_STEPS)
            model.train(
                experiment_name="the same",
                train_data=prepared.train,
                val_data=prepared.val,
                model_path=_MODEL,
                seed=seed,
                tracking=MLflowTracker("sqlite:///mlflow.db", log_plots=False),
                progress=False,
            )
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        os._exit(status)


def run_at_once(processes: int) -> list[str]:
    """Have processes do the same in the working folder, which is empty.

    Args:
        processes: How many.

    Returns:
        What is not as it should be, a line each.
    """
    started = _FORK.Barrier(processes + 1)
    crew = [_FORK.Process(target=_train, args=(seed, started)) for seed in range(processes)]
    for process in crew:
        process.start()
    problems = []
    seen: set[int] = set()
    started.wait()
    deadline = time.monotonic() + _HANG_SECONDS
    while any(process.is_alive() for process in crew):
        if Path(_MODEL).exists():
            try:
                seen.add(_seed_of(_MODEL))
            except ArtifactError as error:
                problems.append(f"torn: {error}")
        if time.monotonic() > deadline:
            problems.append("hung: there is no end")
            for process in crew:
                process.kill()
        time.sleep(0.01)
    for seed, process in enumerate(crew):
        process.join()
        if process.exitcode != 0:
            said = Path(f"output-{seed}").read_text(encoding="utf-8").strip().splitlines()
            problems.append(f"failed: {said[-1] if said else process.exitcode}")
    if problems:
        return problems
    return [*_look_at_model(processes), *_look_at_data(), *_look_at_runs(processes)]


def _seed_of(path: str) -> int:
    with artifacts.open_model_directory(path) as directory:
        seed: int = io.read_json(str(directory / artifacts.METADATA))["seed"]
    ModelRegistry.load(path)
    return seed


def _look_at_model(processes: int) -> list[str]:
    problems = []
    try:
        if _seed_of(_MODEL) not in range(processes):
            problems.append("lost: the model is that of nobody")
    except ArtifactError as error:
        problems.append(f"torn: {error}")
    if [path.name for path in Path(_MODEL).parent.iterdir()] != [Path(_MODEL).name]:
        problems.append("left: something stands beside the model")
    return problems


def _look_at_data() -> list[str]:
    problems = []
    found = [path for path in Path("prepared/iris").iterdir() if path.is_dir()]
    hidden = [path for root in ("raw", "prepared") for path in Path(root).rglob(".*")]
    if len(found) != 1 or hidden:
        problems.append(f"left: {len(found)} folders are prepared, {len(hidden)} are left over")
    if not _prepare("prepared").reused:
        problems.append("lost: the data are not found prepared")
    alone = _prepare("alone")
    problems += [
        f"torn: {file.name} is another one"
        for file in Path(alone.directory).iterdir()
        if found and file.read_bytes() != (found[0] / file.name).read_bytes()
    ]
    return problems


def _look_at_runs(processes: int) -> list[str]:
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///mlflow.db")
    experiments = [each for each in client.search_experiments() if each.name == "the same"]
    if len(experiments) != 1:
        return [f"doubled: {len(experiments)} experiments"]
    runs = client.search_runs([experiments[0].experiment_id])
    problems = []
    seeds = sorted(run.data.params.get("seed", "") for run in runs)
    if seeds != sorted(map(str, range(processes))):
        problems.append(f"lost: there are runs of the seeds {seeds} of {processes}")
    metrics = {frozenset(run.data.metrics) for run in runs}
    for run in runs:
        steps = [row.step for row in client.get_metric_history(run.info.run_id, "epoch/val_loss")]
        outputs = run.outputs.model_outputs if run.outputs else []
        inputs = run.inputs.dataset_inputs if run.inputs else []
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
        complete = (len(outputs), len(inputs), files) == (1, 2, {"logs"})
        if run.info.status != "FINISHED" or steps != [*range(1, _STEPS + 1)] or not complete:
            problems.append(f"lost: a run is {run.info.status}, with the steps {steps} and {files}")
    if len(metrics) != 1:
        problems.append("lost: the runs do not hold the same metrics")
    if Path(".unsent").exists():
        problems.append("lost: something waits to be sent")
    return problems


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2, help="how many at once")
    parser.add_argument("--times", type=int, default=20, help="how often")
    options = parser.parse_args(arguments)
    # Once, not in each of the processes that are forked.
    warm_up()
    logging.disable()
    counts: Counter[str] = Counter()
    for _ in range(options.times):
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            # In a process of its own: what one has opened is nothing for the next one's children.
            ours, theirs = _FORK.Pipe(duplex=False)
            process = _FORK.Process(target=_run, args=(theirs, options.processes))
            process.start()
            theirs.close()
            try:
                problems = ours.recv()
            except EOFError:
                problems = ["failed: whoever looks after them has died"]
            process.join()
        for problem in problems:
            counts[problem.partition(":")[0]] += 1
            print(problem, flush=True)
    told = ", ".join(f"{counts[name]} {name}" for name in sorted({*counts, "lost", "torn"}))
    print(f"{options.times} times {options.processes} processes at once: {told}")
    return int(bool(counts))


def _run(outlet: Any, processes: int) -> None:
    try:
        problems = run_at_once(processes)
    except Exception as error:
        problems = [f"failed: {type(error).__name__}: {error}"]
    outlet.send(problems)
    outlet.close()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
