"""What a worker does with a trial, however it ends."""

from __future__ import annotations

import logging
import math
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from ml_project_template.errors import ConfigError
from ml_project_template.sweeps import worker
from ml_project_template.sweeps.results import Objective, Trial
from ml_project_template.sweeps.study import StudySettings, SweepStudy
from ml_project_template.sweeps.worker import Pruned, TrialContext, work
from ml_project_template.utils.signals import Terminated


@pytest.fixture
def study(tmp_path: Path) -> SweepStudy:
    return _study(tmp_path)


def _study(folder: Path, n_trials: int = 3, **changes: Any) -> SweepStudy:
    settings: dict[str, Any] = {
        "name": "study",
        "storage": str(folder),
        "objectives": (Objective("val_loss", "minimize"),),
        "distributions": {"x": FloatDistribution(0.0, 1.0)},
        "n_trials": n_trials,
        "sampler": "random",
        "seed": 1,
    }
    return SweepStudy(StudySettings(**{**settings, **changes}))


def _complete(trial: TrialContext) -> None:
    trial.complete({"val_loss": trial.params["x"]})


def _first(other: Callable[[TrialContext], Any]) -> Callable[[TrialContext], None]:
    """Run the first trial in another way than the rest."""

    def run(trial: TrialContext) -> None:
        if trial.number == 0:
            other(trial)
        else:
            _complete(trial)

    return run


def _raise(error: BaseException) -> Callable[[TrialContext], None]:
    def run(trial: TrialContext) -> None:
        raise error

    return run


def _failure(study: SweepStudy, run: Callable[[TrialContext], Any]) -> Trial:
    """Run a study whose first trial fails, and none of the others."""
    assert work(study, _first(run)) == study.settings.n_trials
    first, *others = study.results().trials
    assert first.state == "failed"
    assert [trial.state for trial in others] == ["complete"] * len(others)
    return first


def test_all_trials_are_run(study: SweepStudy) -> None:
    assert work(study, _complete) == 3
    assert study.is_done()
    trials = study.results().trials
    assert [trial.values for trial in trials] == [(trial.params["x"],) for trial in trials]
    assert work(study, _complete) == 0


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConfigError("training.lr: too high\nmodel.x: no"), "training.lr: too high"),
        (ValueError("\n  \nno rows"), "no rows"),
        (ValueError(), "ValueError: "),
        (MemoryError(), "MemoryError: "),
        (KeyError("a"), "KeyError: 'a'"),
        (RuntimeError("CUDA out of memory"), "RuntimeError: CUDA out of memory"),
        (AssertionError("x" * 1000), "AssertionError: " + "x" * 484),
    ],
)
def test_an_error_ends_its_trial_alone(
    study: SweepStudy, error: BaseException, message: str
) -> None:
    assert _failure(study, _raise(error)).error == message


def test_an_objective_must_be_a_finite_number(study: SweepStudy) -> None:
    trial = _failure(study, lambda t: t.complete({"val_loss": math.nan, "val_f1": 1.0}))
    assert trial.error == "val_loss is nan."


def test_an_infinite_objective_is_a_failure(study: SweepStudy) -> None:
    assert _failure(study, lambda t: t.complete({"val_loss": -math.inf})).error == (
        "val_loss is -inf."
    )


def test_an_objective_must_be_among_the_metrics(study: SweepStudy) -> None:
    trial = _failure(study, lambda t: t.complete({"val_los": 0.5, "val_f1": 1.0}))
    assert trial.error == (
        "sweep.metric: Unknown metric 'val_loss'. Did you mean 'val_los'? Available: val_f1, "
        "val_los."
    )


def test_a_trial_that_says_nothing_of_its_end_has_failed(study: SweepStudy) -> None:
    trial = _failure(study, lambda _: None)
    assert trial.error == "AssertionError: a trial must be completed, pruned or failed"


def test_secrets_are_not_told_with_an_error(
    study: SweepStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DB_PASSWORD", "hunter22")
    trial = _failure(study, _raise(RuntimeError("no login for me with hunter22 at the host")))
    assert trial.error == "RuntimeError: no login for me with *** at the host"


def test_what_is_known_of_a_trial_is_kept_whatever_its_end(tmp_path: Path) -> None:
    study = _study(tmp_path, n_trials=3)

    def run(trial: TrialContext) -> None:
        trial.note(run_id=f"r{trial.number}")
        trial.note(output_dir="o")
        if trial.number == 0:
            raise ValueError("no")
        if trial.number == 1:
            trial.prune()
        else:
            values = trial.complete({"val_loss": 1, "val_f1": 0.5}, model_path="m")
            assert values == (1.0,)

    work(study, run)
    trials = study.results().trials
    assert [trial.state for trial in trials] == ["failed", "pruned", "complete"]
    assert [trial.run_id for trial in trials] == ["r0", "r1", "r2"]
    assert [trial.output_dir for trial in trials] == ["o"] * 3
    assert trials[2].metrics == {"val_loss": 1, "val_f1": 0.5}
    assert trials[2].model_path == "m"


def test_an_error_after_the_end_does_not_change_it(study: SweepStudy) -> None:
    def run(trial: TrialContext) -> None:
        _complete(trial)
        raise OSError("could not clean up")

    assert work(study, run) == 3
    assert [trial.state for trial in study.results().trials] == ["complete"] * 3


def test_a_fit_that_does_worse_is_pruned_from_inside(tmp_path: Path) -> None:
    study = _study(tmp_path, 4, pruner="median", pruner_options={"n_startup_trials": 2})
    errors = []

    def run(trial: TrialContext) -> None:
        assert trial.prunes
        loss = 0.5 if trial.number < 3 else 0.9
        try:
            for step in range(1, 4):
                trial.report(step, {"train_loss": 0.0, "val_loss": loss}, 3)
        except Pruned as pruned:
            errors.append(pruned)
            trial.prune()
        else:
            trial.complete({"val_loss": loss})

    assert work(study, run) == 4
    assert [trial.state for trial in study.results().trials] == ["complete"] * 3 + ["pruned"]
    (pruned,) = errors
    assert (pruned.step, str(pruned)) == (1, "pruned at step 1 with 0.9")


def test_a_fit_that_does_not_report_the_objective_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    study = _study(tmp_path, 1, pruner="median")

    def run(trial: TrialContext) -> None:
        for step in (1, 2):
            trial.report(step, {"train_loss": 0.5, "val_f1": 1.0}, 2)
        _complete(trial)

    work(study, run)
    (record,) = caplog.records
    assert record.getMessage() == (
        "val_loss is not reported during the fit (train_loss, val_f1 are): nothing can be pruned "
        "by it."
    )
    assert study.results().trials[0].intermediate == {}


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), Terminated(signal.SIGTERM), SystemExit(128 + signal.SIGINT)]
)
def test_who_is_asked_to_stop_gives_the_trial_back(study: SweepStudy, error: BaseException) -> None:
    with pytest.raises(type(error)):
        work(study, _raise(error))
    assert study.trial_states() == {0: "cut off"}
    assert not study.is_done()
    assert work(study, _complete) == 3
    assert study.trial_states() == {0: "cut off", 1: "complete", 2: "complete", 3: "complete"}
    before, after = study.optuna.trials[:2]
    assert before.params == after.params


def test_a_trial_that_had_ended_is_not_given_back(study: SweepStudy) -> None:
    def run(trial: TrialContext) -> None:
        _complete(trial)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(study, run)
    assert study.trial_states() == {0: "complete"}


@pytest.mark.parametrize("code", [0, 1, 3, None, "bye"])
def test_user_code_that_exits_is_a_failure_of_its_trial_alone(
    study: SweepStudy, code: int | str | None
) -> None:
    assert _failure(study, _raise(SystemExit(code))).error == f"SystemExit: {code}"


def _give_away(study: SweepStudy) -> None:
    """Take the first trial for dead, as somebody else who works on the study does."""
    number = study.optuna.trials[0]._trial_id
    study._storage.set_trial_user_attr(number, "cut_off", True)
    study._storage.set_trial_state_values(number, TrialState.FAIL)


@pytest.mark.parametrize("end", [_complete, _raise(ValueError("own")), _raise(SystemExit(1))])
def test_a_trial_that_was_given_to_somebody_else_does_not_end_the_worker(
    study: SweepStudy, caplog: pytest.LogCaptureFixture, end: Callable[[TrialContext], None]
) -> None:
    def lose(trial: TrialContext) -> None:
        _give_away(study)
        end(trial)

    with caplog.at_level(logging.WARNING):
        work(study, _first(lose))
    assert "trial 0 was taken for dead" in caplog.text
    assert [trial.number for trial in study.results().trials] == [1, 2, 3]
    assert [trial.state for trial in study.results().trials] == ["complete"] * 3


def test_who_is_asked_to_stop_stops_though_the_trial_is_somebody_elses(study: SweepStudy) -> None:
    def lose(_: TrialContext) -> None:
        _give_away(study)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work(study, _first(lose))
    assert study.trial_states() == {0: "cut off"}


def test_what_a_model_tells_need_not_be_plain(study: SweepStudy) -> None:
    def run(trial: TrialContext) -> None:
        trial.note(score=np.float32(1.5), model_path=Path("m"))
        metrics: dict[str, Any] = {"val_loss": np.float32(0.5), "val_f1": np.float64(1.0)}
        trial.complete(metrics, kind=Objective)

    assert work(study, run) == 3
    for trial in study.results().trials:
        assert (trial.state, trial.values, trial.model_path) == ("complete", (0.5,), "m")
        assert trial.metrics == {"val_loss": 0.5, "val_f1": 1.0}
    facts = study.optuna.trials[0].user_attrs["facts"]
    assert float(facts["score"]) == 1.5
    assert "Objective" in facts["kind"]


def test_a_worker_waits_for_the_trials_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.01)
    other, mine = _study(tmp_path, 1), _study(tmp_path, 1)
    claim = other.claim()
    assert claim is not None
    ran = []
    looks = threading.Semaphore(0)
    is_done = mine.is_done

    def look() -> bool:
        looks.release()
        return is_done()

    monkeypatch.setattr(mine, "is_done", look)

    def run(trial: TrialContext) -> None:
        ran.append(trial.number)
        _complete(trial)

    thread = threading.Thread(target=work, args=(mine, run))
    thread.start()
    for _ in range(2):
        assert looks.acquire(timeout=60)
    assert thread.is_alive()
    # Cut off: it is this worker's now.
    other.give_back(claim)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert ran == [1]
