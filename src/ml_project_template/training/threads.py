"""As many threads as the arithmetic is worth."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["intra_op_threads", "multiply_adds"]

# Multiply-adds of the largest matrix product of a step. Below that, two threads were seen to cost
# up to twelve times one on a busy machine: handing over the work takes longer than doing it.
_ONE_THREAD_BELOW = 4_000_000


@contextmanager
def intra_op_threads(multiply_adds: int) -> Iterator[None]:
    """Choose torch's intra-op threads for a block of code, and put them back after it.

    Args:
        multiply_adds: The size of the largest matrix product: rows times inputs times outputs.
    """
    before = torch.get_num_threads()
    wanted = 1 if multiply_adds < _ONE_THREAD_BELOW else before
    if wanted == before:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def multiply_adds(module: torch.nn.Module, rows: int) -> int:
    """Estimate the size of a module's largest matrix product.

    Args:
        module: The module. One that is many networks in one says how many: ``members``.
        rows: Rows that pass at once.
    """
    matrices = [parameter.numel() for parameter in module.parameters() if parameter.ndim == 2]
    return rows * int(getattr(module, "members", 1)) * max(matrices, default=1)
