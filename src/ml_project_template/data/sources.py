"""Where raw tables come from: scikit-learn's own data sets, local files and URLs."""

from __future__ import annotations

import csv
import datetime
import importlib.metadata
import io as text_io
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ml_project_template.errors import ConfigError, DataError, unknown
from ml_project_template.utils import io
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SKLEARN_DATASETS", "Onboarded", "onboard"]

SKLEARN_DATASETS = ("breast_cancer", "digits", "iris", "wine")

_SKLEARN = "sklearn:"


@dataclass(frozen=True)
class Onboarded:
    """A raw table that lies where the next stage looks for it.

    Attributes:
        path: The path or URL of the table.
        digest: The SHA-256 of the file, hexadecimal; of several files, that of their digests.
        size: The size of the file, or of all of them, in bytes.
        rows: The number of rows where the source tells it, else None.
        changed: Whether the file was written now; False where it was there already.
    """

    path: str
    digest: str
    size: int
    rows: int | None
    changed: bool


def onboard(
    *,
    source: str | None,
    path: str,
    storage_options: Mapping[str, Any] | None = None,
    force: bool = False,
) -> Onboarded:
    """Put a raw table in its place, unchanged, with a record of where it came from.

    The record is ``<path>.json``: source without credentials, SHA-256, size and time. A table that
    is in its place already, and is what the record says, is not fetched again from a URL, nor made
    again by the same release of scikit-learn; a local source is compared.

    Args:
        source: ``sklearn:iris``, ``sklearn:wine``, ``sklearn:breast_cancer`` or
            ``sklearn:digits``, a local file, or a URL (``https://``, ``s3://``). None where the
            table at ``path`` is the user's own: then nothing is written.
        path: Where the table shall lie, a local path or a URL. A pattern such as
            ``data/part-*.parquet`` names the user's own files.
        storage_options: Options of the storage.
        force: Fetch again, and replace a file at ``path`` that is not ours.

    Returns:
        Where the table is and what it is.

    Raises:
        ConfigError: The source is a data set that scikit-learn does not ship, or it is to be put
            where a pattern is.
        DataError: The source is a directory or a pattern, or there is another file at ``path``
            already.
        FileNotFoundError: There is no such source, or no table at ``path`` where no source is
            named.
        ConnectionError: The server of the source can't be reached.
    """
    if io.is_pattern(path):
        if source is not None:
            raise ConfigError(f"'{public_url(path)}' stands for many files: none can be put there.")
        return _describe(path, storage_options, rows=None)
    if io.is_dir(path, storage_options):
        raise DataError(f"'{public_url(path)}' is a directory; the path must name a file.")
    if source is None or _same_file(source, path):
        return _describe(path, storage_options, rows=None)
    if source.startswith(_SKLEARN):
        # Its import takes a second, and gives the same table each time.
        release = importlib.metadata.version("scikit-learn")
        made = None if force else _present(source, path, storage_options, release=release)
        if made is not None:
            return made
        content, rows = _sklearn_csv(source.removeprefix(_SKLEARN))
        with tempfile.TemporaryDirectory(prefix="ml-project-onboard-") as directory:
            table = Path(directory, "table.csv")
            table.write_bytes(content)
            return _place(
                source, str(table), path, storage_options, force=force, rows=rows, release=release
            )
    if io.is_pattern(source):
        raise DataError(
            f"The source '{public_url(source)}' stands for many files, and a source is one; where "
            "they can stay, name them by the path alone."
        )
    if not io.is_remote(source):
        if Path(source).is_dir():
            raise DataError(f"The source '{source}' is a directory; it must be a file.")
        return _place(source, source, path, storage_options, force=force, rows=None)
    present = None if force else _present(source, path, storage_options)
    if present is not None:
        return present
    with tempfile.TemporaryDirectory(prefix="ml-project-onboard-") as directory:
        fetched = str(Path(directory, "table"))
        io.copy(source, fetched, storage_options)
        return _place(source, fetched, path, storage_options, force=force, rows=None)


def _present(
    source: str,
    path: str,
    storage_options: Mapping[str, Any] | None,
    *,
    release: str | None = None,
) -> Onboarded | None:
    """Describe the table that is in its place, if it is what the record says; else None."""
    record = _read_record(path, storage_options)
    if (
        record is None
        or record.get("source") != public_url(source)
        or record.get("release") != release
        or not io.exists(path, storage_options)
    ):
        return None
    present = _describe(path, storage_options, rows=record.get("rows"))
    return present if present.digest == record.get("sha256") else None


def _place(
    source: str,
    table: str,
    path: str,
    storage_options: Mapping[str, Any] | None,
    *,
    force: bool,
    rows: int | None,
    release: str | None = None,
) -> Onboarded:
    """Copy a local table to its place, unless the same one, or somebody else's, is there."""
    record = _read_record(path, storage_options)
    digest, size = io.fingerprint(table)
    changed = True
    if io.exists(path, storage_options):
        present = io.sha256(path, storage_options)
        changed = present != digest
        ours = record is not None and record.get("sha256") == present
        if changed and not ours and not force:
            raise DataError(
                f"'{public_url(path)}' exists and is not what '{public_url(source)}' gives; "
                "remove it, choose another path or set force=true."
            )
    if changed:
        io.copy(table, path, storage_options)
    # All that tells another table from this one: a writer may have died between the two files.
    about: dict[str, Any] = {"source": public_url(source), "sha256": digest}
    if release is not None:
        about |= {"release": release, "rows": rows}
    if changed or record is None or about != {key: record.get(key) for key in about}:
        io.write_json(
            f"{path}.json",
            {
                **about,
                "size": size,
                "created_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            },
            storage_options,
        )
    return Onboarded(path=path, digest=digest, size=size, rows=rows, changed=changed)


def _describe(
    path: str, storage_options: Mapping[str, Any] | None, *, rows: int | None
) -> Onboarded:
    """Describe a table that was there already."""
    files = io.matching_files(path, storage_options)
    digests, sizes = zip(*(io.fingerprint(file, storage_options) for file in files), strict=True)
    joined, size = io.joined_digest(digests), sum(sizes)
    return Onboarded(path=path, digest=joined, size=size, rows=rows, changed=False)


def _read_record(path: str, storage_options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Read the record beside a table; None where there is none that can be read."""
    try:
        record = io.read_json(f"{path}.json", storage_options=storage_options)
    except (FileNotFoundError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def _same_file(source: str, path: str) -> bool:
    if io.is_remote(source) or io.is_remote(path):
        return source == path
    return io.local_path(source).resolve() == io.local_path(path).resolve()


def _sklearn_csv(name: str) -> tuple[bytes, int]:
    """Write one of scikit-learn's own data sets as CSV.

    Args:
        name: One of ``SKLEARN_DATASETS``.

    Returns:
        The bytes of the CSV, its last column ``target`` with class names, and the number of rows.

    Raises:
        ConfigError: There is no such data set.
    """
    if name not in SKLEARN_DATASETS:
        raise ConfigError(unknown("data set of scikit-learn", name, SKLEARN_DATASETS))
    from sklearn import datasets

    bunch = getattr(datasets, f"load_{name}")()
    names = [_identifier(str(feature)) for feature in bunch.feature_names]
    columns = [_texts(bunch.data[:, index]) for index in range(len(names))]
    labels = [str(bunch.target_names[code]) for code in bunch.target]
    sink = text_io.StringIO(newline="")
    writer = csv.writer(sink, lineterminator="\n")
    writer.writerow([*names, "target"])
    writer.writerows(zip(*columns, labels, strict=True))
    return sink.getvalue().encode(), len(labels)


def _identifier(name: str) -> str:
    """Write ``sepal length (cm)`` as ``sepal_length_cm``."""
    return re.sub(r"[^0-9a-z]+", "_", name.lower()).strip("_")


def _texts(values: np.ndarray[Any, Any]) -> list[str]:
    """Write a column so that reading gives the same bits: whole numbers as such."""
    whole = bool(np.all(values == np.floor(values)))
    return [str(int(value)) if whole else repr(float(value)) for value in values]
