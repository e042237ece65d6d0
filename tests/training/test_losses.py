"""What a network minimises."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ml_project_template.errors import ConfigError
from ml_project_template.training.losses import MemberLoss, make_regression_loss


@pytest.mark.parametrize(("name", "expected"), [("mse", 5.0), ("mae", 2.0), ("huber", 1.5)])
def test_each_loss_is_a_mean_over_the_rows(name: Any, expected: float) -> None:
    outputs, y = torch.tensor([[1.0], [5.0]]), torch.tensor([[0.0], [2.0]])
    assert float(make_regression_loss(name)(outputs, y)) == expected


def test_an_unknown_loss_is_told() -> None:
    with pytest.raises(ConfigError, match="Unknown training.loss 'mes'. Did you mean 'mse'"):
        make_regression_loss("mes")  # type: ignore[arg-type]


def test_the_loss_of_an_ensemble_is_the_mean_of_its_members() -> None:
    torch.manual_seed(0)
    single = torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 3.0]))
    outputs, y = torch.randn(4, 3, 2), torch.tensor([0, 1, 1, 0])
    of_each = torch.stack([single(outputs[:, member], y) for member in range(3)])
    torch.testing.assert_close(MemberLoss(single)(outputs, y), of_each.mean())
    torch.testing.assert_close(MemberLoss(single)(outputs[:, 0], y), of_each[0])
