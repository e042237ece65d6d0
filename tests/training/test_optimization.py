"""Optimizers and schedules by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.optim import lr_scheduler

from ml_project_template.errors import ConfigError
from ml_project_template.training.optimization import OptimizerSettings, ScheduleSettings


def _parameters() -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(3))]


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)],
)
def test_an_optimizer_has_the_settings_given(name: Any, kind: type) -> None:
    optimizer = OptimizerSettings(name, lr=0.3, weight_decay=0.2).make(_parameters())
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.3
    assert optimizer.param_groups[0]["weight_decay"] == 0.2


def test_sgd_takes_momentum() -> None:
    optimizer = OptimizerSettings("sgd", lr=0.1, momentum=0.9).make(_parameters())
    assert optimizer.param_groups[0]["momentum"] == 0.9


def test_momentum_for_another_optimizer_is_told() -> None:
    with pytest.raises(ConfigError, match="momentum=0.9 belongs to optimizer sgd, not to adamw"):
        OptimizerSettings("adamw", momentum=0.9)


def test_an_unknown_optimizer_is_told() -> None:
    with pytest.raises(ConfigError, match="'adm'. Did you mean 'adam'"):
        OptimizerSettings("adm")  # type: ignore[arg-type]


_SCHEDULES: list[tuple[Any, dict[str, Any], Any]] = [
    (None, {}, lambda optimizer: None),
    ("exponential", {}, lambda o: lr_scheduler.ExponentialLR(o, 0.98)),
    ("exponential", {"gamma": 0.5}, lambda o: lr_scheduler.ExponentialLR(o, 0.5)),
    ("step", {}, lambda o: lr_scheduler.StepLR(o, 30)),
    ("step", {"step_size": 4, "gamma": 0.7}, lambda o: lr_scheduler.StepLR(o, 4, 0.7)),
    ("cosine", {}, lambda o: lr_scheduler.CosineAnnealingLR(o, 80)),
    ("plateau", {}, lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.5)),
    (
        "plateau",
        {"patience": 0, "gamma": 0.1},
        lambda o: lr_scheduler.ReduceLROnPlateau(o, factor=0.1, patience=0),
    ),
]


@pytest.mark.parametrize(("name", "settings", "peer"), _SCHEDULES)
def test_a_schedule_gives_the_rates_of_torch(
    name: Any, settings: dict[str, Any], peer: Callable[[torch.optim.Optimizer], Any]
) -> None:
    losses = torch.rand(80, generator=torch.Generator().manual_seed(0)).cumprod(0).add(0.1)
    schedule = ScheduleSettings(name, **settings).make(0.3, 80)
    optimizer = torch.optim.SGD(_parameters(), lr=0.3)
    theirs = peer(optimizer)
    optimizer.step()
    for loss in losses.tolist():
        assert schedule.lr == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9, abs=1e-12)
        schedule.step(loss)
        if theirs is not None:
            theirs.step(*([loss] if name == "plateau" else []))


def test_an_unknown_schedule_is_told() -> None:
    with pytest.raises(ConfigError, match="'cosin'. Did you mean 'cosine'"):
        ScheduleSettings("cosin")  # type: ignore[arg-type]
