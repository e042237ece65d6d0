"""Prepared splits on disk: found again, never torn, never mixed."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from ml_project_template.data import Preprocessor, RawTable, onboard
from ml_project_template.data.prepare import Prepared, fit_parts, prepare
from ml_project_template.errors import ConfigError, DataError
from ml_project_template.utils import directories, io

FILES = [
    "prepared.json",
    "preprocessing.json",
    "signature.json",
    "test.parquet",
    "train.parquet",
    "val.parquet",
]


@pytest.fixture
def iris(tmp_path: Path) -> str:
    return onboard(source="sklearn:iris", path=str(tmp_path / "raw" / "iris.csv")).path


def _prepare(path: str, root: Path | str, **changes: Any) -> Prepared:
    preprocessor = changes.pop("preprocessor", Preprocessor())
    arguments: dict[str, Any] = {"target_column": "target", "name": "iris", **changes}
    table = RawTable(path=path, **arguments)
    return prepare(table, preprocessor=preprocessor, output_root=str(root))


def _assert_equal(one: Prepared, other: Prepared) -> None:
    assert one.directory == other.directory
    assert one.digest == other.digest
    assert one.signature == other.signature
    assert one.preprocessor.to_dict() == other.preprocessor.to_dict()
    for part in ("train", "val", "test"):
        first, second = getattr(one, part), getattr(other, part)
        assert first.X.tobytes() == second.X.tobytes()
        assert first.y.tolist() == second.y.tolist()
        for name in ("class_names", "feature_names", "name", "digest", "source", "signature"):
            assert getattr(first, name) == getattr(second, name), name
        assert first.preprocessor.to_dict() == second.preprocessor.to_dict()


def test_a_table_is_split_prepared_and_written(iris: str, tmp_path: Path) -> None:
    prepared = _prepare(iris, tmp_path / "out")
    assert prepared.val is not None
    assert prepared.test is not None
    assert [len(part) for part in (prepared.train, prepared.val, prepared.test)] == [90, 30, 30]
    for part in (prepared.train, prepared.val, prepared.test):
        assert np.bincount(part.y).tolist() == [len(part) // 3] * 3
        assert part.preprocessor is prepared.preprocessor
        assert part.signature is prepared.signature
        assert part.source == iris
    assert not prepared.reused
    directory = Path(prepared.directory)
    assert directory.parent == tmp_path / "out" / "iris"
    assert len(directory.name) == 12
    assert sorted(item.name for item in directory.iterdir()) == FILES
    assert [item.name for item in directory.parent.iterdir()] == [directory.name]
    assert prepared.signature.n_rows == 90


def test_statistics_come_from_the_training_rows_alone(iris: str, tmp_path: Path) -> None:
    prepared = _prepare(iris, tmp_path / "out")
    raw = RawTable(path=iris, target_column="target").split("train")
    assert prepared.preprocessor.mean_ is not None
    np.testing.assert_allclose(
        prepared.preprocessor.mean_, raw.features.to_numpy().mean(axis=0), rtol=1e-12
    )
    np.testing.assert_allclose(prepared.train.X.mean(axis=0), 0, atol=1e-6)


def test_the_same_work_is_not_done_twice(iris: str, tmp_path: Path) -> None:
    first = _prepare(iris, tmp_path / "out")
    times = {item.name: item.stat().st_mtime_ns for item in Path(first.directory).iterdir()}
    again = _prepare(iris, tmp_path / "out")
    assert again.reused
    _assert_equal(first, again)
    assert times == {item.name: item.stat().st_mtime_ns for item in Path(first.directory).iterdir()}


@pytest.mark.parametrize(
    "change",
    [
        {"test_size": 0.3},
        {"val_size": 0.1},
        {"random_state": 0},
        {"preprocessor": Preprocessor(impute="median")},
        {"preprocessor": Preprocessor(scale=None)},
        {"class_names": ["virginica", "setosa", "versicolor"]},
        {"drop_columns": ["sepal_width_cm"]},
        {"read_options": {"sep": ","}},
    ],
)
def test_any_other_setting_has_a_directory_of_its_own(
    iris: str, tmp_path: Path, change: dict[str, Any]
) -> None:
    first = _prepare(iris, tmp_path / "out")
    other = _prepare(iris, tmp_path / "out", **change)
    assert other.directory != first.directory
    assert not other.reused
    _assert_equal(other, _prepare(iris, tmp_path / "out", **change))


def test_another_input_has_a_directory_of_its_own(iris: str, tmp_path: Path) -> None:
    first = _prepare(iris, tmp_path / "out")
    with Path(iris).open("a") as file:
        file.write("5.0,3.0,1.0,0.1,setosa\n")
    other = _prepare(iris, tmp_path / "out")
    assert other.directory != first.directory
    assert len(other.train) == 89
    assert _prepare(iris, tmp_path / "out").reused


def test_the_directory_depends_on_content_alone(iris: str, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere.csv"
    moved.write_bytes(Path(iris).read_bytes())
    first = _prepare(iris, tmp_path / "out", drop_columns=("sepal_width_cm",))
    again = _prepare(str(moved), tmp_path / "out", drop_columns=["sepal_width_cm"])
    assert again.reused
    assert again.directory == first.directory
    assert again.train.source == str(moved)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["changed", "cut", "removed", "emptied"])
def test_damaged_files_are_made_again(
    iris: str, tmp_path: Path, name: str, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    first = _prepare(iris, tmp_path / "out")
    contents = {item.name: item.read_bytes() for item in Path(first.directory).iterdir()}
    path = Path(first.directory, name)
    content = contents[name]
    if damage == "changed":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    elif damage == "cut":
        path.write_bytes(content[:-10])
    elif damage == "emptied":
        path.write_bytes(b"")
    else:
        path.unlink()
    again = _prepare(iris, tmp_path / "out")
    assert not again.reused
    _assert_equal(first, again)
    assert contents == {item.name: item.read_bytes() for item in Path(first.directory).iterdir()}
    assert len(list(Path(first.directory).parent.iterdir())) == 1
    assert ("is damaged and is made again" in caplog.text) == (
        (name, damage) != ("prepared.json", "removed")
    )


@pytest.mark.parametrize(
    "record",
    [
        [],
        {},
        {"format_version": 1},
        {"input": "0" * 64},
        {"config": {}},
        {"files": {}},
        {"files": []},
        {"files": {"../../raw/iris.csv": {"size": 1, "sha256": "0"}}},
        {"extra": 1},
    ],
)
def test_a_record_of_something_else_is_not_believed(iris: str, tmp_path: Path, record: Any) -> None:
    first = _prepare(iris, tmp_path / "out")
    path = Path(first.directory, "prepared.json")
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, **record} if record else record))
    again = _prepare(iris, tmp_path / "out")
    assert not again.reused
    _assert_equal(first, again)


def test_consistent_files_of_another_table_are_not_believed(iris: str, tmp_path: Path) -> None:
    first = _prepare(iris, tmp_path / "out")
    other = _prepare(iris, tmp_path / "out", drop_columns=["sepal_width_cm"])
    record = json.loads(Path(first.directory, "prepared.json").read_text())
    foreign = json.loads(Path(other.directory, "prepared.json").read_text())
    Path(first.directory, "val.parquet").write_bytes(
        Path(other.directory, "val.parquet").read_bytes()
    )
    record["files"]["val.parquet"] = foreign["files"]["val.parquet"]
    Path(first.directory, "prepared.json").write_text(json.dumps(record))
    again = _prepare(iris, tmp_path / "out")
    assert not again.reused
    _assert_equal(first, again)


def test_a_file_in_the_place_of_the_directory_is_replaced(iris: str, tmp_path: Path) -> None:
    directory = Path(_prepare(iris, tmp_path / "one").directory)
    place = tmp_path / "two" / "iris" / directory.name
    place.parent.mkdir(parents=True)
    place.write_text("in the way")
    assert Path(_prepare(iris, tmp_path / "two").directory) == place
    assert _prepare(iris, tmp_path / "two").reused


def test_parts_of_size_0_are_left_out(iris: str, tmp_path: Path) -> None:
    for _ in range(2):
        prepared = _prepare(iris, tmp_path / "out", test_size=0.0, val_size=0)
        assert (prepared.val, prepared.test) == (None, None)
        assert len(prepared.train) == 150
    assert prepared.reused
    assert not Path(prepared.directory, "val.parquet").exists()


def test_splits_lie_on_any_storage(iris: str, caplog: pytest.LogCaptureFixture) -> None:
    root = "memory://prepare/out"
    first = _prepare(iris, root)
    assert sorted(io.list_files(first.directory)) == FILES
    again = _prepare(iris, root)
    assert again.reused
    _assert_equal(first, again)
    io.write_bytes(io.join(first.directory, "val.parquet"), b"damaged")
    caplog.set_level(logging.WARNING)
    mended = _prepare(iris, root)
    assert not mended.reused
    assert "val.parquet is not the file that was written" in caplog.text
    assert _prepare(iris, root).reused


def test_the_raw_rows_of_a_split_are_those_that_were_prepared(iris: str, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"test_size": 0.3, "val_size": 0.1, "random_state": 5}
    prepared = _prepare(iris, tmp_path / "out", **settings)
    total = 0
    for part in ("train", "val", "test"):
        split: Any = part
        raw = RawTable(path=iris, target_column="target", **settings).split(split)
        assert raw.preprocessor is None
        assert raw.digest == prepared.digest
        transformed = prepared.preprocessor.transform(raw)
        assert transformed.X.tobytes() == getattr(prepared, part).X.tobytes()
        total += len(raw)
    assert total == len(RawTable(path=iris, target_column="target").split("all")) == 150


def test_a_split_that_does_not_exist_is_told(iris: str) -> None:
    wrong: Any = "tset"
    with pytest.raises(ConfigError, match=r"Unknown split 'tset'\. Did you mean 'test'"):
        RawTable(path=iris, target_column="target").split(wrong)
    with pytest.raises(ConfigError, match="The split 'val' has no rows: val_size is 0"):
        RawTable(path=iris, target_column="target", val_size=0.0).split("val")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_size": 1.0}, "test_size must be a fraction of at least 0 and below 1, got 1.0"),
        ({"val_size": -0.1}, "val_size must be a fraction"),
        ({"val_size": "0.2"}, "val_size must be a fraction .* got '0.2'"),
        ({"val_size": True}, "val_size must be a fraction"),
        ({"test_size": 0.6, "val_size": 0.4}, "must leave rows for training"),
        ({"name": "../x"}, "must be usable as a directory's name"),
        ({"name": ""}, "must be usable as a directory's name"),
        ({"read_options": {"sep": object()}}, "must be plain JSON values"),
        ({"target_column": "kind"}, "Unknown target column 'kind'"),
        ({"drop_columns": ["nope"]}, "Unknown column to drop 'nope'"),
    ],
)
def test_wrong_settings_are_told_and_leave_nothing(
    iris: str, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ConfigError, DataError), match=message):
        _prepare(iris, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_training_rows_of_one_class_are_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,target\n" + "1,x\n" * 10)
    with pytest.raises(DataError, match="the training rows hold one class only, 'x'"):
        _prepare(str(path), tmp_path / "out", class_names=["x", "y"])


def test_tables_of_few_rows_are_prepared_or_told(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,target\n" + "1,x\n2,y\n" * 3)
    prepared = _prepare(str(path), tmp_path / "out")
    assert prepared.val is not None
    assert prepared.test is not None
    assert len(prepared.train) + len(prepared.val) + len(prepared.test) == 6
    assert set(prepared.train.labels) == {"x", "y"}
    path.write_text("a,target\n1,x\n2,y\n3,x\n")
    with pytest.raises(DataError, match="2 rows of 2 classes are too few to split"):
        _prepare(str(path), tmp_path / "out")


def test_awkward_tables_come_back_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    lines = [f"{index},,{index % 2 == 0},7,{index % 3}" for index in range(30)]
    path.write_text('\ufeff"größe, cm",void,on,const,target\n' + "\n".join(lines))
    for preprocessor in (Preprocessor(), Preprocessor(None, None)):
        first = _prepare(str(path), tmp_path / "out", preprocessor=preprocessor)
        again = _prepare(str(path), tmp_path / "out", preprocessor=preprocessor)
        assert again.reused
        _assert_equal(first, again)
        assert again.train.feature_names == ("größe, cm", "void", "on", "const")


# -- several processes -----------------------------------------------------------------------------

WORKER = """
import hashlib, pathlib, sys, time
from ml_project_template.data import Preprocessor, RawTable
from ml_project_template.data.prepare import prepare
path, root, start, rounds = sys.argv[1:]
time.sleep(max(0.0, float(start) - time.time()))
for state in range(int(rounds)):
    table = RawTable(path=path, target_column="target", name="iris", random_state=state)
    done = prepare(table, preprocessor=Preprocessor(), output_root=root)
    print(done.directory, hashlib.sha256(done.train.X.tobytes()).hexdigest(), flush=True)
"""


def _start(
    python: list[str], path: str, root: Path, start: float, rounds: int
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*python, "-c", WORKER, path, str(root), str(start), str(rounds)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_processes_that_prepare_the_same_data_at_once_all_succeed(
    iris: str, tmp_path: Path, python: list[str]
) -> None:
    root = tmp_path / "out"
    # Half of what they meet is damaged, so that they all make it again at once.
    for state in range(0, 6, 2):
        Path(_prepare(iris, root, random_state=state).directory, "val.parquet").write_bytes(b"")
    workers = [_start(python, iris, root, time.time() + 3, 6) for _ in range(3)]
    outputs = [worker.communicate(timeout=120) for worker in workers]
    assert [worker.returncode for worker in workers] == [0] * 3, outputs
    assert len({output for output, _ in outputs}) == 1
    directories = {line.split()[0] for line in outputs[0][0].splitlines()}
    assert len(directories) == 6
    assert {str(item) for item in (root / "iris").iterdir()} == directories
    for state in range(6):
        assert _prepare(iris, root, random_state=state).reused


def test_a_killed_process_leaves_nothing_that_looks_whole(iris: str, tmp_path: Path) -> None:
    expected = {state: _prepare(iris, tmp_path / "own", random_state=state) for state in range(40)}
    seen = 0
    for attempt in range(3):
        root = tmp_path / f"out{attempt}"
        worker = _start([sys.executable], iris, root, 0, 40)
        assert worker.stdout is not None
        worker.stdout.readline()
        time.sleep(0.017 * attempt)
        worker.send_signal(signal.SIGKILL)
        worker.communicate(timeout=60)
        assert worker.returncode == -signal.SIGKILL
        for state, whole in expected.items():
            directory = root / "iris" / Path(whole.directory).name
            if directory.exists():
                seen += 1
                assert sorted(item.name for item in directory.iterdir()) == FILES
                found = _prepare(iris, root, random_state=state)
                assert found.reused
                assert found.train.X.tobytes() == whole.train.X.tobytes()
        # The next write sweeps what the killed process left.
        _prepare(iris, root, random_state=1000)
        assert [item for item in (root / "iris").iterdir() if item.name.startswith(".")] == []
    assert seen >= 3


def test_leftovers_of_the_dead_are_swept_and_those_of_the_living_kept(
    iris: str, tmp_path: Path
) -> None:
    parent = tmp_path / "out" / "iris"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait(timeout=60)
    names = [
        f".0123456789ab.{dead.pid}-ab12.staging",
        f".0123456789ab.{os.getpid()}-ab12.staging",
        ".notes.staging",
    ]
    for name in names:
        (parent / name).mkdir(parents=True)
    # One in another container: its number says nothing here.
    names.append(f".0123456789ab.{dead.pid}-cd34.staging")
    (parent / names[-1]).mkdir()
    with directories.held(parent / names[-1]):
        _prepare(iris, tmp_path / "out")
    assert sorted(item.name for item in parent.iterdir() if item.name.startswith(".")) == sorted(
        names[1:]
    )


def _table(path: Path, rows: int) -> None:
    generator = np.random.default_rng(3)
    pd.DataFrame(
        {
            "size": np.where(generator.random(rows) < 0.1, np.nan, generator.normal(size=rows)),
            "count": generator.integers(0, 900, rows),
            "on": generator.random(rows) < 0.5,
            "city": pd.Series(["Rome", "Oslo", None])
            .sample(rows, replace=True, random_state=0)
            .array,
            "day": pd.date_range("2024-01-01", periods=rows, freq="h"),
            "tiny": generator.normal(size=rows) * 1e-200,
            "y": generator.choice(["a", "b", "c"], rows, p=[0.6, 0.3, 0.1]),
        }
    ).to_parquet(path)


@pytest.mark.parametrize("impute", ["mean", "median", None])
def test_column_by_column_gives_to_the_bit_what_all_at_once_gives(
    tmp_path: Path, impute: Any
) -> None:
    path = tmp_path / "t.parquet"
    _table(path, 500)
    preprocessor = Preprocessor(impute=impute)
    table = RawTable(path=str(path), target_column="y", name="t")
    found = prepare(table, preprocessor=preprocessor, output_root=str(tmp_path / "out"))
    parts, fitted, signature = fit_parts(table.parts(), preprocessor, table.path)
    assert found.signature == signature
    assert found.preprocessor.to_dict() == fitted.to_dict()
    read = prepare(table, preprocessor=preprocessor, output_root=str(tmp_path / "out"))
    assert read.reused
    for part, dataset in parts.items():
        for other in (getattr(found, part), getattr(read, part)):
            assert other.X.tobytes() == dataset.X.tobytes()
            assert other.y.tolist() == dataset.y.tolist()
            assert other.feature_names == dataset.feature_names
        # The rows that serving prepares one by one.
        raw = signature.rows_to_frame(table.parts()[part].features).to_numpy()
        assert fitted.transform_array(raw).tobytes() == dataset.X.tobytes()


def test_numbers_are_written_without_a_dictionary_and_what_repeats_with_one(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.parquet"
    _table(path, 500)
    table = RawTable(path=str(path), target_column="y", name="t")
    directory = prepare(table, preprocessor=Preprocessor(), output_root=str(tmp_path)).directory
    group = pq.ParquetFile(Path(directory, "train.parquet")).metadata.row_group(0)
    columns = [group.column(place) for place in range(group.num_columns)]
    with_one = {c.path_in_schema for c in columns if c.has_dictionary_page}
    assert with_one == {"on", "city", "day.month", "day.day", "day.weekday", "day.hour", "y"}


def test_prepared_rows_are_in_memory_once(iris: str, tmp_path: Path) -> None:
    for prepared in (_prepare(iris, tmp_path / "out"), _prepare(iris, tmp_path / "out")):
        train = prepared.train
        expected = train.features.to_numpy(copy=True)
        matrix = train.X
        assert matrix.flags.c_contiguous
        assert np.array_equal(matrix, expected)
        assert np.shares_memory(train.features.to_numpy(), matrix)
        assert train.X is matrix


def test_a_file_is_hashed_once_by_a_process(
    iris: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.utime(iris, (1.7e9, 1.7e9))
    monkeypatch.setattr(io, "_SETTLED", 0)
    time.sleep(0.02)
    opened = []
    open_binary = io.open_binary

    def counted(path: str, storage_options: Any = None) -> Any:
        opened.append(path)
        return open_binary(path, storage_options)

    monkeypatch.setattr(io, "open_binary", counted)
    digest = io.sha256(iris)
    assert io.sha256(iris) == digest
    assert opened == [iris]
    content = Path(iris).read_bytes()
    Path(iris).write_bytes(content[:-2] + b"X\n")
    assert io.sha256(iris) != digest
