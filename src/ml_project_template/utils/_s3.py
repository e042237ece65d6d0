"""How S3 is asked: for a bounded time, and with every refusal in words that say what to mend.

Imported by `utils.io` alone, and only where S3 is used.
"""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import time
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import aiohttp
from botocore import exceptions as botocore_errors
from fsspec.asyn import sync
from s3fs import S3FileSystem
from s3fs.core import S3_RETRYABLE_ERRORS

from ml_project_template.utils.secrets import public_url

__all__ = ["BoundedS3FileSystem", "told"]

_RETRIED_FOR = 15  # seconds; what fails after them is not asked again
_STUCK_FOR = 10_000  # milliseconds in which nobody took what was sent
_PART_BYTES = 16 * 1024**2
_KEYS_IN_ONE_CALL = 1000
_REMOVALS = 3  # attempts: a busy store fails at one of many
_KEY_SETTINGS = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"

# What a store says of a key, and what that means.
_REFUSALS = {
    "InvalidAccessKeyId": "does not know the key AWS_ACCESS_KEY_ID",
    "SignatureDoesNotMatch": f"refuses the key: {_KEY_SETTINGS} do not belong together",
    "ExpiredToken": "refuses the key: AWS_SESSION_TOKEN has expired",
    "InvalidToken": "refuses the key: AWS_SESSION_TOKEN is not valid",
    "RequestTimeTooSkewed": "refuses the key: its clock and this machine's differ",
}
_TOLD = "_told_by_ml_project_template"
_NOT_THERE = frozenset({"404", "NoSuchKey"})
_NO_NAMES = frozenset({"InvalidBucketName", "InvalidURI"})


class BoundedS3FileSystem(S3FileSystem):  # type: ignore[misc]
    """S3 that is asked for a bounded time, whatever happens to the store.

    A read ends after the configured time without a byte, but a store that is stopped would also
    let a write wait for ever: sockets here give up on data that nobody takes.
    """

    # botocore asks again by itself; this is for a download that broke off in the middle.
    retries = 2

    def __init__(self, **options: Any) -> None:
        config = options.pop("config_kwargs", None) or {}
        connector = {"socket_factory": _bounded_socket, **config.get("connector_args", {})}
        super().__init__(config_kwargs={**config, "connector_args": connector}, **options)
        self._bounded: Any = None
        self.buckets_seen: set[str] = set()

    async def set_session(self, *args: Any, **kwargs: Any) -> Any:
        """Open the connection, and bound how long it asks again."""
        client = await super().set_session(*args, **kwargs)
        if self._bounded is not client:
            self._bounded = client
            client.meta.events.register_last("before-call.s3", _prepare)
            client.meta.events.register_first("needs-retry.s3", _give_up)
            client.meta.events.register_first("after-call.s3.GetObject", _require_length)
        return client

    def read_whole(self, path: str, limit: int | None = None) -> bytes:
        """Read an object, or its first `limit` bytes, by one request: what was there at one moment.

        Raises:
            FileNotFoundError: There is no such object.
        """
        content: bytes = sync(self.loop, self._read_whole, path, limit)
        return content

    async def _read_whole(self, path: str, limit: int | None) -> bytes:
        bucket, key, _ = self.split_path(path)
        for attempt in range(1, self.retries + 1):
            answer = await self._call_s3("get_object", Bucket=bucket, Key=key)
            try:
                async with answer["Body"] as body:
                    return await _read_from(body, limit)
            except S3_RETRYABLE_ERRORS:
                if attempt == self.retries:
                    raise
        raise AssertionError  # the last attempt has returned or raised

    def put_whole_file(self, local: str, remote: str) -> None:
        """Upload a file, in parts if it is large; an upload that fails leaves nothing."""
        self.put_file(local, remote, chunksize=_PART_BYTES, max_concurrency=4)

    def remove_objects(self, names: Iterable[str]) -> None:
        """Remove objects of one bucket; those that are gone already count as removed.

        Raises:
            PermissionError: Some may not be removed.
            ConnectionError: The store fails to remove some, again and again.
        """
        keys = [self.split_path(name)[:2] for name in names]
        for start in range(0, len(keys), _KEYS_IN_ONE_CALL):
            some = keys[start : start + _KEYS_IN_ONE_CALL]
            bucket, left = some[0][0], [key for _, key in some]
            for attempt in range(1, _REMOVALS + 1):
                answer = self.call_s3(
                    "delete_objects",
                    Bucket=bucket,
                    Delete={"Objects": [{"Key": key} for key in left], "Quiet": True},
                )
                refused = answer.get("Errors", [])
                if not refused:
                    break
                code, left = refused[0].get("Code"), [entry["Key"] for entry in refused]
                if code == "AccessDenied":
                    raise PermissionError(f"'{left[0]}' may not be removed ({code}).")
                if attempt == _REMOVALS:
                    raise ConnectionError(f"'{left[0]}' can't be removed ({code}).")

    def check_writable(self, path: str) -> None:
        """Raise whatever would keep an object from being written; nothing is written."""
        bucket, key, _ = self.split_path(path)
        upload = self.call_s3("create_multipart_upload", Bucket=bucket, Key=key)
        # Where it is unknown, an earlier attempt has ended it, whose answer was lost.
        with contextlib.suppress(FileNotFoundError):
            self.call_s3(
                "abort_multipart_upload", Bucket=bucket, Key=key, UploadId=upload["UploadId"]
            )

    def refusal_of(self, path: str) -> str | None:
        """Ask the store why it refuses a path: some answers come without a reason.

        Returns:
            A code of S3 such as ``NoSuchBucket``; None if nothing is wrong with key and bucket.
        """
        bucket, key, _ = self.split_path(path)
        if bucket in self.buckets_seen:
            return None
        try:
            self.call_s3("list_objects_v2", Bucket=bucket, Prefix=key, MaxKeys=1)
        except OSError as error:
            return _code(error)
        self.buckets_seen.add(bucket)
        return None


@contextlib.contextmanager
def told(path: str, filesystem: BoundedS3FileSystem) -> Iterator[None]:
    """Say in one line what is wrong with the store, the key or the bucket.

    Args:
        path: The URL that is asked for.
        filesystem: Where.

    Raises:
        FileNotFoundError: There is no such bucket; or no such object, as it was raised.
        PermissionError: The key is missing or refused, or may not do this.
        ConnectionError: The store does not answer, or fails.
    """
    try:
        yield
    except Exception as error:
        meaning = None if hasattr(error, _TOLD) else _meaning(error, path, filesystem)
        if meaning is None:
            raise
        # It may pass through the block of another path, which has nothing to add.
        setattr(meaning, _TOLD, True)
        raise meaning from error


def _meaning(error: Exception, path: str, filesystem: BoundedS3FileSystem) -> OSError | None:
    shown = public_url(path)
    place = filesystem.endpoint_url
    store = f"the store at '{public_url(place)}'" if place else "Amazon S3"
    if isinstance(
        error, botocore_errors.NoCredentialsError | botocore_errors.PartialCredentialsError
    ):
        return PermissionError(
            f"'{shown}': {store} asks for a key: set {_KEY_SETTINGS} in the environment or in .env."
        )
    if isinstance(error, botocore_errors.ParamValidationError):
        return FileNotFoundError(f"'{shown}' has no valid name of a bucket.")
    if isinstance(error, _NO_ANSWER):
        return ConnectionError(
            f"Can't reach {store} for '{shown}': {_reason(error)}. Is S3_ENDPOINT_URL right, and "
            "does it run?"
        )
    code = _code(error)
    if code in {None, "403", *_NOT_THERE} and isinstance(
        error, PermissionError | FileNotFoundError
    ):
        try:
            code = filesystem.refusal_of(path) or code
        except _NO_ANSWER as away:
            return _meaning(away, path, filesystem)
    if code is None:
        return None
    capital = store[0].upper() + store[1:]
    if code == "PreconditionFailed":
        return FileNotFoundError(f"'{shown}' was replaced while it was read.")
    if code in _REFUSALS:
        return PermissionError(f"{capital} {_REFUSALS[code]} ({code}, asked for '{shown}').")
    if code in _NO_NAMES:
        return FileNotFoundError(f"'{shown}' has no valid name of a bucket.")
    if code == "NoSuchBucket":
        bucket = filesystem.split_path(path)[0]
        return FileNotFoundError(
            f"No bucket '{bucket}' at {store}: make it, or name another one by S3_DATA_BUCKET or "
            "S3_MODEL_BUCKET."
        )
    if isinstance(error, PermissionError):
        return PermissionError(
            f"'{shown}': {store} denies this to the user of AWS_ACCESS_KEY_ID ({code})."
        )
    if isinstance(error, FileNotFoundError) and code in _NOT_THERE:
        return None
    return ConnectionError(f"'{shown}': {store} fails: {_reason(error)} ({code}).")


class _AwayError(ConnectionError):
    """The store has not answered for so long that it is not asked again."""


class _NoLengthError(botocore_errors.HTTPClientError):  # type: ignore[misc]
    fmt = "its answer has no length, and may be a part"


async def _read_from(body: Any, limit: int | None) -> bytes:
    """Read what a store answers with, or its first bytes; one that breaks off is an error."""
    pieces: list[bytes] = []
    left = limit
    # What is asked for may come in many pieces, and only the end of all is compared with the length
    # that was announced.
    while left is None or left > 0:
        piece = await body.read(left)
        if not piece:
            break
        pieces.append(piece)
        if left is not None:
            left -= len(piece)
    return b"".join(pieces)


# An answer that breaks off is told by aiohttp itself, which botocore does not look through.
_NO_ANSWER = (_AwayError, botocore_errors.BotoCoreError, aiohttp.ClientError, TimeoutError)


def _prepare(params: Mapping[str, Any], **_: Any) -> None:
    # A store that is asked whether it wants the content is waited for without an end.
    params["headers"].pop("Expect", None)
    params["context"]["asked_at"] = time.monotonic()


def _give_up(
    request_dict: Mapping[str, Any], caught_exception: Exception | None = None, **_: Any
) -> None:
    """Before a request is repeated: end it if it has taken long enough."""
    waited = time.monotonic() - request_dict["context"]["asked_at"]
    if caught_exception is not None and waited > _RETRIED_FOR:
        raise _AwayError(f"no answer in {waited:.0f} s") from caught_exception


def _require_length(parsed: Mapping[str, Any], **_: Any) -> None:
    """Refuse an object of which nobody could tell whether it has come whole; it is asked again."""
    about = parsed["ResponseMetadata"]
    has_length = not {"content-length", "transfer-encoding"}.isdisjoint(about["HTTPHeaders"])
    if about["HTTPStatusCode"] < HTTPStatus.MULTIPLE_CHOICES and not has_length:
        raise _NoLengthError


def _bounded_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _STUCK_FOR)
    return made


def _code(error: BaseException) -> str | None:
    """Find the code that the store has answered with."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, botocore_errors.ClientError):
            return str(seen.response.get("Error", {}).get("Code"))
        seen = seen.__cause__
    return None


def _reason(error: BaseException) -> str:
    """Put into a few words why a store can't be reached."""
    inner: Any = error
    while inner is not None:
        known = getattr(inner, "os_error", inner)
        if isinstance(known, OSError) and known.errno is not None:
            # What a library says instead is longer; of names and certificates it knows more.
            special = isinstance(known, ssl.SSLError | socket.gaierror)
            text = known.strerror if special else os.strerror(known.errno)
            return str(text)[:1].lower() + str(text)[1:]
        inner = getattr(inner, "kwargs", {}).get("error") or inner.__cause__
    if isinstance(error, botocore_errors.ConnectTimeoutError):
        return "no connection in time"
    if isinstance(error, botocore_errors.ReadTimeoutError | TimeoutError):
        return "no answer in time"
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
