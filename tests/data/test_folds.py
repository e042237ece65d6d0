"""Folds of a raw table: no test row in them, and nothing learned from their validation rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template.data import Fold, Preprocessor, RawTable, TabularDataset, prepare_folds
from ml_project_template.data.prepare import prepare
from ml_project_template.errors import ConfigError, DataError

# As they are: the feature 'row' then still names the row of the table.
AS_IS = Preprocessor(None, None)


@pytest.fixture
def table(workspace: Path) -> str:
    """Of 100 rows: a feature that numbers them, one with gaps, and three classes 5 : 3 : 2."""
    generator = np.random.default_rng(0)
    labels = generator.permutation(["x"] * 50 + ["y"] * 30 + ["z"] * 20)
    lines = [
        f"{row},{'' if row % 4 == 0 else generator.normal(5, 3)},{label}"
        for row, label in enumerate(labels)
    ]
    return _write(workspace, "\n".join(lines))


def _write(folder: Path, lines: str) -> str:
    path = folder / "table.csv"
    path.write_text(f"row,gaps,target\n{lines}\n")
    return str(path)


def _folds(path: str, **changes: Any) -> list[Fold]:
    cv = changes.pop("cv", 4)
    preprocessor = changes.pop("preprocessor", AS_IS)
    return prepare_folds(_table(path, **changes), preprocessor=preprocessor, cv=cv)


def _table(path: str, **changes: Any) -> RawTable:
    arguments: dict[str, Any] = {
        "target_column": "target",
        "name": "numbers",
        "drop_identifiers": False,
    }
    return RawTable(path=path, **{**arguments, **changes})


def _rows(part: TabularDataset) -> list[int]:
    return [int(row) for row in part.X[:, part.feature_names.index("row")]]


def _raw(path: str) -> TabularDataset:
    dataset = _table(path).read()
    assert isinstance(dataset, TabularDataset)
    return dataset


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"random_state": 3},
        {"test_size": 0.35, "val_size": 0.0},
        {"test_size": 0.0},
    ],
)
def test_each_row_validates_once_and_no_test_row_is_in_any_fold(
    table: str, tmp_path: Path, settings: dict[str, Any]
) -> None:
    prepared = prepare(
        _table(table, **settings), preprocessor=AS_IS, output_root=str(tmp_path / "out")
    )
    test_rows = [] if prepared.test is None else _rows(prepared.test)
    rest = sorted(set(range(100)) - set(test_rows))
    assert len(test_rows) == round(100 * settings.get("test_size", 0.2))
    folds = _folds(table, **settings)
    assert len(folds) == 4
    assert sorted(row for fold in folds for row in _rows(fold.val)) == rest
    for fold in folds:
        assert sorted(_rows(fold.train) + _rows(fold.val)) == rest


def test_rows_keep_their_labels_and_origin(table: str) -> None:
    raw = _raw(table)
    for fold in _folds(table):
        for part in (fold.train, fold.val):
            assert part.labels.tolist() == raw.labels[_rows(part)].tolist()
            assert (part.name, part.source, part.digest) == ("numbers", table, raw.digest)
            assert part.preprocessor is fold.preprocessor
            assert part.signature is fold.signature


def test_folds_of_a_table_of_three_classes_keep_their_proportions(table: str) -> None:
    for fold in _folds(table):
        assert np.bincount(fold.train.y).tolist() == [30, 18, 12]
        assert np.bincount(fold.val.y).tolist() == [10, 6, 4]


def test_statistics_come_from_the_training_rows_of_the_fold_alone(table: str) -> None:
    raw = _raw(table).features["gaps"].to_numpy()
    means = []
    for as_is, fold in zip(_folds(table), _folds(table, preprocessor=Preprocessor()), strict=True):
        values = raw[_rows(as_is.train)]
        mean = np.nanmean(values)
        filled = np.where(np.isnan(values), mean, values)
        assert np.isnan(values).any()
        assert fold.preprocessor.mean_ is not None
        assert fold.preprocessor.fill_ is not None
        assert fold.preprocessor.scale_ is not None
        np.testing.assert_allclose(fold.preprocessor.fill_[1], mean, rtol=1e-12)
        np.testing.assert_allclose(fold.preprocessor.mean_[1], filled.mean(), rtol=1e-12)
        np.testing.assert_allclose(fold.preprocessor.scale_[1], filled.std(), rtol=1e-12)
        assert fold.signature.n_rows == len(values) == 60
        assert fold.signature.features[1].missing == pytest.approx(np.isnan(values).mean())
        # The validation rows are filled and scaled by what was learned from the others.
        values = raw[_rows(as_is.val)]
        expected = (np.where(np.isnan(values), mean, values) - filled.mean()) / filled.std()
        assert np.isnan(values).any()
        np.testing.assert_allclose(fold.val.X[:, 1], expected, rtol=1e-5, atol=1e-6)
        means.append(mean)
    assert len(set(means)) == 4


def test_the_given_preprocessor_is_not_changed(table: str) -> None:
    preprocessor = Preprocessor(impute="median")
    folds = _folds(table, preprocessor=preprocessor)
    assert not preprocessor.is_fitted
    assert {fold.preprocessor.impute for fold in folds} == {"median"}


def test_the_same_seed_cuts_the_same_folds_and_another_seed_others(table: str) -> None:
    # Without test rows, so that the folds themselves must differ.
    one, again, other = (
        [_rows(fold.val) for fold in _folds(table, random_state=state, test_size=0.0)]
        for state in (0, 0, 1)
    )
    assert one == again
    assert one != other


def test_the_size_of_the_validation_part_has_no_effect(table: str) -> None:
    one, other = (
        [(_rows(fold.train), _rows(fold.val)) for fold in _folds(table, val_size=size)]
        for size in (0.0, 0.5)
    )
    assert one == other


def test_nothing_is_written(table: str, workspace: Path) -> None:
    _folds(table)
    assert [str(item) for item in workspace.rglob("*")] == [table]


def test_the_table_is_read_as_prepare_reads_it(workspace: Path) -> None:
    path = workspace / "table.csv"
    path.write_text("row;id;target\n" + "".join(f"{row};k{row};{row % 2}\n" for row in range(20)))
    folds = _folds(
        str(path), class_names=[1, 0], drop_columns=["id"], read_options={"sep": ";"}, cv=2
    )
    for fold in folds:
        assert fold.train.feature_names == ("row",)
        assert fold.train.class_names == ("1", "0")
        assert [int(label) for label in fold.val.labels] == [row % 2 for row in _rows(fold.val)]


def test_a_rare_class_trains_in_every_fold_and_is_warned_of_once(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    labels = ["x"] * 10 + ["y"] * 10 + ["rare"] * 2
    path = _write(workspace, "\n".join(f"{row},1,{label}" for row, label in enumerate(labels)))
    folds = _folds(path, test_size=0.0, cv=5)
    assert [(fold.train.labels == "rare").sum() for fold in folds].count(1) == 2
    assert all("rare" in fold.train.labels for fold in folds)
    assert caplog.text.count("fewer than 5 rows of class 'rare'") == 1


def test_a_class_with_one_row_outside_the_test_rows_is_told(workspace: Path) -> None:
    labels = ["x"] * 10 + ["y"] * 10 + ["rare"] * 2
    path = _write(workspace, "\n".join(f"{row},1,{label}" for row, label in enumerate(labels)))
    with pytest.raises(DataError, match=r"table\.csv': only one row of class 'rare' is left"):
        _folds(path, test_size=0.5)


def test_a_table_with_too_few_rows_is_told(workspace: Path) -> None:
    path = _write(workspace, "1,1,x\n2,1,y\n3,1,x\n4,1,y\n5,1,x")
    with pytest.raises(DataError, match=r"table\.csv': 5 rows are too few for cv=4"):
        _folds(path, test_size=0.0)


def test_rows_of_one_class_are_told(workspace: Path) -> None:
    path = _write(workspace, "\n".join(f"{row},1,x" for row in range(20)))
    with pytest.raises(DataError, match="the training rows hold one class only, 'x'"):
        _folds(path, class_names=["x", "y"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cv": 1}, r"cv must be a whole number of at least 2, got 1\."),
        ({"cv": True}, r"cv must be a whole number of at least 2, got True\."),
        ({"cv": 2.0}, r"cv must be a whole number of at least 2, got 2\.0\."),
        ({"test_size": 1.0}, "test_size must be a fraction of at least 0 and below 1, got 1.0"),
        ({"val_size": "0.2"}, "val_size must be a fraction .* got '0.2'"),
        ({"test_size": 0.6, "val_size": 0.4}, "must leave rows for training"),
        ({"random_state": -1}, "random_state must be a whole number"),
    ],
)
def test_wrong_settings_are_told(table: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _folds(table, **changes)


def test_a_missing_file_is_told(workspace: Path) -> None:
    with pytest.raises(FileNotFoundError):
        _folds(str(workspace / "none.csv"))
