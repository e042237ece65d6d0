"""Which rows are for what: every row in one part, groups whole, time in its order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template.data import Preprocessor, RawTable, SplitSettings, TabularDataset
from ml_project_template.data.prepare import prepare
from ml_project_template.errors import ConfigError, DataError, ProjectError

ROWS = 200


@pytest.fixture
def table(tmp_path: Path) -> str:
    """Of 200 rows: a feature that numbers them, a person with 1 to 20 rows, a day, two classes."""
    generator = np.random.default_rng(0)
    person = np.repeat(np.arange(40), generator.integers(1, 21, size=40))[:ROWS]
    day = generator.integers(1, 29, size=ROWS)
    lines = [f"{row},p{person[row]},2024-02-{day[row]:02},{'ab'[row % 2]}" for row in range(ROWS)]
    path = tmp_path / "table.csv"
    path.write_text("row,person,day,target\n" + "\n".join(lines) + "\n")
    return str(path)


def _table(path: str, method: Any, column: str | None = None, **changes: Any) -> RawTable:
    by = SplitSettings(method=method, column=column, file=changes.pop("file", None))
    settings = {"target_column": "target", "drop_identifiers": False, **changes}
    return RawTable(path=path, split_by=by, **settings)


def _keys(part: TabularDataset) -> list[Any]:
    assert part.split_keys is not None
    return part.split_keys.tolist()


def _numbers(part: TabularDataset) -> list[int]:
    numbers: list[int] = part.features["row"].tolist()
    return numbers


def test_a_group_is_in_one_part_alone_and_no_feature(table: str) -> None:
    parts = _table(table, "group", "person").parts()
    groups = [set(_keys(part)) for part in parts.values()]
    assert not groups[0] & groups[1] | groups[1] & groups[2] | groups[0] & groups[2]
    assert sorted(row for part in parts.values() for row in _numbers(part)) == list(range(ROWS))
    for part in ("test", "val"):
        assert len(parts[part]) == pytest.approx(ROWS / 5, abs=10)
    assert "person" not in parts["train"].feature_names
    assert parts["train"].dropped["person"] == "split"
    again = _table(table, "group", "person", val_size=0.0).parts()
    assert _numbers(again["test"]) == _numbers(parts["test"])
    other = _table(table, "group", "person", random_state=7).parts()
    assert _numbers(other["test"]) != _numbers(parts["test"])


def test_a_column_of_the_split_that_columns_names_stays_a_feature(table: str) -> None:
    kept = _table(table, "group", "person", columns={"person": "category"}).parts()["train"]
    assert "person" in kept.feature_names


def test_a_group_of_most_rows_stays_in_training(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,g,target\n" + "".join(f"{i},{max(i - 80, 0)},{i % 2}\n" for i in range(100)))
    for seed in range(5):
        parts = _table(str(path), "group", "g", val_size=0.0, random_state=seed).parts()
        assert 0 in _keys(parts["train"])
        assert 1 <= len(parts["test"]) <= 20


def test_the_last_rows_are_for_the_test_and_those_before_for_validation(table: str) -> None:
    parts = _table(table, "time", "day").parts()
    assert max(_keys(parts["train"])) < min(_keys(parts["val"]))
    assert max(_keys(parts["val"])) < min(_keys(parts["test"]))
    assert len(parts["test"]) == pytest.approx(ROWS / 5, abs=6)
    assert "day" not in parts["train"].feature_names


def test_rows_of_one_time_stay_together(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,year,target\n" + "".join(f"{i},{i // 30},{i % 2}\n" for i in range(100)))
    parts = _table(str(path), "time", "year", test_size=0.15, val_size=0.2).parts()
    years = [set(_keys(parts[part])) for part in ("train", "val", "test")]
    assert years == [{0, 1}, {2}, {3}]


def test_a_file_says_what_each_row_is_for(table: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    names = [("train", "train", "val", "test")[row % 4] for row in range(ROWS)]
    file.write_text("split\n" + "\n".join(names) + "\n")
    parts = _table(table, "file", file=str(file)).parts()
    assert _numbers(parts["val"]) == list(range(2, ROWS, 4))
    assert _numbers(parts["test"]) == list(range(3, ROWS, 4))


def test_a_file_finds_the_rows_by_a_column(table: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.parquet"
    import pandas as pd

    order = np.random.default_rng(0).permutation(ROWS + 5)
    names = np.where(order % 2 == 0, "train", "test")
    pd.DataFrame({"row": order.astype(float), "split": names}).to_parquet(file)
    parts = _table(table, "file", "row", file=str(file), columns={"row": "numeric"}).parts()
    assert set(parts) == {"train", "test"}
    assert _numbers(parts["test"]) == list(range(1, ROWS, 2))
    with pytest.raises(ConfigError, match="The split 'val' has no rows: split.file names none"):
        _table(table, "file", "row", file=str(file)).split("val")


def test_prepared_data_go_by_the_content_of_the_file(table: str, tmp_path: Path) -> None:
    def run(file: Path, names: list[str]) -> Any:
        file.write_text("split\n" + "\n".join(names) + "\n")
        raw = _table(table, "file", file=str(file))
        return prepare(raw, preprocessor=Preprocessor(), output_root=str(tmp_path / "out"))

    halves = ["train", "train", "val", "val"] * (ROWS // 4)
    first = run(tmp_path / "one.csv", halves)
    assert (len(first.train), first.test) == (ROWS // 2, None)
    assert run(tmp_path / "two.csv", halves).reused
    other = run(tmp_path / "one.csv", halves[::-1])
    assert not other.reused
    assert other.directory != first.directory


def test_random_rows_are_the_same_whatever_the_classes_are(table: str) -> None:
    parts = _table(table, "random").parts()
    assert [len(parts[part]) for part in ("train", "val", "test")] == [120, 40, 40]
    named = _table(table, "random", class_names=["b", "a"]).parts()
    assert _numbers(named["test"]) == _numbers(parts["test"])
    assert np.bincount(_table(table, "stratified").parts()["test"].y).tolist() == [20, 20]


def test_folds_go_by_the_method_of_the_split(table: str) -> None:
    by_group, by_time = _table(table, "group", "person"), _table(table, "time", "day")
    test_rows = set(_numbers(by_group.parts()["test"]))
    seen: list[int] = []
    for train, val in by_group.folds(4):
        assert not set(_keys(train)) & set(_keys(val))
        assert not test_rows & set(_numbers(train) + _numbers(val))
        seen += _numbers(val)
    assert sorted([*seen, *test_rows]) == list(range(ROWS))
    sizes = []
    for train, val in by_time.folds(4):
        assert max(_keys(train)) < min(_keys(val))
        sizes.append(len(train))
    assert sizes == sorted(sizes)
    assert len(set(sizes)) == 4
    assert max(_keys(val)) < min(_keys(by_time.parts()["test"]))


def test_folds_of_a_file_are_of_all_rows_but_the_test(table: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(
        "split\n" + "".join(f"{('train', 'val', 'test')[i % 3]}\n" for i in range(ROWS))
    )
    folds = _table(table, "file", file=str(file)).folds(3)
    assert sorted(row for _, val in folds for row in _numbers(val)) == [
        row for row in range(ROWS) if row % 3 != 2
    ]


def test_a_class_that_no_training_row_has_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.csv"
    path.write_text("x,t,target\n" + "".join(f"{i},{i},{'abc'[i // 45]}\n" for i in range(100)))
    _table(str(path), "time", "t", test_size=0.1, val_size=0.0).parts()
    assert "no training row is of class 'c' (10 rows of the other parts are)" in caplog.text
    raw = _table(str(path), "time", "t", test_size=0.05, val_size=0.0)
    raw.folds(3)
    assert "in 3 of 3 folds the training rows lack a class that other rows have" in caplog.text


def test_every_row_can_be_read_where_a_column_of_the_split_is_not_there(table: str) -> None:
    raw = _table(table, "group", "person")
    assert len(raw.split("all")) == ROWS
    without = Path(table).with_name("without.csv")
    without.write_text("row,target\n1,a\n2,b\n")
    known = _table(str(without), "group", "person", only_columns=["row"])
    assert len(known.split("all")) == 2
    with pytest.raises(DataError, match="Unknown split column 'person'"):
        known.split("test")


@pytest.mark.parametrize(
    ("method", "column", "changes", "message"),
    [
        ("gruop", None, {}, r"split\.method: Unknown method 'gruop'\. Did you mean 'group'"),
        ("group", None, {}, r"split\.column: is required with split\.method=group"),
        ("auto", "day", {}, r"split\.column=day has no effect with split\.method=auto"),
        ("time", "day", {"file": "x.csv"}, r"split\.file=x\.csv has no effect with"),
        ("file", None, {}, r"split\.file: is required"),
        ("group", "persn", {}, r"Unknown split column 'persn'\. Did you mean 'person'"),
        ("group", "target", {}, "the target column 'target' can't split the rows"),
        ("time", "person", {}, "'person' holds neither dates such as 2024-01-31 nor numbers"),
        ("group", "same", {}, "'same' has too few different values: a part would be empty"),
        ("time", "same", {}, "'same' has too few different times: a part would be empty"),
        ("time", "gaps", {}, "'gaps' is missing in 2 of 4 rows, first in row 2"),
        ("stratified", None, {"task": "regression", "target_column": "row"}, "is for classes"),
        ("group", "person", {"random_state": -1}, "random_state must be a whole number"),
    ],
)
def test_wrong_settings_of_a_split_are_told(
    table: str, method: str, column: str | None, changes: dict[str, Any], message: str
) -> None:
    if column in {"same", "gaps"}:
        Path(table).write_text("x,same,gaps,target\n1,1,1,a\n2,1,,b\n3,1,2,a\n4,1,,b\n")
    with pytest.raises(ProjectError, match=message):
        _table(table, method, column, **changes).parts()


@pytest.mark.parametrize(
    ("content", "column", "message"),
    [
        ("split\ntrain\n", None, "has 1 rows and .* has 200: it must have one for each"),
        ("split\ntrain\ntset\n", None, r"row 2: Unknown split 'tset'\. Did you mean 'test'"),
        ("part\ntrain\n", None, "Unknown column 'split'"),
        ("row,split\n0,train\n0,test\n", "row", "'row' '0' stands twice"),
        ("row,split\n0,train\n1,test\n", "row", "lacks 198 of 200 rows of .* that of 'row' '2'"),
        ("split\n" + "test\n" * 200, None, "no row of .* is for training"),
    ],
)
def test_a_file_that_does_not_fit_the_table_is_told(
    table: str, tmp_path: Path, content: str, column: str | None, message: str
) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(content)
    with pytest.raises(DataError, match=message):
        _table(table, "file", column, file=str(file)).parts()


def test_more_folds_than_groups_or_times_are_told(table: str) -> None:
    with pytest.raises(DataError, match=r"'person' outside the test rows are too few for cv=99"):
        _table(table, "group", "person").folds(99)
    with pytest.raises(DataError, match=r"'day' outside the test rows are too few for cv=99"):
        _table(table, "time", "day").folds(99)
