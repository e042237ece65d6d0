"""Break each request to the object store: a model or prepared data are there whole, or not at all.

    python -m tests.soak.store_faults

A model is trained and saved in the place of an older one, one is loaded, a table is onboarded and
data are prepared, each with a real S3 store behind a proxy that breaks the n-th request, or all
from the n-th on, for each n there is and in each way of ``tests/soak/broken_proxy.py``. Then the
store is there again:

* whoever loads finds the old model or the new one, whole; one that could not be saved is kept in
  ``.unsent``, and is at its place after it was sent from there;
* a load gives the model, or one line that says why not;
* data that are there are those that an undisturbed preparation gives; the next one finds or makes
  them, and leaves nothing else behind.

A line for each fault tells what was seen; the exit status is 1 if anything was *torn* or *lost*, or
a command *failed* with anything but one line or *hung*.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from ml_project_template import artifacts
from ml_project_template.data import Preprocessor, RawTable, TabularDataset
from ml_project_template.data.prepare import prepare
from ml_project_template.data.sources import onboard
from ml_project_template.errors import ArtifactError, ProjectError
from ml_project_template.models import BaseModel, ModelRegistry
from ml_project_template.unsent import waiting_models
from ml_project_template.utils import io
from tests.object_store import ObjectStore, start_object_store
from tests.soak.broken_proxy import FAULTS, Fault, broken_proxy
from tests.soak.side_by_side import Part, run_side_by_side

Work = Literal["save", "load", "onboard", "prepare"]
WORKS: tuple[Work, ...] = get_args(Work)

_HANG_SECONDS = 300
_WRONG = ("torn", "lost", "failed", "hung")
_REFUSED, _KEPT = 75, 76  # exit statuses


@dataclass(frozen=True)
class Case:
    """What is done with a store, and what is broken of it.

    Attributes:
        work: What is done.
        fault: How; None breaks nothing.
        first: The first request that is broken.
        lasting: Whether all that follow are broken, too.
    """

    work: Work
    fault: Fault | None = None
    first: int = 0
    lasting: bool = False

    def __str__(self) -> str:
        lasting = "--lasting" if self.lasting else "--single"
        return f"--works {self.work} --faults '{self.fault}' --at {self.first} {lasting}"


@dataclass
class Outcome:
    """What became of it.

    Attributes:
        case: What was broken.
        status: ``"done"``, ``"kept"`` for a model that was sent later, ``"refused"`` where nothing
            came of it, ``"torn"``, ``"lost"``, ``"failed"`` or ``"hung"``.
        detail: In a line.
        seconds: How long it took.
        requests: How many there were.
    """

    case: Case
    status: str
    detail: str = ""
    seconds: float = 0.0
    requests: int = 0


@dataclass(frozen=True)
class Site:
    """Where the cases work.

    Attributes:
        store: The object store.
        bucket: A bucket of it.
        table: A raw table, local.
        old: A model directory that is replaced, local.
    """

    store: ObjectStore
    bucket: str
    table: Path
    old: Path


def prepare_site(store: ObjectStore, folder: Path) -> Site:
    """Make what the cases need."""
    table = folder / "iris.csv"
    onboard(source="sklearn:iris", path=str(table))
    old = folder / "old"
    _train(str(old), table, seed=1)
    return Site(store, store.new_bucket(), table, old)


def attack(cases: Sequence[Case], site: Site, *, together: int = 4) -> Iterator[Outcome]:
    """Do the work of each case, several at once, each in processes of its own.

    Args:
        cases: What is broken.
        site: Where.
        together: How many at once; most of the time they wait.

    Yields:
        What became of each, as it ends.
    """
    examine = functools.partial(_examine, site=site)
    for case, found in run_side_by_side(cases, examine, together=together, seconds=_HANG_SECONDS):
        if isinstance(found, Outcome):
            yield found
        else:
            hung = isinstance(found, TimeoutError)
            yield Outcome(case, "hung" if hung else "failed", str(found))


def _train(path: str, table: Path, seed: int) -> BaseModel:
    raw = TabularDataset.from_csv(str(table), target_column="target")
    data = Preprocessor().fit(raw).transform(raw)
    model: BaseModel = ModelRegistry.get("linear_classifier")(l2_regularization=seed)
    options = io.get_storage_options() if io.is_remote(path) else None
    model.train(
        experiment_name="x",
        train_data=data,
        model_path=path,
        storage_options=options,
        tracking=False,
        seed=seed,
        progress=False,
    )
    return model


def _use(store: ObjectStore, endpoint: str) -> None:
    os.environ.update({**store.environment, "S3_ENDPOINT_URL": endpoint})


def _examine(case: Case, site: Site) -> Outcome:
    # Before the proxy's threads are there, and those of S3's client.
    part = Part(_work, case, site)
    with broken_proxy(site.store.endpoint_url, own_host=False) as proxy:
        root = f"s3://{site.bucket}/{os.getpid()}-{time.time_ns()}"
        _use(site.store, site.store.endpoint_url)
        if case.work in ("save", "load"):
            artifacts.copy_model_directory(str(site.old), f"{root}/model")
        if case.fault is not None:
            proxy.break_at(case.fault, case.first, None if case.lasting else case.first)
        began = time.monotonic()
        status = part.run((proxy.uri, root))
        outcome = Outcome(case, "done", seconds=time.monotonic() - began)
        outcome.requests = len(proxy.requests)
        proxy.heal()
    outcome.status = {0: "done", _REFUSED: "refused", _KEPT: "kept"}.get(status, "failed")
    outcome.detail = part.said()
    if outcome.status != "failed":
        check = {"save": _check_model, "onboard": _check_table, "prepare": _check_data}
        problem = check[case.work](root, outcome, site) if case.work in check else None
        if problem is not None:
            outcome.status, outcome.detail = problem
    return outcome


def _work(case: Case, site: Site, place: tuple[str, str]) -> int:
    """Be the process that does the work, and whose requests are broken."""
    endpoint, root = place
    _use(site.store, endpoint)
    try:
        if case.work == "save":
            _train(f"{root}/model", site.table, seed=2)
        elif case.work == "load":
            model = ModelRegistry.load(f"{root}/model")
            assert model.get_params()["l2_regularization"] == 1, "another model than there is"
        elif case.work == "onboard":
            onboard(
                source=str(site.table),
                path=f"{root}/iris.csv",
                storage_options=io.get_storage_options(),
            )
        else:
            _prepare(root, site)
    except (ProjectError, OSError) as error:
        print(str(error).replace("\n", " / "), flush=True)
        is_line = "\n" not in str(error) and str(error) != ""
        if is_line and isinstance(error, ArtifactError) and "is kept in" in str(error):
            return _KEPT
        return _REFUSED if is_line else 1
    return 0


def _prepare(root: str, site: Site) -> Any:
    table = RawTable(
        path=str(site.table),
        target_column="target",
        name="iris",
        random_state=1,
        storage_options=io.get_storage_options(),
    )
    return prepare(table, preprocessor=Preprocessor(), output_root=f"{root}/processed")


def _check_model(root: str, outcome: Outcome, site: Site) -> tuple[str, str] | None:
    found = _seed_of(f"{root}/model")
    wanted = {"done": [2], "kept": [1, 2], "refused": [1, 2]}[outcome.status]
    if found not in wanted:
        return "torn", f"{outcome.status}, and found is {found}: {outcome.detail}"
    waiting = waiting_models()
    if (outcome.status == "kept") != bool(waiting):
        return "lost", f"{outcome.status}, and {len(waiting)} wait: {outcome.detail}"
    for model in waiting:
        model.send(io.get_storage_options())
    if waiting and (_seed_of(f"{root}/model") != 2 or waiting_models()):
        return "lost", "what was kept did not arrive"
    # What an attempt has left behind is for a later one to remove, after an hour.
    return None


def _seed_of(path: str) -> int | None:
    """Say which model is at a place; None if there is none that can be read."""
    try:
        with artifacts.open_model_directory(path) as directory:
            seed: int = io.read_json(str(directory / artifacts.METADATA))["seed"]
        ModelRegistry.load(path)
    except ArtifactError:
        return None
    return seed


def _check_table(root: str, outcome: Outcome, site: Site) -> tuple[str, str] | None:
    path, content = f"{root}/iris.csv", site.table.read_bytes()
    status = outcome.status
    for _ in range(2):
        if io.exists(path) and io.read_bytes(path) != content:
            return "torn", "the table is another one"
        record = f"{path}.json"
        if io.exists(record):
            about = io.read_json(record)
            if not io.exists(path) or about["sha256"] != hashlib.sha256(content).hexdigest():
                return "torn", "there is a record of what is not there"
        elif status == "done":
            return "lost", "there is no record"
        onboard(source=str(site.table), path=path)
        status = "done"
    return None


def _check_data(root: str, outcome: Outcome, site: Site) -> tuple[str, str] | None:
    before = _digests(f"{root}/processed")
    again = _prepare(root, site)
    after = _digests(f"{root}/processed")
    fresh = _prepare(f"file://{Path.cwd()}", site)
    expected = _digests(f"file://{Path.cwd()}/processed")
    assert not fresh.reused
    if after != expected:
        return "torn", f"{sorted(after)} are not {sorted(expected)}, or differ"
    if outcome.status == "done" and not (again.reused and before == after):
        return "lost", "what was prepared was not there"
    if again.reused and before != after:
        return "torn", "half of it was taken for the whole"
    return None


def _digests(root: str) -> dict[str, str]:
    try:
        return {name: io.sha256(f"{root}/{name}") for name in io.list_files(root)}
    except FileNotFoundError:
        return {}


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", nargs="+", choices=WORKS, default=WORKS)
    parser.add_argument("--faults", nargs="+", choices=FAULTS, default=FAULTS)
    parser.add_argument("--at", nargs="+", type=int, help="requests; without it each there is")
    parser.add_argument("--lasting", action="store_true", help="outages alone")
    parser.add_argument("--single", action="store_true", help="single requests alone")
    parser.add_argument("--verbose", action="store_true", help="tell what each was told, too")
    parser.add_argument("--together", type=int, default=6, help="how many at once")
    options = parser.parse_args(arguments)
    # Once, not in each of the processes that are forked.
    importlib.import_module("ml_project_template.utils._s3")
    importlib.import_module("sklearn.linear_model")
    total: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        with start_object_store(folder / "store") as store:
            site = prepare_site(store, folder)
            for work in options.works:
                [undisturbed] = attack([Case(work)], site)
                print(f"{work}: {undisturbed.status}, {undisturbed.requests} requests")
                if undisturbed.status != "done":
                    print(undisturbed.detail)
                    return 1
                requests = options.at or range(1, undisturbed.requests + 1)
                kinds = [lasting for lasting in (True, False) if lasting or not options.lasting]
                for lasting in kinds:
                    if lasting and options.single:
                        continue
                    cases = [
                        Case(work, fault, at, lasting)
                        for fault in options.faults
                        for at in requests
                    ]
                    counts: Counter[str] = Counter()
                    longest = 0.0
                    for outcome in attack(cases, site, together=options.together):
                        counts[outcome.status] += 1
                        longest = max(longest, outcome.seconds - undisturbed.seconds)
                        if outcome.status in _WRONG or (options.verbose and outcome.detail):
                            print(f"  {outcome.status}: {outcome.case}: {outcome.detail}")
                    total += counts
                    what = "and all that follow" if lasting else "one request alone"
                    print(
                        f"{work}, {what}: {_text(counts)}; at most {longest:.0f} s longer",
                        flush=True,
                    )
    print(f"{sum(total.values())} cases: {_text(total)}")
    return int(any(total[status] for status in _WRONG))


def _text(counts: Counter[str]) -> str:
    names = ("done", "kept", "refused", *_WRONG)
    return ", ".join(f"{counts[status]} {status}" for status in names)


if __name__ == "__main__":
    sys.exit(main())
