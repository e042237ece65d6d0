"""Break each request that a training sends to its tracking server, in each way there is.

    python -m tests.soak.tracking_faults

A model is trained with a real MLflow server behind a proxy that breaks the n-th request, or all
from the n-th on, for each n there is: no connection, one that breaks off before or after the server
has done its work, no answer, an answer of 500, 503 or 504, half an answer with or without a length,
and a request that arrives after whoever sent it has given up. Then the server is there again, and
what waits is sent; where all requests were broken, this is broken once more, at some request.

Each training has to end well and leave its model, and the server has to hold what it holds after an
undisturbed training, once: parameters, each step of each metric, tags, inputs, files, the model,
the end. A training that finds no server at its start is *refused*, before it has done anything. A
line for each fault tells what was seen; the exit status is 1 if anything was *lost* or *doubled*,
or a training *failed* or *hung*.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import itertools
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.sources import onboard
from ml_project_template.errors import ProjectError
from ml_project_template.models import BaseModel, ModelRegistry
from ml_project_template.tracking import MLflowTracker, UnreachableError, waiting_runs, warm_up
from tests.soak.broken_proxy import FAULTS, Fault, broken_proxy
from tests.soak.side_by_side import Part, run_side_by_side
from tests.tracking_server import start_tracking_server

_HANG_SECONDS = 240
_STEPS = 4
_WRONG = ("lost", "doubled", "failed", "hung")
# What no two runs have in common.
_OWN_TAGS = ("mlflow.runName", "mlflow.localRunId", "mlflow.log-model.history", "mlflow.process")
_REFUSED = 75  # the exit status of a training that finds no server


@dataclass(frozen=True)
class Case:
    """A training and what is broken of it.

    Attributes:
        fault: How; None breaks nothing.
        first: The first request that is broken.
        lasting: Whether all that follow are broken, too, until the training has ended.
    """

    fault: Fault | None = None
    first: int = 0
    lasting: bool = False

    def __str__(self) -> str:
        lasting = " --lasting" if self.lasting else ""
        return f"--faults '{self.fault}' --at {self.first}{lasting}"


@dataclass
class Outcome:
    """What became of a training.

    Attributes:
        case: What was broken of it.
        status: ``"whole"``, ``"refused"``, ``"lost"``, ``"doubled"``, ``"failed"`` or ``"hung"``.
        detail: What is wrong, in a line.
        seconds: How long it took.
        sent_later: How many operations were sent after its end.
        requests: What it sent, but for what was refused to be taken.
        told: What the server holds of it, but for what no two runs have in common.
    """

    case: Case
    status: str
    detail: str = ""
    seconds: float = 0.0
    sent_later: int = 0
    requests: list[str] = field(default_factory=list)
    told: dict[str, Any] | None = None


def prepare_data(folder: Path) -> TabularDataset:
    """Prepare a small table to train on."""
    path = str(folder / "iris.csv")
    onboard(source="sklearn:iris", path=path)
    raw = TabularDataset.from_csv(path, target_column="target")
    return Preprocessor().fit(raw).transform(raw)


class _Pause:
    """Has what was told be sent before the fit goes on."""

    def report(self, step: int, metrics: Any, total: int | None = None) -> None:
        if step == _STEPS // 2:
            time.sleep(1.2)


def train(uri: str, experiment: str, data: TabularDataset) -> None:
    """Train in the working folder."""
    model: BaseModel = ModelRegistry.get("gb_classifier")(max_iter=_STEPS)
    model.train(
        experiment_name=experiment,
        train_data=data,
        val_data=data,
        model_path="model",
        seed=1,
        tracking=MLflowTracker(uri, log_plots=False),
        config={"data": {"name": "iris"}},
        reporters=[_Pause()],
        progress=False,
    )


def attack(
    cases: Sequence[Case],
    server: str,
    data: TabularDataset,
    expected: dict[str, Any] | None = None,
    *,
    together: int = 4,
) -> Iterator[Outcome]:
    """Train once for each case, several at once, each in processes of its own.

    Args:
        cases: What is broken.
        server: The address of the tracking server.
        data: What is trained on.
        expected: What the server holds of an undisturbed training, see `Outcome.told`; None
            compares nothing.
        together: How many at once; most of the time they wait.

    Yields:
        What became of each, as it ends.
    """
    examine = functools.partial(_examine, server=server, data=data, expected=expected)
    found = run_side_by_side(cases, examine, together=together, seconds=_HANG_SECONDS)
    for case, outcome in found:
        if isinstance(outcome, Outcome):
            yield outcome
        else:
            hung = isinstance(outcome, TimeoutError)
            yield Outcome(case, "hung" if hung else "failed", str(outcome))


def _examine(
    case: Case, server: str, data: TabularDataset, expected: dict[str, Any] | None
) -> Outcome:
    experiment = f"faults-{os.getpid()}-{time.time_ns()}"
    training = Part(_train, experiment, data)
    with broken_proxy(server, own_host=True) as proxy:
        if case.fault is not None:
            proxy.break_at(case.fault, case.first, None if case.lasting else case.first)
        began = time.monotonic()
        status = training.run(proxy.uri)
        outcome = Outcome(case, "whole", seconds=time.monotonic() - began)
        outcome.requests = [*proxy.requests]
        proxy.heal()
        if status not in (0, _REFUSED):
            outcome.status, outcome.detail = "failed", Part.said()
            return outcome
        if status == 0:
            try:
                outcome.sent_later = _send(case, proxy)
            except ProjectError as error:
                outcome.status, outcome.detail = "lost", str(error)
                return outcome
        # A server that has much to do is no fault of the training.
        os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] = "60"
        told = read_back(server, experiment)
    if status == _REFUSED:
        outcome.status, outcome.detail = "refused", Part.said()
        open_runs = [run for run in told["runs"] if run["status"] == "RUNNING"]
        if open_runs or Path("model").exists() or Path(".unsent").exists():
            outcome.status = "doubled"
            outcome.detail += f" It has left {len(open_runs)} open runs."
        return outcome
    outcome.told = told
    if not Path("model", "manifest.json").is_file() or Path(".unsent").exists():
        outcome.status, outcome.detail = "lost", "no model, or something is left in .unsent"
    elif max(len(told["runs"]), len(told["models"])) > 1:
        outcome.status = "doubled"
        outcome.detail = f"{len(told['runs'])} runs, {len(told['models'])} models"
    elif expected is not None and told != expected:
        outcome.status, outcome.detail = "lost", _difference(expected, told)
    return outcome


def _train(experiment: str, data: TabularDataset, uri: str) -> int:
    try:
        train(uri, experiment, data)
    except UnreachableError as error:
        print(error, flush=True)
        return _REFUSED
    return 0


def _send(case: Case, proxy: Any) -> int:
    """Send what waits, broken once where all of the training was."""
    sent = 0
    if case.lasting and case.fault is not None:
        chance = random.Random(str(case))
        proxy.break_at(chance.choice(FAULTS), chance.randint(1, 12))
        sent += sum(waiting.sent for waiting in waiting_runs(proxy.uri))
        proxy.heal()
    problems = []
    for waiting in waiting_runs(proxy.uri):
        sent += waiting.sent
        problems += [waiting.problem] if waiting.problem else []
    proxy.settle()
    if problems:
        raise ProjectError(problems[0])
    return sent


def read_back(server: str, experiment: str) -> dict[str, Any]:
    """Read everything that a server holds of an experiment, but for what no two runs share."""
    from mlflow import MlflowClient

    client = MlflowClient(server)
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return {"runs": [], "models": []}
    place = [found.experiment_id]
    return {
        "runs": [_told(client, run.info.run_id) for run in client.search_runs(place)],
        "models": [
            (model.name, str(model.status), _files(client, model.model_id, model.artifact_location))
            for model in client.search_logged_models(place)
        ],
    }


def _told(client: Any, run_id: str) -> dict[str, Any]:
    run = client.get_run(run_id)
    names = sorted(run.data.metrics)
    return {
        "status": run.info.status,
        "has_ended": run.info.end_time is not None,
        "params": run.data.params,
        "metrics": {
            name: [(row.step, row.value) for row in client.get_metric_history(run_id, name)]
            for name in names
        },
        "tags": {key: tag for key, tag in run.data.tags.items() if key not in _OWN_TAGS},
        "inputs": sorted(
            (entry.dataset.name, entry.dataset.digest, entry.tags[0].value)
            for entry in run.inputs.dataset_inputs
        ),
        "outputs": len(run.outputs.model_outputs) if run.outputs else 0,
        "files": {
            path: _digest(client.download_artifacts(run_id, path)) if path == "config.yaml" else ""
            for path in _paths(functools.partial(client.list_artifacts, run_id))
        },
    }


def _paths(list_folder: Callable[..., Any], folder: str | None = None) -> list[str]:
    paths: list[str] = []
    for file in list_folder(folder):
        paths += _paths(list_folder, file.path) if file.is_dir else [file.path]
    return sorted(paths)


def _files(client: Any, model_id: str, location: str) -> list[tuple[str, str]]:
    """Name the files of a model; with the digest of its weights."""
    from mlflow.artifacts import download_artifacts

    paths = _paths(functools.partial(client.list_logged_model_artifacts, model_id))
    weights = next((path for path in paths if "/weights." in path), None)
    if weights is None:
        return [(path, "") for path in paths]
    with tempfile.TemporaryDirectory() as folder:
        local = download_artifacts(
            artifact_uri=f"{location}/{weights}",
            dst_path=folder,
            tracking_uri=client.tracking_uri,
        )
        return [(path, _digest(local) if path == weights else "") for path in paths]


def _digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _difference(expected: Any, found: Any, where: str = "") -> str:
    """Say in a line where two things differ first."""
    if isinstance(expected, dict) and isinstance(found, dict):
        for key in [*expected, *(key for key in found if key not in expected)]:
            if expected.get(key) != found.get(key):
                return _difference(expected.get(key), found.get(key), f"{where}.{key}")
    if isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        for place, (one, other) in enumerate(zip(expected, found, strict=True)):
            if one != other:
                return _difference(one, other, f"{where}[{place}]")
    return f"{where}: {str(expected)[:150]} became {str(found)[:150]}"


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--at", nargs="+", type=int, help="requests; without it each there is")
    parser.add_argument("--lasting", action="store_true", help="outages alone")
    parser.add_argument("--single", action="store_true", help="single requests alone")
    parser.add_argument("--together", type=int, default=6, help="how many trainings at once")
    options = parser.parse_args(arguments)
    warm_up()
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        data = prepare_data(folder)
        database = f"sqlite:///{folder / 'mlflow.db'}"
        files = str(folder / "artifacts")
        with start_tracking_server(folder, backend_uri=database, artifacts=files) as server:
            [undisturbed] = attack([Case()], server.uri, data)
            print(f"undisturbed: {undisturbed.status}, {len(undisturbed.requests)} requests")
            if undisturbed.status != "whole":
                print(undisturbed.detail)
                return 1
            requests = range(1, len(undisturbed.requests) + 1)
            for fault, lasting in itertools.product(options.faults, [True, False]):
                if options.single if lasting else options.lasting:
                    continue
                cases = [Case(fault, at, lasting) for at in options.at or requests]
                # Beside the others, so that they take as long as it takes on this machine now.
                cases = [Case(), *cases, Case()]
                counts: Counter[str] = Counter()
                seconds: dict[bool, list[float]] = {False: [], True: []}
                later = 0
                for outcome in attack(
                    cases, server.uri, data, undisturbed.told, together=options.together
                ):
                    seconds[outcome.case.fault is not None].append(outcome.seconds)
                    counts[outcome.status] += outcome.case.fault is not None
                    later += outcome.sent_later
                    if outcome.status in _WRONG:
                        print(f"  {outcome.status}: {outcome.case}: {outcome.detail}")
                total += counts
                what = "and all that follow" if lasting else "once"
                longer = max(seconds[True]) - min(seconds[False])
                print(
                    f"{fault} {what}: {_text(counts)}; {later} operations sent later; "
                    f"at most {longer:.0f} s longer",
                    flush=True,
                )
    print(f"{sum(total.values())} trainings: {_text(total)}")
    return int(any(total[status] for status in _WRONG))


def _text(counts: Counter[str]) -> str:
    return ", ".join(f"{counts[status]} {status}" for status in ("whole", "refused", *_WRONG))


if __name__ == "__main__":
    sys.exit(main())
