"""How many requests the server answers, beside the servers there are without this one.

    python -m benchmarks.serving --models mlp --servers floor,ours,fastapi

Every server answers for the same trained model, with one worker, and is checked against it before
its time counts. The server has one core, the load (wrk) the other. In each repetition every server
is started, loaded and ended in turn; ratios are to the floor of the same repetition: one ASGI
function around the model, which checks nothing. Servers other than ours have environments of their
own, made by uv from the head of each file in ``benchmarks/peers``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
PEERS = Path(__file__).resolve().parent / "peers"

MODELS = {
    "mlp": ("model=mlp",),
    "histogram": ("model=gb",),
    "exact": ("model=gb", "model.booster=exact"),
}
MANY = 1000
PATIENCE = 60.0
TOLERANCE = 1e-6

# Class names and probabilities of shape (n_rows, n_classes).
Answer = tuple[list[str], np.ndarray]
Rows = list[list[float]]


class NotRunError(Exception):
    """A server can't be started, or it answers wrongly."""


@dataclass(frozen=True)
class Server:
    """A server and how it is spoken to.

    Attributes:
        name: What it is called on the command line.
        title: What it is called in the tables.
        script: Its file in ``benchmarks/peers``; None is ours.
        variant: What the file is told by ``VARIANT``.
        prepared: Whether the file has something to write before the server starts.
        path: Where requests go.
        ask: Writes rows as the body of a request.
        read: Reads the answer, by the class names.
    """

    name: str
    title: str
    script: str | None = None
    variant: str = ""
    prepared: bool = False
    path: str = "/predict"
    ask: Callable[[Rows], Any] = lambda rows: {"features": rows}
    read: Callable[[Any, Sequence[str]], Answer] = lambda answer, classes: _read(answer, classes)

    @property
    def heading(self) -> str:
        """The title with the version that the file's head asks for."""
        head = "" if self.script is None else (PEERS / f"{self.script}_server.py").read_text()
        version = re.search(rf'"{self.script}(?:\[\w+\])?==([\w.]+)"', head)
        name, comma, how = self.title.partition(",")
        return f"{name} {version[1]}{comma}{how}" if version else self.title


def _read(answer: Any, classes: Sequence[str]) -> Answer:
    chances = [[row[name] for name in classes] for row in answer["probabilities"]]
    return answer["predictions"], np.array(chances)


def _read_rows(answer: Any, classes: Sequence[str]) -> Answer:
    chances = [[row["probabilities"][name] for name in classes] for row in answer]
    return [row["prediction"] for row in answer], np.array(chances)


def _ask_v2(rows: Rows) -> Any:
    tensor = {"name": "features", "shape": [len(rows), len(rows[0])], "datatype": "FP64"}
    return {"inputs": [{**tensor, "data": [value for row in rows for value in row]}]}


def _read_v2(answer: Any, classes: Sequence[str]) -> Answer:
    labels, chances = answer["outputs"]
    return labels["data"], np.array(chances["data"]).reshape(-1, len(classes))


def _mlserver(name: str, title: str, variant: str = "") -> Server:
    path = "/v2/models/iris/infer"
    return Server(name, title, "mlserver", variant, True, path, _ask_v2, _read_v2)


SERVERS = (
    Server("floor", "floor: one ASGI function", "floor"),
    Server("ours", "this"),
    Server("fastapi", "FastAPI, as in its tutorial", "fastapi"),
    Server("litserve", "LitServe", "litserve"),
    Server("litserve-batching", "LitServe, batching", "litserve", "batching"),
    Server("bentoml", "BentoML", "bentoml"),
    Server("bentoml-batching", "BentoML, batching", "bentoml", "batching", read=_read_rows),
    _mlserver("mlserver", "MLServer"),
    _mlserver("mlserver-inline", "MLServer, parallel_workers=0", "inline"),
    _mlserver("mlserver-batching", "MLServer, parallel_workers=0, batching", "batching"),
    Server(
        "mlflow",
        "MLflow, models serve",
        "mlflow",
        prepared=True,
        path="/invocations",
        ask=lambda rows: {"inputs": rows},
        read=lambda answer, classes: _read(answer["predictions"], classes),
    ),
)


@dataclass(frozen=True)
class Trained:
    """A trained model, and what is asked of it.

    Attributes:
        directory: The model directory.
        classes: The class names.
        rows: Raw rows, each asked by itself.
        answer: What the model itself says of them.
    """

    directory: Path
    classes: Sequence[str]
    rows: Rows
    answer: Answer

    @property
    def many(self) -> Rows:
        """The rows of one large request."""
        return [self.rows[index % len(self.rows)] for index in range(MANY)]


@dataclass
class Figures:
    """What was measured of a server for one model, a value for each repetition.

    Attributes:
        rate: Requests per second by clients, and rows per second of large requests by ``rows``.
        p50: Median of the times of an answer in milliseconds, by the same keys.
        p99: The 99th percentile of them.
        start: Seconds from the start of the process to the first right answer.
        memory: MB of the process and its children after the load.
    """

    rate: dict[str, list[float]] = field(default_factory=dict)
    p50: dict[str, list[float]] = field(default_factory=dict)
    p99: dict[str, list[float]] = field(default_factory=dict)
    start: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)


def _environment(**more: str) -> dict[str, str]:
    # Bytecode is written, as it is for every user: without it each process compiles its imports.
    outer = {k: v for k, v in os.environ.items() if k not in ("PYTHONDONTWRITEBYTECODE", "VARIANT")}
    quiet = {"BENTOML_DO_NOT_TRACK": "True", "MLFLOW_DISABLE_TELEMETRY": "true"}
    return {**outer, **quiet, **more}


def _run(command: Sequence[str | Path], **options: Any) -> str:
    done: subprocess.CompletedProcess[str] = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options
    )
    if done.returncode != 0:
        raise NotRunError(f"{Path(command[0]).name}: {_complaint(done.stdout)}")
    return done.stdout


def _complaint(text: str) -> str:
    """Pick what says most of a failure: the last line that names an error, and those after it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [index for index, line in enumerate(lines) if re.match(r"[\w.]*[Ee]rror\b", line)]
    start = errors[-1] if errors else -1
    return " ".join(lines[start:])[:300] or "it said nothing"


def train(name: str, folder: Path) -> Trained:
    """Train a model on iris.

    Args:
        name: One of `MODELS`.
        folder: Where data and model are put.
    """
    from ml_project_template.predictor import Predictor

    directory = folder / name
    arguments = (*MODELS[name], "data=iris", "tracking=disabled", f"model_path={directory}")
    _run(
        [sys.executable, "-m", "entrypoints.train", *arguments],
        cwd=folder,
        env=_environment(PYTHONPATH=str(ROOT)),
    )
    predictor = Predictor.load(str(directory))
    table = np.genfromtxt(folder / ".data/raw/iris.csv", delimiter=",", names=True)
    rows = [[float(row[feature]) for feature in predictor.feature_names] for row in table]
    prediction = predictor.predict(rows)
    return Trained(
        directory, predictor.class_names, rows, (prediction.labels, prediction.probabilities)
    )


@functools.cache
def interpreter(script: str) -> str:
    """Make the environment of a peer; returns its Python."""
    uv = shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    path = PEERS / f"{script}_server.py"
    _run([uv, "sync", "--quiet", "--script", path], env=_environment())
    return _run([uv, "python", "find", "--script", path], env=_environment()).strip()


class Running:
    """A server that was started.

    Args:
        server: The server.
        trained: The model it answers for.
        folder: A folder for its files.
        core: The core it is pinned to.
    """

    def __init__(self, server: Server, trained: Trained, folder: Path, core: int) -> None:
        self.server = server
        self.trained = trained
        self.port = _free_port()
        if server.script is None:
            program = [sys.executable, "-m", "entrypoints.serve"]
            command = [*program, f"model.path={trained.directory}", f"server.port={self.port}"]
            environment = _environment(PYTHONPATH=str(ROOT))
        else:
            command = [interpreter(server.script), str(PEERS / f"{server.script}_server.py")]
            environment = _environment(
                MODEL_DIR=str(trained.directory),
                PORT=str(self.port),
                VARIANT=server.variant,
                WORK=str(folder),
                TMPDIR=str(folder),
                BENTOML_HOME=str(folder),
            )
        if server.prepared:
            _run([*command, "prepare"], cwd=folder, env=environment)
        self.folder = folder
        self._log = folder / "log.txt"
        with self._log.open("wb") as log:
            self.started = time.perf_counter()
            self.process = subprocess.Popen(
                ["taskset", "--cpu-list", str(core), *command],
                cwd=folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def complaint(self) -> str:
        """Tell what it printed of a failure."""
        return _complaint(self._log.read_text(errors="replace"))

    def ask(self, rows: Rows) -> Answer | None:
        """Ask for some rows; None while there is no answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            try:
                body = json.dumps(self.server.ask(rows))
                headers = {"Content-Type": "application/json"}
                connection.request("POST", self.server.path, body, headers)
                response = connection.getresponse()
                text = response.read()
            except (OSError, http.client.HTTPException):
                return None
        if response.status != 200:
            return None
        try:
            return self.server.read(json.loads(text), self.trained.classes)
        except (ValueError, TypeError, LookupError) as error:
            raise NotRunError(f"an answer can't be read: {error!r}: {text[:100]!r}") from error

    def wait(self) -> float:
        """Wait for the first right answer; returns the seconds since the start.

        Raises:
            NotRunError: The server ended, does not answer, or answers wrongly.
        """
        while True:
            answer = self.ask(self.trained.rows[:1])
            seconds = time.perf_counter() - self.started
            if answer is not None:
                self._check(slice(0, 1), answer)
                return seconds
            if self.process.poll() is not None or seconds > PATIENCE:
                raise NotRunError(f"no answer after {seconds:.0f} s: {self.complaint()}")
            time.sleep(0.005)

    def check(self) -> None:
        """Compare answers with the model's own: a row of each class, and many at once.

        Raises:
            NotRunError: An answer is wrong.
        """
        labels = self.trained.answer[0]
        for name in self.trained.classes:
            index = labels.index(name)
            self._check(slice(index, index + 1), self.ask(self.trained.rows[index : index + 1]))
        answer = self.ask(self.trained.many)
        if answer is None or len(answer[0]) != MANY:
            raise NotRunError(f"no answer for {MANY} rows")
        count = len(self.trained.rows)
        self._check(slice(0, count), (answer[0][:count], answer[1][:count]))

    def _check(self, part: slice, answer: Answer | None) -> None:
        labels, chances = self.trained.answer
        if answer is None:
            raise NotRunError("a request was refused")
        if list(answer[0]) != labels[part]:
            raise NotRunError(f"it says {answer[0][:3]}, the model says {labels[part][:3]}")
        distance = float(np.abs(answer[1] - chances[part]).max())
        if not distance <= TOLERANCE:
            raise NotRunError(f"a probability is {distance:.2g} off")

    def memory(self) -> float:
        """Add up the memory of all its processes, in MB; what they share counts once."""
        return sum(map(_proportional_kib, _family(self.process.pid))) * 1024 / 1e6

    def end(self) -> None:
        """End all its processes."""
        family = _family(self.process.pid)
        self.process.send_signal(signal.SIGTERM)
        deadline = time.perf_counter() + 1
        while time.perf_counter() < deadline and any(map(_alive, family)):
            self.process.poll()
            time.sleep(0.02)
        # The session outlives its leader: whatever is left in it goes as well.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for pid in filter(_alive, family):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


def _free_port() -> int:
    """Find a port that is free and, as some servers need them, followed by two free ones."""
    for port in range(18000 + os.getpid() % 1000 * 10, 60000, 10):
        with contextlib.ExitStack() as stack:
            try:
                for number in range(port, port + 3):
                    stack.enter_context(socket.create_server(("127.0.0.1", number)))
            except OSError:
                continue
        return port
    raise SystemExit("No port is free.")


def _family(pid: int) -> list[int]:
    """List a process and all below it."""
    found = [pid]
    for parent in found:
        with contextlib.suppress(OSError):
            for children in Path(f"/proc/{parent}/task").glob("*/children"):
                found += map(int, children.read_text().split())
    return found


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _proportional_kib(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def load(running: Running, clients: int, bodies: Path, seconds: int, core: int) -> dict[str, float]:
    """Load a server for some seconds.

    Args:
        running: The server.
        clients: Connections, each with one request at a time.
        bodies: A file with the bodies of the requests, one a line.
        seconds: How long.
        core: The core that the load comes from.

    Raises:
        NotRunError: A request was refused or broken off.
    """
    address = f"http://127.0.0.1:{running.port}{running.server.path}"
    told = _run(
        [
            *("taskset", "--cpu-list", str(core), "wrk", "--threads=1", "--timeout=30s"),
            *(f"--connections={clients}", f"--duration={seconds}s", f"--script={PEERS}/load.lua"),
            *(address, "--", bodies),
        ]
    )
    figures: dict[str, float] = json.loads(told.splitlines()[-1])
    if figures["refused"] or figures["broken"] or not figures["requests"]:
        raise NotRunError(
            f"{clients} clients: {figures['requests']} answers, {figures['refused']} refused, "
            f"{figures['broken']} broken off: {running.complaint()}"
        )
    return figures


@contextlib.contextmanager
def started(server: Server, trained: Trained, core: int) -> Iterator[Running]:
    """Start a server, and end it after the block."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        running = Running(server, trained, Path(folder), core)
        try:
            yield running
        finally:
            running.end()


def measure(
    server: Server,
    trained: Trained,
    figures: Figures,
    clients: Sequence[int],
    seconds: int,
    cores: Sequence[int],
) -> None:
    """Start a server, check it, load it in every way, and end it.

    Args:
        server: The server.
        trained: The model it answers for.
        figures: What is measured is added here, once all of it is there.
        clients: Numbers of clients.
        seconds: How long each load takes.
        cores: The server's and the load's.

    Raises:
        NotRunError: It can't be measured.
    """
    with started(server, trained, cores[0]) as running:
        start = running.wait()
        running.check()
        bodies = running.folder / "bodies.txt"
        bodies.write_text("".join(json.dumps(server.ask([row])) + "\n" for row in trained.rows))
        large = running.folder / "large.txt"
        large.write_text(json.dumps(server.ask(trained.many)) + "\n")
        load(running, max(clients), bodies, 1, cores[1])
        found = {str(count): load(running, count, bodies, seconds, cores[1]) for count in clients}
        found["rows"] = load(running, 1, large, seconds, cores[1])
        memory = running.memory()
    for key, told in found.items():
        rows = MANY if key == "rows" else 1
        figures.rate.setdefault(key, []).append(rows * told["requests"] / told["seconds"])
        figures.p50.setdefault(key, []).append(told["p50"])
        figures.p99.setdefault(key, []).append(told["p99"])
    figures.start.append(start)
    figures.memory.append(memory)


def ratio(figures: Figures, floor: Figures | None, key: str) -> float | None:
    """Compare rates with those of the floor, each with that of its own repetition."""
    if floor is None or not floor.rate:
        return None
    pairs = zip(figures.rate[key], floor.rate[key], strict=False)
    return statistics.median(own / other for own, other in pairs)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def tables(name: str, measured: dict[str, Figures], clients: Sequence[int]) -> str:
    """Write the tables of one model in Markdown.

    Args:
        name: The model.
        measured: The figures of each server by its title; the floor's come first if they're there.
        clients: Numbers of clients.
    """
    keys = [str(count) for count in clients]
    counts = " / ".join(keys)
    floor = next((f for title, f in measured.items() if title == SERVERS[0].title), None)
    median = statistics.median
    lines = [
        f"### {name}",
        "",
        _row(
            "server",
            f"times the floor, {counts} clients",
            f"requests/s, {counts} clients",
            f"times the floor, {MANY:,} rows",
            f"rows/s, {MANY:,} rows",
        ),
        _row("---", "---:", "---:", "---:", "---:"),
    ]
    for title, figures in measured.items():
        lines.append(
            _row(
                title,
                " / ".join(_times(ratio(figures, floor, key)) for key in keys),
                " / ".join(f"{median(figures.rate[key]):,.0f}" for key in keys),
                _times(ratio(figures, floor, "rows")),
                f"{median(figures.rate['rows']):,.0f}",
            )
        )
    lines += [
        "",
        _row(
            "server",
            *(f"p50 / p99 ms, {key}" for key in keys),
            f"{MANY:,} rows",
            "cold start s",
            "memory MB",
        ),
        _row("---", *["---:"] * (len(keys) + 3)),
    ]
    for title, figures in measured.items():
        lines.append(
            _row(
                title,
                *(
                    f"{median(figures.p50[key]):.2f} / {median(figures.p99[key]):.2f}"
                    for key in [*keys, "rows"]
                ),
                f"{median(figures.start):.2f}",
                f"{median(figures.memory):.0f}",
            )
        )
    return "\n".join(lines)


def _names(known: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        names = text.split(",")
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"'{name}' is none of: {', '.join(known)}")
        return names

    return parse


def run(options: argparse.Namespace, cores: Sequence[int], folder: Path) -> dict[str, Any]:
    """Measure all that was asked for; prints the tables.

    Args:
        options: Those of the command line.
        cores: The server's and the load's.
        folder: Where the models are put.

    Returns:
        Model name to server name to figures, and why servers were left out.
    """
    chosen = [server for server in SERVERS if server.name in options.servers]
    left_out: dict[str, list[str]] = {}
    results: dict[str, dict[str, Any]] = {}

    def leave_out(servers: list[Server], server: Server, why: str) -> None:
        left_out.setdefault(server.name, []).append(why)
        servers.remove(server)
        print(f"{server.title} is left out: {why}\n", flush=True)

    for name in options.models:
        trained = train(name, folder)
        if not results:
            # One start first, so that bytecode and files are where they will be for all of them.
            for server in list(chosen):
                try:
                    with started(server, trained, cores[0]) as running:
                        running.wait()
                except NotRunError as error:
                    leave_out(chosen, server, str(error))
        servers = list(chosen)
        measured = {server.name: Figures() for server in servers}
        for repetition in range(options.repeats):
            for server in servers[:: -1 if repetition % 2 else 1]:
                figures = measured[server.name]
                begun = time.perf_counter()
                try:
                    measure(server, trained, figures, options.clients, options.seconds, cores)
                except NotRunError as error:
                    leave_out(servers, server, f"{name}: {error}")
                    del measured[server.name]
                    continue
                took = time.perf_counter() - begun
                rates = " / ".join(f"{rate[-1]:,.0f}" for rate in figures.rate.values())
                print(f"  {name}, {server.title}: {rates} in {took:.1f} s", file=sys.stderr)
        titles = {server.name: server.heading for server in SERVERS}
        print(tables(name, {titles[key]: f for key, f in measured.items()}, options.clients))
        print(flush=True)
        results[name] = {key: vars(figures) for key, figures in measured.items()}
    return {"models": results, "left_out": left_out}


def main() -> None:
    """Run it from the command line."""
    names = [server.name for server in SERVERS]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", type=_names(list(MODELS)), default=["mlp"], help=",".join(MODELS)
    )
    parser.add_argument("--servers", type=_names(names), default=names, help=",".join(names))
    parser.add_argument(
        "--clients",
        type=lambda text: [int(count) for count in text.split(",")],
        default=[1, 16, 64],
        help="numbers of clients, 1,16,64",
    )
    parser.add_argument("--seconds", type=int, default=2, help="of each load")
    parser.add_argument("--repeats", type=int, default=3, help="rounds; each runs every server")
    parser.add_argument("--json", type=Path, help="where the figures are written")
    options = parser.parse_args()
    for program in ("wrk", "taskset"):
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is needed: apt-get install wrk util-linux")
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("Two cores are needed, one for the server and one for the load.")
    # Whoever measures stays off the server's core.
    os.sched_setaffinity(0, {cores[1]})
    with tempfile.TemporaryDirectory() as folder:
        results = run(options, cores, Path(folder))
    if options.json:
        settings = {key: getattr(options, key) for key in ("clients", "seconds", "repeats")}
        options.json.write_text(json.dumps({**settings, **results}, indent=1) + "\n")
    if not {"floor", "ours"}.isdisjoint(results["left_out"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
