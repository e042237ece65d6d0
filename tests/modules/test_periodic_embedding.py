"""Sines and cosines of numbers."""

from __future__ import annotations

import math

import torch

from ml_project_template.modules import PeriodicEmbedding


def test_it_is_what_its_formula_says() -> None:
    torch.manual_seed(0)
    module = PeriodicEmbedding(2, frequencies=3, frequency_scale=0.5, width=4)
    X = torch.randn(5, 2)
    expected = []
    for feature in range(2):
        angle = 2 * math.pi * X[:, [feature]] * module.frequencies[feature]
        waves = torch.cat([torch.cos(angle), torch.sin(angle)], dim=1)
        expected.append(torch.relu(waves @ module.weight[feature] + module.bias[feature]))
    assert module.width == 8
    torch.testing.assert_close(module(X), torch.cat(expected, dim=1))


def test_frequencies_begin_within_three_times_their_scale() -> None:
    frequencies = PeriodicEmbedding(50, frequencies=50, frequency_scale=0.1).frequencies.detach()
    assert float(frequencies.abs().max()) <= 0.3
    assert 0.08 < float(frequencies.std()) < 0.12
