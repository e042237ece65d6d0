"""Batches in memory."""

from __future__ import annotations

import itertools

import pytest
import torch

from ml_project_template.training import batches as module
from ml_project_template.training.batches import Batches, batch_bounds


def _batches(n_rows: int, batch_size: int, seed: int = 0) -> Batches:
    X = torch.arange(n_rows * 3, dtype=torch.float32).reshape(n_rows, 3)
    generator = torch.Generator().manual_seed(seed)
    return Batches(X, torch.arange(n_rows), batch_size, generator)


@pytest.mark.parametrize(
    ("n_rows", "batch_size", "sizes"),
    [
        (10, 5, [5, 5]),
        (10, 4, [4, 4, 2]),
        (9, 4, [4, 5]),
        (5, 4, [5]),
        (3, 8, [3]),
        (1, 8, [1]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_a_last_batch_of_one_row_joins_the_one_before(
    n_rows: int, batch_size: int, sizes: list[int]
) -> None:
    bounds = batch_bounds(n_rows, batch_size)
    assert [stop - start for start, stop in bounds] == sizes
    assert bounds[0][0] == 0
    assert bounds[-1][1] == n_rows
    assert all(left[1] == right[0] for left, right in itertools.pairwise(bounds))


@pytest.mark.parametrize("block_rows", [1, 10, 33, 65_536])
def test_each_row_comes_once_an_epoch_with_its_target(
    block_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", block_rows)
    batches = _batches(101, 10)
    seen = []
    for X, y in batches:
        assert torch.equal(X[:, 0], y * 3.0)
        seen += y.tolist()
    assert sorted(seen) == list(range(101))
    assert len(batches) == 10
    assert seen != sorted(seen)


def test_the_size_of_the_blocks_does_not_change_the_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = [y.tolist() for _, y in _batches(101, 10)]
    monkeypatch.setattr(module, "BLOCK_ROWS", 25)
    assert [y.tolist() for _, y in _batches(101, 10)] == whole


def test_the_order_is_new_each_epoch_and_the_same_for_a_seed() -> None:
    first, second = _batches(50, 8), _batches(50, 8)
    epochs = [[y.tolist() for _, y in first] for _ in range(2)]
    assert epochs[0] != epochs[1]
    assert epochs == [[y.tolist() for _, y in second] for _ in range(2)]
    assert epochs[0] != [y.tolist() for _, y in _batches(50, 8, seed=1)]


def test_what_is_larger_than_memory_is_read_from_few_places(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X = torch.zeros(100, 3)
    assert not module.is_streamed(X)
    monkeypatch.setattr(module, "_memory", lambda: X.nbytes - 1)
    monkeypatch.setattr(module, "_RUN_ROWS", 5)
    monkeypatch.setattr(module, "BLOCK_ROWS", 20)
    assert module.is_streamed(X)
    generator = torch.Generator().manual_seed(0)
    order = module.row_order(X, generator)
    assert sorted(order.tolist()) == list(range(100))
    for block in order.view(5, 20):
        runs = (block // 5).unique()
        assert len(runs) == 4
        # Neither the runs nor the rows within them are in their order.
        assert block.tolist() != sorted(block.tolist())
    assert order.tolist() != module.row_order(X, generator).tolist()


def test_a_single_batch_is_the_data_themselves() -> None:
    batches = _batches(5, 100)
    ((X, y),) = list(batches)
    assert y.tolist() == [0, 1, 2, 3, 4]
    assert X.data_ptr() == next(iter(batches))[0].data_ptr()
