"""What stands before a network."""

from __future__ import annotations

import torch

from ml_project_template.modules import (
    CategoryEmbedding,
    FeatureEncoder,
    PeriodicEmbedding,
    PiecewiseLinearEncoding,
)

X = torch.tensor([[0.5, 1.0, -2.0], [1.5, float("nan"), 3.0]])


def test_numbers_stand_before_categories() -> None:
    module = FeatureEncoder([None, CategoryEmbedding(2), None])
    module.learn(X)
    assert module.width == 4
    assert module(X).tolist() == [[0.5, -2, 0, 1], [1.5, 3, 0, 1]]


def test_numbers_are_embedded_all_at_once() -> None:
    numbers = PeriodicEmbedding(2, width=5)
    module = FeatureEncoder([None, CategoryEmbedding(2, 3), None], numbers)
    assert module.width == 13
    assert module(X).shape == (2, 13)
    torch.testing.assert_close(module(X)[:, :10], numbers(X[:, [0, 2]]))


def test_bins_are_those_of_the_numbers() -> None:
    numbers = PiecewiseLinearEncoding(2, bins=1)
    FeatureEncoder([None, CategoryEmbedding(2), None], numbers).learn(X)
    assert numbers.edges.tolist() == [[0.5, 1.5], [-2, 3]]


def test_categories_need_no_numbers_beside_them() -> None:
    module = FeatureEncoder([CategoryEmbedding(2)])
    assert module(torch.tensor([[1.0]])).tolist() == [[0, 1]]


def test_what_is_known_by_the_settings_is_there_without_memory_for_the_rest() -> None:
    with torch.device("meta"):
        module = FeatureEncoder([None, CategoryEmbedding(2), CategoryEmbedding(9, 4)])
    assert module.columns.tolist() == [0]
    assert {name for name, value in module.state_dict().items() if value.device.type != "meta"} == (
        set()
    )
