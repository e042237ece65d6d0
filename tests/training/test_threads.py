"""Threads by the size of the work."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from ml_project_template.training.threads import intra_op_threads


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_small_work_gets_one_thread_and_the_number_comes_back() -> None:
    with intra_op_threads(32 * 64 * 64):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_large_work_gets_what_there_is() -> None:
    with intra_op_threads(4096 * 512 * 512):
        assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("two_threads")
def test_the_number_comes_back_after_an_error_too() -> None:
    with pytest.raises(KeyError), intra_op_threads(1):
        raise KeyError
    assert torch.get_num_threads() == 2
