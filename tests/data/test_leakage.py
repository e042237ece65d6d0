"""What gives the target away is told, and nothing else is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from ml_project_template.data import TabularDataset
from ml_project_template.data.leakage import LeakWatch, mix

N = 200


def _frame(**columns: object) -> pd.DataFrame:
    generator = np.random.default_rng(0)
    return pd.DataFrame({"x": generator.normal(size=N), "z": generator.normal(size=N), **columns})


def _warnings(caplog: pytest.LogCaptureFixture, frame: pd.DataFrame, target: object) -> list[str]:
    data = TabularDataset(frame, pd.Series(target), target_column="y")
    caplog.clear()
    watch = LeakWatch(data.y, {"train": 120, "val": 40, "test": N - 160}, data.task)
    for name, column in data.features.items():
        watch.look_at(str(name), column)
    watch.warn("'t.csv'")
    return [record.getMessage() for record in caplog.records]


def _classes() -> list[str]:
    return list(np.random.default_rng(1).choice(["a", "b", "c"], size=N))


def test_honest_columns_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    generator = np.random.default_rng(2)
    y = _classes()
    noisy = [label if generator.random() < 0.9 else "a" for label in y]
    # One value for each row or two determines anything, and says nothing.
    serial = [f"s{row // 2}" for row in range(N)]
    few = {"noisy": noisy, "serial": serial, "constant": [1] * N, "gone": [np.nan] * N}
    assert _warnings(caplog, _frame(**few), y) == []
    assert _warnings(caplog, _frame(), generator.normal(size=N)) == []


def test_equal_rows_of_two_parts_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    frame, y = _frame(c=["u", None] * (N // 2)), _classes()
    frame.iloc[160:164] = frame.iloc[0:4].to_numpy()
    frame.iloc[164] = frame.iloc[130].to_numpy()
    frame.loc[[1, 161], "x"] = np.nan
    frame.loc[2, "x"], frame.loc[162, "x"] = 0.0, -0.0
    y[160:164] = y[0:4]
    y[163] = "a" if y[3] != "a" else "b"
    y[164] = y[130]
    assert _warnings(caplog, frame, y) == [
        "'t.csv': 5 of 40 test rows (12.5%) have all features equal to a training or validation "
        "row, 1 of them with another target: what is measured on them is no test of new rows. "
        "Remove doubled rows, or keep them together by data.split."
    ]


def test_rows_of_few_values_repeat_by_themselves(caplog: pytest.LogCaptureFixture) -> None:
    frame = pd.DataFrame({"a": np.arange(N) % 5, "b": np.arange(N) % 7})
    assert _warnings(caplog, frame, _classes()) == []


@pytest.mark.parametrize("gaps", [False, True])
def test_a_feature_that_determines_the_class_is_told(
    caplog: pytest.LogCaptureFixture, gaps: bool
) -> None:
    y = _classes()
    texts = [{"a": "A", "b": "B1", "c": "C"}[label] for label in y]
    copied = [text if row % 3 or not gaps else None for row, text in enumerate(texts)]
    (line,) = _warnings(caplog, _frame(copied=copied), y)
    assert "the feature 'copied' determines the target: each of its 3 values comes" in line
    assert "data.drop_columns=[copied]" in line
    (line,) = _warnings(caplog, _frame(code=["abc".index(label) for label in y]), y)
    assert "the feature 'code'" in line


def test_a_number_that_is_the_target_is_told(caplog: pytest.LogCaptureFixture) -> None:
    y = np.random.default_rng(3).normal(size=N) * 1e90
    (line,) = _warnings(caplog, _frame(feet=3.28 * y + 1.0, near=y + 1e199 * np.arange(N)), y)
    assert "the feature 'feet' is the target in other units" in line


def test_hashes_tell_columns_and_rows_apart() -> None:
    hashes = np.zeros(3, dtype=np.uint64)
    for column in ([1.0, 2.0, 1.0], [2.0, 1.0, 2.0]):
        mix(hashes, np.asarray(column))
    assert hashes[0] == hashes[2]
    assert hashes[0] != hashes[1]


def test_small_numbers_in_many_columns_do_not_collide() -> None:
    # Floats of few digits, and small whole numbers, differ in a few bits alone.
    places = np.arange(2**20)
    for kind in (np.float64, np.float32, np.int8, bool):
        hashes = np.zeros(len(places), dtype=np.uint64)
        for bit in range(20):
            mix(hashes, (places >> bit & 1).astype(kind))
        assert len(set(hashes.tolist())) == len(places)
