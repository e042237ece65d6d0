"""The steps of the fused kernels, against those of torch's optimizers."""

from __future__ import annotations

import copy

import pytest
import torch

from ml_project_template.training.fused_optimizers import FlatOptimizer, FusedOptimizer
from ml_project_template.training.optimization import OptimizerSettings

_SETTINGS = [
    OptimizerSettings("adam", 0.1),
    OptimizerSettings("adam", 0.1, weight_decay=0.3),
    OptimizerSettings("adamw", 0.1, weight_decay=0.3),
    OptimizerSettings("sgd", 0.1, weight_decay=0.3),
    OptimizerSettings("sgd", 0.1, weight_decay=0.3, momentum=0.9),
]


@pytest.mark.parametrize("settings", _SETTINGS, ids=repr)
def test_a_step_is_that_of_torch(settings: OptimizerSettings) -> None:
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in ((3, 2), (2,), (4,))]
    theirs = copy.deepcopy(ours)
    optimizer, peer = FusedOptimizer(ours, settings), settings.make(theirs, fused=False)
    for number in range(4):
        optimizer.zero_grad()
        peer.zero_grad()
        for place, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
            # The second has no gradient now and then, the third has none at all.
            if place == 0 or (place == 1 and number != 1):
                mine.grad = torch.randn_like(mine)
                other.grad = mine.grad.clone()
        optimizer.lr = peer.param_groups[0]["lr"] = 0.1 / (1 + number)
        optimizer.step()
        peer.step()
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, other)


def test_without_any_gradient_nothing_is_done() -> None:
    parameter = torch.nn.Parameter(torch.ones(2))
    FusedOptimizer([parameter], OptimizerSettings("adamw", weight_decay=0.5)).step()
    assert parameter.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("n_fits", [1, 3])
@pytest.mark.parametrize("settings", _SETTINGS, ids=repr)
def test_each_fit_in_a_flat_tensor_has_its_own_rate_and_decay(
    settings: OptimizerSettings, n_fits: int
) -> None:
    each = [
        OptimizerSettings(
            settings.name,
            settings.lr / (1 + number),
            settings.weight_decay * number,
            settings.momentum / (1 + number),
        )
        for number in range(n_fits)
    ]
    owner = torch.arange(n_fits).repeat(5)
    flat, gradients = torch.randn(5 * n_fits), torch.empty(5 * n_fits)
    theirs = [torch.nn.Parameter(flat[owner == number].clone()) for number in range(n_fits)]
    optimizer = FlatOptimizer(flat, gradients, each, owner if n_fits > 1 else None)
    peers = [own.make([theirs[number]], fused=False) for number, own in enumerate(each)]
    for step in range(4):
        gradients.normal_()
        for number, peer in enumerate(peers):
            theirs[number].grad = gradients[owner == number].clone()
            peer.param_groups[0]["lr"] = each[number].lr / (1 + step)
            peer.step()
        optimizer.set_rates([own.lr / (1 + step) for own in each])
        optimizer.step()
        for number in range(n_fits):
            torch.testing.assert_close(flat[owner == number], theirs[number].detach())
