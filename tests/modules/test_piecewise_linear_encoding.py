"""Numbers as their way through bins."""

from __future__ import annotations

import torch

from ml_project_template.modules import PiecewiseLinearEncoding


def _learned(*columns: list[float], bins: int) -> PiecewiseLinearEncoding:
    module = PiecewiseLinearEncoding(len(columns), bins)
    module.learn(torch.tensor(columns).T)
    return module


def test_edges_are_quantiles_of_the_training_rows() -> None:
    module = _learned([0.0, 1.0, 2.0, 6.0, 10.0], bins=2)
    assert module.edges.tolist() == [[0, 2, 10]]


def test_a_number_fills_the_bins_below_it() -> None:
    module = _learned([0.0, 1.0, 2.0, 6.0, 10.0], bins=2)
    found = module(torch.tensor([[0.0], [1.0], [2.0], [4.0], [10.0]]))
    assert found.tolist() == [[0, 0], [0.5, 0], [1, 0], [1, 0.25], [1, 1]]


def test_it_goes_on_beyond_the_edges() -> None:
    module = _learned([0.0, 1.0, 2.0, 6.0, 10.0], bins=2)
    assert module(torch.tensor([[-2.0], [18.0]])).tolist() == [[-1, 0], [1, 2]]


def test_equal_quantiles_make_one_edge() -> None:
    module = _learned([0.0, 0.0, 0.0, 0.0, 4.0], [7.0] * 5, bins=4)
    assert module.edges.tolist() == [[0, 4, 4, 4, 4], [7] * 5]
    assert module(torch.tensor([[6.0, 9.0]])).tolist() == [[1.5, 0, 0, 0, 0, 0, 0, 0]]
