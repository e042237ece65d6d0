"""The model directory: what is in it, how it is written whole, and how it is read only if whole.

``manifest.json`` is written last and lists every other file with its size and SHA-256. A local
directory is made beside its place and put there in one step; on a remote storage it is a version
behind a pointer, see `utils.versions`. So a reader finds the old model or the new one at any
moment, also when the writer is killed. A reader copies what the manifest lists, checks it while
copying, and parses nothing before: no pickle, no import path, no surprise. Whoever trusts certain
keys alone parses not even the manifest before one of them is seen to have signed it, see `signing`.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import importlib
import io as memory
import json
import math
import os
import re
import shutil
import stat
import struct
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from ml_project_template.errors import ArtifactError, ConfigError, DataError
from ml_project_template.signing import (
    SIGNATURE_BYTES,
    SIGNING_KEY,
    TRUSTED_KEYS,
    check_signer,
    find_signer,
    key_name,
    signing_key,
    trusted_keys,
)
from ml_project_template.utils import io, versions
from ml_project_template.utils.directories import (
    replacing_directory,
    restore_directory,
    sync,
)
from ml_project_template.utils.late_packages import late_package
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    import numpy as np

    from ml_project_template.signing import PrivateKey, PublicKey

__all__ = [
    "CONFIG",
    "FORMAT_VERSION",
    "INFERENCE",
    "MANIFEST",
    "MANIFEST_SIGNATURE",
    "METADATA",
    "PREPROCESSING",
    "PROBE",
    "SIGNATURE",
    "WEIGHTS_CATBOOST",
    "WEIGHTS_LIGHTGBM",
    "WEIGHTS_SAFETENSORS",
    "WEIGHTS_SKOPS",
    "WEIGHTS_XGBOOST",
    "check_target",
    "copy_model_directory",
    "digest",
    "import_skops",
    "load_estimator",
    "load_tensors",
    "open_model_directory",
    "parse_json",
    "read_config",
    "save_estimator",
    "save_tensors",
    "sign_model_directory",
    "signed_by",
    "stamp",
    "write_config",
    "write_model_directory",
]

CONFIG = "config.json"
PREPROCESSING = "preprocessing.json"
SIGNATURE = "signature.json"
METADATA = "metadata.json"
MANIFEST = "manifest.json"
MANIFEST_SIGNATURE = "manifest.ed25519"
WEIGHTS_SAFETENSORS = "weights.safetensors"
WEIGHTS_SKOPS = "weights.skops"
WEIGHTS_CATBOOST = "weights.catboost"
WEIGHTS_LIGHTGBM = "weights.lightgbm"
WEIGHTS_XGBOOST = "weights.xgboost"
INFERENCE = "inference.safetensors"
PROBE = "probe.probabilities"
FORMAT_VERSION = 1

_OWN_NAMES = frozenset(
    {
        CONFIG,
        INFERENCE,
        MANIFEST,
        MANIFEST_SIGNATURE,
        METADATA,
        PREPROCESSING,
        SIGNATURE,
        WEIGHTS_CATBOOST,
        WEIGHTS_LIGHTGBM,
        WEIGHTS_SAFETENSORS,
        WEIGHTS_SKOPS,
        WEIGHTS_XGBOOST,
    }
)
_MAX_MANIFEST = 1024**2  # bytes
_MAX_JSON = 16 * 1024**2  # bytes
_MAX_WEIGHTS = 16 * 1024**3  # bytes
_MAX_FILES = 64
_MAX_DEPTH = 8  # levels of nesting in config.json
_MAX_TENSOR_HEADER = 16 * 1024**2  # bytes
_MAX_ZIP_MEMBERS = 200_000  # the exact booster needs four for each tree
_MAX_ZIP_BYTES = 4 * 1024**3
_MAX_SCHEMA = 1024**3  # bytes
_CHUNK = 1024**2  # bytes
_READ_ATTEMPTS = 20
_SNAPSHOT_PREFIX = "ml-project-model-"
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HYDRA_KEY = re.compile(r"_.*_")
# What is about the other files, and so is not listed among them.
_UNLISTED = frozenset({MANIFEST, MANIFEST_SIGNATURE})
# A file manager puts this into every folder it shows: no part of a model, and no user's work.
_LITTER = frozenset({".DS_Store"})


class _ChangedError(Exception):
    """Another process replaced the model while it was read."""


def write_model_directory(
    path: str | os.PathLike[str],
    write: Callable[[Path], None],
    *,
    storage_options: Mapping[str, Any] | None = None,
) -> str:
    """Write a model directory, whole or not at all, and sign it where there is a key to sign with.

    A model that was there before stays readable until the new one takes its place in one step.

    Args:
        path: Where the directory shall be, a local path or a URL; parents are made.
        write: Writes the files into the empty directory that it is given: plain files, no folders.
        storage_options: Options of S3.

    Returns:
        The path, as given.

    Raises:
        ArtifactError: If something is at the path that is no model of ours, or `write` left
            something that a model directory can't hold.
        ConfigError: The signing key can't be used.
        OSError: If a remote storage can't be reached or refuses.
    """
    shown = os.fspath(path)
    key = signing_key()

    def fill(directory: Path) -> None:
        write(directory)
        _seal(directory, key)

    _put(shown, fill, storage_options)
    return shown


def check_target(path: str, *, storage_options: Mapping[str, Any] | None = None) -> None:
    """Check, before work is put into a model, that it may be written to a path.

    Args:
        path: The model directory to be, local or remote.
        storage_options: For a remote directory.

    Raises:
        ArtifactError: Something is there that is no model, or the place can't be written to.
        ConfigError: The model could not be signed, or would be refused by this very machine.
        OSError: A remote storage can't be reached or refuses.
    """
    check_signer()
    if io.is_remote(path):
        _check_remote(path, storage_options)
        io.check_writable(io.join(path, versions.POINTER), storage_options)
        return
    place = io.local_path(path).absolute()
    _check_local(place, path)
    there = next(parent for parent in place.parents if parent.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ArtifactError(f"'{path}' can't be written: no folder can be made in '{there}'.")


@contextlib.contextmanager
def open_model_directory(
    path: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    check_signature: bool = True,
) -> Iterator[Path]:
    """Open a model directory: a private, verified copy of it for the time of a ``with`` block.

    The files are checked against the manifest while they are copied, so that nobody can change
    them between the check and the use. Where there are trusted keys, one of them has to have signed
    the manifest.

    Args:
        path: A local path or a URL.
        storage_options: Options of S3.
        check_signature: False for who is about to sign it.

    Yields:
        The copy, which is removed at the end.

    Raises:
        ArtifactError: If there is no model directory, or anything of it is missing, added, changed,
            too large or no plain file; or no trusted key has signed it.
        ConfigError: The trusted keys can't be read.
        OSError: If a remote storage can't be reached or refuses.
    """
    shown = os.fspath(path)
    trusted = trusted_keys() if check_signature else ()
    with tempfile.TemporaryDirectory(prefix=_SNAPSHOT_PREFIX) as directory:
        snapshot = Path(directory)
        for attempt in range(_READ_ATTEMPTS):
            try:
                if io.is_remote(shown):
                    _copy_remote(shown, snapshot, trusted, storage_options)
                else:
                    _copy_local(_local_version(io.local_path(shown)), snapshot, trusted, shown)
                break
            except _ChangedError:
                for file in snapshot.iterdir():
                    file.unlink()
                # The writer is at work; each wait is a little longer, 2 s all in all.
                time.sleep(0.01 * attempt)
        else:
            raise ArtifactError(
                f"'{public_url(shown)}' was replaced by somebody again and again while it was read."
            )
        yield snapshot


def copy_model_directory(
    source: str, target: str, *, storage_options: Mapping[str, Any] | None = None
) -> str:
    """Copy a model, verified, to another place, as a whole or not at all.

    It is signed there as it was here: who copies has not looked at it.

    Args:
        source: Its directory, local or remote.
        target: The other directory. A model that is there is replaced.
        storage_options: For remote directories.

    Returns:
        The target.

    Raises:
        ArtifactError: No model directory, a damaged one, or something else is at the target.
    """
    with open_model_directory(source, storage_options=storage_options) as directory:
        _put(target, functools.partial(_copy_files, directory), storage_options)
    return target


def sign_model_directory(path: str, *, storage_options: Mapping[str, Any] | None = None) -> str:
    """Sign a model that is there, with the key of ``ML_PROJECT_SIGNING_KEY``, in one step.

    Args:
        path: Its directory, local or remote. Nothing of it is changed but for its signature.
        storage_options: For a remote directory.

    Returns:
        The model's `digest`.

    Raises:
        ArtifactError: No model directory, a damaged one, or it was replaced meanwhile.
        ConfigError: There is no key to sign with.
        OSError: A remote storage can't be reached or refuses.
    """
    key = signing_key()
    if key is None:
        raise ConfigError(f"{SIGNING_KEY}: is required to sign: the path of a private key in PEM.")
    check_signer()
    opened = open_model_directory(path, storage_options=storage_options, check_signature=False)
    with opened as directory:
        manifest = (directory / MANIFEST).read_bytes()
        _sign(directory, key)
        if io.is_remote(path):
            _send_signature(path, directory, manifest, storage_options)
        else:
            place = _local_version(io.local_path(path))
            fill = functools.partial(_copy_files, directory)
            _write_local(place, fill, path, of=manifest)
        return digest(directory)


def signed_by(directory: Path) -> str | None:
    """Name the trusted key that has signed a model.

    Args:
        directory: What `open_model_directory` gave.

    Returns:
        The `key_name`; None if there are no trusted keys, or it was none of them.

    Raises:
        ConfigError: The trusted keys can't be read.
    """
    file = directory / MANIFEST_SIGNATURE
    if not file.exists():
        return None
    manifest = (directory / MANIFEST).read_bytes()
    signer = find_signer(manifest, file.read_bytes(), trusted_keys())
    return None if signer is None else key_name(signer)


def digest(directory: Path) -> str:
    """Name a verified copy of a model directory by its content.

    Args:
        directory: What `open_model_directory` gave.

    Returns:
        The SHA-256 of its manifest, and so of all its files, in hexadecimal digits.
    """
    return hashlib.sha256((directory / MANIFEST).read_bytes()).hexdigest()


def stamp(path: str, *, storage_options: Mapping[str, Any] | None = None) -> object:
    """Tell a model directory that was replaced from one that was not, without reading the model.

    Args:
        path: The directory, local or remote.
        storage_options: Options of S3.

    Returns:
        Something that differs after a change; None where only reading the model can tell.

    Raises:
        OSError: A remote storage can't be reached or refuses.
    """
    if not io.is_remote(path):
        # Whatever is wrong is told by who reads it.
        with contextlib.suppress(OSError, ArtifactError):
            found = (_local_version(io.local_path(path)) / MANIFEST).stat()
            return found.st_ino, found.st_mtime_ns, found.st_size
        return None
    for name in (versions.POINTER, MANIFEST):
        with contextlib.suppress(FileNotFoundError, DataError):
            return io.read_bytes(
                io.join(path, name), max_bytes=_MAX_MANIFEST, storage_options=storage_options
            )
    return None


def write_config(
    directory: str | os.PathLike[str], *, name: str, params: Mapping[str, Any]
) -> None:
    """Write ``config.json``: which model this is and how to build it.

    Args:
        directory: The directory being written.
        name: The model's name in the registry.
        params: The constructor's arguments, JSON values.

    Raises:
        ArtifactError: If `read_config` would refuse it.
    """
    config = {"format_version": FORMAT_VERSION, "name": name, "params": dict(params)}
    place = Path(directory, CONFIG)
    _check_config(config, f"'{place.name}'")
    try:
        io.write_json(str(place), config)
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"'{place.name}': {error}.") from error


def read_config(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Read and validate ``config.json``.

    Args:
        directory: What `open_model_directory` yielded.

    Returns:
        ``{"format_version": 1, "name": str, "params": dict}``.

    Raises:
        ArtifactError: If it is missing or not of this form, is nested too deep, or holds what a
            configuration system would act on: keys such as ``_target_``, or ``${...}``.
    """
    config = _read_json(Path(directory, CONFIG), _MAX_JSON)
    _check_config(config, f"'{CONFIG}'")
    result: dict[str, Any] = config
    return result


def save_tensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays as safetensors.

    Args:
        path: The file.
        tensors: Arrays by name, of numbers or booleans, of any shape.

    Raises:
        ArtifactError: If a float is NaN or infinite, or a type can't be stored.
    """
    import numpy as np
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    plain = {name: np.asarray(array, order="C") for name, array in tensors.items()}
    for name, array in plain.items():
        if array.dtype.kind not in "biuf":
            raise ArtifactError(f"Tensor {name!r} has type {array.dtype}, which can't be stored.")
        _check_finite(name, array)
    try:
        save_file(plain, path)
    except (SafetensorError, KeyError) as error:
        raise ArtifactError(f"'{Path(path).name}' can't be written: {error}.") from error


def load_tensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read arrays from safetensors.

    Args:
        path: The file.

    Returns:
        Arrays by name, writable.

    Raises:
        ArtifactError: If the file is damaged or a float in it is NaN or infinite.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    file = Path(path)
    with _reading(file), file.open("rb") as handle:
        head = handle.read(8)
        # The format's first eight bytes: the length of its JSON header, little-endian.
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else -1
        if not 0 <= length <= _MAX_TENSOR_HEADER:
            raise ArtifactError(f"'{file.name}' is no safetensors file: its header is broken.")
        parse_json(handle.read(length), f"the header of '{file.name}'")
    try:
        tensors = load_file(file)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"'{file.name}' is no safetensors file: {_line(error)}.") from error
    for name, array in tensors.items():
        _check_finite(name, array)
    return tensors


def save_estimator(path: str | os.PathLike[str], estimator: Any) -> None:
    """Write a fitted scikit-learn estimator in the format of skops, without pickle.

    The same fit gives the same bytes: skops names its members after memory addresses and stamps
    them with the time, and both are replaced by fixed ones here.

    Args:
        path: The file.
        estimator: The estimator.

    Raises:
        ArtifactError: If skops can't store it, or it has more parts than `load_estimator` takes.
    """
    try:
        content = import_skops().dumps(estimator)
    except Exception as error:
        raise ArtifactError(
            f"{type(estimator).__name__} can't be stored by skops: {_line(error)}."
        ) from error
    with zipfile.ZipFile(memory.BytesIO(content)) as source:
        schema = json.loads(source.read("schema.json"))
        members = _canonical(schema)
        if len(members) >= _MAX_ZIP_MEMBERS:
            raise ArtifactError(
                f"{type(estimator).__name__} has {len(members)} parts; at most "
                f"{_MAX_ZIP_MEMBERS - 1} can be stored."
            )
        with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as target:
            for old, new in members.items():
                target.writestr(zipfile.ZipInfo(new), _without_padding(source.read(old)))
            text = json.dumps(schema, separators=(",", ":"))
            target.writestr(zipfile.ZipInfo("schema.json"), text)


def load_estimator(path: str | os.PathLike[str], *, trusted: Sequence[str]) -> Any:
    """Read an estimator that `save_estimator` wrote.

    The archive is bounded and its schema is read before skops sees it: every type that it names
    must be a plain value, an array or one of `trusted`.

    Args:
        path: The file.
        trusted: Full names of the types that may be built, a constant of the caller; never taken
            from the file.

    Returns:
        The estimator.

    Raises:
        ArtifactError: If the file is damaged, too large, or names another type.
    """
    file = Path(path)
    with _reading(file):
        size = file.stat().st_size
        try:
            with zipfile.ZipFile(file) as archive:
                schema = _checked_schema(archive, size, file.name)
        except (
            zipfile.BadZipFile,
            zipfile.LargeZipFile,
            NotImplementedError,
            EOFError,
            RuntimeError,
            UnicodeDecodeError,
        ) as error:
            raise ArtifactError(f"'{file.name}' is no skops file: {_line(error)}.") from error
    skops = import_skops()
    allowed = _PLAIN_TYPES | set(trusted) | _number_types()
    strangers = sorted(_types_of(schema) - allowed)
    if strangers:
        raise ArtifactError(f"'{file.name}' names a type that is not trusted: {strangers[0]!r}.")
    try:
        return skops.load(file, trusted=list(trusted))
    except Exception as error:
        # Whatever a crafted or damaged file provokes inside skops, numpy or scikit-learn.
        raise ArtifactError(f"'{file.name}' can't be loaded: {_line(error)}.") from error


# --- writing ------------------------------------------------------------------------------------


def _put(
    path: str, fill: Callable[[Path], None], storage_options: Mapping[str, Any] | None
) -> None:
    """Have a complete model directory made, and put it in its place."""
    if io.is_remote(path):
        _write_remote(path, fill, storage_options)
    else:
        _write_local(io.local_path(path), fill, path)


def _write_local(
    place: Path, fill: Callable[[Path], None], shown: str, *, of: bytes | None = None
) -> None:
    """Put a directory in its place.

    Args:
        place: Its place.
        fill: Makes it.
        shown: What an error calls it.
        of: The manifest of the model that is to be replaced; None for any model.
    """

    def check(there: Path) -> None:
        _check_local(there, shown)
        if of is not None and _content(there / MANIFEST) != of:
            raise _replaced_meanwhile(shown)

    try:
        with replacing_directory(place, check=check) as staging:
            fill(staging)
            _settle(staging)
    except (FileExistsError, NotADirectoryError) as error:
        raise ArtifactError(f"'{shown}' can't be written: a file is in the way.") from error
    except PermissionError as error:
        raise ArtifactError(f"'{shown}' can't be written: {_line(error)}.") from error


def _content(file: Path) -> bytes | None:
    """Read a file; None if there is none."""
    with contextlib.suppress(FileNotFoundError):
        return file.read_bytes()
    return None


def _replaced_meanwhile(shown: str) -> ArtifactError:
    return ArtifactError(f"'{shown}' was replaced while it was signed: it is not signed.")


def _copy_files(source: Path, target: Path) -> None:
    for file in source.iterdir():
        shutil.copyfile(file, target / file.name)


def _settle(directory: Path) -> None:
    """Make a directory and its files last through a power cut."""
    for file in directory.iterdir():
        sync(file)
    sync(directory)


def _sign(directory: Path, key: PrivateKey) -> None:
    signature = key.sign((directory / MANIFEST).read_bytes())
    (directory / MANIFEST_SIGNATURE).write_bytes(signature)


def _seal(directory: Path, key: PrivateKey | None) -> None:
    """Add the manifest to finished files, and sign it."""
    files: dict[str, dict[str, Any]] = {}
    for file in sorted(directory.iterdir()):
        status = file.lstat()
        if not stat.S_ISREG(status.st_mode):
            raise ArtifactError(f"A model directory holds plain files only, not {file.name!r}.")
        if not _FILE_NAME.fullmatch(file.name) or file.name in _UNLISTED:
            raise ArtifactError(f"A model directory can't hold a file named {file.name!r}.")
        if status.st_size > _limit(file.name):
            raise ArtifactError(f"'{file.name}' is larger than {_limit(file.name)} bytes.")
        files[file.name] = {"size": status.st_size, "sha256": io.sha256(str(file))}
    if not 0 < len(files) <= _MAX_FILES:
        raise ArtifactError(f"A model directory holds 1 to {_MAX_FILES} files, not {len(files)}.")
    manifest = {"format_version": FORMAT_VERSION, "files": files}
    io.write_json(str(directory / MANIFEST), manifest)
    if key is not None:
        _sign(directory, key)


def _check_local(there: Path, shown: str) -> None:
    """Check what a new model is about to replace."""
    if not there.exists():
        return
    if not there.is_dir():
        raise ArtifactError(f"'{shown}' is a file: a model is written as a directory.")
    known: dict[str, bytes] = {}
    for name in (MANIFEST, CONFIG):
        with contextlib.suppress(OSError, DataError):
            known[name] = io.read_bytes(str(there / name), max_bytes=_MAX_JSON)
    _check_replaceable({file.name for file in there.iterdir()}, known, shown)


def _check_remote(path: str, storage_options: Mapping[str, Any] | None) -> set[str]:
    """Check what a new model is about to replace.

    Returns:
        The names of a model that lies at the path itself, not in a version below it.
    """
    shown = public_url(path)
    if io.is_file(path, storage_options):
        raise ArtifactError(f"'{shown}' is a file: a model is written as a directory.")
    try:
        present = set(io.list_files(path, storage_options))
    except FileNotFoundError:
        return set()
    rest = present - versions.own_names(present)
    versioned = rest != present
    with contextlib.suppress(DataError):
        versioned = versions.read_pointer(path, storage_options) is not None or versioned
    if versioned:
        rest.discard(versions.POINTER)
    known: dict[str, bytes] = {}
    for name in rest & {MANIFEST, CONFIG}:
        with contextlib.suppress(DataError, FileNotFoundError):
            known[name] = io.read_bytes(
                io.join(path, name), max_bytes=_MAX_JSON, storage_options=storage_options
            )
    _check_replaceable(rest, known, shown, versioned=versioned)
    return rest - _LITTER


def _check_replaceable(
    present: set[str], known: Mapping[str, bytes], shown: str, *, versioned: bool = False
) -> None:
    """Refuse to replace anything but a model of ours or an empty directory.

    Args:
        present: The names in the directory.
        known: The content of its manifest and its config, where it has them.
        shown: What an error calls it.
        versioned: Whether there are versions of a model below it.

    Raises:
        ArtifactError: If the directory holds anything that is not the model's.
    """
    if not present - _LITTER:
        return
    own = _own_names(known)
    if own is None and versioned:
        own = frozenset()
    if own is None:
        raise ArtifactError(
            f"'{shown}' is not empty and no model of ours: it is not replaced. Choose another path."
        )
    foreign = sorted(present - _LITTER - own)
    if foreign:
        raise ArtifactError(
            f"'{shown}' holds {foreign[0]!r}, which is no part of the model there: it is not "
            "replaced. Choose another path, or move that file."
        )


def _own_names(known: Mapping[str, bytes]) -> frozenset[str] | None:
    """Name the files that a model of ours has; None if there is no model of ours."""
    with contextlib.suppress(ArtifactError, KeyError):
        manifest = parse_json(known[MANIFEST], MANIFEST)
        return frozenset(_checked_manifest(manifest, MANIFEST)) | _UNLISTED
    # A model whose manifest was damaged or lost can still be replaced.
    with contextlib.suppress(ArtifactError, KeyError):
        _check_config(parse_json(known[CONFIG], CONFIG), CONFIG)
        return _OWN_NAMES
    return None


def _write_remote(
    path: str, fill: Callable[[Path], None], storage_options: Mapping[str, Any] | None
) -> None:
    replaced = _check_remote(path, storage_options)
    with tempfile.TemporaryDirectory(prefix=_SNAPSHOT_PREFIX) as directory:
        new = Path(directory)
        fill(new)
        try:
            versions.publish(
                path,
                new,
                digest=digest(new),
                last=MANIFEST,
                replaced=replaced,
                storage_options=storage_options,
            )
        except DataError as error:
            raise ArtifactError(str(error)) from error


def _send_signature(
    path: str, directory: Path, manifest: bytes, storage_options: Mapping[str, Any] | None
) -> None:
    """Put the signature of a copy beside the manifest that it was made of."""
    place, _ = _remote_version(path, storage_options)
    if _RemoteFiles(place, storage_options).read_manifest() != manifest:
        raise _replaced_meanwhile(public_url(path))
    signature = (directory / MANIFEST_SIGNATURE).read_bytes()
    io.write_bytes(io.join(place, MANIFEST_SIGNATURE), signature, storage_options)


# --- reading ------------------------------------------------------------------------------------


def _local_version(place: Path) -> Path:
    """Follow the pointer in a local copy of a remote directory."""
    if (place / MANIFEST).exists():
        return place
    try:
        pointer = versions.read_pointer(str(place))
    except (DataError, OSError) as error:
        raise ArtifactError(f"'{place}' can't be read: {_line(error)}.") from error
    return place if pointer is None else Path(pointer.place(str(place)))


def _copy_local(place: Path, snapshot: Path, trusted: Sequence[PublicKey], shown: str) -> None:
    target = place.resolve()
    try:
        # The open descriptor stays with this very directory when another one takes its name.
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        if restore_directory(target):
            raise _ChangedError from error
        raise ArtifactError(f"'{shown}' is not a model directory: it does not exist.") from error
    except NotADirectoryError as error:
        raise ArtifactError(f"'{shown}' is not a model directory: it is a file.") from error
    except OSError as error:
        raise ArtifactError(f"'{shown}' can't be read: {error.strerror}.") from error
    try:
        _copy_checked(_LocalFiles(descriptor), snapshot, trusted, shown)
    except (ArtifactError, OSError) as error:
        if _replaced(target, descriptor):
            raise _ChangedError from error
        if isinstance(error, OSError):
            raise ArtifactError(f"'{shown}' can't be read: {_line(error)}.") from error
        raise
    finally:
        os.close(descriptor)


def _replaced(target: Path, descriptor: int) -> bool:
    here = os.fstat(descriptor)
    try:
        now = target.stat()
    except OSError:
        # Gone, or about to come back under the hands of a writer: the next attempt will tell.
        return True
    return (now.st_dev, now.st_ino) != (here.st_dev, here.st_ino)


def _remote_version(
    path: str, storage_options: Mapping[str, Any] | None
) -> tuple[str, versions.Pointer | None]:
    """Follow the pointer in a remote directory."""
    try:
        pointer = versions.read_pointer(path, storage_options)
    except DataError as error:
        raise ArtifactError(str(error)) from error
    return path if pointer is None else pointer.place(path), pointer


def _copy_remote(
    path: str,
    snapshot: Path,
    trusted: Sequence[PublicKey],
    storage_options: Mapping[str, Any] | None,
) -> None:
    shown = public_url(path)
    place, pointer = _remote_version(path, storage_options)
    files = _RemoteFiles(place, storage_options)
    try:
        _copy_checked(files, snapshot, trusted, shown)
    except (ArtifactError, FileNotFoundError) as error:
        # A bucket that is not there is told as such.
        io.exists(path, storage_options)
        # The version may have been replaced, twice even, since its name was read.
        with contextlib.suppress(DataError):
            if pointer != versions.read_pointer(path, storage_options):
                raise _ChangedError from error
        if files.manifest is not None and files.manifest != files.read_manifest():
            raise _ChangedError from error
        if isinstance(error, FileNotFoundError):
            raise ArtifactError(f"'{shown}' can't be read: {_line(error)}.") from error
        raise


class _LocalFiles:
    """The files of an open local directory."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def names(self) -> list[str]:
        with os.scandir(self._descriptor) as entries:
            return [entry.name for entry in entries]

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        try:
            # No link is followed, and a pipe put in a file's place can't make the reader wait.
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            descriptor = os.open(name, flags, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise ArtifactError(f"{name!r} is a link, not a plain file.") from error
            raise
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ArtifactError(f"{name!r} is not a plain file.")
        with os.fdopen(descriptor, "rb") as handle:
            yield handle


class _RemoteFiles:
    """The files below a URL."""

    def __init__(self, path: str, storage_options: Mapping[str, Any] | None) -> None:
        self._path = path
        self._options = storage_options
        self.manifest: bytes | None = None

    def names(self) -> list[str]:
        names = set(io.list_files(self._path, self._options))
        # A model may lie where a writer of versions has died.
        return list(names - versions.own_names(names))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        if name == MANIFEST:
            self.manifest = self.read_manifest()
        with io.open_binary(io.join(self._path, name), self._options) as handle:
            yield handle

    def read_manifest(self) -> bytes | None:
        place = io.join(self._path, MANIFEST)
        try:
            return io.read_bytes(place, max_bytes=_MAX_MANIFEST, storage_options=self._options)
        except (FileNotFoundError, DataError):
            return None


def _copy_checked(
    files: _LocalFiles | _RemoteFiles,
    snapshot: Path,
    trusted: Sequence[PublicKey],
    shown: str,
) -> None:
    """Copy what the manifest lists, checking signature, names, sizes and digests on the way."""
    try:
        with files.open(MANIFEST) as handle:
            content = handle.read(_MAX_MANIFEST + 1)
    except FileNotFoundError as error:
        raise ArtifactError(f"'{shown}' is not a model directory: no {MANIFEST}.") from error
    except ArtifactError as error:
        raise ArtifactError(f"'{shown}': {error}") from error
    where = f"'{shown}': {MANIFEST}"
    if len(content) > _MAX_MANIFEST:
        raise ArtifactError(f"{where} is larger than {_MAX_MANIFEST} bytes.")
    present = set(files.names()) - _LITTER
    signature = _read_signature(files, shown) if MANIFEST_SIGNATURE in present else None
    if trusted:
        _check_signature(content, signature, trusted, shown)
    listed = _checked_manifest(parse_json(content, where), f"{where}: ")
    present -= _UNLISTED
    for name in sorted(present - listed.keys()):
        raise ArtifactError(f"'{shown}': {name!r} is not listed in the manifest.")
    for name in sorted(listed.keys() - present):
        raise ArtifactError(f"'{shown}': {name} is missing.")
    for name, (size, digest) in listed.items():
        try:
            with files.open(name) as handle:
                _copy_file(handle, snapshot / name, size, digest)
        except ArtifactError as error:
            raise ArtifactError(f"'{shown}': {error}") from error
    (snapshot / MANIFEST).write_bytes(content)
    if signature is not None:
        (snapshot / MANIFEST_SIGNATURE).write_bytes(signature)


def _read_signature(files: _LocalFiles | _RemoteFiles, shown: str) -> bytes:
    try:
        with files.open(MANIFEST_SIGNATURE) as handle:
            signature = handle.read(SIGNATURE_BYTES + 1)
    except ArtifactError as error:
        raise ArtifactError(f"'{shown}': {error}") from error
    if len(signature) != SIGNATURE_BYTES:
        raise ArtifactError(
            f"'{shown}': {MANIFEST_SIGNATURE} is no signature, which has {SIGNATURE_BYTES} bytes."
        )
    return signature


def _check_signature(
    manifest: bytes, signature: bytes | None, trusted: Sequence[PublicKey], shown: str
) -> None:
    if signature is None:
        raise ArtifactError(
            f"'{shown}' is not signed: {TRUSTED_KEYS} asks for a {MANIFEST_SIGNATURE} beside its "
            f"{MANIFEST}."
        )
    if find_signer(manifest, signature, trusted) is None:
        names = ", ".join(map(key_name, trusted))
        raise ArtifactError(
            f"'{shown}': no key of {TRUSTED_KEYS} ({names}) has signed this {MANIFEST}: it was "
            "changed, or signed by somebody else."
        )


def _copy_file(source: IO[bytes], target: Path, size: int, digest: str) -> None:
    name = target.name
    seen, hashed = 0, hashlib.sha256()
    with target.open("xb") as copy:
        while chunk := source.read(_CHUNK):
            seen += len(chunk)
            if seen > size:
                break
            hashed.update(chunk)
            copy.write(chunk)
    if seen != size:
        found = f"more than {size}" if seen > size else str(seen)
        raise ArtifactError(
            f"{name}: it has {found} bytes, the manifest says {size}: the file was changed or "
            "damaged."
        )
    if hashed.hexdigest() != digest:
        raise ArtifactError(
            f"{name}: SHA-256 differs from the manifest: the file was changed or damaged."
        )


def _checked_manifest(manifest: Any, where: str) -> dict[str, tuple[int, str]]:
    """Validate a manifest; returns size and SHA-256 of every file."""
    if not isinstance(manifest, dict) or manifest.keys() != {"format_version", "files"}:
        raise ArtifactError(f"{where}it must have the keys 'format_version' and 'files' only.")
    _check_version(manifest["format_version"], where)
    files = manifest["files"]
    if not isinstance(files, dict) or not 0 < len(files) <= _MAX_FILES:
        raise ArtifactError(f"{where}'files' must list 1 to {_MAX_FILES} files.")
    listed: dict[str, tuple[int, str]] = {}
    for name, entry in files.items():
        if not _FILE_NAME.fullmatch(name) or name in _UNLISTED:
            raise ArtifactError(f"{where}{name!r} is no name of a file in a model directory.")
        if not isinstance(entry, dict) or entry.keys() != {"size", "sha256"}:
            raise ArtifactError(f"{where}'{name}' must have the keys 'size' and 'sha256' only.")
        size, digest = entry["size"], entry["sha256"]
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= _limit(name):
            raise ArtifactError(
                f"{where}the size of '{name}' must be 0 to {_limit(name)} bytes, not {size!r}."
            )
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ArtifactError(f"{where}the SHA-256 of '{name}' is not 64 hexadecimal digits.")
        listed[name] = (size, digest)
    return listed


def _check_version(version: Any, where: str) -> None:
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ArtifactError(f"{where}format_version must be a whole number, not {version!r}.")
    if version > FORMAT_VERSION:
        raise ArtifactError(
            f"{where}format_version {version} is newer than {FORMAT_VERSION}, the newest that this "
            "version reads: update ml-project-template."
        )


def _limit(name: str) -> int:
    return _MAX_JSON if name.endswith(".json") else _MAX_WEIGHTS


def _check_config(config: Any, where: str) -> None:
    if not isinstance(config, dict) or config.keys() != {"format_version", "name", "params"}:
        raise ArtifactError(
            f"{where} must have the keys 'format_version', 'name' and 'params' only."
        )
    _check_version(config["format_version"], f"{where}: ")
    name = config["name"]
    if not isinstance(name, str) or not _MODEL_NAME.fullmatch(name):
        raise ArtifactError(f"{where}: {name!r} is no name of a model.")
    if not isinstance(config["params"], dict):
        raise ArtifactError(f"{where}: 'params' must be a mapping.")
    _check_plain(config["params"], f"{where}: params", depth=1)


def _check_plain(value: Any, where: str, *, depth: int) -> None:
    """Let plain JSON values pass, nothing that a configuration system would act on."""
    if depth > _MAX_DEPTH:
        raise ArtifactError(f"{where} is nested deeper than {_MAX_DEPTH} levels.")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise ArtifactError(f"{where}: the key {key!r} is no text.")
            if _HYDRA_KEY.fullmatch(key):
                raise ArtifactError(f"{where}: the key {key!r} is not allowed in a model.")
            _check_plain(key, f"{where}: a key", depth=depth)
            shown = key if key.isidentifier() else repr(key)
            _check_plain(inner, f"{where}.{shown}", depth=depth + 1)
    elif isinstance(value, list | tuple):
        for place, inner in enumerate(value):
            _check_plain(inner, f"{where}[{place}]", depth=depth + 1)
    elif isinstance(value, str):
        if "${" in value:
            raise ArtifactError(f"{where}: '${{' is not allowed in a model.")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ArtifactError(f"{where}: {value} is no finite number.")
    elif not isinstance(value, bool | int | None):
        raise ArtifactError(f"{where}: {type(value).__name__} is no JSON value.")


def _read_json(file: Path, limit: int) -> Any:
    with _reading(file), file.open("rb") as handle:
        content = handle.read(limit + 1)
    if len(content) > limit:
        raise ArtifactError(f"'{file.name}' is larger than {limit} bytes.")
    return parse_json(content, f"'{file.name}'")


def parse_json(content: bytes, where: str) -> Any:
    """Parse JSON out of a model directory.

    Args:
        content: The text, UTF-8.
        where: What an error calls it.

    Raises:
        ArtifactError: It is no JSON, or holds a key twice or a number that is not finite.
    """
    try:
        return io.parse_json(content, where=where)
    except DataError as error:
        raise ArtifactError(str(error)) from error


@contextlib.contextmanager
def _reading(file: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ArtifactError(f"{file.name} is missing.") from error
    except OSError as error:
        raise ArtifactError(f"{file.name} can't be read: {error.strerror}.") from error


def _line(error: BaseException) -> str:
    """Put an error of somebody else's into one line without a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:300].rstrip(".")


# --- weights ------------------------------------------------------------------------------------

_skops_lock = threading.Lock()

# What the file of any estimator is made of, beside the estimator's own types.
_PLAIN_TYPES = frozenset(
    {
        "builtins.bool",
        "builtins.dict",
        "builtins.float",
        "builtins.int",
        "builtins.list",
        "builtins.str",
        "builtins.tuple",
        "numpy.dtype",
        "numpy.ndarray",
        "numpy.random._generator.Generator",
        "numpy.random.mtrand.RandomState",
    }
)


def import_skops() -> Any:
    """Import skops without every module of scikit-learn and, through one of them, torch."""
    with _skops_lock:
        if "skops.io" not in sys.modules:
            import sklearn.utils

            # While it is imported, skops makes lists of what it trusts by default: all estimators
            # of scikit-learn, which imports each of its modules (4.6 instead of 0.6 CPU-seconds,
            # and torch), and all functions of NumPy and SciPy, for each of which it looks through
            # all modules that there are (0.6). An empty answer is safe: it trusts less. What may be
            # loaded is in `trusted`.
            with late_package("skops.io") as package:
                helpers = importlib.import_module("skops.io._utils")
                patched = [(sklearn.utils, "all_estimators"), (helpers, "get_public_type_names")]
                before = [getattr(*where) for where in patched]
                try:
                    for where in patched:
                        setattr(*where, _nothing)
                    _ = package.dump if package is not None else None
                finally:
                    for where, value in zip(patched, before, strict=True):
                        setattr(*where, value)
        return sys.modules["skops.io"]


def _nothing(*_: Any, **__: Any) -> list[Any]:
    return []


def _number_types() -> set[str]:
    """Name numpy's types of single numbers."""
    import numpy as np

    kinds = {kind for kind in np.sctypeDict.values() if issubclass(kind, np.number | np.bool)}
    return {f"numpy.{kind.__name__}" for kind in kinds}


def _nodes(schema: Any) -> Iterator[dict[str, Any]]:
    """Walk through the nodes of a schema in its order, without recursion: depth is the file's."""
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting.extend(reversed(value.values()))
        elif isinstance(value, list):
            waiting.extend(reversed(value))


def _types_of(schema: Any) -> set[str]:
    return {
        f"{node.get('__module__')}.{node.get('__class__')}"
        for node in _nodes(schema)
        if "__class__" in node or "__module__" in node or "__loader__" in node
    }


def _canonical(schema: Any) -> dict[str, str]:
    """Number the identities of a schema in its order; returns members' old names and new ones."""
    identities: dict[Any, int] = {}
    members: dict[str, str] = {}
    for node in _nodes(schema):
        if node.get("__loader__") == "JsonNode":
            # Whether two equal texts or numbers are one object is up to the interpreter.
            node.pop("__id__", None)
        elif "__id__" in node:
            node["__id__"] = identities.setdefault(node["__id__"], len(identities) + 1)
        if node.get("__loader__") == "NdArrayNode" and node.get("type") == "numpy":
            node["file"] = members.setdefault(node["file"], f"{len(members) + 1}.npy")
    return members


def _without_padding(content: bytes) -> bytes:
    """Zero the bytes between the fields of an array's records: they hold what memory held."""
    import numpy as np

    array = np.load(memory.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    clean = np.zeros(array.shape, array.dtype)
    for field in array.dtype.names:
        clean[field] = array[field]
    buffer = memory.BytesIO()
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()


def _checked_schema(archive: zipfile.ZipFile, size: int, name: str) -> Any:
    """Bound an archive before anything of it is unpacked; returns its schema."""
    members = archive.infolist()
    if len(members) > _MAX_ZIP_MEMBERS:
        raise ArtifactError(f"'{name}' has {len(members)} parts; at most {_MAX_ZIP_MEMBERS} pass.")
    names = [member.filename for member in members]
    if len(set(names)) != len(names):
        raise ArtifactError(f"'{name}' holds a part twice.")
    for member in members:
        if not re.fullmatch(r"schema\.json|[0-9]{1,20}\.npy", member.filename):
            raise ArtifactError(f"'{name}' holds a part of a strange name: {member.filename!r}.")
        if member.compress_type != zipfile.ZIP_STORED:
            # Nothing is compressed by `save_estimator`, so nothing can grow when it is read.
            raise ArtifactError(f"'{name}' holds a compressed part: '{member.filename}'.")
    total = sum(member.file_size for member in members)
    if total > min(size, _MAX_ZIP_BYTES):
        raise ArtifactError(f"'{name}' claims {total} bytes of content in a file of {size}.")
    if "schema.json" not in names:
        raise ArtifactError(f"'{name}' is no skops file: it has no schema.json.")
    if archive.getinfo("schema.json").file_size > _MAX_SCHEMA:
        raise ArtifactError(f"'{name}': schema.json is larger than {_MAX_SCHEMA} bytes.")
    return parse_json(archive.read("schema.json"), f"'{name}': schema.json")


def _check_finite(name: str, array: np.ndarray) -> None:
    import numpy as np

    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ArtifactError(f"Tensor {name!r} holds NaN or an infinite number.")
