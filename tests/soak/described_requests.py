"""Send a server what its OpenAPI document describes, and what it does not, and check the answers.

    python -m tests.soak.described_requests --examples 150

`Schemathesis <https://schemathesis.io>`_ makes the requests from the document, for three models:
one of numbers, one of all kinds of features, and a regression, with a bearer token and without. An
answer is wrong if it is one of 5xx, has a status, content type, header or schema that is not
described, or comes without the token where one is needed; if it holds NaN or an infinite number;
if it is a refusal that is large; or if there is none within 10 s.

That schemathesis' idea of a valid request is accepted is not checked: what makes a text a table, or
a number too large for a 32-bit float, no schema can say. Neither is that an invalid one is refused:
the Open Inference Protocol and MLflow's have members that a server may ignore.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import schemathesis

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.models import ModelRegistry
from tests.conftest import ROOT
from tests.servers import ServerProcess, flats, prices, train_model
from tests.soak.fuzzed_requests import check

_TOKEN = "t0ken-of-the-attack"
_CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
    "plain_answer",
)
_GENERATED = re.compile(r"(\d+) generated")


@schemathesis.check
def plain_answer(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case[Any]
) -> None:
    """Check what the other attack checks, too; schemathesis finds it by `SCHEMATHESIS_HOOKS`."""
    problem = check(b"", response.status_code, response.content)
    if problem is not None:
        raise AssertionError(problem)


def attack(
    server: ServerProcess,
    examples: int,
    *,
    seed: int = 0,
    token: str | None = None,
    phases: str = "examples,coverage,fuzzing,stateful",
) -> tuple[int, str]:
    """Send requests to a server that is ready.

    Args:
        server: The server.
        examples: Of requests for each operation.
        seed: Of what is sent.
        token: What the server asks for.
        phases: Of schemathesis.

    Returns:
        How many requests were sent, and what was wrong; empty if nothing was.
    """
    header = [] if token is None else ["--header", f"Authorization: Bearer {token}"]
    done = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "run", f"{server.address}/openapi.json"),
            *("--checks", ",".join(_CHECKS), "--request-timeout", "10", "--no-color"),
            *("--max-examples", str(examples), "--seed", str(seed), "--continue-on-failure"),
            *("--suppress-health-check", "all", "--warnings", "off", "--no-shrink", *header),
            *("--phases", phases),
        ],
        cwd=server.log.parent,
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "SCHEMATHESIS_HOOKS": "tests.soak.described_requests",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    generated = _GENERATED.search(done.stdout)
    wrong = "" if done.returncode == 0 else done.stdout + done.stderr
    if "Traceback" in server.output:
        wrong += server.output
    return int(generated[1]) if generated else 0, wrong


def _servers(folder: Path) -> Iterator[tuple[str, list[str], str | None]]:
    """Yield what to serve in turn: a name, the settings, and the token."""
    iris = f"models.iris.path={train_model(folder / 'iris')}"
    yield "numbers", [iris], None
    classes = _train_on_flats(folder / "flats", "gb_classifier")
    yield "all kinds of features", [f"models.flats.path={classes}"], None
    numbers = _train_on_flats(folder / "prices", "gb_regressor")
    yield "a regression, and a token", [f"models.prices.path={numbers}", iris], _TOKEN


def _train_on_flats(path: Path, kind: str) -> Path:
    model = ModelRegistry.get(kind)(max_iter=20, min_samples_leaf=5)
    price = prices(flats()).to_numpy()
    target = np.where(price > 250, "dear", "cheap") if model.task == "classification" else price
    raw = TabularDataset(
        flats(), target, target_column="price", task=model.task, columns={"zone": "category"}
    )
    data = Preprocessor().fit(raw).transform(raw)
    model.train(experiment_name="x", train_data=data, tracking=False, model_path=path)
    return path


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=150, help="for each operation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    total = failures = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name, settings, token in _servers(Path(scratch)):
            environment = {} if token is None else {"SERVER_TOKEN": token}
            quiet = ["server.access_log=false", "server.body_timeout=5"]
            server = ServerProcess(Path(scratch), [*settings, *quiet], environment)
            server.wait()
            try:
                sent, wrong = attack(server, options.examples, seed=options.seed, token=token)
            finally:
                server.end(signal.SIGTERM)
            print(f"{name}: {sent} requests{', wrong:' if wrong else ''}\n{wrong}".rstrip())
            total += sent
            failures += bool(wrong) or not sent
    print(f"{total} requests, {failures} of 3 servers wrong")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
