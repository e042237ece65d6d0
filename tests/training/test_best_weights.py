"""The weights of the best epoch."""

from __future__ import annotations

import torch

from ml_project_template.training.best_weights import BestWeights


def _module() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))


def _set(module: torch.nn.Module, value: float) -> None:
    with torch.no_grad():
        for tensor in module.state_dict().values():
            tensor.fill_(value)


def test_the_weights_of_the_lowest_value_come_back() -> None:
    module = _module()
    best = BestWeights(module)
    improved = []
    for step, (weight, loss) in enumerate([(1, 0.5), (2, 0.3), (3, 0.3), (4, 0.9)], start=1):
        _set(module, weight)
        improved.append(best.update(loss, step))
    assert improved == [True, True, False, False]
    assert (best.step, best.value) == (2, 0.3)
    best.restore()
    # Buffers too, such as the running mean of a batch normalisation.
    assert all((tensor == 2).all() for tensor in module.state_dict().values())


def test_without_an_update_nothing_is_changed() -> None:
    module = _module()
    _set(module, 7)
    BestWeights(module).restore()
    assert all((tensor == 7).all() for tensor in module.state_dict().values())


def test_a_value_that_is_no_number_is_never_the_best() -> None:
    best = BestWeights(_module())
    assert not best.update(float("nan"), 1)
    assert best.step == 0
