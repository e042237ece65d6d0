"""Reading, checking and writing of tables."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ml_project_template.data import BaseDataset, Preprocessor, Signature, TabularDataset
from ml_project_template.errors import ConfigError, DataError, ProjectError

IRIS_LIKE = "a,b,label\n1.5,2,x\n2.5,3,y\n3.5,4,x\n4.5,5,y\n"


def _csv(folder: Path, content: str | bytes, name: str = "table.csv") -> str:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def _dataset(target: Any, **arguments: Any) -> TabularDataset:
    rows = len(target)
    features = pd.DataFrame({"a": np.arange(rows, dtype=float)})
    return TabularDataset(features, target, target_column="label", **arguments)


# -- reading a CSV ---------------------------------------------------------------------------------


def test_a_csv_becomes_features_codes_and_names(tmp_path: Path) -> None:
    path = _csv(tmp_path, IRIS_LIKE)
    dataset = TabularDataset.from_csv(path, target_column="label")
    assert isinstance(dataset, BaseDataset)
    assert len(dataset) == 4
    assert dataset.feature_names == ("a", "b")
    assert dataset.num_features == 2
    assert dataset.class_names == ("x", "y")
    assert dataset.num_classes == 2
    assert dataset.has_target
    assert dataset.X.tolist() == [[1.5, 2], [2.5, 3], [3.5, 4], [4.5, 5]]
    assert dataset.X.dtype == np.float32
    assert dataset.X.flags.c_contiguous
    assert dataset.y.tolist() == [0, 1, 0, 1]
    assert dataset.y.dtype == np.int64
    assert dataset.labels.tolist() == ["x", "y", "x", "y"]
    assert dataset.name == "table"
    assert dataset.source == path
    assert dataset.digest == hashlib.sha256(IRIS_LIKE.encode()).hexdigest()
    assert (dataset.signature, dataset.preprocessor) == (None, None)
    assert repr(dataset) == "TabularDataset(name='table', rows=4, features=2, classes=2)"


def test_a_path_object_reads_like_its_text(tmp_path: Path) -> None:
    _csv(tmp_path, IRIS_LIKE)
    dataset = TabularDataset.from_file(tmp_path / "table.csv", target_column="label", name="mine")
    assert dataset.name == "mine"
    assert len(dataset) == 4


def test_floats_are_read_to_the_last_bit(tmp_path: Path) -> None:
    values = np.random.default_rng(0).standard_normal(2000) * 10.0 ** np.arange(-10, 10).repeat(100)
    lines = "\n".join(f"{value!r},{index % 2}" for index, value in enumerate(values.tolist()))
    dataset = TabularDataset.from_csv(_csv(tmp_path, f"a,t\n{lines}\n"), target_column="t")
    assert dataset.features["a"].tolist() == values.tolist()


def test_a_byte_order_mark_quotes_unicode_and_spaces_are_understood(tmp_path: Path) -> None:
    content = '\ufeff"größe, cm",naïve name,Klasse ✓\r\n1,2,"rot, hell"\r\n3,4,blau\r\n'
    dataset = TabularDataset.from_csv(_csv(tmp_path, content), target_column="Klasse ✓")
    assert dataset.feature_names == ("größe, cm", "naïve name")
    assert dataset.class_names == ("blau", "rot, hell")


def test_a_quoted_line_break_far_into_the_file_is_part_of_its_label(tmp_path: Path) -> None:
    rows = "".join(f'{index},"line\nbreak {index % 2}"\n' for index in range(100_000))
    dataset = TabularDataset.from_csv(_csv(tmp_path, "a,t\n" + rows), target_column="t")
    assert len(dataset) == 100_000
    assert dataset.class_names == ("line\nbreak 0", "line\nbreak 1")


def test_missing_values_are_nan_and_booleans_and_integers_keep_their_type(tmp_path: Path) -> None:
    content = "f,i,b,m,t\n,1,True,True,x\nNA,2,False,,y\n1.5,3,True,False,x\n"
    dataset = TabularDataset.from_csv(_csv(tmp_path, content), target_column="t")
    kinds = [str(kind) for kind in dataset.features.dtypes]
    assert kinds == ["float64", "int64", "bool", "float64"]
    assert np.isnan(dataset.features["f"].to_numpy()).tolist() == [True, True, False]
    assert dataset.features["m"].fillna(-1).tolist() == [1.0, -1.0, 0.0]


def test_integers_of_any_size_are_numbers(tmp_path: Path) -> None:
    content = "u,h,t\n9223372036854775808,123456789012345678901234567890,0\n1,2,1\n"
    path = _csv(tmp_path, content)
    both: list[dict[str, Any]] = [{}, {"engine": "c"}]
    for options in both:
        dataset = TabularDataset.from_csv(path, target_column="t", **options)
        assert dataset.features["u"].tolist() == [2.0**63, 1]
        assert dataset.features["h"].tolist() == [1.2345678901234568e29, 2]


def test_rows_wider_than_a_block_and_types_that_show_late_are_read(tmp_path: Path) -> None:
    names = ",".join(f"{'a column with a long name' * 10} {index}" for index in range(6_000))
    rows = "\n".join(",".join(["1.2345678901234567"] * 6_000) + f",{label}" for label in "pq")
    dataset = TabularDataset.from_csv(_csv(tmp_path, f"{names},t\n{rows}\n"), target_column="t")
    assert dataset.num_features == 6_000
    late = "a,t\n" + "1,01\n" * 600_000 + "1.5,late\n"
    dataset = TabularDataset.from_csv(_csv(tmp_path, late), target_column="t")
    assert dataset.class_names == ("01", "late")
    assert dataset.features["a"].iloc[-1] == 1.5


def test_what_stands_for_a_missing_value_can_be_told(tmp_path: Path) -> None:
    path = _csv(tmp_path, "a,t\n1,NA\n?,None\n-9,x\n")
    options: dict[str, Any] = {"na_values": ["?", -9], "keep_default_na": False}
    dataset = TabularDataset.from_csv(path, target_column="t", **options)
    assert dataset.class_names == ("NA", "None", "x")
    assert dataset.features["a"].isna().tolist() == [False, True, True]
    by_column: dict[str, Any] = {"na_values": {"a": ["?"]}, "keep_default_na": False}
    assert TabularDataset.from_csv(path, target_column="t", **by_column).features["a"].iloc[2] == -9


def test_a_gzipped_csv_is_read(tmp_path: Path) -> None:
    path = _csv(tmp_path, gzip.compress(IRIS_LIKE.encode()), "table.csv.gz")
    dataset = TabularDataset.from_file(path, target_column="label")
    assert len(dataset) == 4
    assert dataset.name == "table"


def test_options_of_pandas_tell_how_a_csv_is_written(tmp_path: Path) -> None:
    content = "größe;t\n1,5;ä\n2,5;b\n".encode("latin-1")
    path = _csv(tmp_path, content)
    options: dict[str, Any] = {"sep": ";", "decimal": ",", "encoding": "latin-1"}
    dataset = TabularDataset.from_csv(path, target_column="t", **options)
    assert dataset.features["größe"].tolist() == [1.5, 2.5]
    assert dataset.class_names == ("b", "ä")
    commented = _csv(tmp_path, "# made by hand\na,t\n1,x\n2,y\n", "commented.csv")
    assert len(TabularDataset.from_csv(commented, target_column="t", comment="#")) == 2


def test_columns_that_are_neither_feature_nor_target_can_be_dropped(tmp_path: Path) -> None:
    path = _csv(tmp_path, "id,a,t\nx1,1,p\nx2,2,q\n")
    dataset = TabularDataset.from_csv(path, target_column="t", drop_columns=["id"])
    assert dataset.feature_names == ("a",)


def test_a_column_without_a_name_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = _csv(tmp_path, ",a,t\n0,1,p\n1,2,q\n")
    dataset = TabularDataset.from_csv(path, target_column="t")
    assert dataset.feature_names == ("Unnamed: 0", "a")
    assert "a column without a name is used as the feature 'Unnamed: 0'" in caplog.text
    caplog.clear()
    TabularDataset.from_csv(path, target_column="t", drop_columns=["Unnamed: 0"])
    assert caplog.text == ""


def test_three_rows_a_constant_column_and_300_columns_are_fine(tmp_path: Path) -> None:
    names = [f"c{index}" for index in range(300)]
    rows = [",".join(["7"] * 300 + [label]) for label in "pqp"]
    path = _csv(tmp_path, "\n".join([",".join([*names, "t"]), *rows]))
    dataset = TabularDataset.from_csv(path, target_column="t")
    assert dataset.X.shape == (3, 300)
    assert (dataset.X == 7).all()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,t\n", "has no rows of data"),
        (
            "a,t\n" + "1,x\n" * 9 + "abc,y\n",
            r"column 'a', row 10: 'abc' is not a number\. 90% of the values are numbers\..*"
            r"na_values.*columns={a: category}",
        ),
        ("a,t\n1,x\ninf,y\n", r"column 'a', row 2: inf is not a finite number"),
        ("a,t\n1,x\n-1e400,y\n", r"column 'a', row 2: -inf is not a finite number"),
        ("a,a,t\n1,2,x\n3,4,y\n", r"csv': the column name 'a' stands more than once"),
        ("a,t\n1,x\n2,x\n", "holds one class only, 'x'"),
        ("a,t\n1,\n2,y\n3,\n", "missing in 2 of 3 rows, first in row 1"),
        ("a,t\n1,x\n1,2,3\n", "is not a regular CSV: .*Expected 2 columns, got 3"),
        ("a,t\n1,x\n1\n", "is not a regular CSV: .*Expected 2 columns, got 1"),
        ("a,tt\n1,x\n2,y\n", r"column 't'\. Did you mean 'tt'\? Available: a, tt\."),
        ("t\nx\ny\n", "has no feature column"),
        (b"a,t\n1,\xff\n2,y\n", "is not UTF-8 text; set encoding"),
        (b"\xff\xfea,t\n1,x\n2,y\n", "is not UTF-8 text; set encoding"),
        (b"PK\x03\x04\x00\x00\xff\xff,t\n\x00\x01,x", "is not UTF-8 text; set encoding"),
        (b"\x1f\x8bnonsense", "is a damaged gzip file"),
    ],
)
def test_a_csv_that_cannot_be_used_is_told_in_one_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = _csv(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        TabularDataset.from_csv(path, target_column="t")
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(f"'{path}'")


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("a,t\n1,x,3\n2,y,4\n", {"engine": "c"}, "is not a regular CSV"),
        ("#\na,t\n1,x\n1,2,3,4\n", {"comment": "#"}, "is not a regular CSV"),
        ("a,t\n1,x\n2,y\n", {"encoding": "nonsense"}, "can't be read as CSV"),
        ("a,t\n1,x\n2,y\n", {"sep": "long"}, "can't be read as CSV"),
        ("", {"comment": "#"}, "is empty"),
        ("a,t\n1,ü\n2,y\n", {"comment": "#", "encoding": "ascii"}, "is not ascii text"),
        ("a,a,t\n1,2,x\n2,3,y\n", {"engine": "c"}, r"csv': the column name 'a' stands more"),
        ("a,t\n1,x\n2,y\n", {"names": ["a", "a"]}, "can't be read as CSV"),
        ("a,t\n1,x\n2,y\n", {"sep": ";;", "engine": "c"}, "can't be read as CSV|is not a regular"),
        ("a,t\n1,x\n2,y\n", {"dtype": {"a": "nonsense"}}, "can't be read as CSV"),
    ],
)
def test_options_that_do_not_fit_the_file_are_told_in_one_line(
    tmp_path: Path, content: str, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        TabularDataset.from_csv(_csv(tmp_path, content), target_column="t", **options)
    assert "\n" not in str(caught.value)


def test_an_unknown_read_option_is_told_with_the_likely_one(tmp_path: Path) -> None:
    path = _csv(tmp_path, IRIS_LIKE)
    with pytest.raises(ConfigError, match=r"Unknown read option 'decimel'\. .*'decimal'"):
        TabularDataset.from_csv(path, target_column="label", decimel=",")
    with pytest.raises(ConfigError, match="Unknown read option 'chunksize'"):
        TabularDataset.from_csv(path, target_column="label", chunksize=2)


def test_a_wrong_column_to_drop_is_told(tmp_path: Path) -> None:
    path = _csv(tmp_path, IRIS_LIKE)
    with pytest.raises(DataError, match=r"Unknown column to drop 'labels'\. Did you mean 'label'"):
        TabularDataset.from_csv(path, target_column="label", drop_columns=["labels"])
    with pytest.raises(DataError, match="target column 'label' can't be dropped"):
        TabularDataset.from_csv(path, target_column="label", drop_columns=["label"])
    with pytest.raises(ConfigError, match="drop_columns must be a list of names, got 'a'"):
        TabularDataset.from_csv(path, target_column="label", drop_columns="a")


def test_a_missing_file_and_a_directory_are_told(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nope\.csv"):
        TabularDataset.from_csv(tmp_path / "nope.csv", target_column="t")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(DataError, match="is a directory; the path must name a file"):
        TabularDataset.from_file(tmp_path / "folder.csv", target_column="t")


def test_the_ending_of_a_file_decides_how_it_is_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"must end in \.csv, \.tsv, \.parquet, "):
        TabularDataset.from_file(_csv(tmp_path, IRIS_LIKE, "t.xlsx"), target_column="label")
    with pytest.raises(ConfigError, match="sep can only be set for a CSV"):
        TabularDataset.from_file("t.parquet", target_column="label", sep=";")


# -- Parquet ---------------------------------------------------------------------------------------


def test_a_table_written_as_parquet_comes_back_the_same(tmp_path: Path) -> None:
    content = "f,i,b,größe x,t\n0.1,1,True,,10\n,2,False,4,9\n1e300,3,True,5,10\n"
    dataset = TabularDataset.from_csv(_csv(tmp_path, content), target_column="t")
    path = str(tmp_path / "new" / "table.parquet")
    assert dataset.to_parquet(path) == path
    again = TabularDataset.from_file(path, target_column="t")
    pd.testing.assert_frame_equal(again.features, dataset.features)
    assert again.class_names == dataset.class_names == ("9", "10")
    assert again.y.tolist() == dataset.y.tolist()
    assert [item.name for item in (tmp_path / "new").iterdir()] == ["table.parquet"]


def test_rows_without_labels_are_written_without_a_target(tmp_path: Path) -> None:
    dataset = TabularDataset(pd.DataFrame({"a": [1, 2]}), None, target_column="t")
    dataset.to_parquet(tmp_path / "t.parquet")
    assert pq.read_table(tmp_path / "t.parquet").column_names == ["a"]


def test_a_table_travels_through_any_file_system() -> None:
    path = "memory://tabular/round-trip.parquet"
    _dataset(["x", "y"]).to_parquet(path)
    assert TabularDataset.from_file(path, target_column="label").class_names == ("x", "y")


@pytest.mark.parametrize(
    ("column", "expected"),
    [
        (pa.array([1, 2], pa.uint8()), "int64"),
        (pa.array([2**64 - 1, 2], pa.uint64()), "float64"),
        (pa.array([1, None], pa.int32()), "float64"),
        (pa.array([1.5, 2], pa.float16()), "float64"),
        (pa.array([1.5, 2], pa.float32()), "float32"),
        (pa.array([True, None]), "float64"),
        (pa.array([Decimal("1.5"), Decimal("2.5")]), "float64"),
        (pa.array(["1.5", "2"]), "float64"),
        (pa.array([7, 8]).dictionary_encode(), "int64"),
        (pa.nulls(2), "float64"),
    ],
)
def test_numbers_of_every_width_become_one_of_four_types(
    tmp_path: Path, column: pa.Array, expected: str
) -> None:
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"a": column, "t": ["x", "y"]}), path)
    dataset = TabularDataset.from_parquet(path, target_column="t")
    assert str(dataset.features["a"].dtype) == expected
    values = [None if value is None else float(value) for value in column.to_pylist()]
    found = [None if np.isnan(value) else value for value in dataset.features["a"].astype(float)]
    assert found == values


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([b"1", b"\xff"]), r"column 'a', row 1: b'1' is not a number"),
        (pa.array([[1], [2]]), r"column 'a', row 1: array\(\[1\]\) is not a number"),
    ],
)
def test_a_parquet_column_that_holds_no_numbers_is_told(
    tmp_path: Path, column: pa.Array, message: str
) -> None:
    path = str(tmp_path / "t.parquet")
    pq.write_table(pa.table({"a": column, "t": ["x", "y"]}), path)
    with pytest.raises(DataError, match=message):
        TabularDataset.from_parquet(path, target_column="t")


def test_a_parquet_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    for content, message in ((b"", "is empty"), (b"PAR1nonsense", "is not a readable Parquet")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=message) as caught:
            TabularDataset.from_parquet(path, target_column="t")
        assert "\n" not in str(caught.value)
    doubled = pa.table([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(doubled, path)
    with pytest.raises(DataError, match="the column name 'a' stands more than once"):
        TabularDataset.from_parquet(path, target_column="t")


# -- the target ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ([10, 9, 100], ("9", "10", "100")),
        (["10", "9", "100"], ("9", "10", "100")),
        ([1.0, 0.0, 1.0], ("0", "1")),
        ([0.5, 1.5, 0.5, 1.5], ("0.5", "1.5")),
        ([-1, 1], ("-1", "1")),
        ([True, False], ("False", "True")),
        (["b", "B", "a", "10"], ("10", "B", "a", "b")),
        (["01", "1"], ("01", "1")),
        ([2**62 + 1, 2**62], (str(2**62), str(2**62 + 1))),
        (pd.Categorical(["b", "a"], categories=["c", "b", "a"]), ("a", "b")),
        ([1, "x"], ("1", "x")),
    ],
)
def test_classes_have_a_fixed_order(labels: Any, names: tuple[str, ...]) -> None:
    dataset = _dataset(labels)
    assert dataset.class_names == names
    assert sorted(dataset.y.tolist()) == sorted(names.index(label) for label in dataset.labels)


def test_given_class_names_fix_the_order_and_may_name_classes_without_rows() -> None:
    dataset = _dataset([1, 0, 1], class_names=[2, 1, 0.0])
    assert dataset.class_names == ("2", "1", "0")
    assert dataset.y.tolist() == [1, 2, 1]
    assert _dataset(["x", "x"], class_names=["x", "y"]).class_names == ("x", "y")


def test_a_label_beyond_the_given_class_names_is_told() -> None:
    with pytest.raises(DataError, match=r"row 2: Unknown class 'rott'\. Did you mean 'rot'\?"):
        _dataset(["rot", "rott"], class_names=["rot", "blau"])


@pytest.mark.parametrize(
    ("class_names", "message"),
    [
        (["x", "x"], "names 'x' more than once"),
        (["x"], "at least two classes"),
        ("xy", "must be a list of labels, got 'xy'"),
    ],
)
def test_class_names_that_make_no_sense_are_told(class_names: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _dataset(["x", "x"], class_names=class_names)


@pytest.mark.parametrize("rows", [10, 1000])
def test_a_continuous_target_is_one_for_regression(rows: int) -> None:
    target = np.random.default_rng(0).normal(size=rows)
    dataset = _dataset(target)
    assert dataset.task == "regression"
    assert dataset.class_names == ()
    np.testing.assert_array_equal(dataset.y, target)


def test_a_few_half_steps_are_classes() -> None:
    assert _dataset(np.tile([0.5, 1.0, 1.5], 20)).class_names == ("0.5", "1", "1.5")


def test_a_key_is_no_target_but_many_classes_are_fine() -> None:
    with pytest.raises(DataError, match="100 different values in 100 rows"):
        _dataset([f"customer {index}" for index in range(100)])
    assert _dataset(np.arange(100) % 50).num_classes == 50
    assert _dataset([f"class {index % 200}" for index in range(400)]).num_classes == 200


def test_a_label_that_is_no_label_is_told() -> None:
    with pytest.raises(DataError, match=r"row 2: b'x' is not a label"):
        _dataset(["x", b"x"])


def test_the_number_of_labels_must_be_that_of_the_rows() -> None:
    with pytest.raises(DataError, match="2 labels for 3 rows"):
        TabularDataset(pd.DataFrame({"a": [1, 2, 3]}), ["x", "y"], target_column="t")


def test_a_data_set_without_target_has_no_y() -> None:
    dataset = TabularDataset(
        pd.DataFrame({"a": [1, 2]}), None, target_column="t", class_names=["x", "y"]
    )
    assert not dataset.has_target
    assert dataset.class_names == ("x", "y")
    assert len(dataset.take([1])) == 1
    with pytest.raises(DataError, match="has no target"):
        _ = dataset.y


# -- the features ----------------------------------------------------------------------------------


def test_a_frame_that_cannot_be_used_is_told() -> None:
    with pytest.raises(DataError, match="has no feature column"):
        TabularDataset(pd.DataFrame(index=[0, 1]), ["x", "y"], target_column="t")
    with pytest.raises(DataError, match="has no rows"):
        TabularDataset(pd.DataFrame({"a": []}), [], target_column="t")
    with pytest.raises(DataError, match="target column 't' is also a feature"):
        TabularDataset(pd.DataFrame({"t": [1, 2]}), ["x", "y"], target_column="t")


def test_names_that_are_no_text_become_text_and_the_index_is_forgotten() -> None:
    frame = pd.DataFrame(np.eye(2), index=[7, 9])
    dataset = TabularDataset(frame, pd.Series(["x", "y"], index=[1, 2]), target_column="t")
    assert dataset.feature_names == ("0", "1")
    assert dataset.features.index.tolist() == [0, 1]


def test_nullable_columns_keep_their_type_where_nothing_is_missing() -> None:
    frame = pd.DataFrame({"b": [True, False], "i": [1, 2], "f": [0.5, 1.5]}).convert_dtypes()
    dataset = TabularDataset(frame, ["x", "y"], target_column="t")
    assert [str(kind) for kind in dataset.features.dtypes] == ["bool", "int64", "float64"]
    assert dataset.features.to_numpy().tolist() == [[True, 1, 0.5], [False, 2, 1.5]]


def test_python_objects_are_read_value_by_value() -> None:
    frame = pd.DataFrame(
        {"b": [True, False], "m": [1, None], "s": [" 1.5", "2e3"], "h": [10**400, 1]}, dtype=object
    )
    dataset = TabularDataset(frame[["b", "m", "s"]], ["x", "y"], target_column="t")
    assert [str(kind) for kind in dataset.features.dtypes] == ["bool", "float64", "float64"]
    assert dataset.features["s"].tolist() == [1.5, 2000.0]
    with pytest.raises(DataError, match="column 'h', row 1: inf is not a finite number"):
        TabularDataset(frame[["h"]], ["x", "y"], target_column="t")


def test_a_value_beyond_32_bits_is_told_when_the_matrix_is_asked_for() -> None:
    dataset = TabularDataset(pd.DataFrame({"a": [1, 1e300]}), ["x", "y"], target_column="t")
    with pytest.raises(DataError, match=r"column 'a', row 2: .*1e\+300.* too large .*standardize"):
        _ = dataset.X


# -- splitting -------------------------------------------------------------------------------------


def _labelled(counts: dict[str, int]) -> TabularDataset:
    return _dataset([label for label, count in counts.items() for _ in range(count)])


def _rows(part: TabularDataset) -> list[float]:
    return [float(value) for value in part.features["a"]]


def test_a_split_keeps_the_proportions_of_the_classes() -> None:
    train, test = _labelled({"x": 50, "y": 30, "z": 20}).split(test_size=0.2, random_state=0)
    assert np.bincount(train.y).tolist() == [40, 24, 16]
    assert np.bincount(test.y).tolist() == [10, 6, 4]
    assert test.class_names == ("x", "y", "z")
    assert sorted(_rows(train) + _rows(test)) == list(range(100))


def test_split_is_reproducible_for_a_fixed_random_state() -> None:
    dataset = _labelled({"x": 50, "y": 50})
    first, again, other = (dataset.split(0.25, random_state=state)[1] for state in (0, 0, 1))
    assert _rows(first) == _rows(again)
    assert _rows(first) != _rows(other)
    assert len(first) == 25


def test_a_split_carries_everything_else_over() -> None:
    dataset = _labelled({"x": 5, "y": 5})
    dataset.digest, dataset.source, dataset.name = "d", "s", "n"
    assert dataset.X.shape == (10, 1)
    train, _ = dataset.split(0.5, random_state=0)
    assert (train.digest, train.source, train.name) == ("d", "s", "n")
    assert train.X.shape == (5, 1)


def test_the_only_row_of_a_class_stays_in_training(caplog: pytest.LogCaptureFixture) -> None:
    dataset = _labelled({"x": 10, "y": 10, "rare": 1})
    for state in range(10):
        train, test = dataset.split(0.4, random_state=state)
        assert "rare" in set(train.labels)
        assert "rare" not in set(test.labels)
        assert len(test) == 9
    assert "the only row of class 'rare' is kept for training" in caplog.text


def test_many_rare_classes_are_counted_in_the_warning(caplog: pytest.LogCaptureFixture) -> None:
    _labelled({"x": 20, **{f"r{index}": 1 for index in range(8)}}).split(0.2, random_state=0)
    assert "class 'r0', 'r1', 'r2', 'r3', 'r4' and 3 more" in caplog.text


def test_a_class_with_two_rows_gets_one_on_each_side_where_that_can_be() -> None:
    train, test = _labelled({"x": 20, "y": 20, "two": 2}).split(0.5, random_state=0)
    assert (train.labels == "two").sum() == (test.labels == "two").sum() == 1


def test_no_class_is_lost_from_training_where_the_rows_are_too_few(
    caplog: pytest.LogCaptureFixture,
) -> None:
    dataset = _labelled({f"c{index:02}": 2 for index in range(50)})
    for state in range(5):
        train, test = dataset.split(0.2, random_state=state)
        assert len(set(train.labels)) == 50
        assert len(test) == 20
    assert "100 rows are too few to hold the proportions of 50 classes" in caplog.text


def test_three_rows_can_be_split_and_three_classes_of_one_row_cannot() -> None:
    train, test = _labelled({"x": 2, "y": 1}).split(0.2, random_state=0)
    assert sorted(train.labels) == ["x", "y"]
    assert test.labels.tolist() == ["x"]
    with pytest.raises(DataError, match="3 rows of 3 classes are too few to split"):
        _labelled({"x": 1, "y": 1, "z": 1}).split(0.2, random_state=0)


@pytest.mark.parametrize("size", [0, 1, -0.1, 1.5, True, float("nan")])
def test_a_test_size_beyond_its_range_is_told(size: float) -> None:
    with pytest.raises(ConfigError, match="test_size must be a fraction between 0 and 1"):
        _labelled({"x": 5, "y": 5}).split(size, random_state=0)


@pytest.mark.parametrize("seed", [-1, 2**32, True])
def test_a_seed_beyond_its_range_is_told(seed: int) -> None:
    with pytest.raises(ConfigError, match="random_state must be a whole number"):
        _labelled({"x": 5, "y": 5}).split(0.5, random_state=seed)


def test_every_small_table_is_split_without_loss_or_told() -> None:
    generator = np.random.default_rng(0)
    for _ in range(200):
        counts = generator.integers(1, 5, size=generator.integers(2, 6))
        dataset = _labelled({f"c{index}": int(count) for index, count in enumerate(counts)})
        size = float(generator.uniform(0.05, 0.95))
        told = ""
        try:
            train, test = dataset.split(size, random_state=int(generator.integers(100)))
        except ProjectError as error:
            told = str(error)
        if told:
            assert "too few to split" in told
            assert len(dataset) == len(counts)
        else:
            assert sorted(_rows(train) + _rows(test)) == list(range(len(dataset)))
            assert set(train.labels) == set(dataset.labels)
            assert len(test) > 0


def test_the_same_split_is_drawn_in_another_process() -> None:
    code = (
        "import json, pandas as pd, numpy as np\n"
        "from ml_project_template.data import TabularDataset\n"
        "d = TabularDataset(pd.DataFrame({'a': np.arange(100.)}), ['x', 'y'] * 50,"
        " target_column='label')\n"
        "print(json.dumps(d.split(0.3, 7)[1].features['a'].tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert json.loads(done.stdout) == _rows(_dataset(["x", "y"] * 50).split(0.3, 7)[1])


def test_no_rows_cannot_be_taken() -> None:
    with pytest.raises(DataError, match="no row is chosen"):
        _dataset(["x", "y"]).take([])


def test_prepared_features_take_the_place_of_the_raw_ones() -> None:
    dataset = _dataset(["x", "y"], digest="d")
    signature, preprocessor = Signature.from_dataset(dataset), Preprocessor().fit(dataset)
    features = pd.DataFrame({"b": np.zeros(2, dtype=np.float32)})
    prepared = dataset.with_features(features, signature=signature, preprocessor=preprocessor)
    assert prepared.feature_names == ("b",)
    assert prepared.X.tolist() == [[0.0], [0.0]]
    assert (prepared.signature, prepared.preprocessor) == (signature, preprocessor)
    assert prepared.digest == "d"
    assert dataset.feature_names == ("a",)


def test_all_columns_that_cannot_be_used_are_named_at_once() -> None:
    table = pd.DataFrame({"a": [b"x", b"y"], "b": [1, 2], "c d": [[1], [2]]})
    with pytest.raises(DataError, match=r"column 'a', row 1: .*: data.drop_columns=\[a, c d\]$"):
        TabularDataset(table, ["p", "q"], target_column="t")
    many = pd.DataFrame({f"c{index}": [b"x", b"y"] for index in range(12)})
    with pytest.raises(DataError, match=r"c9, \.\.\.\]$"):
        TabularDataset(many, ["p", "q"], target_column="t")


def test_a_target_that_can_not_be_squared_is_told() -> None:
    table = pd.DataFrame({"a": range(4)})
    with pytest.raises(DataError, match=r"column 't', row 2: 1e\+200 is too large"):
        TabularDataset(table, [0.5, 1e200, 1.0, 2.0], target_column="t", task="regression")
