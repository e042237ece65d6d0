"""From a raw table to prepared splits on disk, found again by what they were made from.

A directory of prepared data bears the digest of its input and of every setting that shapes it, so
that the same work is never done twice and never mixed with other work::

    <output_root>/<name>/<12 hexadecimal digits>/
        train.parquet  val.parquet  test.parquet    prepared features, float32, and labels
        preprocessing.json                          what was learned from the training rows
        signature.json                              what the raw training rows look like
        prepared.json                               written last: input, settings, digests
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from ml_project_template.data.files import parse_parquet
from ml_project_template.data.leakage import LeakWatch
from ml_project_template.data.parts import SplitRows
from ml_project_template.data.preprocessing import LearnedColumn, Preprocessor
from ml_project_template.data.signature import (
    Feature,
    Signature,
    Value,
    describe,
    sample_rows,
    sample_value,
)
from ml_project_template.data.table import PARTS, RawTable
from ml_project_template.data.tabular import TabularDataset
from ml_project_template.errors import ConfigError, DataError
from ml_project_template.utils import io
from ml_project_template.utils.directories import held, remove_abandoned, sync
from ml_project_template.utils.secrets import public_url

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["FORMAT_VERSION", "PREPARED", "Prepared", "fit_parts", "prepare"]

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
PREPARED = "prepared.json"
PREPROCESSING = "preprocessing.json"
SIGNATURE = "signature.json"

_KEY_DIGITS = 12
# How often a directory is put in place again after a rival has taken the place in between.
_PUBLISH_ATTEMPTS = 10


@dataclass(frozen=True)
class Prepared:
    """Prepared splits and what they were prepared with.

    Attributes:
        directory: Where they lie, a local path or a URL.
        train: The training rows.
        val: The validation rows; None where ``val_size`` is 0.
        test: The test rows; None where ``test_size`` is 0.
        preprocessor: Fitted on the raw training rows.
        signature: What the raw training rows look like.
        digest: The SHA-256 of the raw file.
        reused: Whether the splits were there already.
    """

    directory: str
    train: TabularDataset
    val: TabularDataset | None
    test: TabularDataset | None
    preprocessor: Preprocessor
    signature: Signature
    digest: str
    reused: bool


def prepare(table: RawTable, *, preprocessor: Preprocessor, output_root: str) -> Prepared:
    """Split a raw table, fit the preprocessor on the training rows, and write prepared splits.

    Where the same file was prepared in the same way before, and what was written is whole, it is
    read back instead. Any number of processes may do the same at once.

    Args:
        table: The raw table and how it is split.
        preprocessor: How to prepare; it is not changed, a fitted copy is returned.
        output_root: The directory above all prepared data, a local path or a URL of the storage
            that the table lies on.

    Raises:
        ConfigError: A setting is out of range.
        DataError: The table can't be used as it is.
        FileNotFoundError: There is no such file.
    """
    table.check_sizes()
    if not re.fullmatch(r"[^/\\.][^/\\]*", table.name):
        raise ConfigError(
            f"The name '{table.name}' of a data set must be usable as a directory's name."
        )
    config = {**table.settings(), "preprocessor": preprocessor.get_params()}
    if table.split_by.file is not None:
        # What it says shapes the parts, wherever it lies.
        config["split_file"] = io.sha256(table.split_by.file, table.storage_options)
    place = _Place(table.name, output_root, config, table.storage_options)
    digest = io.sha256(table.path, table.storage_options)
    found = place.read(digest, source=public_url(table.path))
    if found is not None:
        return found
    prepared, fitted, signature = _prepare_by_column(table, preprocessor)
    # The digest of the bytes that were parsed: the file may have changed since it was looked up.
    parsed = prepared["train"].digest
    assert parsed is not None
    return place.write(prepared, fitted, signature, parsed)


def _prepare_by_column(
    table: RawTable, preprocessor: Preprocessor
) -> tuple[dict[str, TabularDataset], Preprocessor, Signature]:
    """Do what `fit_parts` does with each column as soon as it is read, and let it go.

    So a value is in memory once, raw or prepared, and a column is worked on while it is in the
    processor's cache.
    """
    opened = table.open()
    where = f"'{opened.source}'"
    positions = table.rows(opened.rows)
    # The rows of a part stand together from here on, the training rows first.
    sizes = {part: len(positions[part]) for part in PARTS if part in positions}
    order = np.concatenate([positions[part] for part in sizes])
    rows = opened.rows.take(order)
    train = slice(sizes["train"])
    _require_two_classes(rows.y[train], rows.class_names, where)
    watch = LeakWatch(rows.y, sizes, rows.task)
    sample: dict[int, dict[str, Value]] = {
        row: {} for row in sample_rows(rows.y[train], rows.task, sizes["train"])
    }
    fitted = Preprocessor(**preprocessor.get_params())
    features: list[Feature] = []
    learned: list[LearnedColumn] = []
    outputs: dict[str, NDArray[np.float32]] = {}
    for name, raw in opened.features:
        values = raw.to_numpy() if isinstance(raw.dtype, np.dtype) else raw.array
        column = pd.Series(values.take(order), copy=False)
        of_train = column.iloc[train]
        watch.look_at(name, column)
        features.append(describe(name, of_train))
        learned.append(fitted.learn(features[-1], of_train))
        outputs |= fitted.transform_column(learned[-1], column, order)
        for row, sampled in sample.items():
            sampled[name] = sample_value(column.array[row])
    watch.warn(where)
    fitted.set_columns(learned)
    signature = Signature.of_features(
        features,
        list(sample.values()),
        y=rows.y[train],
        n_rows=sizes["train"],
        target=rows.target_column,
        task=rows.task,
        class_names=rows.class_names,
    )
    parts: dict[str, TabularDataset] = {}
    start = 0
    for part, size in sizes.items():
        here = slice(start, start + size)
        start += size
        parts[part] = TabularDataset.of_columns(
            pd.DataFrame({name: values[here] for name, values in outputs.items()}, copy=False),
            replace(rows, y=rows.y[here]),
            name=table.name,
            digest=opened.digest,
            source=opened.source,
            dropped=opened.features.dropped,
            signature=signature,
            preprocessor=fitted,
        )
    return parts, fitted, signature


def fit_parts(
    parts: Mapping[str, TabularDataset], preprocessor: Preprocessor, path: str
) -> tuple[dict[str, TabularDataset], Preprocessor, Signature]:
    """Fit the preprocessor on the training rows and transform every part.

    Args:
        parts: Raw rows, among them ``train``; each part is given the signature of these.
        preprocessor: How to prepare; it is not changed.
        path: Where the raw rows are from, for messages.

    Returns:
        The prepared parts, the fitted copy of the preprocessor, and the signature of the raw
        training rows.

    Raises:
        DataError: The training rows hold one class only, or a value can't be prepared.
    """
    raw = parts["train"]
    _require_two_classes(raw.y, raw.class_names, f"'{public_url(path)}'")
    raw.signature = signature = Signature.from_dataset(raw)
    fitted = Preprocessor(**preprocessor.get_params()).fit(raw)
    prepared: dict[str, TabularDataset] = {}
    for part, dataset in parts.items():
        dataset.signature = signature
        prepared[part] = fitted.transform(dataset)
    return prepared, fitted, signature


def _require_two_classes(y: NDArray[Any], class_names: Sequence[str], where: str) -> None:
    """Refuse training rows of one class."""
    if class_names and np.count_nonzero(np.bincount(y)) < 2:
        raise DataError(
            f"{where}: the training rows hold one class only, '{class_names[y[0]]}'; at least two "
            "are needed."
        )


class _Place:
    """Where prepared splits of one data set and one set of settings lie."""

    def __init__(
        self,
        name: str,
        output_root: str,
        config: dict[str, Any],
        storage_options: Mapping[str, Any] | None,
    ) -> None:
        self._name = name
        self._root = io.join(output_root, name)
        self._storage_options = storage_options
        try:
            # Through text once, so that it equals what is read back: tuples become lists.
            self._config: dict[str, Any] = json.loads(json.dumps(config, allow_nan=False))
        except (TypeError, ValueError) as error:
            raise ConfigError(f"Data settings must be plain JSON values: {error}.") from error

    def _directory(self, digest: str) -> str:
        identity = {"format": FORMAT_VERSION, "input": digest, "config": self._config}
        text = json.dumps(identity, sort_keys=True)
        return io.join(self._root, hashlib.sha256(text.encode()).hexdigest()[:_KEY_DIGITS])

    def read(self, digest: str, *, source: str) -> Prepared | None:
        """Read prepared splits back and verify them; None where they are missing or damaged."""
        directory = self._directory(digest)
        try:
            record = io.read_json(
                io.join(directory, PREPARED), storage_options=self._storage_options
            )
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            return _damaged(directory, error)
        try:
            return self._read_verified(directory, record, digest, source)
        except (DataError, FileNotFoundError) as error:
            return _damaged(directory, error)

    def _read_verified(self, directory: str, record: Any, digest: str, source: str) -> Prepared:
        expected = {"format_version": FORMAT_VERSION, "input": digest, "config": self._config}
        if not isinstance(record, dict) or {**record, "files": None} != {**expected, "files": None}:
            raise DataError(f"{PREPARED} is not about this input and these settings.")
        files = record["files"] if isinstance(record["files"], dict) else {}
        there = self._parts([name.removesuffix(".parquet") for name in files])
        names = [PREPROCESSING, SIGNATURE, *(f"{part}.parquet" for part in there)]
        if set(files) != set(names):
            raise DataError(f"{PREPARED} does not list the files {', '.join(names)}.")
        state, described = (
            io.parse_json(self._verified(directory, name, files[name]), where=name)
            for name in (PREPROCESSING, SIGNATURE)
        )
        preprocessor = Preprocessor.from_dict(state)
        signature = Signature.from_dict(described)
        parts: dict[str, TabularDataset] = {}
        for part in there:
            name = f"{part}.parquet"
            features, y = _read_part(
                self._verified(directory, name, files[name]), name, preprocessor, signature
            )
            parts[part] = TabularDataset.of_columns(
                features,
                SplitRows(
                    y=y,
                    task=signature.task,
                    class_names=signature.class_names,
                    target_column=signature.target,
                ),
                name=self._name,
                digest=digest,
                source=source,
                signature=signature,
                preprocessor=preprocessor,
            )
        return Prepared(
            directory=directory,
            train=parts["train"],
            val=parts.get("val"),
            test=parts.get("test"),
            preprocessor=preprocessor,
            signature=signature,
            digest=digest,
            reused=True,
        )

    def _parts(self, there: Collection[str]) -> list[str]:
        """Name the parts that these settings give; a file that splits may name some alone."""
        if "split_file" in self._config:
            return [part for part in PARTS if part == "train" or part in there]
        return [part for part in PARTS if self._config.get(f"{part}_size", 1.0) > 0.0]

    def _verified(self, directory: str, name: str, expected: object) -> bytes:
        """Read a file of prepared data and compare it with its record."""
        path = io.join(directory, name)
        content = io.read_bytes(path, storage_options=self._storage_options)
        if expected != _fingerprint(content):
            raise DataError(f"{name} is not the file that was written.")
        return content

    def write(
        self,
        parts: Mapping[str, TabularDataset],
        preprocessor: Preprocessor,
        signature: Signature,
        digest: str,
    ) -> Prepared:
        """Write prepared splits, whole or not at all."""
        directory = self._directory(digest)
        contents = self._contents(parts, preprocessor, signature, digest)
        if io.is_remote(directory):
            self._write_remote(directory, contents)
        else:
            self._write_local(io.local_path(directory), contents, digest)
        return Prepared(
            directory=directory,
            train=parts["train"],
            val=parts.get("val"),
            test=parts.get("test"),
            preprocessor=preprocessor,
            signature=signature,
            digest=digest,
            reused=False,
        )

    def _contents(
        self,
        parts: Mapping[str, TabularDataset],
        preprocessor: Preprocessor,
        signature: Signature,
        digest: str,
    ) -> Iterator[tuple[str, bytes | memoryview]]:
        """Make each file, the record of all others at last; one is in memory at a time."""
        makers: dict[str, Callable[[], bytes | memoryview]] = {
            PREPROCESSING: lambda: _json_bytes(preprocessor.to_dict(), indent=None),
            SIGNATURE: lambda: _json_bytes(signature.to_dict(), indent=None),
            **{f"{part}.parquet": parts[part].parquet_bytes for part in self._parts(parts)},
        }
        files = {}
        for name, make in makers.items():
            content = make()
            files[name] = _fingerprint(content)
            yield name, content
        record = {
            "format_version": FORMAT_VERSION,
            "input": digest,
            "config": self._config,
            "files": files,
        }
        yield PREPARED, _json_bytes(record)

    def _write_remote(
        self, directory: str, contents: Iterable[tuple[str, bytes | memoryview]]
    ) -> None:
        # There is no rename there. What is written depends on input and settings alone, so rivals
        # write the same bytes; the record goes first and comes last, so that nothing half written
        # is ever described as whole.
        io.remove_tree(io.join(directory, PREPARED), self._storage_options)
        for name, content in contents:
            io.write_bytes(io.join(directory, name), content, self._storage_options)

    def _write_local(
        self, target: Path, contents: Iterable[tuple[str, bytes | memoryview]], digest: str
    ) -> None:
        _sweep(target.parent)
        staging = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(6)}.staging")
        try:
            staging.mkdir(parents=True)
            with held(staging):
                for name, content in contents:
                    # Each is on the disk before the directory gets its name.
                    with (staging / name).open("xb") as handle:
                        handle.write(content)
                        os.fsync(handle.fileno())
                sync(staging)
                self._publish(staging, target, digest)
            sync(target.parent)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _publish(self, staging: Path, target: Path, digest: str) -> None:
        """Rename the staged directory into its place, unless a rival has put the same there."""
        for _ in range(_PUBLISH_ATTEMPTS):
            try:
                staging.rename(target)
            except OSError as error:
                if error.errno not in {errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR}:
                    raise
            else:
                return
            if self.read(digest, source="") is not None:
                return
            # What is there is damaged: out of the way with it, in one step.
            aside = staging.with_name(f"{staging.name.removesuffix('.staging')}-old.staging")
            with contextlib.suppress(FileNotFoundError):
                target.rename(aside)
                if aside.is_dir() and not aside.is_symlink():
                    shutil.rmtree(aside, ignore_errors=True)
                else:
                    aside.unlink()
        raise DataError(f"'{target}' can't be put in place: others keep replacing it.")


def _read_part(
    content: bytes, name: str, preprocessor: Preprocessor, signature: Signature
) -> tuple[pd.DataFrame, NDArray[Any]]:
    """Read the prepared features and the target of a part that is known to be as it was written."""
    import pyarrow as pa

    target, class_names = signature.target, signature.class_names
    table = parse_parquet(content, name, dictionaries=[target])
    names = list(preprocessor.output_names_)
    if table.column_names != [*names, target] or any(
        table.schema.field(column).type != pa.float32() for column in names
    ):
        raise DataError(f"{name} does not hold the prepared columns.")
    columns = {column: table.column(column).to_numpy() for column in names}
    values = table.column(target)
    if signature.task == "regression":
        y = values.to_numpy().astype(np.float64)
    else:
        labels = values.unify_dictionaries().combine_chunks()
        if isinstance(labels, pa.ChunkedArray):
            labels = labels.chunk(0)
        places = {label: code for code, label in enumerate(class_names)}
        of_dictionary = [places.get(label, -1) for label in labels.dictionary.to_pylist()]
        y = np.asarray(of_dictionary, dtype=np.int64)[labels.indices.to_numpy()]
        if len(y) and y.min() < 0:
            raise DataError(f"{name} holds a label that is none of the classes.")
    return pd.DataFrame(columns, copy=False), y


def _damaged(directory: str, error: Exception) -> Prepared | None:
    """Tell that prepared data will be made again, and why."""
    logger.warning("%s is damaged and is made again: %s", public_url(directory), error)
    return None


def _sweep(parent: Path) -> None:
    """Remove what processes left behind that were killed while they wrote."""
    if not parent.is_dir():
        return
    for leftover in parent.glob(".*.staging"):
        found = re.fullmatch(r"\..+\.(\d+)-[0-9a-f]+(?:-old)?\.staging", leftover.name)
        if found is not None:
            remove_abandoned(leftover, found[1])


def _fingerprint(content: bytes | memoryview) -> dict[str, Any]:
    return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _json_bytes(state: object, indent: int | None = 2) -> bytes:
    # Without indentation it is written by compiled code.
    text = json.dumps(state, indent=indent, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()
