"""The making of Fabric."""

from __future__ import annotations

import logging

import pytest
import torch

from ml_project_template.errors import ConfigError
from ml_project_template.training.fabric import make_fabric


def test_a_fabric_runs_on_one_device() -> None:
    fabric = make_fabric("cpu", "32-true")
    assert fabric.device == torch.device("cpu")
    assert fabric.world_size == 1


def test_it_gives_no_advice_about_the_machine() -> None:
    make_fabric("cpu", "32-true")
    from lightning.fabric.utilities import rank_zero

    assert not logging.getLogger(rank_zero.__name__).isEnabledFor(logging.INFO)


def test_an_unknown_accelerator_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match="model.accelerator=gpux can't be used") as caught:
        make_fabric("gpux", "32-true")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the machine has a GPU")
def test_a_missing_gpu_is_told_in_one_line() -> None:
    with pytest.raises(ConfigError, match="model.accelerator=cuda can't be used") as caught:
        make_fabric("cuda", "32-true")
    assert "\n" not in str(caught.value)
