from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from botocore.exceptions import ClientError

from tests.conftest import ROOT
from tests.object_store import ObjectStore, start_object_store


def code_of(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


def test_the_store_keeps_what_it_is_given(object_store: ObjectStore) -> None:
    bucket = object_store.new_bucket()
    client = object_store.client()
    client.put_object(Bucket=bucket, Key="deep/down", Body=b"content")
    assert client.get_object(Bucket=bucket, Key="deep/down")["Body"].read() == b"content"
    assert object_store.keys(bucket) == ["deep/down"]


@pytest.mark.parametrize("store", ["object_store", "moto_store"])
def test_the_stores_check_signatures(store: str, request: pytest.FixtureRequest) -> None:
    real: ObjectStore = request.getfixturevalue(store)
    bucket = real.new_bucket()
    thief = ObjectStore(real.endpoint_url, real.access_key, "guessed")
    with pytest.raises(ClientError) as caught:
        thief.keys(bucket)
    assert code_of(caught) == "SignatureDoesNotMatch"


def test_the_store_checks_conditions_and_checksums(object_store: ObjectStore) -> None:
    bucket = object_store.new_bucket()
    client = object_store.client()
    client.put_object(Bucket=bucket, Key="a", Body=b"first", IfNoneMatch="*")
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=bucket, Key="a", Body=b"second", IfNoneMatch="*")
    assert code_of(caught) == "PreconditionFailed"
    digest_of_nothing = "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
    with pytest.raises(ClientError) as caught:
        client.put_object(Bucket=bucket, Key="a", Body=b"third", ChecksumSHA256=digest_of_nothing)
    assert code_of(caught) == "BadDigest"
    assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"first"


def test_a_store_that_was_killed_has_kept_everything(tmp_path: Path) -> None:
    with start_object_store(tmp_path / "store") as store:
        bucket = store.new_bucket()
        store.client().put_object(Bucket=bucket, Key="a", Body=b"kept")
        store.kill()
        port = int(store.endpoint_url.rpartition(":")[2])
    with start_object_store(tmp_path / "store", port=port) as again:
        assert again.keys(bucket) == ["a"]


def test_a_store_is_started_by_hand_with_what_to_put_into_the_environment() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.object_store", "--port", "0", "--bucket", "models"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(4)]
        process.terminate()
    assert process.returncode == 0
    settings = dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
    assert settings["AWS_ACCESS_KEY_ID"] == "test:tester"
    assert settings["S3_ENDPOINT_URL"].startswith("http://127.0.0.1:")
