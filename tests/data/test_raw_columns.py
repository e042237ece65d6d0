"""Large files: the same rows as of small ones, a column at a time, and never of two contents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_project_template.data import TabularDataset, files, raw_columns
from ml_project_template.errors import DataError
from ml_project_template.utils import io


@pytest.fixture
def frame() -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": np.where(generator.random(90) < 0.2, np.nan, generator.normal(size=90)),
            "count": generator.integers(0, 9, 90),
            "city": pd.Series(["Rome", "Oslo", None])
            .sample(90, replace=True, random_state=0)
            .array,
            "on": generator.random(90) < 0.5,
            "day": pd.date_range("2024-01-01", periods=90),
            "few": pd.array([1, 2, None] * 30, dtype="Int64"),
            "y": generator.choice(["a", "b"], 90),
        }
    )


def _all_are_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(raw_columns, "_LARGE", 0)
    monkeypatch.setattr(raw_columns, "_HUGE", 0)
    monkeypatch.setattr(files, "_STREAMED", 0)


def _no_bytes(*_: Any, **__: Any) -> bytes:
    raise AssertionError("the file is read whole")


@pytest.mark.parametrize("name", ["t.csv", "t.parquet", "t.feather"])
def test_a_large_file_gives_what_a_small_one_does(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    if name == "t.csv":
        frame.to_csv(path, index=False)
    elif name == "t.parquet":
        # With an index, which is no column.
        frame.set_index(pd.Index(range(5, 95), name="row")).to_parquet(path, row_group_size=25)
    else:
        frame.to_feather(path)
    small = TabularDataset.from_file(path, target_column="y")
    _all_are_large(monkeypatch)
    monkeypatch.setattr(io, "read_bytes", _no_bytes)
    large = TabularDataset.from_file(path, target_column="y")
    pd.testing.assert_frame_equal(large.features, small.features)
    assert list(large.features) == ["size", "count", "city", "on", "day", "few"]
    assert large.y.tolist() == small.y.tolist()
    assert large.digest == small.digest == io.sha256(str(path))


def test_a_large_csv_whose_types_show_late_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.csv"
    monkeypatch.setattr(files, "_STREAM_BLOCK", 2**10)
    rows = ["1,2,a"] * 1_000 + ["1.5,x,b"] * 3
    path.write_text("\n".join(["whole,number,y", *rows]), encoding="utf-8")
    _all_are_large(monkeypatch)
    streams = []
    stream = files._stream_csv
    monkeypatch.setattr(files, "_stream_csv", lambda *how: streams.append(stream(*how)))
    data = TabularDataset.from_csv(path, target_column="y", columns={"number": "category"})
    assert streams == [None]
    assert data.features["whole"].iloc[-1] == 1.5
    assert data.features["number"].iloc[[0, -1]].tolist() == ["2", "x"]


def test_a_parquet_file_with_points_in_names_is_read_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({"a.b": [1.0, 2.0], "a": [3.0, 4.0], "y": ["p", "q"]}), path)
    _all_are_large(monkeypatch)
    data = TabularDataset.from_parquet(path, target_column="y")
    assert data.X.tolist() == [[1.0, 3.0], [2.0, 4.0]]


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
def test_a_large_file_that_changes_while_it_is_read_is_told(
    frame: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    write = frame.to_csv if name == "t.csv" else frame.to_parquet
    write(path, index=False)
    _all_are_large(monkeypatch)
    digest = io.sha256

    def changed_meanwhile(file: str) -> str:
        with path.open("ab") as handle:
            handle.write(b"1,2,Rome,True,2024-01-01,1,a\n")
        return digest(file)

    monkeypatch.setattr(io, "sha256", changed_meanwhile)
    with pytest.raises(DataError, match="changes while it is read"):
        TabularDataset.from_file(path, target_column="y")


@pytest.mark.parametrize("size", [0, 2**20])
def test_damage_of_a_large_file_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    path = tmp_path / "t.parquet"
    path.write_bytes(b"PAR1" + bytes(size))
    _all_are_large(monkeypatch)
    with pytest.raises(DataError, match="is not a readable Parquet file"):
        TabularDataset.from_file(path, target_column="y")
