"""Categories as columns of zeros and ones."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ml_project_template.data import Preprocessor, TabularDataset
from ml_project_template.data.one_hot import OneHot, OneHotDataset


def test_each_level_has_a_column_and_what_is_missing_is_in_none() -> None:
    encoder = OneHot([0, 3, 0, 2])
    X = np.array([[1.5, 2, np.nan, 0], [0, np.nan, 7, np.nan]], dtype=np.float32)
    expected = [[1.5, 0, 0, 1, np.nan, 1, 0], [0, 0, 0, 0, 7, 0, 0]]
    np.testing.assert_array_equal(encoder.transform(X), expected)
    assert encoder.width == 7
    assert encoder.transform(X).flags["C_CONTIGUOUS"]
    names = encoder.names(["a", "b", "c", "d"], [(), ("x", "y", "z"), (), ("u", "v")])
    assert names == ["a", "b=x", "b=y", "b=z", "c", "d=u", "d=v"]
    assert encoder.sum_by_feature(np.ones(7)).tolist() == [1, 3, 1, 2]


def test_a_view_is_the_data_set_in_another_form(mixed: TabularDataset) -> None:
    prepared = Preprocessor().fit(mixed).transform(mixed)
    view = OneHotDataset(prepared, OneHot(prepared.cardinalities))
    assert view.X.shape == (len(mixed), len(view.feature_names))
    assert {"city=Oslo", "city=Rome"} <= set(view.feature_names)
    assert (view.num_features, view.num_classes) == (view.X.shape[1], 2)
    assert view.cardinalities == (0,) * len(view.feature_names)
    assert (view.task, view.class_names) == (mixed.task, mixed.class_names)
    first, second = view.split(0.5, 0)
    assert len(first) + len(second) == len(mixed)
    assert isinstance(second, OneHotDataset)


def test_a_category_without_any_level_is_zero_everywhere() -> None:
    table = pd.DataFrame({"city": pd.Categorical([None, None], categories=["Rome"]), "a": [1, 2]})
    raw = TabularDataset(table, ["x", "y"], target_column="t", columns={"city": "category"})
    prepared = Preprocessor().fit(raw).transform(raw)
    assert prepared.cardinalities == (1, 0)
    view = OneHotDataset(prepared, OneHot(prepared.cardinalities))
    assert view.feature_names == ("city=", "a")
    assert view.X[:, 0].tolist() == [0, 0]
