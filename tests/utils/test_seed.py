from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from ml_project_template.errors import ConfigError
from ml_project_template.utils.seed import seed_everything


def draw() -> list[float]:
    return [random.random(), float(np.random.random())]


@pytest.mark.parametrize("seed", [0, 42, 2**32 - 1])
def test_the_same_seed_gives_the_same_numbers(seed: int) -> None:
    seed_everything(seed)
    first = draw()
    seed_everything(seed)
    assert draw() == first


def test_seed_zero_is_a_seed_like_any_other() -> None:
    seed_everything(0)
    zero = draw()
    seed_everything(1)
    assert draw() != zero


def test_numpy_whole_numbers_are_seeds() -> None:
    seed_everything(7)
    expected = draw()
    seed_everything(np.int64(7))  # type: ignore[arg-type]
    assert draw() == expected


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ConfigError, match=f"seed: must be at least 0 .* got {seed}"):
        seed_everything(seed)


@pytest.mark.parametrize("seed", [True, 1.0, "1", None])
def test_a_seed_that_is_no_whole_number_is_refused(seed: Any) -> None:
    with pytest.raises(ConfigError, match="seed: must be a whole number"):
        seed_everything(seed)


def test_torch_is_seeded_where_it_is_imported_and_not_imported_where_it_is_not() -> None:
    code = """
import sys
from ml_project_template.utils.seed import seed_everything
seed_everything(3)
assert "torch" not in sys.modules
import torch
seed_everything(3)
first = torch.rand(3)
seed_everything(3)
assert torch.equal(torch.rand(3), first)
print("seeded")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "seeded\n"
