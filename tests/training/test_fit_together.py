"""Fits in one go, against the same fits one after the other and against autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import nn

from ml_project_template.errors import DivergenceError
from ml_project_template.modules import CategoryEmbedding, FeatureEncoder, FullyConnected
from ml_project_template.training import batches, loop
from ml_project_template.training.fabric import make_fabric
from ml_project_template.training.jobs import FitJob, FitResult, Tensors
from ml_project_template.training.loop import fit, fit_together, stack_key, worth_together
from ml_project_template.training.optimization import OptimizerSettings, ScheduleSettings
from ml_project_template.training.reporting import History, StopTraining

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Make = Callable[[int], FitJob]


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric("cpu", "32-true")


def _data(n_rows: int, seed: int = 0) -> Tensors:
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(n_rows, 4, generator=generator)
    y = (X[:, 0] + 0.5 * torch.randn(n_rows, generator=generator) > 0).long()
    return X, y


def _accuracy(outputs: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"accuracy": (outputs.argmax(-1) == y).float().mean(-1)}


def _job(seed: int, *, dropout: float = 0.0, normalization: Any = None, **arguments: Any) -> FitJob:
    torch.manual_seed(seed)
    module = FullyConnected([4, 8, 6, 2], "silu", normalization, dropout)
    settings: dict[str, Any] = {
        "train": _data(53),
        "val": _data(20, 1),
        "max_epochs": 5,
        "batch_size": 16,
        "seed": seed,
        "reporter": History(),
        "val_metrics": _accuracy,
        **arguments,
    }
    return FitJob(module, settings.pop("loss_function", nn.CrossEntropyLoss()), **settings)


def _rows(job: FitJob) -> list[dict[str, float]]:
    assert isinstance(job.reporter, History)
    return job.reporter.rows


def _expect_equal(ours: FitJob, theirs: FitJob) -> None:
    assert len(_rows(ours)) == len(_rows(theirs))
    for mine, other in zip(_rows(ours), _rows(theirs), strict=True):
        assert mine == pytest.approx(other, rel=1e-4, abs=1e-5)
    state = theirs.module.state_dict()
    for name, tensor in ours.module.state_dict().items():
        torch.testing.assert_close(tensor, state[name], rtol=1e-3, atol=1e-5)
    assert not ours.module.training


_SETTINGS: dict[str, dict[str, Any]] = {
    "adam": {"optimizer": OptimizerSettings("adam", 0.01, weight_decay=0.1)},
    "adamw": {"optimizer": OptimizerSettings("adamw", 0.01, weight_decay=0.1)},
    "sgd": {"optimizer": OptimizerSettings("sgd", 0.1, weight_decay=0.1)},
    "momentum": {"optimizer": OptimizerSettings("sgd", 0.1, momentum=0.9)},
    "clipped": {"gradient_clip_norm": 0.05, "optimizer": OptimizerSettings("sgd", 0.3)},
    "scheduled": {"schedule": ScheduleSettings("cosine")},
    "plateau": {
        "schedule": ScheduleSettings("plateau", patience=0),
        "optimizer": OptimizerSettings(lr=0.3),
        "max_epochs": 8,
    },
    "without validation": {"val": None},
    "last weights": {"keep_best": False},
    "dropout": {"dropout": 0.3, "normalization": "layer"},
    "one batch": {"batch_size": 100},
    # The last of seven batches has five rows, not four and one.
    "a row left over": {"batch_size": 4},
    # Decay, for without any gradient but rounding Adam steps to and fro before a normalisation.
    "normalised": {
        "normalization": "batch",
        "optimizer": OptimizerSettings("sgd", 0.1, momentum=0.5),
    },
    "weighted": {"loss_function": nn.CrossEntropyLoss(torch.tensor([1.0, 3.0]))},
}


@pytest.mark.parametrize("settings", _SETTINGS.values(), ids=_SETTINGS.keys())
def test_a_chain_is_fitted_as_autograd_fits_it(fabric: Fabric, settings: dict[str, Any]) -> None:
    ours, theirs = _job(0, **settings), _job(0, **settings)
    assert stack_key(fabric, ours) is not None
    # Whoever has a hook is for autograd.
    theirs.module.register_forward_hook(lambda *_: None)
    assert stack_key(fabric, theirs) is None
    assert fit(fabric, ours) == fit(fabric, theirs)
    _expect_equal(ours, theirs)


@pytest.mark.parametrize("settings", _SETTINGS.values(), ids=_SETTINGS.keys())
def test_jobs_fitted_together_end_as_each_by_itself(
    fabric: Fabric, settings: dict[str, Any]
) -> None:
    def make(number: int) -> FitJob:
        changed: dict[str, Any] = {"train": _data(53, number), "val": _data(20, number), **settings}
        if "optimizer" in settings:
            own = settings["optimizer"]
            changed["optimizer"] = OptimizerSettings(
                own.name, own.lr / (1 + number), own.weight_decay * number, own.momentum
            )
        return _job(number, **changed)

    together, alone = [make(number) for number in range(3)], [make(number) for number in range(3)]
    assert fit_together(fabric, together) == [fit(fabric, job) for job in alone]
    for ours, theirs in zip(together, alone, strict=True):
        _expect_equal(ours, theirs)


def test_each_job_ends_when_it_would_by_itself(fabric: Fabric) -> None:
    def make(number: int) -> FitJob:
        return _job(
            number,
            normalization="batch",
            dropout=0.2,
            optimizer=OptimizerSettings(lr=0.05),
            patience=(2, 4, None, 3)[number],
            max_epochs=(30, 30, 7, 30)[number],
        )

    together, alone = [make(number) for number in range(4)], [make(number) for number in range(4)]
    results = fit_together(fabric, together)
    assert results == [fit(fabric, job) for job in alone]
    epochs = {result.epochs for result in results if isinstance(result, FitResult)}
    assert len(epochs) > 2
    for ours, theirs in zip(together, alone, strict=True):
        _expect_equal(ours, theirs)


def test_folds_of_other_numbers_of_rows_are_fitted_together(fabric: Fabric) -> None:
    def make(number: int) -> FitJob:
        sizes = ((53, 20), (52, 21), (52, 22), (53, 22))[number]
        return _job(
            number,
            dropout=0.1,
            normalization="batch",
            optimizer=OptimizerSettings("sgd", 0.1),
            train=_data(sizes[0], number),
            val=_data(sizes[1], number),
        )

    together, alone = [make(number) for number in range(4)], [make(number) for number in range(4)]
    assert fit_together(fabric, together) == [fit(fabric, job) for job in alone]
    for ours, theirs in zip(together, alone, strict=True):
        _expect_equal(ours, theirs)


class _Raising(History):
    """Raises in an epoch."""

    def __init__(self, epoch: int, error: BaseException) -> None:
        super().__init__()
        self._epoch, self._error = epoch, error

    def report(self, step: int, metrics: Mapping[str, float], total: int | None = None) -> None:
        super().report(step, metrics, total)
        if step == self._epoch:
            raise self._error


def test_a_job_that_fails_ends_alone(fabric: Fabric) -> None:
    pruned = KeyError("pruned")
    broken = _data(53)
    broken[0][0, 0] = torch.nan

    def make(number: int) -> FitJob:
        changed: list[dict[str, Any]] = [
            {},
            {"reporter": _Raising(2, pruned)},
            {"train": broken},
            {"reporter": _Raising(3, StopTraining())},
            {},
        ]
        return _job(number, **changed[number])

    jobs = [make(number) for number in range(5)]
    results = fit_together(fabric, jobs)
    assert results[1] is pruned
    assert isinstance(results[2], DivergenceError)
    assert [len(_rows(job)) for job in jobs] == [5, 2, 0, 3, 5]
    for number in (0, 3, 4):
        alone = make(number)
        assert results[number] == fit(fabric, alone)
        _expect_equal(jobs[number], alone)


def test_who_interrupts_one_job_interrupts_all(fabric: Fabric) -> None:
    jobs = [_job(0), _job(1, reporter=_Raising(2, KeyboardInterrupt())), _job(2)]
    before = jobs[0].module.state_dict()["layers.0.weight"].clone()
    with pytest.raises(KeyboardInterrupt):
        fit_together(fabric, jobs)
    assert [len(_rows(job)) for job in jobs] == [2, 2, 1]
    # What was learned until then is not lost.
    assert not torch.equal(jobs[0].module.state_dict()["layers.0.weight"], before)


def test_numbers_that_take_the_outputs_of_one_fit_are_asked_for_each(fabric: Fabric) -> None:
    def positive(outputs: torch.Tensor, _: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"positive": (outputs[:, 0] > 0).float().mean()}

    together, alone = ([_job(n, val_metrics=positive) for n in range(3)] for _ in range(2))
    fit_together(fabric, together)
    for ours, theirs in zip(together, alone, strict=True):
        fit(fabric, theirs)
        _expect_equal(ours, theirs)


def test_a_fixed_encoder_is_part_of_the_chain(
    fabric: Fabric, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = torch.stack([torch.randn(53), torch.randint(0, 3, (53,)).float()], dim=1)
    train = (X, (X[:, 1] > 0).long())

    def make(seed: int) -> FitJob:
        torch.manual_seed(seed)
        encoder = FeatureEncoder([None, CategoryEmbedding(3, None)])
        module = FullyConnected([encoder.width, 6, 2], encoder=encoder)
        encoder.learn(X)
        return FitJob(
            module,
            nn.CrossEntropyLoss(),
            train,
            train,
            max_epochs=3,
            batch_size=16,
            seed=seed,
            reporter=History(),
        )

    alone = [make(seed) for seed in range(2)]
    for job in alone:
        assert stack_key(fabric, job) is not None
        loop._fit_module(fabric, job)
    for block_rows in (batches.BLOCK_ROWS, 20):
        # Few rows are encoded once, many block by block.
        monkeypatch.setattr("ml_project_template.training.dense_fit.BLOCK_ROWS", block_rows)
        together = [make(seed) for seed in range(2)]
        fit_together(fabric, together)
        for ours, theirs in zip(together, alone, strict=True):
            _expect_equal(ours, theirs)


@pytest.mark.parametrize("width", [4, None])
def test_an_encoder_that_learns_is_for_autograd(fabric: Fabric, width: int | None) -> None:
    X = torch.randint(0, 9, (53, 1)).float()
    # Of a gap even a one-hot coding learns a vector.
    X[3] = torch.nan
    encoder = FeatureEncoder([CategoryEmbedding(9, width)])
    job = FitJob(
        FullyConnected([encoder.width, 2], encoder=encoder),
        nn.CrossEntropyLoss(),
        (X, (X[:, 0] > 4).long()),
        max_epochs=3,
        batch_size=16,
        seed=0,
        reporter=History(),
    )
    encoder.learn(X)
    assert stack_key(fabric, job) is None
    with pytest.raises(ValueError, match="not the same stack_key"):
        fit_together(fabric, [job, job])
    weights = encoder.state_dict()
    before = {name: tensor.clone() for name, tensor in weights.items()}
    fit(fabric, job)
    assert any(not torch.equal(weights[name], before[name]) for name in before)


def test_jobs_of_other_shapes_have_other_keys(fabric: Fabric) -> None:
    same = [_job(0), _job(1, dropout=0.2), _job(2, train=_data(52), optimizer=OptimizerSettings())]
    other = [
        _job(0, normalization="layer"),
        _job(0, batch_size=8),
        _job(0, val=None),
        _job(0, train=_data(80)),
        _job(0, optimizer=OptimizerSettings("sgd")),
        _job(0, loss_function=nn.CrossEntropyLoss(torch.ones(2))),
    ]
    assert len({stack_key(fabric, job) for job in same}) == 1
    assert len({stack_key(fabric, job) for job in (*same, *other)}) == 1 + len(other)


def test_fitted_weights_are_tensors_of_their_own(fabric: Fabric) -> None:
    jobs = [_job(0), _job(1)]
    fit_together(fabric, jobs)
    for job in jobs:
        for parameter in job.module.parameters():
            assert parameter.untyped_storage().nbytes() == parameter.nbytes
            assert isinstance(parameter, nn.Parameter)


def test_a_half_precision_is_for_autograd() -> None:
    assert stack_key(make_fabric("cpu", "bf16-mixed"), _job(0)) is None


def test_a_line_of_the_log_says_how_it_is_fitted(
    fabric: Fabric, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO", logger="ml_project_template")
    fit(fabric, _job(0))
    fit_together(fabric, [_job(0), _job(1)])
    monkeypatch.setattr(batches, "_memory", lambda: 0)
    other = _job(0)
    other.module.register_forward_hook(lambda *_: None)
    fit(fabric, other)
    assert [record.getMessage().split("; ")[0] for record in caplog.records] == [
        "fitting a network with its derivatives written out: 53 rows, 0.000848 MB, in memory, in "
        "batches of 16",
        "fitting 2 networks in one go: 53 rows, 0.000848 MB, in memory, in batches of 16",
        "fitting a network by autograd: 53 rows, 0.000848 MB, read block by block, in batches of "
        "16",
    ]


def test_features_mapped_from_a_file_are_not_copied(fabric: Fabric, tmp_path: Path) -> None:
    X, y = _data(53)
    mapped = np.memmap(tmp_path / "X", dtype=np.float32, mode="w+", shape=(53, 4))
    mapped[:] = X.numpy()
    ours, theirs = _job(0, train=(torch.from_numpy(mapped), y)), _job(0, train=(X, y))
    assert ours.train[0].data_ptr() == mapped.ctypes.data
    fit(fabric, ours)
    fit(fabric, theirs)
    _expect_equal(ours, theirs)


@pytest.mark.parametrize(
    ("width", "n_rows", "batch_size", "n_jobs", "worth"),
    [
        (64, 100, 32, 2, True),
        (64, 100, 32, 1, False),
        (64, 5000, 1024, 16, True),
        (64, 5000, 4096, 16, False),
        # A batch has no more rows than there are.
        (64, 1000, 4096, 16, True),
        (1024, 100, 32, 16, False),
    ],
)
def test_small_steps_are_worth_to_be_taken_together(
    width: int, n_rows: int, batch_size: int, n_jobs: int, worth: bool
) -> None:
    job = FitJob(
        FullyConnected([4, width, width, 2]),
        nn.CrossEntropyLoss(),
        _data(n_rows),
        max_epochs=1,
        batch_size=batch_size,
        seed=0,
        reporter=History(),
    )
    assert worth_together(job, n_jobs) == worth
