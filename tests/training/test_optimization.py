"""Optimizers and schedules by name."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ml_project_template.errors import ConfigError
from ml_project_template.training.optimization import make_optimizer, make_scheduler


def _parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_an_optimizer_has_the_settings_given(name: Any, kind: type) -> None:
    optimizer = make_optimizer(name, _parameters(), lr=0.3, weight_decay=0.2)
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.param_groups[0]["weight_decay"] == 0.2


def test_sgd_takes_momentum() -> None:
    optimizer = make_optimizer("sgd", _parameters(), lr=0.1, momentum=0.9)
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_momentum_for_another_optimizer_is_told() -> None:
    with pytest.raises(ConfigError, match="momentum=0.9 belongs to optimizer sgd, not to adamw"):
        make_optimizer("adamw", _parameters(), lr=0.1, momentum=0.9)


def test_an_unknown_optimizer_is_told() -> None:
    with pytest.raises(ConfigError, match="'adm'. Did you mean 'adam'"):
        make_optimizer("adm", _parameters(), lr=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "settings", "expected"),
    [
        (None, {}, [1, 1, 1, 1]),
        ("exponential", {}, [1, 0.98, 0.9604, 0.941192]),
        ("exponential", {"gamma": 0.5}, [1, 0.5, 0.25, 0.125]),
        ("step", {"step_size": 2}, [1, 1, 0.1, 0.1]),
        ("cosine", {}, [1, 0.853553, 0.5, 0.146447]),
        # The loss never falls: after one epoch of patience the rate is halved at each epoch.
        ("plateau", {"patience": 0}, [1, 1, 0.5, 0.25]),
    ],
)
def test_a_schedule_sets_the_rate_once_an_epoch(
    name: Any, settings: dict[str, Any], expected: list[float]
) -> None:
    parameters = _parameters()
    optimizer = make_optimizer("sgd", parameters, lr=1.0)
    schedule = make_scheduler(name, optimizer, max_epochs=4, **settings)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        parameters[0].grad = torch.ones(3)
        optimizer.step()
        schedule.step(1.0)
    assert rates == pytest.approx(expected, rel=1e-5)


def test_an_unknown_schedule_is_told() -> None:
    optimizer = make_optimizer("sgd", _parameters(), lr=1.0)
    with pytest.raises(ConfigError, match="'cosin'. Did you mean 'cosine'"):
        make_scheduler("cosin", optimizer, max_epochs=4)  # type: ignore[arg-type]
