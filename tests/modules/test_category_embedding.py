"""Vectors of categories."""

from __future__ import annotations

import torch

from ml_project_template.modules import CategoryEmbedding

NAN = float("nan")


def test_each_level_has_a_row() -> None:
    module = CategoryEmbedding(3, 2)
    found = module(torch.tensor([2.0, 0.0, 2.0]))
    torch.testing.assert_close(found, module.weight[[2, 0, 2]])


def test_few_levels_are_one_hot_and_nothing_of_that_is_saved() -> None:
    module = CategoryEmbedding(3)
    assert module.width == 3
    torch.testing.assert_close(module(torch.tensor([1.0])), torch.tensor([[0.0, 1.0, 0.0]]))
    assert module.state_dict().keys() == {"offset", "shares"}


def test_what_is_missing_or_unseen_is_the_average_row_of_the_training() -> None:
    module = CategoryEmbedding(3, 2)
    module.learn(torch.tensor([0.0, 0.0, 0.0, 2.0]))
    average = 0.75 * module.weight[0] + 0.25 * module.weight[2]
    for code in (NAN, 3.0, 1e30, -1.0):
        torch.testing.assert_close(module(torch.tensor([code]))[0], average)


def _step(codes: list[float]) -> CategoryEmbedding:
    torch.manual_seed(0)
    module = CategoryEmbedding(2, 2)
    module.learn(torch.tensor(codes))
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        module(torch.tensor(codes)).sum().backward()
        optimizer.step()
    return module


def test_the_slot_of_what_is_missing_learns_where_the_training_rows_have_gaps() -> None:
    assert (_step([0.0, 1.0, NAN]).offset != 0).all()
    assert (_step([0.0, 1.0, 1.0]).offset == 0).all()


def test_a_category_without_any_value_is_a_constant() -> None:
    module = CategoryEmbedding(2)
    module.learn(torch.tensor([NAN, NAN]))
    torch.testing.assert_close(module(torch.tensor([NAN])), torch.tensor([[0.5, 0.5]]))


def test_what_no_row_misses_has_nothing_to_learn() -> None:
    embedding = CategoryEmbedding(3)
    embedding.learn(torch.tensor([0.0, 2.0, torch.nan]))
    assert embedding.offset.requires_grad
    embedding.learn(torch.tensor([0.0, 2.0]))
    assert not any(parameter.requires_grad for parameter in embedding.parameters())
