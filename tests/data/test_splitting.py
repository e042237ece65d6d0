"""Folds: every row once, every class in training. ``test_tabular.py`` tests the splits in two."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold, train_test_split

from ml_project_template.data.splitting import fold_indices, split_indices
from ml_project_template.errors import ConfigError, DataError, ProjectError


def _codes(*counts: int) -> NDArray[np.int64]:
    return np.repeat(np.arange(len(counts)), counts)


def _folds(
    codes: NDArray[np.int64], num_folds: int, random_state: int = 0
) -> list[tuple[list[int], list[int]]]:
    names = [f"c{code}" for code in range(int(codes.max()) + 1)]
    folds = fold_indices(codes, names, num_folds, random_state, "'t.csv'")
    return [(train.tolist(), val.tolist()) for train, val in folds]


def test_every_row_validates_once_and_trains_in_all_other_folds() -> None:
    codes = np.random.default_rng(0).permutation(_codes(23, 17, 11))
    folds = _folds(codes, 4)
    assert len(folds) == 4
    assert sorted(row for _, val in folds for row in val) == list(range(51))
    for train, val in folds:
        assert train == sorted(set(range(51)) - set(val))
        assert val == sorted(val)


def test_folds_keep_the_proportions_of_the_classes() -> None:
    codes = np.random.default_rng(0).permutation(_codes(50, 30, 20))
    for train, val in _folds(codes, 5):
        assert np.bincount(codes[val]).tolist() == [10, 6, 4]
        assert np.bincount(codes[train]).tolist() == [40, 24, 16]


def test_folds_are_those_of_scikit_learn() -> None:
    codes = np.random.default_rng(0).permutation(_codes(13, 9))
    splitter = StratifiedKFold(3, shuffle=True, random_state=7)
    expected = [(train.tolist(), val.tolist()) for train, val in splitter.split(codes, codes)]
    assert _folds(codes, 3, random_state=7) == expected


def test_the_same_seed_draws_the_same_folds_and_another_seed_others() -> None:
    codes = _codes(20, 20)
    assert _folds(codes, 5, random_state=3) == _folds(codes, 5, random_state=3)
    assert _folds(codes, 5, random_state=3) != _folds(codes, 5, random_state=4)


def test_a_class_with_fewer_rows_than_folds_is_warned_of_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    codes = _codes(20, 2, 20, 3)
    folds = _folds(codes, 5)
    assert [record.message for record in caplog.records] == [
        "'t.csv': fewer than 5 rows of class 'c1', 'c3': some of the 5 folds validate without it."
    ]
    assert sum(1 in codes[val] for _, val in folds) == 2
    assert sum(3 in codes[val] for _, val in folds) == 3


def test_classes_with_a_row_for_each_fold_or_none_at_all_are_not_warned_of(
    caplog: pytest.LogCaptureFixture,
) -> None:
    folds = fold_indices(_codes(5, 0, 7), ["a", "none", "b"], 5, 0, "'t.csv'")
    assert len(folds) == 5
    assert caplog.records == []


def test_no_class_is_ever_missing_from_training_nor_a_fold_empty(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The rules of the errors are exact: whatever they let through can be cut, whatever the counts.
    caplog.set_level(logging.ERROR)
    generator = np.random.default_rng(0)
    cut = refused = 0
    for _ in range(400):
        counts = generator.integers(1, 7, size=generator.integers(2, 7))
        codes = generator.permutation(_codes(*counts))
        num_folds = int(generator.integers(2, 9))
        try:
            folds = _folds(codes, num_folds, random_state=int(generator.integers(100)))
        except ProjectError:
            assert counts.min() == 1 or counts.max() < num_folds
            refused += 1
            continue
        cut += 1
        assert counts.min() >= 2
        for train, val in folds:
            assert set(codes[train]) == set(codes)
            assert len(val) > 0
    assert cut >= 50
    assert refused >= 50


def test_classes_of_one_row_are_told_by_name() -> None:
    with pytest.raises(
        DataError,
        match=r"^'t\.csv': only one row of class 'c1', 'c3' is left to cut into 3 folds; each "
        r"class needs at least two, or a fold would train without it\.$",
    ):
        _folds(_codes(9, 1, 9, 1), 3)


@pytest.mark.parametrize(("counts", "rows"), [((2, 2), 4), ((4, 4, 3), 11)])
def test_more_folds_than_the_largest_class_has_rows_are_told(
    counts: tuple[int, ...], rows: int
) -> None:
    # Also where there are more rows than folds: scikit-learn cuts no such table.
    with pytest.raises(
        DataError,
        match=rf"^'t\.csv': {rows} rows are too few for cv=5: the largest class, 'c0', must have a "
        rf"row for each fold and has {counts[0]}; choose cv of at most {counts[0]}\.$",
    ):
        _folds(_codes(*counts), 5)
    assert len(_folds(_codes(*counts), counts[0])) == counts[0]


@pytest.mark.parametrize("num_folds", [1, 0, -3, True, 2.0, "5", None])
def test_a_number_of_folds_beyond_its_range_is_told(num_folds: int) -> None:
    with pytest.raises(
        ConfigError, match=rf"^cv must be a whole number of at least 2, got {num_folds!r}\.$"
    ):
        _folds(_codes(9, 9), num_folds)


@pytest.mark.parametrize("seed", [-1, 2**32, True])
def test_a_seed_beyond_its_range_is_told(seed: int) -> None:
    with pytest.raises(ConfigError, match="random_state must be a whole number"):
        _folds(_codes(9, 9), 3, random_state=seed)


@pytest.mark.parametrize("counts", [(50, 50, 50), (7, 93), (31, 2, 2, 5), (40,)])
@pytest.mark.parametrize("state", [0, 42])
def test_rows_are_drawn_as_scikit_learn_draws_them(counts: tuple[int, ...], state: int) -> None:
    codes = np.random.default_rng(1).permutation(_codes(*counts))
    names = [f"c{code}" for code in range(len(counts))]
    for num_test in (len(codes) // 5, len(codes) // 3):
        _, test = train_test_split(
            np.arange(len(codes)), test_size=num_test, random_state=state, stratify=codes
        )
        found = split_indices(codes, names, num_test, state, "t")
        assert found[1].tolist() == sorted(test.tolist())
        assert found[0].tolist() == sorted(set(range(len(codes))) - set(test.tolist()))
