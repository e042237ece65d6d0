"""Batches of data that lie in memory, without a ``DataLoader``.

A ``DataLoader`` fetches row by row and collates; on small batches that costs several times the
arithmetic. Here rows are permuted once an epoch, gathered block by block, and batches are views.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import torch

__all__ = ["BLOCK_ROWS", "Batches", "batch_bounds", "blocks_of", "is_streamed", "row_order"]

# Rows gathered at once: enough to make the gathering cheap, little beside a large table.
BLOCK_ROWS = 65_536

# Rows that lie side by side in a file and are read at once.
_RUN_ROWS = 4096


def batch_bounds(n_rows: int, batch_size: int) -> list[tuple[int, int]]:
    """Cut rows into batches.

    A last batch of a single row is merged into the one before: batch normalisation needs two rows
    to estimate a variance.

    Args:
        n_rows: How many rows there are.
        batch_size: Rows in a batch.

    Returns:
        ``(start, stop)`` of each batch, in order, covering every row once.
    """
    bounds = [(start, min(start + batch_size, n_rows)) for start in range(0, n_rows, batch_size)]
    if len(bounds) > 1 and batch_size > 1 and bounds[-1][1] - bounds[-1][0] == 1:
        (start, _), (_, stop) = bounds[-2:]
        bounds[-2:] = [(start, stop)]
    return bounds


def is_streamed(X: torch.Tensor) -> bool:
    """Say whether features are read from a file block by block, as they are needed.

    What is larger than the machine's memory can only be mapped from a file. Rows in any order would
    then be read one by one, each from another place.

    Args:
        X: The features.
    """
    return X.device.type == "cpu" and X.nbytes > _memory()


def row_order(X: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Draw the order of the rows of an epoch.

    In memory any order is as likely as any other. Of a file the runs of rows come in any order, and
    the rows in any order within a block of `BLOCK_ROWS`: a block is read from a few places.

    Args:
        X: The features.
        generator: Draws the order, on the CPU.

    Returns:
        The index of each row once, on the CPU.
    """
    n_rows = len(X)
    if not is_streamed(X):
        return torch.randperm(n_rows, generator=generator)
    runs = torch.arange(n_rows).split(_RUN_ROWS)  # type: ignore[no-untyped-call]
    order = torch.cat([runs[i] for i in torch.randperm(len(runs), generator=generator).tolist()])
    for start in range(0, n_rows, BLOCK_ROWS):
        block = order[start : start + BLOCK_ROWS]
        block.copy_(block[torch.randperm(len(block), generator=generator)])
    return order


def _memory() -> int:
    """Tell the bytes of memory that the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


class Batches:
    """Iterates over ``(X, y)`` in batches, each iteration in a new random order.

    Args:
        X: Features of shape ``(n_samples, ...)``.
        y: Targets of shape ``(n_samples, ...)``, on the same device.
        batch_size: Rows in a batch. From ``n_samples`` on there is one batch, in the given order.
        generator: Draws the order, on the CPU; seed it to make the order reproducible.
    """

    def __init__(
        self, X: torch.Tensor, y: torch.Tensor, batch_size: int, generator: torch.Generator
    ) -> None:
        self._X = X
        self._y = y
        self._generator = generator
        self._bounds = batch_bounds(len(X), batch_size)

    def __len__(self) -> int:
        return len(self._bounds)

    @property
    def n_rows(self) -> int:
        """How many rows all batches have together."""
        return len(self._X)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return self.begin_at(0)

    def begin_at(self, first: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Draw a new order, and iterate over its batches without those before one.

        Args:
            first: How many batches are left out.
        """
        if len(self._bounds) == 1:
            yield self._X, self._y
            return
        order = row_order(self._X, self._generator).to(self._X.device)
        for block in blocks_of(self._bounds, BLOCK_ROWS):
            left_out, first = min(first, len(block)), max(first - len(block), 0)
            block = block[left_out:]
            if not block:
                continue
            offset = block[0][0]
            rows = order[offset : block[-1][1]]
            X, y = self._X.index_select(0, rows), self._y.index_select(0, rows)
            for start, stop in block:
                yield X[start - offset : stop - offset], y[start - offset : stop - offset]


def blocks_of(bounds: Sequence[tuple[int, int]], n_rows: int) -> list[list[tuple[int, int]]]:
    """Group batches so that a block has at most so many rows, or one batch.

    Args:
        bounds: What `batch_bounds` gave.
        n_rows: Rows in a block, at most.

    Returns:
        The batches of each block, in order.
    """
    blocks: list[list[tuple[int, int]]] = [[]]
    for start, stop in bounds:
        if blocks[-1] and stop - blocks[-1][0][0] > n_rows:
            blocks.append([])
        blocks[-1].append((start, stop))
    return blocks
