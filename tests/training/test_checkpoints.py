"""Checkpoints: a fit that is stopped at any step goes on as if it had not been."""

from __future__ import annotations

import contextlib
import json
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import nn

from ml_project_template.errors import ArtifactError, ConfigError, DivergenceError
from ml_project_template.training.checkpoints import (
    CheckpointSettings,
    FitState,
    beside,
    open_checkpoints,
)
from ml_project_template.training.fabric import make_fabric
from ml_project_template.training.loop import FitJob, fit, stack_key
from ml_project_template.training.optimization import OptimizerSettings, ScheduleSettings
from ml_project_template.training.reporting import History

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@pytest.fixture(scope="module")
def fabric() -> Fabric:
    return make_fabric("cpu", "32-true")


class _Noisy(nn.Module):
    """Draws numbers of all kinds, and keeps a count: for autograd."""

    count: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = _dense()
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))

    def forward(self, X: torch.Tensor) -> torch.Tensor:
        import random

        import numpy as np

        if self.training:
            self.count += 1
            X = X * (1 + 0.01 * random.random() + 0.01 * np.random.rand())
        outputs: torch.Tensor = self.inner(X)
        return outputs


def _dense() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 2)
    )


def _data(n_rows: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    X = torch.randn(n_rows, 5, generator=torch.Generator().manual_seed(seed))
    return X, (X[:, 0] > 0).long()


def _job(module: str = "dense", **changes: Any) -> tuple[FitJob, History]:
    import random

    import numpy as np

    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)
    history = History()
    settings: dict[str, Any] = {
        "max_epochs": 4,
        "batch_size": 32,
        "seed": 1,
        "patience": 2,
        "schedule": ScheduleSettings("cosine"),
        **changes,
    }
    made = _dense() if module == "dense" else _Noisy()
    job = FitJob(
        made, nn.CrossEntropyLoss(), _data(150, 0), _data(50, 1), reporter=history, **settings
    )
    return job, history


class _StopsAt:
    """Keeps the state when it is asked for the n-th time, and stops the fit then."""

    is_asked = False

    def __init__(self, place: int, state: FitState | None = None) -> None:
        self.state = state
        self.saved: FitState | None = None
        self._left = place

    def due(self, epoch: int | None = None) -> bool:
        self._left -= 1
        return self._left == 0

    def save(self, state: FitState) -> None:
        # As it is after it was written and read.
        tensors = {name: tensor.clone() for name, tensor in state.tensors.items()}
        self.saved = FitState(state.kind, json.loads(json.dumps(state.numbers)), tensors)

    def obey(self) -> None:
        raise KeyboardInterrupt

    def watching(self) -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()


def _rmsprop(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.RMSprop(parameters, lr=0.01, momentum=0.5)


@pytest.mark.parametrize(
    "optimizer",
    [OptimizerSettings("adamw", weight_decay=0.1), OptimizerSettings("sgd", momentum=0.9, lr=0.1)],
    ids=["adamw", "sgd"],
)
@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
@pytest.mark.parametrize("module", ["dense", "autograd"])
def test_stopped_at_any_step_the_weights_are_the_same_to_the_bit(
    module: str, schedule: Any, optimizer: OptimizerSettings, fabric: Fabric
) -> None:
    changes = {"optimizer": optimizer, "schedule": ScheduleSettings(schedule, patience=0)}
    _check_each_step(fabric, module, changes)


def test_an_optimizer_of_somebodys_own_is_gone_on_with(fabric: Fabric) -> None:
    _check_each_step(fabric, "autograd", {"optimizer": _rmsprop, "keep_best": False})


def test_a_scaled_fit_is_gone_on_with() -> None:
    _check_each_step(make_fabric("cpu", "bf16-mixed"), "dense", {"gradient_clip_norm": 1.0})


def _check_each_step(fabric: Fabric, module: str, changes: Mapping[str, Any]) -> None:
    whole, reported = _job(module, **changes)
    result = fit(fabric, whole)
    n_stops = 0
    for place in range(1, 100):
        first = _StopsAt(place)
        stopped, before = _job(module, checkpoints=first, **changes)
        try:
            fit(fabric, stopped)
        except KeyboardInterrupt:
            n_stops += 1
        else:
            break
        second = _StopsAt(10**9, first.saved)
        gone_on, after = _job(module, checkpoints=second, **changes)
        assert fit(fabric, gone_on) == result
        assert before.rows + after.rows == reported.rows
        for name, tensor in whole.module.state_dict().items():
            assert torch.equal(gone_on.module.state_dict()[name], tensor), (place, name)
    # Four steps within each epoch, and one at its end.
    assert n_stops == 5 * result.epochs


def test_what_keeps_checkpoints_is_fitted_by_itself(fabric: Fabric) -> None:
    assert stack_key(fabric, _job()[0]) is not None
    assert stack_key(fabric, _job(checkpoints=_StopsAt(1))[0]) is None


def test_the_result_is_the_same_with_checkpoints_and_without(
    fabric: Fabric, tmp_path: Path
) -> None:
    whole, _ = _job()
    fit(fabric, whole)
    settings = CheckpointSettings(str(tmp_path / "c"), every_epochs=1, every_minutes=1e-9)
    with _opened(settings) as checkpoints:
        kept, _ = _job(checkpoints=checkpoints)
        fit(fabric, kept)
        assert list(tmp_path.rglob("*.safetensors"))
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(kept.module.state_dict()[name], tensor)
    assert list(tmp_path.iterdir()) == []


@contextlib.contextmanager
def _opened(settings: CheckpointSettings, **identity: Any) -> Any:
    with open_checkpoints(settings, None, lambda: {"model": "m", **identity}) as checkpoints:
        yield checkpoints


def _leave_one(path: Path, **identity: Any) -> FitState:
    state = FitState("somehow", {"course": {"epoch": 3}}, {"w": torch.arange(3.0)})
    with (
        contextlib.suppress(KeyboardInterrupt),
        _opened(CheckpointSettings(str(path)), **identity) as checkpoints,
    ):
        checkpoints.run_id = "r"
        assert checkpoints.seed(7) == 7
        checkpoints.history.append({"step": 1, "train_loss": 0.1 + 0.2})
        checkpoints.save(state)
        raise KeyboardInterrupt
    return state


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "c"
    state = _leave_one(path)
    for resume in (True, "auto"):
        with (
            contextlib.suppress(KeyboardInterrupt),
            _opened(CheckpointSettings(str(path), resume=resume)) as checkpoints,
        ):
            assert checkpoints.state.kind == state.kind
            assert checkpoints.state.numbers == state.numbers
            assert torch.equal(checkpoints.state.tensors["w"], state.tensors["w"])
            assert checkpoints.run_id == "r"
            assert checkpoints.seed(8) == 7
            assert checkpoints.history == [{"step": 1, "train_loss": 0.1 + 0.2}]
            raise KeyboardInterrupt
    # One that comes to its end removes it.
    with _opened(CheckpointSettings(str(path), resume=True)):
        pass
    assert list(tmp_path.iterdir()) == []
    with _opened(CheckpointSettings(str(path), resume="auto")) as checkpoints:
        assert checkpoints.state is None
    with (
        pytest.raises(ConfigError, match=r"resume: there is no checkpoint in '.*c'"),
        _opened(CheckpointSettings(str(path), resume=True)),
    ):
        pytest.fail("the block is not begun")


def test_the_checkpoint_of_another_training_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "c"
    _leave_one(path, training={"lr": 0.1, "epochs": 3})
    with (
        pytest.raises(
            ConfigError, match=r"of another training: training\.lr was 0\.1 and is 0\.2\."
        ),
        _opened(CheckpointSettings(str(path), resume=True), training={"lr": 0.2, "epochs": 3}),
    ):
        pytest.fail("the block is not begun")
    # It is there still.
    assert (path / "fit.safetensors").is_file()


@pytest.mark.parametrize("place", [0, 12, 200, -30, -1, None])
def test_a_damaged_checkpoint_is_refused(place: int | None, tmp_path: Path) -> None:
    path = tmp_path / "c"
    _leave_one(path)
    file = path / "fit.safetensors"
    content = bytearray(file.read_bytes())
    if place is None:
        del content[-5:]
    else:
        content[place] ^= 1
    file.write_bytes(content)
    with (
        pytest.raises(ArtifactError, match="the checkpoint in '.*c' is damaged"),
        _opened(CheckpointSettings(str(path), resume=True)),
    ):
        pytest.fail("the block is not begun")


def test_a_checkpoint_of_a_fit_of_another_kind_is_refused(fabric: Fabric) -> None:
    keeper = _StopsAt(3)
    with pytest.raises(KeyboardInterrupt):
        fit(fabric, _job("autograd", checkpoints=keeper)[0])
    with pytest.raises(
        ConfigError, match=r"a fit by autograd on cpu in 32-true, and this one goes"
    ):
        fit(fabric, _job("dense", checkpoints=_StopsAt(1, keeper.saved))[0])


HOLDS = """
import sys, time
from ml_project_template.training.checkpoints import CheckpointSettings, open_checkpoints
with open_checkpoints(CheckpointSettings(sys.argv[1]), None, dict) as checkpoints:
    print("held", flush=True)
    time.sleep(600)
"""


def test_nobody_takes_the_place_of_a_training_at_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c"
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(path)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with _opened(CheckpointSettings(str(path))) as checkpoints:
            assert checkpoints is None
        assert "keeps none" in caplog.text
        for resume in (True, "auto"):
            with (
                pytest.raises(ConfigError, match="another process is at the training"),
                _opened(CheckpointSettings(str(path), resume=resume)),
            ):
                pytest.fail("the block is not begun")
        other.kill()
    # The place of a dead one is free.
    with _opened(CheckpointSettings(str(path))) as checkpoints:
        assert checkpoints is not None
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_begins_anew_says_what_it_replaces(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "c"
    _leave_one(path)
    with _opened(CheckpointSettings(str(path))) as checkpoints:
        assert checkpoints.state is None
        assert checkpoints.run_id is None
    assert "resume=true would go on from it" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_without_a_place_there_are_no_checkpoints() -> None:
    with open_checkpoints(CheckpointSettings(), None, dict) as checkpoints:
        assert checkpoints is None
    with (
        pytest.raises(ConfigError, match=r"give checkpoint\.path"),
        open_checkpoints(CheckpointSettings(resume=True), None, dict),
    ):
        pytest.fail("the block is not begun")


def test_the_place_is_beside_the_model() -> None:
    assert beside("m", ".checkpoints") == ".checkpoints/m"
    assert beside("a/b/m/", ".checkpoints") == "a/b/.checkpoints/m"
    assert beside("/m", ".diverged") == "/.diverged/m"
    assert beside("s3://bucket/models/m", ".checkpoints") == "s3://bucket/models/.checkpoints/m"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_waits_for_a_checkpoint(
    number: signal.Signals, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    heard = []

    class Heard(Exception):  # noqa: N818
        pass

    def hear(signum: int, _frame: object) -> None:
        heard.append(signum)
        raise Heard

    def stopped() -> None:
        with _opened(CheckpointSettings(str(tmp_path / "c"))) as checkpoints:
            with checkpoints.watching():
                assert not checkpoints.due()
                signal.raise_signal(number)
                assert (heard, checkpoints.is_asked, checkpoints.due()) == ([], True, True)
                checkpoints.save(FitState("k", {"course": {"epoch": 3}}, {"w": torch.zeros(1)}))
                checkpoints.obey()
            pytest.fail("it is obeyed")

    before = signal.signal(number, hear)
    try:
        with pytest.raises(Heard):
            stopped()
        assert signal.getsignal(number) is hear
    finally:
        signal.signal(number, before)
    assert heard == [number]
    assert "Stopped in epoch 3. The checkpoint is in" in caplog.text
    assert (tmp_path / "c" / "fit.safetensors").is_file()


def test_a_checkpoint_that_cannot_be_written_does_not_end_the_fit(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with _opened(CheckpointSettings(str(tmp_path / "c"))) as checkpoints:
        (tmp_path / "c" / "fit.safetensors").mkdir()
        checkpoints.save(FitState("k", {"course": {"epoch": 3}}, {"w": torch.zeros(1)}))
        (tmp_path / "c" / "fit.safetensors").rmdir()
    assert "No checkpoint of epoch 3 in" in caplog.text


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"every_epochs": 2, "every_minutes": None}, [False, False, True, False, True]),
        ({"every_epochs": None, "every_minutes": None}, [False] * 5),
        ({"every_epochs": None, "every_minutes": 1e-9}, [True] * 5),
    ],
)
def test_it_is_due_by_epochs_or_minutes(
    settings: dict[str, Any], expected: list[bool], tmp_path: Path
) -> None:
    with (
        _opened(CheckpointSettings(str(tmp_path / "c"), **settings)) as checkpoints,
        checkpoints.watching(),
    ):
        assert [checkpoints.due(epoch) for epoch in (None, 1, 2, 3, 4)] == expected


@pytest.mark.parametrize("keep_best", [True, False])
@pytest.mark.parametrize("module", ["dense", "autograd"])
def test_a_fit_that_diverges_has_the_last_weights_that_were_good(
    module: str, keep_best: bool, fabric: Fabric
) -> None:
    class Poison(History):
        """Spoils the data when they have been gone through two times."""

        def report(self, step: int, metrics: Mapping[str, float], total: int | None = None) -> None:
            super().report(step, metrics, total)
            if step == 2:
                job.train[0].fill_(torch.nan)

    changes = {"keep_best": keep_best, "patience": None, "schedule": ScheduleSettings()}
    whole, _ = _job(module, **{**changes, "max_epochs": 2})
    result = fit(fabric, whole)
    job = FitJob(**{**vars(_job(module, **changes)[0]), "reporter": Poison()})
    with pytest.raises(DivergenceError, match="in epoch 3") as caught:
        fit(fabric, job)
    assert caught.value.good_epoch == result.best_epoch
    for name, tensor in whole.module.state_dict().items():
        assert torch.equal(job.module.state_dict()[name], tensor), name


def test_a_fit_that_diverges_stops_within_the_epoch(fabric: Fabric) -> None:
    steps = []

    class Loss(nn.Module):
        def forward(self, outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            steps.append(len(y))
            return nn.functional.cross_entropy(outputs, y) * torch.nan

    job, _ = _job("autograd", batch_size=2**15)
    X, y = _data(2**20, 0)
    job = FitJob(**{**vars(job), "loss_function": Loss(), "train": (X, y)})
    with pytest.raises(DivergenceError, match="train_loss is nan in epoch 1"):
        fit(fabric, job)
    assert len(steps) == 2
