"""An S3 store for the tests that ask for one: OpenStack Swift behind its S3 interface.

``python -m tests.object_store`` starts one to play with and prints what to put into the
environment. With ``S3_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY`` set, the
tests use the store that is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import pytest

from tests.services import Services, wait_until_up

REGION = "us-east-1"
ACCESS_KEY, SECRET_KEY = "test:tester", "a-secret-of-the-tests"
_ROOT = Path(__file__).resolve().parents[1]
_NAMES = ("S3_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
# Kept before any test takes it out of the environment.
_GIVEN = {name: os.environ.get(name, "") for name in _NAMES}


@dataclass
class ObjectStore:
    """A store that answers, and the key to it.

    Attributes:
        endpoint_url: Its address.
        access_key: The name of a user who may do everything.
        secret_key: The user's password.
        process: What answers; None for a store that was there before.
    """

    endpoint_url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    process: subprocess.Popen[bytes] | None = None
    _buckets: list[str] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs in its environment to use the store."""
        return {
            "S3_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_DEFAULT_REGION": REGION,
        }

    def client(self, service: str = "s3") -> Any:
        """Open the store by a client that has nothing to do with ours."""
        import boto3
        from botocore.config import Config

        return boto3.client(
            service,
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}),
        )

    def new_bucket(self) -> str:
        """Make an empty bucket under a name of its own."""
        name = f"bucket-{secrets.token_hex(6)}"
        self.client().create_bucket(Bucket=name)
        self._buckets.append(name)
        return name

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        """List the names of all objects of a bucket."""
        pages = self.client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=bucket, Prefix=prefix)
        return [entry["Key"] for page in found for entry in page.get("Contents", [])]

    def with_user(self, actions: list[str]) -> ObjectStore:
        """Make a user of moto's who may do some things only; give the same store with that key."""
        name = f"user-{secrets.token_hex(4)}"
        users = self.client("iam")
        users.create_user(UserName=name)
        key = users.create_access_key(UserName=name)["AccessKey"]
        statement = {"Effect": "Allow", "Action": actions, "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        users.put_user_policy(UserName=name, PolicyName="some", PolicyDocument=policy)
        access_key, secret_key = key["AccessKeyId"], key["SecretAccessKey"]
        return replace(self, access_key=access_key, secret_key=secret_key)

    def pause(self) -> None:
        """Have it take connections and never answer."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Go on after `pause`."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once: connections are refused from now on."""
        self._signal(signal.SIGKILL)
        assert self.process is not None
        self.process.wait()

    def remove_buckets(self) -> None:
        """Remove what `new_bucket` has made, with all that is in it."""
        client = self.client()
        for bucket in self._buckets:
            for key in self.keys(bucket):
                client.delete_object(Bucket=bucket, Key=key)
            client.delete_bucket(Bucket=bucket)

    def _signal(self, number: int) -> None:
        assert self.process is not None, "a store that was there before is left alone"
        self.process.send_signal(number)


@contextlib.contextmanager
def start_object_store(
    folder: Path, *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[ObjectStore]:
    """Start a store; it ends with the block.

    Args:
        folder: Where it keeps everything; one that was used before still holds its buckets.
        host: The address it listens at.
        port: The port; 0 for any free one.

    Yields:
        The store, ready to answer.
    """
    port = port or _free_port(host)
    folder.mkdir(parents=True, exist_ok=True)
    # All addresses are no address to ask at.
    endpoint = f"http://{'127.0.0.1' if host == '0.0.0.0' else host}:{port}"  # noqa: S104
    with _program(_store_command(folder, host, port), folder / "log") as process:
        wait_until_up(f"{endpoint}/healthcheck", folder / "log", lambda: process.poll() is not None)
        yield ObjectStore(endpoint, process=process)


def _store_command(folder: Path, host: str, port: int) -> list[str]:
    arguments = ["--serve", str(folder), "--host", host, "--port", str(port)]
    return [sys.executable, "-m", "tests.object_store", *arguments]


@contextlib.contextmanager
def start_moto(folder: Path) -> Iterator[ObjectStore]:
    """Start moto's server with its rights switched on; it ends with the block.

    Args:
        folder: Where its log goes.

    Yields:
        The store, with the key of a user who may do everything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = _free_port("127.0.0.1")
    endpoint = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    # Nobody can have a key yet: so many calls are free.
    environment = {"INITIAL_NO_AUTH_ACTION_COUNT": "3"}
    with _program(command, folder / "log", environment) as process:
        wait_until_up(f"{endpoint}/moto-api/", folder / "log", lambda: process.poll() is not None)
        yield ObjectStore(endpoint, "none", "none", process).with_user(["*"])


@pytest.fixture(scope="session")
def object_store(services: Services) -> Iterator[ObjectStore]:
    """A store for tests that neither stop it nor look for buckets that are not theirs."""
    if _GIVEN["S3_ENDPOINT_URL"]:
        endpoint, access_key, secret_key = (_GIVEN[name] for name in _NAMES)
        store = ObjectStore(endpoint, access_key, secret_key)
        yield store
        store.remove_buckets()
        return

    def start(folder: Path) -> str:
        port = _free_port("127.0.0.1")
        services.guard(folder, _store_command(folder, "127.0.0.1", port), cwd=_ROOT)
        endpoint = f"http://127.0.0.1:{port}"
        wait_until_up(f"{endpoint}/healthcheck", folder / "log", (folder / "ended").exists)
        return endpoint

    yield ObjectStore(services.share("object-store", start))


@pytest.fixture(scope="session")
def moto_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ObjectStore]:
    """A store that knows who may do what."""
    with start_moto(tmp_path_factory.mktemp("moto")) as store:
        yield store


@contextlib.contextmanager
def _program(
    command: list[str], log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a module that serves; whatever happens to it, it is gone after the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, **(environment or {})},
            # Closed by the system when the tests are killed: the store then ends by itself.
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _free_port(host: str) -> int:
    with socket.socket() as free:
        free.bind((host, 0))
        return int(free.getsockname()[1])


# --- the process that is the store ---------------------------------------------------------------

_SWIFT = """
[swift-hash]
swift_hash_path_prefix = tests
swift_hash_path_suffix = tests
"""

_STORAGE = """
[DEFAULT]
swift_dir = {folder}
devices = {folder}/devices
mount_check = false
disable_fallocate = true
log_level = WARNING
[pipeline:main]
pipeline = {kind}-server
[app:{kind}-server]
use = egg:swift#{kind}
replication_server = true
# On a busy machine a listing would else be told later, by a process that is not there.
container_update_timeout = 60
"""

_PROXY = """
[DEFAULT]
swift_dir = {folder}
log_level = WARNING
[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck cache listing_formats s3api tempauth bulk slo dlo \
proxy-server
[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true
allow_account_management = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:healthcheck]
use = egg:swift#healthcheck
[filter:cache]
use = egg:swift#memcache
[filter:listing_formats]
use = egg:swift#listing_formats
[filter:s3api]
use = egg:swift#s3api
location = {region}
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {secret} .admin
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
"""


class _Cache:
    """What Swift asks memcached for; without it most of a request is finding the bucket."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[str, float]] = {}

    def get(self, key: str, raise_on_error: bool = False) -> Any:
        text, end = self._entries.get(key, ("null", 0.0))
        return json.loads(text) if time.monotonic() < end else None

    # `time` is the name that Swift calls it by: seconds, 0 for as long as the store is there.
    def set(self, key: str, value: Any, time: float = 0, **_: Any) -> None:
        self._entries[key] = (json.dumps(value), _end(time))

    def delete(self, key: str, *_: Any) -> None:
        self._entries.pop(key, None)


def _end(seconds: float) -> float:
    return time.monotonic() + seconds if seconds else math.inf


def _serve(folder: Path, host: str, port: int) -> None:
    """Be the store: all servers of Swift in this one process, until it is killed."""
    import eventlet
    from eventlet import wsgi
    from swift.common import utils
    from swift.common.middleware import memcache
    from swift.common.ring import RingBuilder
    from swift.common.storage_policy import reload_storage_policies
    from swift.common.wsgi import SwiftHttpProtocol, loadapp

    # Before the servers are loaded: each of them waits for the others.
    eventlet.monkey_patch()
    memcache.load_memcache = lambda *_: _Cache()
    (folder / "devices" / "d1").mkdir(parents=True, exist_ok=True)
    (folder / "swift.conf").write_text(_SWIFT)
    utils.set_swift_dir(str(folder))
    reload_storage_policies()
    applications = {}
    for kind in ("account", "container", "object"):
        listener = eventlet.listen(("127.0.0.1", 0))
        ring = RingBuilder(part_power=4, replicas=1, min_part_hours=0)
        inside = {"ip": "127.0.0.1", "port": listener.getsockname()[1]}
        place = {"id": 0, "region": 1, "zone": 1, "weight": 1, "device": "d1"}
        ring.add_dev({**place, **inside})
        ring.rebalance(seed=1)
        ring.get_ring().save(str(folder / f"{kind}.ring.gz"))
        applications[kind] = (listener, _STORAGE.format(folder=folder, kind=kind))
    proxy = _PROXY.format(folder=folder, region=REGION, secret=SECRET_KEY)
    applications["proxy"] = (eventlet.listen((host, port), backlog=256), proxy)
    servers = []
    for kind, (listener, text) in applications.items():
        configuration = folder / f"{kind}-server.conf"
        configuration.write_text(text)
        servers.append(
            eventlet.spawn(
                wsgi.server,
                listener,
                loadapp(str(configuration)),
                utils.NullLogger(),
                protocol=SwiftHttpProtocol,
                capitalize_response_headers=False,
            )
        )
    for server in servers:
        server.wait()


def _end_with_parent(pipe: IO[bytes]) -> None:
    """Leave no store behind when those who started it are killed."""

    def wait() -> None:
        pipe.read()
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def main() -> None:
    """Start a store in the foreground, or be one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 for other machines too")
    parser.add_argument("--port", type=int, default=7000, help="0 for any free one")
    parser.add_argument("--folder", type=Path, help="where it keeps what it is given")
    parser.add_argument("--bucket", action="append", default=[], help="make it at the start")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        _end_with_parent(sys.stdin.buffer)
        _serve(arguments.serve, arguments.host, arguments.port)
        return
    # As by Ctrl-C: nothing stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with contextlib.ExitStack() as stack:
        folder = arguments.folder or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="object-store-"))
        )
        started = start_object_store(folder, host=arguments.host, port=arguments.port)
        store = stack.enter_context(started)
        for bucket in arguments.bucket:
            store.client().create_bucket(Bucket=bucket)
        for name, value in store.environment.items():
            print(f"export {name}={value}", flush=True)
        assert store.process is not None
        with contextlib.suppress(KeyboardInterrupt):
            store.process.wait()


if __name__ == "__main__":
    main()
