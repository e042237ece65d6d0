from __future__ import annotations

import hashlib
import http.server
import json
import math
import os
import posixpath
import re
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ml_project_template.errors import ConfigError, DataError
from ml_project_template.utils import directories, io
from ml_project_template.utils._s3 import BoundedS3FileSystem
from tests.object_store import ObjectStore, start_object_store
from tests.soak.broken_proxy import BrokenProxy, broken_proxy


@pytest.fixture(scope="module")
def bucket(object_store: ObjectStore) -> str:
    return object_store.new_bucket()


def use(store: ObjectStore, monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
    for name, value in {**store.environment, **changes}.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def remote(object_store: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place in a real store, empty, of the test's own."""
    use(object_store, monkeypatch)
    return f"s3://{bucket}/{uuid.uuid4().hex}"


@pytest.fixture(params=["local", "s3", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "s3":
        place: str = request.getfixturevalue("remote")
        return place
    # Any file system of fsspec will do, where it needs no more than a URL.
    return str(tmp_path / "root") if request.param == "local" else f"memory://{uuid.uuid4().hex}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path.startswith("/broken"):
            self.send_error(500, "out of order")
        elif self.path == "/cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b"too little")
        elif self.path.startswith("/data.csv"):
            self.send_response(200)
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"a,b\n")
        else:
            self.send_error(404)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{web.server_port}"
        web.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "remote"),
    [
        ("data/iris.csv", False),
        ("/data/iris.csv", False),
        ("file:///data/iris.csv", False),
        ("s3://bucket/iris.csv", True),
        ("https://host/iris.csv", True),
        ("memory://iris.csv", True),
    ],
)
def test_a_url_other_than_file_is_remote(path: str, remote: bool) -> None:
    assert io.is_remote(path) is remote


@pytest.mark.parametrize(
    ("root", "parts", "joined"),
    [
        ("data", ["a", "b.csv"], "data/a/b.csv"),
        ("s3://bucket/", ["a/", "/b.csv"], "s3://bucket/a/b.csv"),
        ("s3://bucket", ["", "b.csv"], "s3://bucket/b.csv"),
        ("s3://bucket/x", [], "s3://bucket/x"),
    ],
)
def test_paths_are_joined_by_one_slash(root: str, parts: list[str], joined: str) -> None:
    assert io.join(root, *parts) == joined


def test_bytes_come_back_as_they_were_written(root: str) -> None:
    path = io.join(root, "deep", "file.bin")
    assert not io.exists(path)
    io.write_bytes(path, b"first")
    io.write_bytes(path, b"\x00second")
    assert io.read_bytes(path) == b"\x00second"
    assert io.sha256(path) == hashlib.sha256(b"\x00second").hexdigest()
    assert (io.exists(path), io.is_file(path), io.is_dir(path)) == (True, True, False)
    folder = io.join(root, "deep")
    assert (io.exists(folder), io.is_file(folder), io.is_dir(folder)) == (True, False, True)


def test_a_file_url_is_a_local_path(tmp_path: Path) -> None:
    io.write_bytes(f"file://{tmp_path}/a", b"x")
    assert (tmp_path / "a").read_bytes() == b"x"
    assert io.list_files(f"file://{tmp_path}") == {"a": 1}


def test_a_missing_file_is_named_in_one_line(root: str) -> None:
    path = io.join(root, "nope.csv")
    for read in (io.read_bytes, io.sha256, io.read_json):
        with pytest.raises(FileNotFoundError) as caught:
            read(path)
        assert str(caught.value) == f"No file '{path}'."


def test_a_directory_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is not a file"):
        io.read_bytes(str(tmp_path))
    with pytest.raises(IsADirectoryError, match="is a directory"):
        io.write_bytes(str(tmp_path), b"")


def test_a_file_above_the_limit_is_refused(root: str) -> None:
    path = io.join(root, "a")
    io.write_bytes(path, b"12345")
    assert io.read_bytes(path, max_bytes=5) == b"12345"
    with pytest.raises(DataError, match="larger than 4 bytes"):
        io.read_bytes(path, max_bytes=4)


def test_a_file_that_comes_in_pieces_is_read_whole(remote: str) -> None:
    content = os.urandom(3_000_000)
    path = io.join(remote, "large")
    io.write_bytes(path, content)
    assert io.read_bytes(path) == content
    assert io.read_bytes(path, max_bytes=len(content)) == content
    with pytest.raises(DataError, match="larger than"):
        io.read_bytes(path, max_bytes=len(content) - 1)


def test_what_a_writer_that_died_has_left_is_removed_by_the_next(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ending = "0123456789ab.tmp"
    left = [
        f".a.{dead.pid}-{ending}",
        # Of one that lives, of other files, and of others.
        f".a.{os.getpid()}-{ending}",
        f".a.b.{dead.pid}-{ending}",
        f".b.{dead.pid}-{ending}",
        ".a.mine.tmp",
    ]
    for name in left:
        (tmp_path / name).write_bytes(b"half")
    # One in another container: its number says nothing here.
    held = tmp_path / f".a.{dead.pid}-ba9876543210.tmp"
    held.write_bytes(b"half")
    with directories.held(held):
        io.write_bytes(str(tmp_path / "a"), b"whole")
    there = sorted(path.name for path in tmp_path.iterdir())
    assert there == sorted([*left[1:], held.name, "a"])


def test_a_failed_write_leaves_the_old_content_and_nothing_else(root: str) -> None:
    path = io.join(root, "a")
    io.write_bytes(path, b"old")

    def interrupted() -> None:
        with io.open_atomic(path) as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert io.read_bytes(path) == b"old"
    assert io.list_files(root) == {"a": 3}


def test_a_written_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    io.write_bytes(str(tmp_path / "a"), b"")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_stays_a_link_when_its_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    io.write_bytes(str(tmp_path / "link"), b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_json_keeps_its_order_and_its_letters(root: str) -> None:
    path = io.join(root, "a.json")
    io.write_json(path, {"z": [1, None], "a": "ä"})
    assert io.read_bytes(path).decode() == '{\n  "z": [\n    1,\n    null\n  ],\n  "a": "ä"\n}\n'
    assert list(io.read_json(path)) == ["z", "a"]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_json_is_never_written_with_a_number_that_is_not_finite(
    tmp_path: Path, value: float
) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        io.write_json(str(tmp_path / "a.json"), [value])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("[NaN]", "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("[1e999]", "1e999 is too large"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ('"\xff"', "not valid JSON"),
        ("[" * 100_000, "nested too deep"),
        ("1" * 5000, "not valid JSON"),
    ],
)
def test_json_is_read_strictly(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError) as caught:
        io.read_json(str(path))
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_large_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps("x" * 100))
    with pytest.raises(DataError, match="larger than 50 bytes"):
        io.read_json(str(path), max_bytes=50)


def test_files_are_listed_with_their_sizes_by_name(root: str) -> None:
    for name in ("b", "a/c"):
        io.write_bytes(io.join(root, name), name.encode())
    assert list(io.list_files(root).items()) == [("a/c", 3), ("b", 1)]


def test_a_missing_directory_is_named_in_one_line(root: str) -> None:
    path = io.join(root, "nowhere")
    with pytest.raises(FileNotFoundError) as caught:
        io.list_files(path)
    assert str(caught.value) == f"No directory '{path}'."


def test_the_files_of_a_file_can_not_be_listed(root: str) -> None:
    path = io.join(root, "a")
    io.write_bytes(path, b"")
    with pytest.raises(NotADirectoryError, match="is a file"):
        io.list_files(path)


def test_a_tree_is_removed_and_a_missing_one_is_no_error(root: str) -> None:
    for name in ("keep", "tree/a", "tree/b/c"):
        io.write_bytes(io.join(root, name), b"")
    io.remove_tree(io.join(root, "tree"))
    io.remove_tree(io.join(root, "tree"))
    assert io.list_files(root) == {"keep": 0}
    io.remove_tree(io.join(root, "keep"))
    assert not io.exists(io.join(root, "keep"))


def test_a_removed_link_leaves_what_it_points_to(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(b"")
    (tmp_path / "link").symlink_to("real")
    io.remove_tree(str(tmp_path / "link"))
    assert not (tmp_path / "link").exists()
    assert (tmp_path / "real/a").exists()


@pytest.mark.parametrize("path", ["/", "memory://", "s3://bucket", "s3://bucket/"])
def test_a_whole_storage_is_never_removed(path: str) -> None:
    with pytest.raises(DataError, match="is not removed"):
        io.remove_tree(path)


def test_directories_go_up_and_down_whole(tmp_path: Path, remote: str) -> None:
    (tmp_path / "up/deep").mkdir(parents=True)
    (tmp_path / "up/a").write_bytes(b"1")
    (tmp_path / "up/deep/b").write_bytes(b"2")
    io.upload_directory(tmp_path / "up", remote)
    assert io.list_files(remote) == {"a": 1, "deep/b": 1}
    io.download_directory(remote, tmp_path / "down")
    assert (tmp_path / "down/deep/b").read_bytes() == b"2"


def test_a_remote_name_can_not_leave_the_local_directory(
    tmp_path: Path, remote: str, bucket: str, object_store: ObjectStore
) -> None:
    prefix = remote.removeprefix(f"s3://{bucket}/")
    object_store.client().put_object(Bucket=bucket, Key=f"{prefix}/a/../../../escaped", Body=b"")
    before = sorted(tmp_path.parent.iterdir())
    with pytest.raises(DataError, match="a name that leaves it"):
        io.download_directory(remote, tmp_path / "down")
    assert sorted(tmp_path.parent.iterdir()) == before


def test_copies_cross_between_storages(tmp_path: Path, remote: str) -> None:
    content = os.urandom(3 * 1024 * 1024 + 1)
    (tmp_path / "a").write_bytes(content)
    io.copy(str(tmp_path / "a"), io.join(remote, "b"))
    io.copy(io.join(remote, "b"), str(tmp_path / "deep/c"))
    assert (tmp_path / "deep/c").read_bytes() == content


@pytest.fixture
def proxy(
    remote: str, object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> Iterator[BrokenProxy]:
    """What stands between the test and the store of `remote` from now on."""
    with broken_proxy(object_store.endpoint_url, own_host=False) as between:
        monkeypatch.setenv("S3_ENDPOINT_URL", between.uri)
        yield between


def copied(path: str) -> bytes:
    io.copy(path, "copied")
    return Path("copied").read_bytes()


READING: dict[str, Callable[[str], object]] = {
    "read": io.read_bytes,
    "fingerprint": io.fingerprint,
    "copy": copied,
}


@pytest.mark.parametrize("way", READING)
def test_a_part_is_not_taken_for_the_whole(
    way: str, remote: str, proxy: BrokenProxy, workspace: Path
) -> None:
    path = io.join(remote, "table.csv")
    io.write_bytes(path, b"a,b\n" * 100)
    whole = READING[way](path)
    # Its end can't be told from a good one: the answer has no length.
    get = next(i for i, sent in enumerate(proxy.requests[1:], 1) if sent.startswith("GET"))
    proxy.break_at("cut", get, get)
    assert READING[way](path) == whole
    assert proxy.broken == 1
    proxy.break_at("cut", get)
    (workspace / "copied").unlink(missing_ok=True)
    with pytest.raises(ConnectionError) as caught:
        READING[way](path)
    assert f"the store at '{proxy.uri}'" in str(caught.value)
    assert "its answer has no length" in str(caught.value)
    assert not (workspace / "copied").exists()


@pytest.mark.parametrize("first", [1, 2, 3])
def test_a_store_that_fails_is_named_whatever_it_is_asked(
    first: int, remote: str, proxy: BrokenProxy
) -> None:
    proxy.break_at("500", first)
    with pytest.raises(ConnectionError, match=re.escape(f"the store at '{proxy.uri}' fails: ")):
        io.exists(io.join(remote, "nothing"))


def test_a_store_takes_what_it_was_asked_before_though_its_answer_was_lost(
    remote: str, proxy: BrokenProxy
) -> None:
    io.check_writable(io.join(remote, "x"))
    asked = len(proxy.requests)
    for request in range(1, asked + 1):
        proxy.break_at("504", request, request)
        io.check_writable(io.join(remote, "x"))
        assert proxy.broken == 1


def test_a_file_is_fetched_over_http(tmp_path: Path, server: str) -> None:
    io.copy(f"{server}/data.csv", str(tmp_path / "data.csv"))
    assert (tmp_path / "data.csv").read_bytes() == b"a,b\n"


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("/nope.csv", FileNotFoundError, "No file '{url}'."),
        ("/broken", ConnectionError, "Can't reach '{url}': 500 out of order."),
        ("/cut", ConnectionError, "Can't reach '{url}'"),
    ],
)
def test_a_failed_download_is_one_line_and_leaves_nothing(
    tmp_path: Path, server: str, path: str, error: type[Exception], message: str
) -> None:
    url = f"{server}{path}"
    with pytest.raises(error) as caught:
        io.copy(url, str(tmp_path / "data.csv"))
    assert message.format(url=url) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_unreachable_server_is_named_without_its_password(tmp_path: Path, server: str) -> None:
    # Port 1 of this machine refuses at once.
    with pytest.raises(ConnectionError) as caught:
        io.copy("http://ann:hunter22@127.0.0.1:1/data.csv?token=hunter23", str(tmp_path / "a"))
    assert "Can't reach 'http://127.0.0.1:1/data.csv?token=***'" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_a_refusal_does_not_repeat_the_secrets_of_a_url(tmp_path: Path, server: str) -> None:
    with pytest.raises(ConnectionError) as caught:
        io.copy(f"{server}/broken?token=hunter22", str(tmp_path / "a"))
    assert str(caught.value) == f"Can't reach '{server}/broken?token=***': 500 out of order."


# --- S3 that refuses, stalls or is away ---------------------------------------------------------

ASKING: dict[str, Callable[[str], object]] = {
    "exists": io.exists,
    "list": io.list_files,
    "read": io.read_bytes,
    "hash": io.sha256,
    "write": lambda path: io.write_bytes(path, b"x"),
    "remove": io.remove_tree,
    "check_writable": io.check_writable,
}


def refused(path: str, kind: type[OSError], ways: Iterable[str] = ASKING) -> str:
    """Ask for a path in several ways, each of which must be refused in the same one line."""
    messages = set()
    for way in ways:
        with pytest.raises(kind) as caught:
            ASKING[way](path)
        messages.add(str(caught.value))
    (message,) = messages
    assert "\n" not in message
    assert "hidden-word" not in message
    return message


def test_a_wrong_secret_is_told_in_every_way_of_asking(
    object_store: ObjectStore, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(object_store, monkeypatch, AWS_SECRET_ACCESS_KEY="hidden-word")
    path = f"s3://{bucket}/x"
    assert refused(path, PermissionError) == (
        f"The store at '{object_store.endpoint_url}' refuses the key: AWS_ACCESS_KEY_ID and "
        f"AWS_SECRET_ACCESS_KEY do not belong together (SignatureDoesNotMatch, asked for '{path}')."
    )


def test_a_key_that_nobody_knows_is_told(
    moto_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"s3://{moto_store.new_bucket()}/x"
    use(moto_store, monkeypatch, AWS_ACCESS_KEY_ID="somebody")
    message = refused(path, PermissionError, ASKING.keys() - {"write", "check_writable", "remove"})
    assert "does not know the key AWS_ACCESS_KEY_ID (InvalidAccessKeyId" in message


def test_a_user_without_rights_is_told_what_is_denied(
    moto_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = f"s3://{moto_store.new_bucket()}/x"
    reading = moto_store.with_user(["s3:ListBucket", "s3:GetObject"])
    use(reading, monkeypatch)
    assert io.exists(path) is False
    with pytest.raises(PermissionError) as caught:
        io.write_bytes(path, b"x")
    assert "denies this to the user of AWS_ACCESS_KEY_ID (AccessDenied)" in str(caught.value)
    with pytest.raises(PermissionError, match="denies this"):
        io.check_writable(path)


@pytest.mark.parametrize("given", [(), ("AWS_ACCESS_KEY_ID",), ("AWS_SECRET_ACCESS_KEY",)])
def test_a_missing_key_is_told(
    object_store: ObjectStore,
    bucket: str,
    given: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    use(object_store, monkeypatch, AWS_EC2_METADATA_DISABLED="true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} - set(given):
        monkeypatch.delenv(name)
    assert refused(f"s3://{bucket}/x", PermissionError).endswith(
        f"the store at '{object_store.endpoint_url}' asks for a key: set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY in the environment or in .env."
    )


def test_a_missing_bucket_is_told_in_every_way_of_asking(
    object_store: ObjectStore, remote: str
) -> None:
    assert refused("s3://no-such-bucket/x", FileNotFoundError) == (
        f"No bucket 'no-such-bucket' at the store at '{object_store.endpoint_url}': make it, or "
        "name another one by S3_DATA_BUCKET or S3_MODEL_BUCKET."
    )


def test_a_bucket_that_could_not_be_is_told(remote: str) -> None:
    with pytest.raises(FileNotFoundError, match="'s3://A_b/x' has no valid name of a bucket"):
        io.write_bytes("s3://A_b/x", b"")


@pytest.mark.parametrize("region", [None, "eu-west-1"])
def test_the_region_of_a_store_need_not_be_known(
    remote: str, region: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    if region is not None:
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    BoundedS3FileSystem.clear_instance_cache()
    try:
        io.write_bytes(remote, b"x")
        assert io.exists(remote)
        assert io.read_bytes(remote) == b"x"
        assert io.list_files(posixpath.dirname(remote))
    finally:
        BoundedS3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        ("http://127.0.0.1:1", "connection refused"),
        ("http://no-such-host.invalid:7000", ""),
    ],
)
def test_a_store_that_is_not_there_is_told(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch, endpoint: str, reason: str
) -> None:
    use(object_store, monkeypatch, S3_ENDPOINT_URL=endpoint)
    message = refused("s3://bucket/key", ConnectionError, ["exists", "write"])
    assert message.startswith(
        f"Can't reach the store at '{endpoint}' for 's3://bucket/key': {reason}"
    )
    assert message.endswith("Is S3_ENDPOINT_URL right, and does it run?")


def test_an_endpoint_that_is_no_address_is_told(
    object_store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(object_store, monkeypatch, S3_ENDPOINT_URL="minio:9000")
    with pytest.raises(ConfigError, match="S3_ENDPOINT_URL: 'minio:9000' is no address"):
        io.exists("s3://bucket/key")


@pytest.mark.long
def test_a_store_that_stalls_is_given_up_and_waited_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    # In one request, of which a store that stalls takes the beginning.
    large.write_bytes(bytes(20 * 1024**2))
    with start_object_store(tmp_path / "store") as store:
        use(store, monkeypatch)
        path = f"s3://{store.new_bucket()}/x"
        io.write_bytes(path, b"x")
        store.pause()
        # All at once: each of them waits for its own.
        ways: dict[str, Callable[[str], object]] = {
            **ASKING,
            "large": lambda path: io.copy(str(large), path),
        }
        messages: dict[str, str] = {}

        def ask(way: str) -> None:
            with pytest.raises(ConnectionError) as caught:
                ways[way](path)
            messages[way] = str(caught.value)

        started = time.monotonic()
        threads = [threading.Thread(target=ask, args=(way,)) for way in ways]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert time.monotonic() - started < 30
        assert messages.keys() == ways.keys()
        reason = re.compile("no answer in 2|imed out")
        assert all(reason.search(message) for message in messages.values()), messages["large"]
        store.resume()
        assert io.read_bytes(path) == b"x"


def test_a_large_file_goes_up_in_parts_and_an_upload_that_fails_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = tmp_path / "large"
    large.write_bytes(os.urandom(70 * 1024**2))
    with start_object_store(tmp_path / "store") as store:
        use(store, monkeypatch)
        bucket = store.new_bucket()
        io.copy(str(large), f"s3://{bucket}/large")
        assert store.client().head_object(Bucket=bucket, Key="large")["ETag"].endswith('-5"')
        assert io.sha256(f"s3://{bucket}/large") == io.sha256(str(large))

        call = BoundedS3FileSystem._call_s3

        async def fail(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
            if method == "upload_part" and kwargs["PartNumber"] == 3:
                raise ConnectionError("the network is gone")
            return await call(self, method, *args, **kwargs)

        monkeypatch.setattr(BoundedS3FileSystem, "_call_s3", fail)
        with pytest.raises(ConnectionError, match="the network is gone"):
            io.copy(str(large), f"s3://{bucket}/other")
        assert store.keys(bucket) == ["large"]
        assert "Uploads" not in store.client().list_multipart_uploads(Bucket=bucket)


def test_a_small_object_is_read_as_it_was_at_one_moment(
    object_store: ObjectStore, bucket: str, remote: str
) -> None:
    client, key = object_store.client(), remote.removeprefix(f"s3://{bucket}/")
    client.put_object(Bucket=bucket, Key=key, Body=b"0")
    done = threading.Event()

    def replace() -> None:
        number = 0
        while not done.is_set():
            number += 1
            client.put_object(Bucket=bucket, Key=key, Body=b"1" * (number % 100 + 1))

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        seen = {io.read_bytes(remote, max_bytes=200) for _ in range(100)}
    finally:
        done.set()
        thread.join()
    assert len(seen) > 1


@pytest.mark.parametrize("where", ["s3", "memory"])
def test_files_are_dated_by_the_clock_of_their_storage(where: str, remote: str) -> None:
    root = remote if where == "s3" else f"memory://{uuid.uuid4().hex}"
    io.write_bytes(io.join(root, "a"), b"")
    (written,) = io.modification_times(root).values()
    assert abs(written - time.time()) < 600
    assert io.modification_times(io.join(root, "nothing")) == {}


def test_more_objects_than_fit_into_one_request_are_removed(
    object_store: ObjectStore, remote: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ml_project_template.utils._s3._KEYS_IN_ONE_CALL", 2)
    for name in "abcde":
        io.write_bytes(io.join(remote, name), b"")
    io.remove_tree(remote)
    assert not io.exists(remote)


def test_an_unknown_protocol_is_named() -> None:
    with pytest.raises(DataError, match="no file system for 'gopher://'"):
        io.exists("gopher://host/x")


def test_storage_options_bound_the_waits_and_hold_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "hunter22")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter23")
    monkeypatch.setenv("S3_ENDPOINT_URL", "http://minio:9000")
    options = io.get_storage_options(anon=False, config_kwargs={"read_timeout": 60})
    assert options == {
        "endpoint_url": "http://minio:9000",
        "config_kwargs": {
            "connect_timeout": 2,
            "read_timeout": 60,
            "retries": {"total_max_attempts": 3},
        },
        "anon": False,
    }
    assert io.get_storage_options(endpoint_url="http://x")["endpoint_url"] == "http://x"


def test_without_an_endpoint_amazon_is_meant() -> None:
    assert "endpoint_url" not in io.get_storage_options()


def test_s3_is_opened_with_the_options_and_without_cached_listings() -> None:
    filesystem = io.get_s3_filesystem(io.get_storage_options(endpoint_url="http://minio:9000"))
    assert filesystem.endpoint_url == "http://minio:9000"
    assert filesystem.config_kwargs["connect_timeout"] == 2
    assert filesystem.dircache.use_listings_cache is False


def test_a_local_file_system_ignores_the_options_of_s3(tmp_path: Path) -> None:
    options = io.get_storage_options(endpoint_url="http://minio:9000")
    filesystem, inside = io.get_filesystem(str(tmp_path), options)
    assert filesystem.isdir(inside)
