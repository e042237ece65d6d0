"""Give a server under load new versions of its model, whole and broken ones, again and again.

    python -m tests.soak.reloads --versions 100

Whole versions come in turn, by SIGHUP and by watching the place: no request may be dropped, and
each answer has to be that of one version, wholly. Between them come broken ones: torn, with a byte
changed, without a file, missing altogether, and a sound model of other features. The old version
has to serve on, and ``/info``, ``/metrics`` and the log have to say so. The exit status is 1 if
anything else was seen.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2

from ml_project_template import artifacts
from ml_project_template.inference import Inference
from tests.servers import ROW, Crowd, ServerProcess, train_model

_PATIENCE = 60.0  # seconds
_ROWS = [list(ROW.values()), [6.7, 3.0, 5.2, 2.3], [5.9, 2.8, 4.3, 1.3]]


def _torn(place: Path) -> None:
    for name in ("weights.skops", "inference.safetensors"):
        content = (place / name).read_bytes()
        (place / name).write_bytes(content[: len(content) // 2])


def _changed(place: Path) -> None:
    content = bytearray((place / "weights.skops").read_bytes())
    content[len(content) // 2] ^= 255
    (place / "weights.skops").write_bytes(content)


def _without_a_file(place: Path) -> None:
    (place / "preprocessing.json").unlink()


BREAKS: dict[str, Callable[[Path], None]] = {
    "torn": _torn,
    "a byte changed": _changed,
    "a file missing": _without_a_file,
    "missing": shutil.rmtree,
}


class Clients(Crowd):
    """Clients that send the same rows again and again, and compare the answers.

    Args:
        address: Of the server.
        versions: What may be answered: the probabilities of the rows, by version.
        count: How many clients.
    """

    def __init__(
        self, address: str, versions: dict[str, list[list[float]]], count: int = 4
    ) -> None:
        self.answers: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._address = address
        self._versions = versions
        super().__init__(count)

    def _run(self) -> None:
        with httpx2.Client(timeout=20) as client:
            while not self._stop.is_set():
                try:
                    answer = client.post(f"{self._address}/predict", json={"features": _ROWS})
                    said = "wrong" if answer.status_code != 200 else self._name(answer.json())
                    problem = f"{answer.status_code}: {answer.text[:200]}"
                except httpx2.TransportError as error:
                    said, problem = "wrong", f"dropped: {error!r}"
                with self._lock:
                    self.answers[said] += 1
                    if said == "wrong":
                        self.wrong.append(problem)

    def _name(self, answer: dict[str, Any]) -> str:
        found = [list(chances.values()) for chances in answer["probabilities"]]
        for version, expected in self._versions.items():
            if found == expected:
                return version
        return "wrong"


def attack(
    server: ServerProcess,
    place: Path,
    good: list[Path],
    others: list[Path],
    *,
    versions: int,
    by_signal: bool,
) -> tuple[Clients, list[str]]:
    """Give a server new versions and broken ones while it is asked.

    Args:
        server: A server that is ready; it serves a copy of the first good model at `place`.
        place: Where it takes its model from.
        good: Two models of the same features.
        others: Sound models that answer something else.
        versions: How many versions to bring, half of them broken.
        by_signal: Tell the server by SIGHUP; otherwise it looks by itself.

    Returns:
        What the clients have seen, and what was wrong besides.
    """
    expected = {path.name: _expected(path) for path in good}
    names = {Inference.load(str(path)).version: path.name for path in good}
    wrong: list[str] = []
    clients = Clients(server.address, expected)
    breaks: list[Path | str] = [*BREAKS, *others]

    def await_info(what: str, holds: Callable[[dict[str, Any]], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE
        if by_signal:
            server.tell(signal.SIGHUP)
        while not holds(info := httpx2.get(f"{server.address}/info", timeout=20).json()):
            if time.monotonic() > deadline:
                wrong.append(f"{what}: {info['version']}, {info['reload_problem']!r}")
                return
            time.sleep(0.02)

    try:
        for number in range(1, versions // 2 + 1):
            old, new = good[(number - 1) % 2], good[number % 2]
            broken = breaks[number % len(breaks)]
            if isinstance(broken, Path):
                artifacts.copy_model_directory(str(broken), str(place))
            else:
                BREAKS[broken](place)
                if place.exists():
                    (place / "manifest.json").touch()
            await_info(
                f"broken by {broken}",
                lambda info, old=old: (  # type: ignore[misc]
                    info["reload_problem"] is not None and names[info["version"]] == old.name
                ),
            )
            metrics = httpx2.get(f"{server.address}/metrics", timeout=20).text
            if 'model_reload_failed{model="model"} 1.0' not in metrics:
                wrong.append(f"broken by {broken}: the metrics do not say so")
            shutil.rmtree(place, ignore_errors=True)
            artifacts.copy_model_directory(str(new), str(place))
            await_info(
                "a new version",
                lambda info, new=new: (  # type: ignore[misc]
                    info["reload_problem"] is None and names[info["version"]] == new.name
                ),
            )
    finally:
        clients.end()
    if server.output.count("stays at version") < versions // 2:
        wrong.append("the log does not tell of each broken version")
    return clients, [*clients.wrong, *wrong]


def _expected(path: Path) -> list[list[float]]:
    import numpy as np

    rows: list[list[float]] = Inference.load(str(path)).probabilities(np.array(_ROWS)).tolist()
    return rows


def make_models(folder: Path) -> tuple[list[Path], list[Path]]:
    """Train two models of the same features, and one of others."""
    good = [train_model(folder / name, max_iter=n) for name, n in (("one", 20), ("two", 5))]
    return good, [train_model(folder / "other", "wine")]


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--versions", type=int, default=100, help="half of them broken")
    options = parser.parse_args(arguments)
    failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        good, others = make_models(folder)
        for by_signal in (True, False):
            place = folder / "model"
            shutil.rmtree(place, ignore_errors=True)
            shutil.copytree(good[0], place)
            watch = "null" if by_signal else "0.1"
            settings = [f"model.path={place}", f"server.watch_seconds={watch}"]
            server = ServerProcess(folder, [*settings, "server.access_log=false"], {})
            server.wait()
            try:
                clients, wrong = attack(
                    server,
                    place,
                    good,
                    others,
                    versions=options.versions // 2,
                    by_signal=by_signal,
                )
            finally:
                server.end(signal.SIGTERM)
            way = "SIGHUP" if by_signal else "watching"
            print(f"by {way}: answers {json.dumps(clients.answers)}, {len(wrong)} wrong")
            for line in wrong[:10]:
                print(f"  {line}")
            failures += len(wrong)
    print(f"{options.versions} versions, {failures} wrong")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
