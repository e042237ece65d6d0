"""The weights of an epoch that is to be come back to."""

from __future__ import annotations

import torch

from ml_project_template.training.kept_weights import KeptWeights


def _module() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))


def _set(module: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)


def test_the_weights_that_were_kept_last_come_back() -> None:
    module = _module()
    kept = KeptWeights(module)
    for weight, keep in [(1, True), (2, True), (3, False), (4, False)]:
        _set(module, weight)
        if keep:
            kept.keep()
    # Also in another process.
    other = KeptWeights(_module())
    other.load({name: tensor.clone() for name, tensor in kept.state().items()})
    kept.restore()
    # Buffers too, such as the running mean of a batch normalisation.
    assert all((tensor == 2).all() for tensor in module.state_dict().values())
    assert all((tensor == 2).all() for tensor in other.state().values())


def test_without_any_nothing_is_changed() -> None:
    module = _module()
    _set(module, 7)
    KeptWeights(module).restore()
    assert all((tensor == 7).all() for tensor in module.state_dict().values())


def test_it_knows_whether_the_weights_are_numbers() -> None:
    module = _module()
    kept = KeptWeights(module)
    assert kept.are_finite()
    with torch.no_grad():
        module.state_dict()["1.running_var"][1] = torch.inf
    assert not kept.are_finite()
    assert KeptWeights(torch.nn.ReLU()).are_finite()
