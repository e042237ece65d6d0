"""The training loop, against one written by hand."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ml_project_template.errors import DivergenceError
from ml_project_template.training.fabric import make_fabric
from ml_project_template.training.loop import (
    FitJob,
    FitResult,
    Tensors,
    fit,
    forward_in_chunks,
)
from ml_project_template.training.optimization import OptimizerSettings, ScheduleSettings
from ml_project_template.training.reporting import History, StopTraining

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric("cpu", "32-true")


def _data(n_rows: int, seed: int) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n_rows, 4, generator=generator)
    y = (X[:, 0] + 0.5 * torch.randn(n_rows, generator=generator) > 0).long()
    return X, y


def _module(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(
        # No bias before a batch normalisation: its gradient is rounding and nothing else, which
        # Adam would make steps of.
        torch.nn.Linear(4, 8, bias=False),
        torch.nn.BatchNorm1d(8),
        torch.nn.ReLU(),
        torch.nn.Linear(8, 2),
    )


def _fit(
    fabric: Fabric, module: torch.nn.Module, **arguments: Any
) -> tuple[FitResult, list[dict[str, float]]]:
    history = History()
    settings: dict[str, Any] = {
        "train": _data(100, 0),
        "max_epochs": 5,
        "batch_size": 16,
        "seed": 0,
        "reporter": history,
        "optimizer": OptimizerSettings(lr=0.01),
        **arguments,
    }
    result = fit(fabric, FitJob(module, torch.nn.CrossEntropyLoss(), **settings))
    return result, history.rows


def test_the_numbers_are_those_of_a_plain_loop(fabric: Fabric) -> None:
    module, plain = _module(), _module()
    train, val = _data(101, 0), _data(40, 1)
    _, rows = _fit(fabric, module, train=train, val=val, gradient_clip_norm=0.5, keep_best=False)

    optimizer = torch.optim.Adam(plain.parameters(), lr=0.01)
    generator = torch.Generator().manual_seed(0)
    for row in rows:
        plain.train()
        order = torch.randperm(101, generator=generator)
        total = 0.0
        # 101 rows in batches of 16 are six of 16 and one of 5.
        for rows_of_batch in torch.split(order, 16):
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(
                plain(train[0][rows_of_batch]), train[1][rows_of_batch]
            )
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
            optimizer.step()
            total += loss.item() * len(rows_of_batch)
        plain.eval()
        with torch.no_grad():
            val_loss = torch.nn.functional.cross_entropy(plain(val[0]), val[1]).item()
        assert row["train_loss"] == pytest.approx(total / 101, rel=1e-5)
        assert row["val_loss"] == pytest.approx(val_loss, rel=1e-5)
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_each_epoch_is_reported_with_its_numbers(fabric: Fabric) -> None:
    result, rows = _fit(
        fabric,
        _module(),
        val=_data(40, 1),
        val_metrics=lambda outputs, y: {"accuracy": (outputs.argmax(1) == y).float().mean()},
    )
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    assert all(
        row.keys() == {"step", "train_loss", "val_loss", "val_accuracy", "lr"} for row in rows
    )
    assert all(0 <= row["val_accuracy"] <= 1 and row["lr"] == 0.01 for row in rows)
    assert (result.epochs, result.stopped_early) == (5, False)


def test_it_ends_with_the_best_weights_or_with_the_last(fabric: Fabric) -> None:
    val = _data(40, 1)
    settings: dict[str, Any] = {"val": val, "train": _data(30, 0), "max_epochs": 60}
    losses = {}
    for keep_best in (True, False):
        module = _module()
        optimizer = OptimizerSettings(lr=0.1)
        result, rows = _fit(fabric, module, keep_best=keep_best, optimizer=optimizer, **settings)
        with torch.no_grad():
            losses[keep_best] = torch.nn.functional.cross_entropy(module(val[0]), val[1]).item()
        reported = [row["val_loss"] for row in rows]
        best = min(range(60), key=reported.__getitem__)
        assert result.best_epoch == (best + 1 if keep_best else 60)
    assert losses[True] == pytest.approx(min(reported), rel=1e-5)
    assert losses[False] == pytest.approx(reported[-1], rel=1e-5)
    assert losses[True] < losses[False]


def test_early_stopping_watches_the_validation_loss_and_else_the_training_loss(
    fabric: Fabric,
) -> None:
    for val, column in ((_data(40, 1), "val_loss"), (None, "train_loss")):
        module = _module()
        result, rows = _fit(
            fabric,
            module,
            val=val,
            train=_data(30, 0),
            max_epochs=400,
            optimizer=OptimizerSettings(lr=0.1),
            patience=4,
        )
        losses = [row[column] for row in rows]
        assert result.stopped_early
        assert result.epochs == len(rows) == losses.index(min(losses)) + 1 + 4


def test_a_reporter_can_end_the_fit(fabric: Fabric) -> None:
    class Stopping(History):
        def report(self, step: int, metrics: Mapping[str, float], total: int | None = None) -> None:
            super().report(step, metrics, total)
            if step == 2:
                raise StopTraining

    stopping = Stopping()
    module = _module()
    result, _ = _fit(fabric, module, reporter=stopping)
    assert len(stopping.rows) == result.epochs == 2
    assert result.stopped_early
    assert not module.training


@pytest.mark.parametrize("broken", ["train", "val"])
def test_a_loss_that_is_no_number_ends_the_fit_at_once(fabric: Fabric, broken: str) -> None:
    data = {"train": _data(40, 0), "val": _data(40, 1)}
    data[broken][0][3, 1] = math.nan
    history = History()
    with pytest.raises(DivergenceError, match=rf"{broken}_loss is nan in epoch 1 with .*lr=0.01"):
        _fit(fabric, _module(), reporter=history, **data)
    assert history.rows == []


def test_chunks_do_not_change_the_outputs_nor_the_mode() -> None:
    module = _module()
    X = torch.randn(50, 4)
    module.eval()
    expected = module(X).detach()
    module.train()
    torch.testing.assert_close(forward_in_chunks(module, X, chunk_rows=7), expected)
    assert module.training
    assert forward_in_chunks(module, X[:0]).shape == (0, 2)


def test_a_module_may_say_how_many_rows_pass_at_once() -> None:
    class Wide(torch.nn.Module):
        chunk_rows = 3

        def forward(self, X: torch.Tensor) -> torch.Tensor:
            return torch.full((len(X),), len(X))

    assert forward_in_chunks(Wide(), torch.zeros(7, 4)).tolist() == [3, 3, 3, 3, 3, 3, 1]


class _Odd(torch.nn.Module):
    """Has weights that are frozen, never used, used twice, and used in some steps."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.frozen, self.unused, self.tied, self.rare, self.last = (
            torch.nn.Linear(4, width) for width in (4, 4, 4, 4, 2)
        )
        self.frozen.requires_grad_(requires_grad=False)
        self.alias = self.tied
        self.calls = 0

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        X = self.alias(torch.relu(self.tied(self.frozen(X))))
        if self.calls % 2:
            X = X + self.rare(X)
        outputs: torch.Tensor = self.last(X)
        return outputs


def test_weights_without_a_gradient_stay_as_they_are(fabric: Fabric) -> None:
    module, plain = _Odd(), _Odd()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    optimizer = OptimizerSettings("adam", 0.01, weight_decay=0.1)
    _fit(fabric, module, batch_size=50, optimizer=optimizer)
    peer, generator = optimizer.make(plain.parameters()), torch.Generator().manual_seed(0)
    X, y = _data(100, 0)
    for _ in range(5):
        for rows in torch.split(torch.randperm(100, generator=generator), 50):
            peer.zero_grad()
            torch.nn.functional.cross_entropy(plain(X[rows]), y[rows]).backward()  # type: ignore[no-untyped-call]
            peer.step()
    for name, tensor in module.state_dict().items():
        torch.testing.assert_close(tensor, plain.state_dict()[name])
        assert torch.equal(tensor, before[name]) == name.startswith(("frozen", "unused"))


def test_any_optimizer_can_be_given_with_a_schedule_of_its_rates(fabric: Fabric) -> None:
    module = _module()

    def make(parameters: Iterable[torch.nn.Parameter]) -> torch.optim.Optimizer:
        first, *others = parameters
        groups: list[dict[str, Any]] = [{"params": [first], "lr": 0.1}, {"params": others}]
        return torch.optim.RMSprop(groups, lr=0.01)

    plain = _module()
    _fit(
        fabric,
        module,
        optimizer=make,
        schedule=ScheduleSettings("exponential", gamma=0.5),
        batch_size=100,
        keep_best=False,
    )
    optimizer = make(plain.parameters())
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
    X, y = _data(100, 0)
    for _ in range(5):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(plain(X), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        scheduler.step()
    for ours, theirs in zip(module.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
