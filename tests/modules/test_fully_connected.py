"""The fully connected network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import ml_project_template.modules as package
from ml_project_template.errors import ConfigError
from ml_project_template.modules import FullyConnected


def _kinds(module: FullyConnected) -> list[str]:
    return [type(layer).__name__ for layer in module.layers]


def test_a_hidden_layer_is_linear_normalisation_activation_dropout() -> None:
    module = FullyConnected([4, 8, 6, 3], "gelu", "batch", dropout=0.2)
    hidden = ["Linear", "BatchNorm1d", "GELU", "Dropout"]
    assert _kinds(module) == [*hidden, *hidden, "Linear"]
    assert module(torch.randn(5, 4)).shape == (5, 3)


def test_what_is_not_asked_for_is_not_there() -> None:
    assert _kinds(FullyConnected([4, 8, 3])) == ["Linear", "ReLU", "Linear"]
    assert _kinds(FullyConnected([4, 8, 3], normalization="layer"))[1] == "LayerNorm"
    assert _kinds(FullyConnected([4, 3])) == ["Linear"]


def test_it_computes_what_its_layers_compute() -> None:
    module = FullyConnected([4, 8, 3], "tanh")
    first, last = module.layers[0], module.layers[2]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    X = torch.randn(5, 4)
    expected = torch.tanh(X @ first.weight.T + first.bias) @ last.weight.T + last.bias
    torch.testing.assert_close(module(X), expected)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layer_dims": [4]}, "needs an input and an output width"),
        ({"layer_dims": [4, 0, 3]}, "each positive"),
        ({"activation": "rleu"}, "Unknown model.activation 'rleu'. Did you mean 'relu'"),
        ({"normalization": "bacth"}, "Unknown model.normalization 'bacth'. Did you mean 'batch'"),
        ({"dropout": 1.0}, r"must be in \[0, 1\), got 1.0"),
        ({"dropout": -0.1}, r"must be in \[0, 1\), got -0.1"),
    ],
)
def test_wrong_settings_are_told(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FullyConnected(**{"layer_dims": [4, 3], **arguments})


def test_an_unknown_export_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Transformer'"):
        _ = package.Transformer
