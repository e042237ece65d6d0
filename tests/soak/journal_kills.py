"""Kill runs while their tracking server is away, and then what sends the rest: nothing is lost.

    python -m tests.soak.journal_kills --kills 60

A run tells a real MLflow server of parameters, metrics, tags and files. The server goes away after
some of it, and the process is killed at a random moment; in every other case the last line of its
journal is torn, as by a power cut. Then the server is there again and what waits is sent, by a
process that is killed at a random moment, too, and by another one. Whatever stood in the journal
with the end of its line has to be in the run, each metric and step once, and nothing may wait any
longer; the run has an end. A line tells what was seen; the exit status is 1 if anything was *lost*
or *doubled*, or a command *failed* or *hung*.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_project_template.tracking import MLflowTracker, outbox, waiting_runs, warm_up
from ml_project_template.tracking_address import UNSENT_RUNS
from tests.soak.broken_proxy import Fault, broken_proxy
from tests.soak.side_by_side import Part, run_side_by_side
from tests.tracking_server import start_tracking_server

_HANG_SECONDS = 120
_WRONG = ("lost", "doubled", "failed", "hung")
_FAULTS: tuple[Fault, ...] = ("refused", "reset after", "hang", "503", "late")


@dataclass(frozen=True)
class Outcome:
    """What became of a run that was killed.

    Attributes:
        status: ``"whole"``, ``"lost"``, ``"doubled"``, ``"failed"`` or ``"hung"``.
        detail: What is wrong, in a line.
        kept: How many operations stood in its journal.
    """

    status: str
    detail: str = ""
    kept: int = 0


def attack(server: str, seeds: range, *, together: int = 4) -> Iterator[tuple[int, Outcome]]:
    """Kill a run for each seed.

    Args:
        server: The address of the tracking server.
        seeds: Of the moments and the faults.
        together: How many at once; most of the time they wait.

    Yields:
        Each seed and what became of its run.
    """
    examine = functools.partial(_examine, server=server)
    for seed, found in run_side_by_side(seeds, examine, together=together, seconds=_HANG_SECONDS):
        if isinstance(found, Outcome):
            yield seed, found
        else:
            yield seed, Outcome("hung" if isinstance(found, TimeoutError) else "failed", str(found))


def _tell(experiment: str, uri: str) -> int:
    """Be the process that is killed."""
    outbox._PATIENCE = 1.0
    with MLflowTracker(uri).start_run(experiment_name=experiment) as run:
        for step in range(100_000):
            run.log_metrics({"loss": float(step), "half": step / 2}, step=step)
            if step % 20 == 0:
                run.log_params({f"p{step}": step})
                run.log_tags({f"t{step}": step})
            if step % 50 == 0:
                run.log_text(str(step), f"texts/{step}.txt")
            time.sleep(0.01)
    return 1


def _send(uri: str) -> int:
    return int(any(waiting.problem for waiting in waiting_runs(uri)))


def _examine(seed: int, server: str) -> Outcome:
    chance = random.Random(seed)
    experiment = f"journal-{os.getpid()}-{time.time_ns()}"
    first, second, third = Part(_tell, experiment), Part(_send), Part(_send)
    with broken_proxy(server, own_host=True) as proxy:
        proxy.break_at(chance.choice(_FAULTS), chance.randint(5, 8))
        first.begin(proxy.uri)
        while not proxy.broken and first.process.is_alive():
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 4))
        first.process.kill()
        first.process.join()
        if first.process.exitcode != -signal.SIGKILL:
            return Outcome("failed", first.said())
        journals = [*UNSENT_RUNS.glob("*/journal.jsonl")]
        operations = [operation for path in journals for operation in _read(path)]
        if journals and seed % 2:
            with journals[0].open("a", encoding="utf-8") as file:
                file.write('{"number": 100000, "kind": "para')
        proxy.heal()
        second.begin(proxy.uri)
        time.sleep(chance.uniform(0, 1))
        second.process.kill()
        second.process.join()
        status = third.run(proxy.uri)
        proxy.settle()
    if status != 0:
        return Outcome("failed", third.said(), len(operations))
    # A server that has much to do is no fault of the run.
    os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"
    problem = _compare(server, experiment, operations, bool(journals))
    return Outcome(*problem, len(operations)) if problem else Outcome("whole", "", len(operations))


def _read(path: Path) -> list[dict[str, Any]]:
    """Read the operations that stand in a journal with the end of their lines."""
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [line for line in map(json.loads, lines) if "kind" in line]


def _compare(
    server: str, experiment: str, operations: list[dict[str, Any]], was_kept: bool
) -> tuple[str, str] | None:
    from mlflow import MlflowClient

    client = MlflowClient(server)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return "lost", "there is no experiment"
    runs = client.search_runs([found.experiment_id])
    if len(runs) != 1:
        return "doubled", f"there are {len(runs)} runs"
    run = runs[0]
    if was_kept and run.info.status != "KILLED":
        return "lost", f"the run is {run.info.status}"
    if UNSENT_RUNS.exists():
        return "lost", f"something waits still: {min(UNSENT_RUNS.rglob('*'), default='nothing')}"
    told: dict[str, list[Any]] = {"params": [], "tags": [], "metrics": [], "artifact": []}
    for operation in operations:
        content = operation["content"]
        if operation["kind"] == "artifact":
            told["artifact"].append(content["path"])
        elif operation["kind"] == "metrics":
            told["metrics"] += [(name, step, value) for name, value, _, step in content["rows"]]
        elif operation["kind"] in told:
            told[operation["kind"]] += content["rows"].items()
    metrics = [
        (name, row.step, row.value)
        for name in run.data.metrics
        for row in client.get_metric_history(run.info.run_id, name)
    ]
    files = [file.path for file in client.list_artifacts(run.info.run_id, "texts")]
    there: dict[str, list[Any]] = {
        "params": [*run.data.params.items()],
        "tags": [*run.data.tags.items()],
        "metrics": metrics,
        "artifact": files,
    }
    for kind, rows in told.items():
        missing = set(rows) - set(there[kind])
        if missing:
            return "lost", f"{len(missing)} {kind}, {min(missing)} among them"
    if max(Counter(metrics).values(), default=1) > 1:
        return "doubled", "a step of a metric is there twice"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=60, help="how many runs to kill")
    parser.add_argument("--seed", type=int, default=0, help="of the first one")
    parser.add_argument("--together", type=int, default=6, help="how many at once")
    options = parser.parse_args(arguments)
    warm_up()
    counts: Counter[str] = Counter()
    kept = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        database = f"sqlite:///{folder / 'mlflow.db'}"
        files = str(folder / "artifacts")
        with start_tracking_server(folder, backend_uri=database, artifacts=files) as server:
            seeds = range(options.seed, options.seed + options.kills)
            for seed, outcome in attack(server.uri, seeds, together=options.together):
                counts[outcome.status] += 1
                kept += outcome.kept
                if outcome.status in _WRONG:
                    print(f"  {outcome.status}: --seed {seed} --kills 1: {outcome.detail}")
    told = ", ".join(f"{counts[status]} {status}" for status in ("whole", *_WRONG))
    print(f"{sum(counts.values())} runs killed, {kept} operations in their journals: {told}")
    return int(any(counts[status] for status in _WRONG))


if __name__ == "__main__":
    sys.exit(main())
