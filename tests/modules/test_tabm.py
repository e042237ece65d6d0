"""The ensemble of networks in one."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch

from ml_project_template.errors import ConfigError
from ml_project_template.modules import TabM
from ml_project_template.modules.tabm import EnsembleLinear

X = torch.linspace(-1, 1, 12).reshape(4, 3)


def _draw(module: torch.nn.Module) -> None:
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)


def test_a_member_scales_what_goes_in_and_what_comes_out() -> None:
    module = EnsembleLinear(3, 5, members=2)
    _draw(module)
    rows = torch.randn(4, 2, 3)
    for member in range(2):
        scaled = (rows[:, member] * module.input_scale[member]) @ module.weight.T
        expected = scaled * module.output_scale[member] + module.bias[member]
        torch.testing.assert_close(module(rows)[:, member], expected)


@pytest.mark.parametrize("variant", ["tabm", "tabm-mini"])
def test_each_member_is_a_network_of_its_own(variant: Literal["tabm", "tabm-mini"]) -> None:
    module = TabM([3, 5, 4, 2], "tanh", members=3, variant=variant)
    _draw(module)
    for member in range(3):
        values = X
        if module.input_scale is not None:
            values = values * module.input_scale[member]
        for layer in (module.layers[0], module.layers[2]):
            if isinstance(layer, EnsembleLinear):
                values = (values * layer.input_scale[member]) @ layer.weight.T
                values = values * layer.output_scale[member] + layer.bias[member]
            else:
                values = layer(values)
            values = torch.tanh(values)
        expected = values @ module.head[member] + module.head_bias[member]
        torch.testing.assert_close(module(X)[:, member], expected)


def test_outside_of_training_the_members_answer_together() -> None:
    module = TabM([3, 5, 2], members=4)
    _draw(module)
    each = module(X)
    assert each.shape == (4, 4, 2)
    chances = torch.softmax(each, dim=2).mean(dim=1)
    torch.testing.assert_close(torch.softmax(module.eval()(X), dim=1), chances)
    module.average = "numbers"
    torch.testing.assert_close(module(X), each.mean(dim=1))


def test_an_average_of_certainties_is_finite() -> None:
    module = TabM([3, 2], members=2).eval()
    _draw(module)
    scores = module(X * 1e6).detach()
    assert scores.isfinite().all()
    assert float(scores.max()) <= math.log(1 + 1e-6)


@pytest.mark.parametrize("variant", ["tabm", "tabm-mini"])
def test_members_begin_with_signs_of_their_own(variant: Literal["tabm", "tabm-mini"]) -> None:
    torch.manual_seed(0)
    module = TabM([20, 5, 5, 2], members=8, variant=variant)
    scale = module.input_scale
    if variant == "tabm":
        first, second = module.layers[0], module.layers[2]
        assert isinstance(first, EnsembleLinear)
        assert isinstance(second, EnsembleLinear)
        assert (second.input_scale == 1).all()
        scale = first.input_scale
    assert scale is not None
    assert (scale.abs() == 1).all()
    assert len({tuple(member) for member in scale.tolist()}) == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_dims": [4]}, "needs an input and an output width"),
        ({"activation": "rleu"}, "Unknown model.activation 'rleu'. Did you mean 'relu'"),
    ],
)
def test_wrong_settings_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TabM(**{"layer_dims": [4, 3], **arguments})
