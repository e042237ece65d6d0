"""One seed for every generator of random numbers that a run may use."""

from __future__ import annotations

import operator
import random
import sys

from ml_project_template.errors import ConfigError

__all__ = ["seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and, where it is imported, PyTorch's generators.

    PyTorch is left alone until somebody imported it: importing it here would make every command
    pay for it. A PyTorch model calls this function again after its own import.

    Args:
        seed: A whole number, ``0 <= seed < 2**32`` (NumPy's bound). 0 is a seed like any other.

    Raises:
        ConfigError: If the seed is no whole number or out of range.
    """
    import numpy as np

    try:
        number = operator.index(seed)  # NumPy's whole numbers pass, 1.0 and "1" don't
    except TypeError:
        number = None
    if number is None or isinstance(seed, bool):
        raise ConfigError(f"seed: must be a whole number, got {seed!r}.")
    if not 0 <= number < 2**32:
        raise ConfigError(f"seed: must be at least 0 and less than 2**32, got {number}.")
    random.seed(number)
    np.random.seed(number)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(number)
