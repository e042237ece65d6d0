"""Plant secrets wherever a user may have some, run the commands, and look for them everywhere.

    python -m tests.soak.canaries

Twenty secrets stand in the environment, in ``.env``, in addresses and in settings by names that
speak of them. Each command is run with all of them, in ways that succeed and in ways that fail,
with and without tracebacks. Then every byte that was written (but ``.env``), printed or answered
is searched for the end of each of them, which no quoting or escaping changes, as it is and in
base64, in compressed files as well. The exit status is 1 if one was found.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import urllib.parse
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from tests.conftest import ROOT
from tests.servers import BODY, ServerProcess

_QUICK = ("model=gb", "data=iris", "model.max_iter=5", "model.min_samples_leaf=5")


def _secret(*, more: str = "") -> str:
    return f"canary{more}{secrets.token_hex(6)}"


@dataclass
class Canaries:
    """Secrets by where they stand.

    Attributes:
        environment: Variables with a secret in each.
        dotenv: Likewise, in ``.env``.
        notes: Settings for every command, with a secret in each.
        values: What must not be seen, by where it stands.
    """

    environment: dict[str, str] = field(default_factory=dict)
    dotenv: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    values: dict[str, str] = field(default_factory=dict)

    def new(self, place: str, *, more: str = "") -> str:
        """Make another secret."""
        self.values[place] = _secret(more=more)
        return self.values[place]


def plant() -> Canaries:
    """Make twenty secrets."""
    found = Canaries()
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_ACCESS_KEY_ID",
        "AWS_SESSION_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_TRACKING_TOKEN",
        "SERVER_TOKEN",
        "PGPASSWORD",
        "HF_TOKEN",
    ):
        found.environment[name] = found.new(name)
    # No name that speaks of it: the setting that takes it does.
    found.environment["CHOSEN_BY_ME"] = found.new("interpolated")
    database = urllib.parse.quote(found.new("database", more="/ü:"), safe="")
    found.environment["MY_DATABASE"] = f"postgresql://ann:{database}@db.example.org/runs"
    found.dotenv["WEATHER_API_KEY"] = found.new("WEATHER_API_KEY")
    found.dotenv["MAIL_PASSWORD"] = found.new("MAIL_PASSWORD", more="%40 '$x")
    query = found.new("query")
    found.notes = [
        f"+note.db_password={found.new('db_password')}",
        f"+note.nested=[{{apiKey: {found.new('apiKey')}}}]",
        f"+note.url='https://ann:{found.new('url')}@example.org/x?X-Amz-Signature={query}&y=1'",
        f"+note.hub='https://{found.new('user of a url', more='0123456789')}@example.org/x'",
        "+note.my_secret=${oc.env:CHOSEN_BY_ME}",
        "+note.database=${oc.env:MY_DATABASE}",
        f"+note.credentials.word={found.new('below a name')}",
        f"+note.pin_token={found.new('of digits')[-12:]}",
        f"+note.private_key={found.new('private_key')}",
    ]
    found.values["of digits"] = found.values["of digits"][-12:]
    return found


def spellings(value: str) -> set[bytes]:
    """Give the bytes that a secret may be written as: of its end, which no escaping changes."""
    end = value[-12:]
    found = {end.encode(), end.encode("utf-16-le")}
    for start in range(3):
        # In the middle of a longer text; what its neighbours have a part in is left out.
        inner = end.encode()[start:]
        inner = inner[: len(inner) // 3 * 3]
        found |= {base64.b64encode(inner), base64.urlsafe_b64encode(inner)}
    return found


def search(content: bytes, values: dict[str, str]) -> list[str]:
    """Name the secrets that some bytes hold."""
    return [
        place
        for place, value in values.items()
        if any(spelling in content for spelling in spellings(value))
    ]


def _contents(path: Path) -> Iterator[bytes]:
    """Give what a file holds, and what it holds in a compressed form."""
    content = path.read_bytes()
    yield path.name.encode()
    yield content
    if content[:2] == b"\x1f\x8b":
        yield gzip.decompress(content)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                yield archive.read(name)
    if content[:4] == b"\x89PNG":
        for chunk in re.findall(rb"(?:zTXt|iTXt|tEXt)[^\x00]*\x00(.*?)IDAT", content, re.DOTALL):
            yield chunk
            yield zlib.decompressobj().decompress(chunk[1:]) if chunk[:1] == b"\x00" else b""


def search_folder(folder: Path, values: dict[str, str]) -> list[str]:
    """Name the files that hold a secret, and which."""
    found = []
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".env":
            there = {place for content in _contents(path) for place in search(content, values)}
            found += [f"{path.relative_to(folder)}: {place}" for place in sorted(there)]
    return found


def commands(found: Canaries) -> dict[str, tuple[int | None, Sequence[str], dict[str, str]]]:
    """Say what is run: by name the status, the command with its settings, and the environment."""
    nobody = "127.0.0.1:9"  # nobody listens there
    password = found.values["MLFLOW_TRACKING_PASSWORD"]
    url = found.values["url"]
    full = {"HYDRA_FULL_ERROR": "1"}
    broken: dict[str, Sequence[str]] = {
        "no such setting": ("train", *_QUICK, f"storage.passwort={url}"),
        "no such model": ("train", "data=iris", f"model={url}-token", f"+x.token={url}-token"),
        "a wrong value": ("train", *_QUICK, "model.max_iter=-1"),
        "no such model directory": ("evaluate", f"model.path=s3://ann:{url}@{nobody}/x"),
        "a store that is not there": ("evaluate", "storage=minio", "model.path=s3://models/x"),
        "a source that is not there": (
            "onboard",
            f"data.source=http://ann:{url}@{nobody}/x.csv?token={url}",
            "data.path=x.csv",
        ),
        "a database that is not there": (
            *("train", "-m", *_QUICK, "sweep=gb", "sweep.n_trials=1"),
            f"sweep.storage=postgresql+psycopg://ann:{url}@{nobody}/x",
        ),
        "a wrong token": ("serve", "model.path=.models/m", f"server.token='{url} {url}'"),
        "a type": ("train", *_QUICK, f"+trainer.password={url}", "seed=x"),
    }
    store = {"S3_ENDPOINT_URL": f"http://ann:{url}@{nobody}"}
    runs: dict[str, tuple[int | None, Sequence[str], dict[str, str]]] = {
        "preprocess": (0, ("preprocess", "data=iris"), {}),
        "train": (0, ("train", *_QUICK, "model_path=.models/m"), {}),
        "evaluate": (0, ("evaluate", "model.path=.models/m"), {}),
        "sweep": (
            0,
            ("train", "-m", *_QUICK, "sweep=gb", "sweep.n_trials=2", "model_path=.models/s"),
            {},
        ),
        "a tracking server that is not there": (
            None,
            ("train", *_QUICK, "model_path=.models/u"),
            {"MLFLOW_TRACKING_URI": f"http://ann:{password}@{nobody}"},
        ),
    }
    for name, command in broken.items():
        runs[name] = (1, command, store)
        runs[f"{name}, with a traceback"] = (1, command, {**store, **full})
    return runs


def _run(
    python: Sequence[str],
    command: Sequence[str],
    folder: Path,
    found: Canaries,
    environment: dict[str, str],
) -> tuple[int, bytes]:
    done = subprocess.run(
        [*python, "-m", f"entrypoints.{command[0]}", *command[1:], *found.notes],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **found.environment, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout


def ask(server: ServerProcess, found: Canaries) -> list[str]:
    """Ask a server in ways that succeed and fail; names answers with a secret in them."""
    token = {"Authorization": f"Bearer {found.environment['SERVER_TOKEN']}"}
    wrong = {"Authorization": f"Bearer {found.values['url']}"}
    key = found.values["db_password"]
    leaks = []
    asked: list[Callable[[httpx2.Client], httpx2.Response]] = [
        *(
            lambda client, path=path, headers=headers: client.get(path, headers=headers)
            for path in ("/", "/info", "/metrics", "/openapi.json", "/docs", "/health", "/v2")
            for headers in (token, wrong, {})
        ),
        lambda client: client.post("/predict", json=BODY, headers=token),
        lambda client: client.post(f"/predict?token={key}", json=BODY, headers=wrong),
        lambda client: client.post("/predict", json={"features": [[key] * 4]}, headers=token),
        lambda client: client.post("/predict", content=f"{{{key}", headers=token),
        lambda client: client.post("/invocations", json={"inputs": [key]}, headers=token),
        lambda client: client.post("/v2/models/m/infer", json={"inputs": key}, headers=token),
        lambda client: client.post("/predict/table", content=key, headers=token),
    ]
    with httpx2.Client(base_url=server.address, timeout=30) as client:
        for send in asked:
            answer = send(client)
            content = answer.content + repr(answer.headers).encode()
            there = search(content, found.values)
            leaks += [f"{answer.request.url.path} ({answer.status_code}): {x}" for x in there]
    return leaks


def attack(
    folder: Path,
    found: Canaries,
    chosen: Sequence[str] = (),
    *,
    serve: bool = True,
    python: Sequence[str] = (sys.executable,),
) -> tuple[int, list[str]]:
    """Run the commands in a folder and search all that has come of it.

    Args:
        folder: An empty one.
        found: The secrets.
        chosen: Names of commands; all by default.
        serve: Whether to serve the model that was trained, too.
        python: What runs the commands.

    Returns:
        How many commands were run, and where a secret was found or a command ended otherwise than
        it should.
    """
    lines = [f"{name}={json.dumps(value)}" for name, value in found.dotenv.items()]
    (folder / ".env").write_text("\n".join(lines) + "\n", encoding="utf-8")
    wrong = []
    runs = {name: run for name, run in commands(found).items() if not chosen or name in chosen}
    for name, (wanted, command, environment) in runs.items():
        status, output = _run(python, command, folder, found, environment)
        if wanted is not None and status != wanted:
            wrong.append(f"{name}: status {status}: {output[-500:].decode('utf-8', 'replace')}")
        wrong += [f"{name}: printed {place}" for place in search(output, found.values)]
    if serve:
        server = ServerProcess(folder, ["model.path=.models/m", *found.notes], found.environment)
        server.wait()
        try:
            wrong += ask(server, found)
        finally:
            server.end(signal.SIGTERM)
    return len(runs) + serve, [*wrong, *search_folder(folder, found.values)]


def main(arguments: list[str] | None = None) -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.parse_args(arguments)
    found = plant()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        count, wrong = attack(folder, found)
        files = sum(path.is_file() for path in folder.rglob("*"))
    for line in wrong[:40]:
        print(f"  {line}")
    print(
        f"{len(found.values)} secrets, {count} commands, {files} files searched, {len(wrong)} wrong"
    )
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
