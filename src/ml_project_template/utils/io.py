"""Files, local and remote, behind the same few functions; the only way to S3.

A path is text: a local path, or a URL that fsspec knows, such as ``s3://bucket/key``. Everything
that writes is atomic: a reader sees the old content or the new one, never a part.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import math
import os
import posixpath
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

from ml_project_template.errors import ConfigError, DataError
from ml_project_template.utils.directories import held, remove_abandoned, sync
from ml_project_template.utils.secrets import public_url

__all__ = [
    "check_writable",
    "copy",
    "download_directory",
    "exists",
    "fingerprint",
    "get_filesystem",
    "get_s3_filesystem",
    "get_storage_options",
    "is_dir",
    "is_file",
    "is_pattern",
    "is_remote",
    "join",
    "joined_digest",
    "list_files",
    "local_path",
    "local_state",
    "matching_files",
    "modification_times",
    "open_atomic",
    "open_binary",
    "parse_json",
    "read_bytes",
    "read_json",
    "remove_tree",
    "sha256",
    "upload_directory",
    "write_bytes",
    "write_json",
]

Options = Mapping[str, Any] | None

_CHUNK = 1024 * 1024  # bytes held in memory while a file is copied or hashed
_MAX_JSON = 16 * 1024 * 1024  # bytes
_CONNECT_TIMEOUT = 2  # seconds
_READ_TIMEOUT = 10  # seconds without a byte
_ATTEMPTS = 3
_DOWNLOAD_TIMEOUT = 3600  # seconds for one file over HTTP
_SETTLED = 2_000_000_000  # nanoseconds, the coarsest clock of a file system
_STAGED = re.compile(r"(\d+)-[0-9a-f]{12}\.tmp")
_fingerprints: dict[tuple[int, ...] | None, tuple[str, int]] = {}
# Where the errors of a network come from; named, not imported: most commands need none of these.
_NETWORK_MODULES = ("aiohttp", "fsspec")


def is_remote(path: str) -> bool:
    """Say whether a path is a URL other than ``file://``.

    Args:
        path: A local path or a URL.

    Returns:
        True for ``s3://...``, ``https://...``, ``memory://...``; False for anything local.
    """
    return "://" in path and not path.startswith("file://")


def local_path(path: str) -> Path:
    """Turn a local path, ``file://`` or not, into a `Path`.

    Args:
        path: A local path; ``~`` stands for the home directory.

    Returns:
        The path, relative as given.
    """
    return Path(path.removeprefix("file://")).expanduser()


def join(root: str, *parts: str) -> str:
    """Join a root and parts below it, with one slash between two of them.

    Args:
        root: A local directory or a URL.
        parts: Names below it.

    Returns:
        The joined path; a root such as ``s3://bucket/`` keeps its two slashes.
    """
    if not is_remote(root):
        return os.path.join(root, *parts)  # noqa: PTH118 - text in, text out, "file://" kept
    return "/".join([root.rstrip("/"), *(part.strip("/") for part in parts if part.strip("/"))])


def get_storage_options(*, endpoint_url: str | None = None, **options: Any) -> dict[str, Any]:
    """Make the options with which S3 is opened.

    Access key and secret are no part of them: s3fs takes them from the environment
    (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``) or the machine's role, so that no saved
    configuration can hold them.

    Args:
        endpoint_url: The address of an S3-compatible server; ``S3_ENDPOINT_URL`` by default, else
            Amazon's own.
        options: More options of ``s3fs.S3FileSystem``.

    Returns:
        Options with bounded waits: 2 s to connect, 10 s without a byte, 3 attempts as long as they
        fail within 15 s.

    Raises:
        ConfigError: The address is none.
    """
    endpoint = endpoint_url or os.environ.get("S3_ENDPOINT_URL") or None
    if endpoint is not None and not re.match(r"https?://[^/\s]", endpoint):
        raise ConfigError(
            f"S3_ENDPOINT_URL: '{public_url(endpoint)}' is no address: http://host:port or "
            "https://host."
        )
    config = {
        "connect_timeout": _CONNECT_TIMEOUT,
        "read_timeout": _READ_TIMEOUT,
        "retries": {"total_max_attempts": _ATTEMPTS},
        **(options.pop("config_kwargs", None) or {}),
    }
    return {
        **({"endpoint_url": endpoint} if endpoint else {}),
        "config_kwargs": config,
        **options,
    }


def get_s3_filesystem(storage_options: Options = None) -> Any:
    """Open S3.

    Args:
        storage_options: What `get_storage_options` returned; its defaults if None.

    Returns:
        An ``s3fs.S3FileSystem``.
    """
    from ml_project_template.utils._s3 import BoundedS3FileSystem

    options = get_storage_options(**(storage_options or {}))
    # Named, so that a process that changes its key is not given the connection of the old one.
    key, secret = (os.environ.get(name) for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))
    if key and secret and not {"anon", "key", "profile"} & options.keys():
        token = os.environ.get("AWS_SESSION_TOKEN")
        options = {"key": key, "secret": secret, "token": token or None, **options}
    # A cached listing would hide what another process wrote in the meantime.
    return BoundedS3FileSystem(**{"use_listings_cache": False, **options})


def get_filesystem(path: str, storage_options: Options = None) -> tuple[Any, str]:
    """Find the file system that a path lies on.

    Args:
        path: A local path or a URL.
        storage_options: Options of S3; other file systems take none of them.

    Returns:
        The fsspec file system and the path inside it.

    Raises:
        DataError: If no file system is known for the URL.
    """
    import fsspec

    if not is_remote(path):
        filesystem = fsspec.filesystem("file")
        return filesystem, str(local_path(path).absolute())
    protocol = path.split("://", 1)[0]
    if protocol in {"s3", "s3a"}:
        filesystem = get_s3_filesystem(storage_options)
    elif protocol in {"http", "https"}:
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=_DOWNLOAD_TIMEOUT, sock_connect=5, sock_read=3 * _READ_TIMEOUT
        )
        # trust_env: proxies are set by HTTPS_PROXY, as for every other tool on the machine.
        client = {"timeout": timeout, "trust_env": True}
        filesystem = fsspec.filesystem(protocol, client_kwargs=client)
    else:
        try:
            filesystem = fsspec.filesystem(protocol)
        except (ImportError, ValueError) as error:
            shown = public_url(path)
            raise DataError(f"'{shown}': no file system for '{protocol}://' ({error}).") from error
    return filesystem, filesystem._strip_protocol(path)


def exists(path: str, storage_options: Options = None) -> bool:
    """Say whether a file or a directory is there.

    Args:
        path: A local path or a URL.
        storage_options: Options of S3.

    Returns:
        True if it is there.

    Raises:
        FileNotFoundError: If there is no such bucket.
        PermissionError: If the key of S3 is missing or refused.
        ConnectionError: If the server can't be reached: that is no absence.
    """
    return _kind(path, storage_options) is not None


def is_file(path: str, storage_options: Options = None) -> bool:
    """Say whether a path is a file; arguments as for `exists`."""
    return _kind(path, storage_options) == "file"


def is_dir(path: str, storage_options: Options = None) -> bool:
    """Say whether a path is a directory, or a prefix with something below it, as for `exists`."""
    return _kind(path, storage_options) == "directory"


@contextlib.contextmanager
def open_binary(path: str, storage_options: Options = None) -> Iterator[IO[bytes]]:
    """Open a file for reading bytes.

    Args:
        path: A local path or a URL. A file behind ``http(s)://`` is fetched whole into a temporary
            file first, which any server can do, with ranges or without.
        storage_options: Options of S3.

    Yields:
        The open file, seekable.

    Raises:
        FileNotFoundError: If it is not there.
        IsADirectoryError: If it is a directory.
        PermissionError: If it may not be read; or the key of S3 is missing or refused.
        ConnectionError: If the server can't be reached or fails.
    """
    with contextlib.ExitStack() as stack:
        if not is_remote(path):
            with _missing(path):
                handle: Any = stack.enter_context(local_path(path).open("rb"))
        else:
            filesystem, inside = get_filesystem(path, storage_options)
            stack.enter_context(_told(path, filesystem))
            with _missing(path):
                if path.startswith(("http://", "https://")):
                    handle = stack.enter_context(tempfile.TemporaryFile())
                    filesystem.get_file(inside, handle)
                    handle.seek(0)
                else:
                    handle = stack.enter_context(filesystem.open(inside, "rb"))
        yield cast("IO[bytes]", handle)


@contextlib.contextmanager
def open_atomic(path: str, storage_options: Options = None) -> Iterator[IO[bytes]]:
    """Open a file for writing bytes, which appears whole at the end or not at all.

    Args:
        path: A local path, whose parent directories are made, or a URL.
        storage_options: Options of S3.

    Yields:
        The open file. If the block raises, what was at the path stays.

    Raises:
        IsADirectoryError: If a directory is in the way.
        FileNotFoundError: If there is no such bucket.
        PermissionError: If it may not be written; or the key of S3 is missing or refused.
        ConnectionError: If the server can't be reached or fails.
    """
    if is_remote(path):
        filesystem, inside = get_filesystem(path, storage_options)
        with tempfile.TemporaryDirectory(prefix="ml-project-upload-") as directory:
            spool = Path(directory, "content")
            with spool.open("wb") as handle:
                yield handle
            with _told(path, filesystem):
                if _is_s3(path):
                    filesystem.put_whole_file(str(spool), inside)
                else:
                    filesystem.put_file(str(spool), inside)
        return
    # A link stays a link: what it points to is replaced.
    target = local_path(path).resolve()
    if target.is_dir():
        raise IsADirectoryError(f"'{path}' is a directory, not a file.")
    target.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{target.name[:100]}."
    staged = target.with_name(f"{prefix}{os.getpid()}-{secrets.token_hex(6)}.tmp")
    try:
        with staged.open("xb") as handle, held(staged):
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
            staged.replace(target)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    sync(target.parent)
    for leftover in target.parent.iterdir():
        if leftover.name.startswith(prefix) and leftover.name.endswith(".tmp"):
            found = _STAGED.fullmatch(leftover.name.removeprefix(prefix))
            if found is not None:
                remove_abandoned(leftover, found[1])


def read_bytes(
    path: str, *, max_bytes: int | None = None, storage_options: Options = None
) -> bytes:
    """Read a file whole.

    Args:
        path: A local path or a URL.
        max_bytes: The largest size that is accepted; None for any.
        storage_options: Options of S3.

    Returns:
        The content.

    Raises:
        FileNotFoundError: If it is not there.
        DataError: If it is larger than `max_bytes`.
    """
    limit = None if max_bytes is None else max_bytes + 1
    if _is_s3(path):
        filesystem, inside = get_filesystem(path, storage_options)
        with _told(path, filesystem), _missing(path):
            content: bytes = filesystem.read_whole(inside, limit)
    else:
        with open_binary(path, storage_options) as handle:
            content = handle.read() if limit is None else handle.read(limit)
    if max_bytes is not None and len(content) > max_bytes:
        raise DataError(f"'{public_url(path)}' is larger than {max_bytes} bytes.")
    return content


def write_bytes(path: str, data: bytes | memoryview, storage_options: Options = None) -> None:
    """Write a file atomically.

    Args:
        path: A local path, whose parent directories are made, or a URL.
        data: The content.
        storage_options: Options of S3.
    """
    with open_atomic(path, storage_options) as handle:
        handle.write(data)


def read_json(path: str, *, max_bytes: int = _MAX_JSON, storage_options: Options = None) -> Any:
    """Read JSON strictly, as `parse_json` does.

    Args:
        path: A local path or a URL.
        max_bytes: The largest size that is accepted.
        storage_options: Options of S3.

    Returns:
        The decoded value.

    Raises:
        FileNotFoundError: If it is not there.
        DataError: If it is too large or no strict JSON.
    """
    content = read_bytes(path, max_bytes=max_bytes, storage_options=storage_options)
    return parse_json(content, where=f"'{public_url(path)}'")


def parse_json(content: bytes, *, where: str) -> Any:
    """Decode JSON strictly: a key stands once, numbers are finite.

    Args:
        content: UTF-8 text.
        where: What the error names, such as ``"'.models/x/config.json'"``.

    Returns:
        The decoded value.

    Raises:
        DataError: If it is no JSON, doubles a key, or holds NaN or an infinite number.
    """
    try:
        return json.loads(
            content.decode("utf-8"),
            object_pairs_hook=_unique_pairs,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except RecursionError as error:
        raise DataError(f"{where} is nested too deep.") from error
    except ValueError as error:
        raise DataError(f"{where} is not valid JSON: {error}.") from error


def write_json(path: str, obj: Any, storage_options: Options = None) -> None:
    """Write JSON atomically: keys in their order, two spaces of indent, finite numbers only.

    Args:
        path: A local path or a URL.
        obj: Mappings with text keys, lists and plain values.
        storage_options: Options of S3.

    Raises:
        ValueError: If a number is NaN or infinite.
        TypeError: If a value is no JSON value.
    """
    text = json.dumps(obj, indent=2, allow_nan=False, ensure_ascii=False)
    write_bytes(path, f"{text}\n".encode(), storage_options)


def sha256(path: str, storage_options: Options = None) -> str:
    """Compute the SHA-256 of a file piece by piece.

    Args:
        path: A local path or a URL. A pattern, see `is_pattern`, has the digest that
            `joined_digest` makes of those of its files.
        storage_options: Options of S3.

    Returns:
        64 hexadecimal digits.
    """
    files = matching_files(path, storage_options)
    return joined_digest([fingerprint(file, storage_options)[0] for file in files])


def fingerprint(path: str, storage_options: Options = None) -> tuple[str, int]:
    """Compute the SHA-256 of a file piece by piece, and count its bytes.

    A local file is read once, as long as its file system says that it is unchanged.

    Args:
        path: A local path or a URL.
        storage_options: Options of S3.

    Returns:
        64 hexadecimal digits, and the size in bytes.
    """
    state = local_state(path)
    if state in _fingerprints:
        return _fingerprints[state]
    # A file that was just written may change once more within one tick of its storage's clock.
    settled = state is not None and time.time_ns() - state[-1] > _SETTLED
    digest, size = hashlib.sha256(), 0
    with open_binary(path, storage_options) as handle:
        while chunk := handle.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
    found = digest.hexdigest(), size
    if settled and local_state(path) == state:
        _fingerprints[state] = found
    return found


def local_state(path: str) -> tuple[int, ...] | None:
    """Give what differs as soon as a local file is another one or has changed.

    Args:
        path: A local path or a URL.

    Returns:
        Device, file, size, and times of the last change of its content and of its record, in
        nanoseconds; None for a URL, or where there is no file.
    """
    if is_remote(path):
        return None
    try:
        found = local_path(path).stat()
    except OSError:
        return None
    return (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


def joined_digest(digests: Sequence[str]) -> str:
    """Make one digest of those of several files, in their order.

    Args:
        digests: Each of 64 hexadecimal digits.

    Returns:
        That of a single file is its own.
    """
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def list_files(directory: str, storage_options: Options = None) -> dict[str, int]:
    """List the files of a directory and of those below it.

    Args:
        directory: A local directory or a URL.
        storage_options: Options of S3.

    Returns:
        From names relative to the directory, with ``/`` between their parts, to sizes in bytes;
        sorted by name.

    Raises:
        FileNotFoundError: If the directory is not there.
        NotADirectoryError: If it is a file.
    """
    if is_remote(directory):
        filesystem, inside = get_filesystem(directory, storage_options)
        with _told(directory, filesystem):
            entries = filesystem.find(inside, detail=True)
        found = {posixpath.relpath(name, inside): entry["size"] for name, entry in entries.items()}
        # Some tools mark an empty directory by an object of its own name.
        found.pop(".", None)
    else:
        root = local_path(directory)
        found = {
            p.relative_to(root).as_posix(): p.stat().st_size for p in root.rglob("*") if p.is_file()
        }
    if not found and not is_dir(directory, storage_options):
        if is_file(directory, storage_options):
            raise NotADirectoryError(f"'{public_url(directory)}' is a file, not a directory.")
        raise FileNotFoundError(f"No directory '{public_url(directory)}'.")
    return dict(sorted(found.items()))


def is_pattern(path: str) -> bool:
    """Say whether a path stands for any number of files, such as ``data/part-*.parquet``.

    Args:
        path: A local path or a URL. There are no patterns behind ``http(s)://``, and a local file
            that bears such a name is itself.
    """
    if path.startswith(("http://", "https://")) or not re.search(r"[*?\[]", path):
        return False
    return is_remote(path) or not local_path(path).exists()


def matching_files(path: str, storage_options: Options = None) -> list[str]:
    """List the files that a pattern stands for.

    Args:
        path: A local path or a URL with ``*``, ``?`` or ``[...]`` in it, see `is_pattern`; ``**``
            stands for any directories.
        storage_options: Options of S3.

    Returns:
        Paths, sorted; the path itself where it is no pattern.

    Raises:
        FileNotFoundError: If there is none.
    """
    if not is_pattern(path):
        return [path]
    filesystem, inside = get_filesystem(path, storage_options)
    if is_remote(path):
        protocol = path.split("://", 1)[0]
        with _told(path, filesystem):
            found = [f"{protocol}://{name.lstrip('/')}" for name in filesystem.glob(inside)]
    else:
        pattern = str(local_path(path))
        matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - absolute or not
        found = [name for name in matches if Path(name).is_file()]
    if not found:
        raise FileNotFoundError(f"No file matches '{public_url(path)}'.")
    return sorted(found)


def modification_times(directory: str, storage_options: Options = None) -> dict[str, float]:
    """Find out when the files of a remote directory were written, by the clock of their storage.

    Args:
        directory: A URL.
        storage_options: Options of S3.

    Returns:
        From names, as in `list_files`, to seconds since 1970; empty if the directory is not there.
    """
    filesystem, inside = get_filesystem(directory, storage_options)
    with _told(directory, filesystem):
        entries = filesystem.find(inside, detail=True)
    times = {}
    for name, entry in entries.items():
        at = entry.get("LastModified") or entry["created"]
        times[posixpath.relpath(name, inside)] = at if isinstance(at, float) else at.timestamp()
    return times


def remove_tree(path: str, storage_options: Options = None) -> None:
    """Remove a file, or a directory with everything below it; nothing if it is not there.

    A local link is removed itself, never what it points to.

    Args:
        path: A local path or a URL below its root.
        storage_options: Options of S3.

    Raises:
        DataError: If the path is a whole bucket or the root of a file system.
    """
    if not is_remote(path):
        target = local_path(path)
        if target.resolve() == Path(target.resolve().anchor):
            raise DataError(f"'{path}' is the root of a file system: it is not removed.")
        if target.is_symlink() or target.is_file():
            target.unlink()
        elif target.is_dir():
            shutil.rmtree(target)
        return
    filesystem, inside = get_filesystem(path, storage_options)
    depth = 1 if _is_s3(path) else 0
    if inside.strip("/").count("/") < depth or not inside.strip("/"):
        raise DataError(f"'{public_url(path)}' is a whole storage: it is not removed.")
    with _told(path, filesystem):
        if _is_s3(path):
            # A file and what stands below its name may be there at once.
            filesystem.remove_objects([inside, *filesystem.find(inside)])
        elif filesystem.exists(inside):
            filesystem.rm(inside, recursive=True)


def upload_directory(local: str | Path, remote: str, storage_options: Options = None) -> None:
    """Copy every file of a local directory below a path, each of them atomically.

    Args:
        local: A local directory.
        remote: A URL or a local directory; what is there already stays unless a name is the same.
        storage_options: Options of S3.
    """
    for name in list_files(str(local)):
        copy(str(Path(local, name)), join(remote, name), storage_options)


def download_directory(remote: str, local: str | Path, storage_options: Options = None) -> None:
    """Copy every file below a path into a local directory, each of them atomically.

    Args:
        remote: A URL or a local directory.
        local: A local directory, made if it is not there.
        storage_options: Options of S3.

    Raises:
        FileNotFoundError: If there is nothing at `remote`.
        DataError: If a name would leave the local directory.
    """
    Path(local).mkdir(parents=True, exist_ok=True)
    for name in list_files(remote, storage_options):
        if ".." in name.split("/") or name.startswith("/"):
            raise DataError(f"'{public_url(remote)}' holds a name that leaves it: {name!r}.")
        copy(join(remote, name), str(Path(local, name)), storage_options)


def check_writable(path: str, storage_options: Options = None) -> None:
    """See to it that a remote file could be written, without writing it.

    Args:
        path: A URL. Nothing is found out but for S3.
        storage_options: Options of S3.

    Raises:
        FileNotFoundError: If there is no such bucket.
        PermissionError: If it may not be written; or the key of S3 is missing or refused.
        ConnectionError: If the server can't be reached or fails.
    """
    if _is_s3(path):
        filesystem, inside = get_filesystem(path, storage_options)
        with _told(path, filesystem):
            filesystem.check_writable(inside)


def copy(source: str, target: str, storage_options: Options = None) -> None:
    """Copy a file, whole or not at all, piece by piece.

    Args:
        source: A local path or a URL, ``http(s)://`` too.
        target: A local path or a URL of a storage that can be written.
        storage_options: Options of S3, for both sides.

    Raises:
        FileNotFoundError: If the source is not there.
        ConnectionError: If a server can't be reached or refuses.
    """
    if _is_s3(target) and not is_remote(source):
        filesystem, inside = get_filesystem(target, storage_options)
        with _missing(source), local_path(source).open("rb"):
            pass
        with _told(target, filesystem):
            filesystem.put_whole_file(str(local_path(source)), inside)
        return
    with (
        open_binary(source, storage_options) as reader,
        open_atomic(target, storage_options) as out,
    ):
        shutil.copyfileobj(reader, out, _CHUNK)


def _kind(path: str, storage_options: Options) -> str | None:
    """Say what a path is: "file", "directory", or None if nothing is there."""
    if not is_remote(path):
        local = local_path(path)
        return "directory" if local.is_dir() else "file" if local.exists() else None
    filesystem, inside = get_filesystem(path, storage_options)
    with _told(path, filesystem):
        try:
            return str(filesystem.info(inside)["type"])
        except FileNotFoundError:
            if _is_s3(path) and filesystem.refusal_of(path) is not None:
                raise
            return None


def _is_s3(path: str) -> bool:
    return path.startswith(("s3://", "s3a://"))


def _told(path: str, filesystem: Any) -> contextlib.AbstractContextManager[None]:
    """Say in one line what is wrong with a server, whatever its client raised."""
    if _is_s3(path):
        from ml_project_template.utils._s3 import told

        return told(path, filesystem)
    return _network_errors(path)


@contextlib.contextmanager
def _missing(path: str) -> Iterator[None]:
    """Say in one line that a file is not there."""
    shown = public_url(path)
    try:
        yield
    except FileNotFoundError as error:
        raise FileNotFoundError(f"No file '{shown}'.") from error
    except (IsADirectoryError, NotADirectoryError) as error:
        raise type(error)(f"'{shown}' is not a file: a directory is in the way.") from error
    except PermissionError as error:
        raise PermissionError(f"'{shown}': access is denied.") from error


@contextlib.contextmanager
def _network_errors(path: str) -> Iterator[None]:
    """Say in one line that a server can't be reached, whatever its client raised."""
    try:
        yield
    except Exception as error:
        module = type(error).__module__.partition(".")[0]
        if module not in _NETWORK_MODULES and not isinstance(error, TimeoutError):
            raise
        # The text of a refusal by HTTP repeats the URL with its secrets; its status does not.
        status = getattr(error, "status", None)
        reason = f"{status} {getattr(error, 'message', '')}" if status else str(error)
        reason = " ".join(reason.split()) or type(error).__name__
        raise ConnectionError(f"Can't reach '{public_url(path)}': {reason}.") from error


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys: set[str] = set()
    for key, _ in pairs:
        if key in keys:
            raise ValueError(f"the key {key!r} stands twice")
        keys.add(key)
    return dict(pairs)


def _refuse_constant(constant: str) -> Any:
    raise ValueError(f"{constant} is no JSON number")


def _finite_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large for a number")
    return number
