"""A fit on several devices, against the same one on a single device."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from ml_project_template.errors import ConfigError
from ml_project_template.models import MLPClassifier
from ml_project_template.training.checkpoints import FitState
from ml_project_template.training.distributed import is_distributed, loss_weight, share_of
from ml_project_template.training.fabric import make_fabric
from ml_project_template.training.loop import FitJob, fit, stack_key
from ml_project_template.training.losses import MemberLoss
from ml_project_template.training.optimization import OptimizerSettings
from ml_project_template.training.reporting import History, StopTraining


class _StopsAt(History):
    def __init__(self, step: int, error: Exception) -> None:
        super().__init__()
        self._step, self._error = step, error

    def report(self, step: int, metrics: Mapping[str, float], total: int | None = None) -> None:
        super().report(step, metrics, total)
        if step == self._step:
            raise self._error


def _job(reporter: History) -> FitJob:
    torch.manual_seed(0)
    module = torch.nn.Sequential(
        torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.ReLU(), torch.nn.Linear(8, 3)
    )
    # An odd number of rows, classes of unequal weights, and a last batch of two rows: of no share
    # is the mean loss that of the batch.
    X = torch.randn(53, 4)
    y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()
    loss = MemberLoss(torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])))
    return FitJob(
        module,
        loss,
        (X, y),
        (X[:20], y[:20]),
        max_epochs=8,
        batch_size=17,
        seed=0,
        reporter=reporter,
        optimizer=OptimizerSettings(lr=0.05),
        gradient_clip_norm=0.5,
    )


# Each process imports torch and Lightning.
@pytest.mark.long
def test_two_devices_take_the_steps_of_one() -> None:
    jobs, results, histories = [], [], []
    for devices in (1, 2):
        history = _StopsAt(5, StopTraining())
        job = _job(history)
        results.append(fit(make_fabric("cpu", "32-true", devices), job))
        jobs.append(job)
        histories.append(history)
    assert results[0] == results[1]
    assert results[1].epochs == 5
    for one, two in zip(histories[0].rows, histories[1].rows, strict=True):
        assert two == pytest.approx(one, rel=1e-5)
    states = [job.module.state_dict() for job in jobs]
    torch.testing.assert_close(states[1], states[0], rtol=1e-5, atol=1e-6)
    assert not jobs[1].module.training
    assert "MASTER_PORT" not in os.environ


class _Keeper:
    """Keeps the state at the end of an epoch, and wants the fit to be stopped then."""

    def __init__(self, epoch: int, state: FitState | None = None) -> None:
        self.state = state
        self.saved: FitState | None = None
        self.is_asked = False
        self._epoch = epoch

    def due(self, epoch: int | None = None) -> bool:
        self.is_asked = epoch == self._epoch
        return False

    def save(self, state: FitState) -> None:
        self.saved = state

    def obey(self) -> None:
        pytest.fail("It is for the process that was asked.")

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        yield
        if self.is_asked:
            raise KeyboardInterrupt


@pytest.mark.long
def test_a_fit_on_two_devices_goes_on_from_a_checkpoint() -> None:
    fabric = make_fabric("cpu", "32-true", 2)
    whole = _with_dropout(History())
    fit(fabric, whole)
    keeper = _Keeper(3)
    with pytest.raises(KeyboardInterrupt):
        fit(fabric, replace(_with_dropout(History()), checkpoints=keeper))
    assert keeper.saved is not None
    gone_on = replace(_with_dropout(History()), checkpoints=_Keeper(-1, keeper.saved))
    assert fit(fabric, gone_on).epochs == 8
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(gone_on.module.state_dict()[name], tensor)


class _Lean(torch.nn.Module):
    """Refuses to work where more of Lightning was imported than a fit needs."""

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        assert "lightning.pytorch" not in sys.modules
        assert "torchmetrics" not in sys.modules
        return X


def _with_dropout(reporter: History) -> FitJob:
    job = _job(reporter)
    return replace(job, module=torch.nn.Sequential(_Lean(), torch.nn.Dropout(0.2), job.module))


@pytest.mark.long
def test_what_a_reporter_raises_ends_all_processes() -> None:
    with pytest.raises(ZeroDivisionError):
        fit(make_fabric("cpu", "32-true", 2), _job(_StopsAt(2, ZeroDivisionError())))


@pytest.mark.parametrize(("n_rows", "shares"), [(7, [2, 2, 3]), (2, [0, 1, 1]), (1, [0, 0, 1])])
def test_shares_cover_a_batch(n_rows: int, shares: list[int]) -> None:
    fabrics: list[Any] = [SimpleNamespace(global_rank=rank, world_size=3) for rank in range(3)]
    rows = [list(range(n_rows))[share_of(fabric, n_rows)] for fabric in fabrics]
    assert [len(share) for share in rows] == shares
    assert [row for share in rows for row in share] == list(range(n_rows))


def test_a_loss_weighs_as_many_rows_as_it_is_the_mean_of() -> None:
    y = torch.tensor([0, 1, 1])
    assert loss_weight(torch.nn.functional.cross_entropy, y) == 3
    assert loss_weight(MemberLoss(torch.nn.CrossEntropyLoss()), y) == 3
    weighted = MemberLoss(torch.nn.CrossEntropyLoss(weight=torch.tensor([1.0, 4.0])))
    assert loss_weight(weighted, y) == 9


def test_a_fit_on_several_devices_is_not_stacked() -> None:
    one, two = make_fabric("cpu", "32-true"), make_fabric("cpu", "32-true", 2)
    assert not is_distributed(one)
    assert is_distributed(two)
    assert stack_key(one, _job(History())) is not None
    assert stack_key(two, _job(History())) is None


def test_devices_are_no_part_of_a_model_and_have_to_be_there() -> None:
    model = MLPClassifier([4, 8, 3], accelerator="cpu", devices=2)
    assert "devices" not in model.get_params()
    more = torch.cuda.device_count() + 2
    with pytest.raises(ConfigError, match=rf"model.accelerator=cuda .* {more} device"):
        MLPClassifier([4, 8, 3], accelerator="cuda", devices=more)
