"""A study that many work on: each slot is filled once, and what was cut off is run again."""

from __future__ import annotations

import collections
import dataclasses
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution

from ml_project_template.errors import ConfigError, SweepError
from ml_project_template.sweeps import storage
from ml_project_template.sweeps import study as study_module
from ml_project_template.sweeps.results import Objective
from ml_project_template.sweeps.storage import open_store
from ml_project_template.sweeps.study import (
    Claim,
    StudySettings,
    SupersededError,
    SweepStudy,
    read_results,
)
from ml_project_template.utils.processes import ProcessId, this_process

_LOSS = Objective("val_loss", "minimize")
_SPACE = {"x": FloatDistribution(0.0, 1.0), "act": CategoricalDistribution(["relu", "gelu"])}
_POINTS = tuple({"a": a, "b": b} for a in ("p", "q") for b in (1, 2))
_GRID = {"a": CategoricalDistribution(["p", "q"]), "b": CategoricalDistribution([1, 2])}

# Passed to a process of its own: claims, and dies with the trial.
_SCRIPT = """
import collections, json, os, pickle, signal, sys, time, traceback
import optuna, optuna.storages
from ml_project_template.sweeps.study import SweepStudy
from ml_project_template.sweeps.worker import work
from ml_project_template.utils.processes import this_process
settings = pickle.loads(bytes.fromhex(sys.argv[1]))
def in_child(function):
    child = os.fork()
    if child == 0:
        try:
            function()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return child
def die_with_a_trial(boss):
    def run():
        assert SweepStudy(settings, boss=boss).claim() is not None
        os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitpid(in_child(run), 0)[1] == signal.SIGKILL
"""


def _address(kind: str, request: pytest.FixtureRequest) -> str:
    if kind == "postgresql":
        return str(request.getfixturevalue("postgresql"))
    folder = request.getfixturevalue("tmp_path")
    return str(folder / "studies") if kind == "journal" else f"sqlite:///{folder}/s.db"


@pytest.fixture(params=["journal", "sqlite"])
def address(request: pytest.FixtureRequest) -> str:
    return _address(request.param, request)


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path / "studies")


def _settings(address: str, n_trials: int = 3, **changes: Any) -> StudySettings:
    plain = StudySettings(
        name="study",
        storage=address,
        objectives=(_LOSS,),
        distributions=_SPACE,
        n_trials=n_trials,
        sampler="random",
        seed=7,
    )
    return dataclasses.replace(plain, **changes)


def _grid(address: str) -> StudySettings:
    return _settings(address, 4, sampler="grid", distributions=_GRID, combinations=_POINTS)


def _claimed(study: SweepStudy) -> Claim:
    claim = study.claim()
    assert claim is not None
    return claim


def _finish(study: SweepStudy) -> list[dict[str, Any]]:
    """Run all that is left; returns what was tried."""
    tried = []
    while (claim := study.claim()) is not None:
        study.complete(claim, (float(claim.number),))
        tried.append(claim.params)
    return tried


def _slots(study: SweepStudy) -> list[int]:
    """The slots of the trials that count, in order of their numbers."""
    trials = study.optuna.trials
    return [t.user_attrs["slot"] for t in trials if not t.user_attrs.get("cut_off")]


def _python(code: str, settings: StudySettings) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT + code, pickle.dumps(settings).hex()],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if done.stdout else None


def _move_away(claim: Claim) -> None:
    """Have a trial be claimed by a process of another machine."""
    owner = dataclasses.replace(this_process(), machine="elsewhere").to_dict()
    claim.trial.set_user_attr("claim", {"owner": owner, "boss": owner})


def _taken_over(study: SweepStudy) -> Claim:
    """Claim a trial whose owner on another machine is silent."""
    assert study.claim() is None
    time.sleep(study.settings.heartbeat * 4 + 0.05)
    return _claimed(study)


# ---- slots


def test_each_slot_is_claimed_once_by_all_who_work_on_the_study(address: str) -> None:
    studies = [SweepStudy(_settings(address, 5)) for _ in range(2)]
    claims = [_claimed(studies[number % 2]) for number in range(5)]
    assert [claim.number for claim in claims] == [0, 1, 2, 3, 4]
    assert _slots(studies[0]) == [0, 1, 2, 3, 4]
    assert [study.claim() for study in studies] == [None, None]
    assert not studies[0].is_done()
    for number, claim in enumerate(claims):
        studies[number % 2].complete(claim, (0.5,))
    assert [study.is_done() for study in studies] == [True, True]
    assert [study.claim() for study in studies] == [None, None]


@pytest.mark.long
@pytest.mark.parametrize("kind", ["journal", "sqlite", "postgresql"])
def test_processes_that_work_at_once_fill_each_slot_once(
    kind: str, request: pytest.FixtureRequest
) -> None:
    settings = _settings(_address(kind, request), 13)
    code = """
def run(trial):
    trial.complete({"val_loss": trial.params["x"]}, pid=os.getpid())
children = [in_child(lambda: work(SweepStudy(settings), run)) for _ in range(4)]
assert not any([os.waitpid(child, 0)[1] for child in children])
study = SweepStudy(settings)
print(json.dumps([
    study.is_done(),
    [t.user_attrs["slot"] for t in study.optuna.trials],
    [t.state for t in study.results().trials],
    [t.params["x"] for t in study.results().trials],
]))
"""
    done, slots, states, tried = _python(code, settings)
    assert done
    assert sorted(slots) == list(range(13))
    assert states == ["complete"] * 13
    assert len(set(tried)) == 13


def test_values_have_the_types_that_they_were_given_with(folder: str) -> None:
    space = {"k": CategoricalDistribution([0.1, 3, True, "null", "[1,2]"])}
    study = SweepStudy(_settings(folder, 40, distributions=space))
    tried = {repr(params["k"]) for params in _finish(study)}
    assert tried == {"0.1", "3", "True", "'null'", "'[1,2]'"}
    assert {repr(trial.params["k"]) for trial in study.results().trials} == tried


def test_a_trial_that_fails_fills_its_slot(address: str) -> None:
    study = SweepStudy(_settings(address, 2))
    study.fail(_claimed(study), "no memory", run_id="r")
    study.prune(_claimed(study), run_id="s")
    assert study.claim() is None
    assert study.is_done()
    failed, pruned = study.results().trials
    assert (failed.state, failed.error, failed.run_id) == ("failed", "no memory", "r")
    assert (pruned.state, pruned.error, pruned.run_id) == ("pruned", None, "s")


def test_a_result_has_all_that_is_known_of_the_trial(address: str) -> None:
    study = SweepStudy(_settings(address, 2))
    claim = _claimed(study)
    study.complete(
        claim,
        (0.25,),
        metrics={"val_loss": 0.25, "val_f1": 1.0},
        overrides=["x=1"],
        model_path="m",
        output_dir="o",
        run_id="r",
    )
    _claimed(study)
    results = SweepStudy(_settings(address, 2)).results()
    done, running = results.trials
    assert (results.name, results.objectives, results.n_trials) == ("study", (_LOSS,), 2)
    assert (done.state, done.values, done.params) == ("complete", (0.25,), claim.params)
    assert (done.metrics, done.overrides) == ({"val_loss": 0.25, "val_f1": 1.0}, ("x=1",))
    assert (done.model_path, done.output_dir, done.run_id) == ("m", "o", "r")
    assert done.seconds is not None
    assert done.started is not None
    assert (running.state, running.values, running.seconds) == ("running", None, None)


def test_a_grid_has_each_combination_once(address: str) -> None:
    studies = [SweepStudy(_grid(address)) for _ in range(2)]
    # The second is given back, and is the next to be run.
    claims = [_claimed(studies[0]), _claimed(studies[1])]
    studies[1].give_back(claims.pop())
    claims += [_claimed(studies[number % 2]) for number in range(3)]
    assert [claim.params for claim in claims] == list(_POINTS)
    for claim in claims:
        studies[0].complete(claim, (1.0,))
    assert studies[1].is_done()
    assert [trial.params for trial in studies[1].results().trials] == list(_POINTS)


def test_more_trials_are_added_to_a_study_that_was_done(address: str) -> None:
    first = _finish(SweepStudy(_settings(address, 2)))
    study = SweepStudy(_settings(address, 4))
    assert not study.is_done()
    added = _finish(study)
    assert (len(first), len(added)) == (2, 2)
    assert _slots(study) == [0, 1, 2, 3]
    # As many as had been asked for at first are still there.
    assert SweepStudy(_settings(address, 2)).is_done()
    assert SweepStudy(_settings(address, 2)).claim() is None


def test_facts_about_a_study_are_kept_with_it(address: str) -> None:
    study = SweepStudy(_settings(address))
    assert study.get("design") is None
    assert study.get("design", {}) == {}
    study.set("design", {"a": [1, None]})
    assert SweepStudy(_settings(address)).get("design") == {"a": [1, None]}


def test_wrong_options_are_told_when_the_study_is_opened(folder: str) -> None:
    with pytest.raises(ConfigError, match="n_startup"):
        SweepStudy(_settings(folder, sampler="tpe", sampler_options={"n_startup": 1}))
    with pytest.raises(ConfigError, match="Unknown pruner"):
        SweepStudy(_settings(folder, pruner="mediann"))


# ---- seeds


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
def test_a_study_that_is_gone_on_with_draws_as_one_that_never_stopped(
    tmp_path: Path, sampler: str
) -> None:
    options = {"n_startup_trials": 2} if sampler == "tpe" else {}

    def settings(name: str, n_trials: int) -> StudySettings:
        address = str(tmp_path / name)
        return _settings(address, n_trials, sampler=sampler, sampler_options=options)

    whole = _finish(SweepStudy(settings("whole", 6)))
    parts = [SweepStudy(settings("parts", n)) for n in (2, 3, 6)]
    assert [params for part in parts for params in _finish(part)] == whole
    assert len({params["x"] for params in whole}) == 6


def test_draws_depend_on_the_seed(tmp_path: Path) -> None:
    def tried(name: str, seed: int | None) -> list[dict[str, Any]]:
        return _finish(SweepStudy(_settings(str(tmp_path / name), seed=seed)))

    assert tried("a", 1) == tried("b", 1)
    assert tried("c", 2) != tried("a2", 1)
    assert tried("d", None) != tried("e", None)
    # The seeds of two studies of neighbouring seeds are not the same ones, one trial later.
    assert not {p["x"] for p in tried("f", 3)} & {p["x"] for p in tried("g", 4)}


@pytest.mark.parametrize("sampler", ["random", "tpe", "qmc"])
@pytest.mark.parametrize("cut", [0, 3])
def test_a_trial_that_was_cut_off_changes_no_draw(tmp_path: Path, sampler: str, cut: int) -> None:
    options = {"n_startup_trials": 2} if sampler == "tpe" else {}

    def settings(name: str) -> StudySettings:
        address = str(tmp_path / name)
        return _settings(address, 6, sampler=sampler, sampler_options=options)

    whole = _finish(SweepStudy(settings("whole")))
    study = SweepStudy(settings("parts"))
    tried = []
    for _ in range(cut):
        claim = _claimed(study)
        study.complete(claim, (float(claim.number),))
        tried.append(claim.params)
    study.give_back(_claimed(study))
    again = SweepStudy(settings("parts"))
    while (claim_or_none := again.claim()) is not None:
        # The value that it has in the other study, whose numbers count no trial that was cut off.
        again.complete(claim_or_none, (float(claim_or_none.number - 1),))
        tried.append(claim_or_none.params)
    assert tried == whole


# ---- trials that are cut off


def test_a_trial_that_is_given_back_is_the_next_one_with_the_same_settings(address: str) -> None:
    study = SweepStudy(_settings(address, 2))
    claim = _claimed(study)
    study.give_back(claim)
    assert not study.is_done()
    other = SweepStudy(_settings(address, 2))
    again = _claimed(other)
    assert (again.number, again.params) == (1, claim.params)
    assert _claimed(study).params != claim.params
    assert _slots(study) == [0, 1]
    assert study.trial_states() == {0: "cut off", 1: "running", 2: "running"}
    assert [trial.number for trial in study.results().trials] == [1, 2]


def test_a_trial_whose_process_is_killed_is_the_next_one_at_once(address: str) -> None:
    # A heart that beats once in an hour: that the process is gone is seen without it.
    settings = _settings(address, 1, heartbeat=3600.0)
    code = """
claim = SweepStudy(settings).claim()
print(json.dumps(claim.params), flush=True)
sys.stdin.read()
"""
    study = SweepStudy(settings)
    with subprocess.Popen(
        [sys.executable, "-c", _SCRIPT + code, pickle.dumps(settings).hex()],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        params = json.loads(process.stdout.readline())
        assert study.claim() is None
        assert study.others_at_work()
        process.kill()
        process.wait()
        assert not study.others_at_work()
        again = _claimed(study)
    assert (again.number, again.params) == (1, params)
    study.complete(again, (0.5,))
    assert study.is_done()
    assert study.trial_states() == {0: "cut off", 1: "complete"}


def test_a_trial_that_takes_its_process_down_again_and_again_has_failed(address: str) -> None:
    settings = _settings(address, 2)
    code = """
me = this_process()
for _ in range(3):
    die_with_a_trial(me)
study = SweepStudy(settings)
claim = study.claim()
study.complete(claim, (0.5,))
results = study.results()
print(json.dumps([
    study.trial_states(), results.failed[0].error, study.is_done(),
    [t.params for t in study.optuna.trials[:3]],
]))
"""
    states, error, done, tried = _python(code, settings)
    assert list(states.values()) == ["cut off", "cut off", "failed", "complete"]
    assert error == "the process that ran it was killed 3 times: is memory too small?"
    assert done
    assert tried[0] == tried[1] == tried[2]


def test_a_trial_is_not_to_blame_where_the_whole_sweep_was_killed(folder: str) -> None:
    settings = _settings(folder, 1)
    # Twice with somebody who watches, then with nobody left to watch: no third time.
    code = """
me = this_process()
die_with_a_trial(me)
die_with_a_trial(me)
for _ in range(4):
    die_with_a_trial(None)
"""
    _python(code, settings)
    study = SweepStudy(settings)
    study.complete(_claimed(study), (0.5,))
    assert list(study.trial_states().values()) == ["cut off"] * 6 + ["complete"]


def test_a_process_that_dies_while_it_claims_leaves_nothing_behind(address: str) -> None:
    study = SweepStudy(_settings(address, 2))
    # Dead after it has put a trial in the queue, and after it has taken one out.
    attrs = {"slot": 0, "deaths": 0}
    study.optuna.enqueue_trial({"x": 0.125, "act": "gelu"}, user_attrs=attrs)
    study.optuna.ask(_SPACE)
    again = _claimed(study)
    assert (again.number, again.params) == (1, {"x": 0.125, "act": "gelu"})
    study.optuna.enqueue_trial({"x": 0.25, "act": "relu"}, user_attrs={"slot": 1, "deaths": 0})
    other = _claimed(study)
    assert other.params == {"x": 0.25, "act": "relu"}
    assert study.claim() is None
    assert _slots(study) == [0, 1]


def test_a_process_that_dies_while_it_draws_anew_loses_nothing_of_what_was_cut_off(
    address: str,
) -> None:
    study = SweepStudy(_settings(address, 1))
    claim = _claimed(study)
    study.give_back(claim)
    # The next one is dead before anything of it is written but what was fixed for it.
    study.optuna.enqueue_trial(claim.params, user_attrs={"slot": 0, "deaths": 0})
    study.optuna.ask()
    again = _claimed(study)
    assert (again.number, again.params) == (2, claim.params)


def test_a_trial_that_ends_while_it_is_taken_for_dead_counts(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = _settings(address, 1, heartbeat=0.02)
    away, here = SweepStudy(settings), SweepStudy(settings)
    claim = _claimed(away)
    _move_away(claim)
    assert here.claim() is None
    time.sleep(settings.heartbeat * 4 + 0.05)
    is_dead = here._is_dead

    def late(trial: Any) -> bool:
        dead = is_dead(trial)
        # In the moment between the look and the writing of its death.
        away.complete(claim, (0.5,))
        return dead

    monkeypatch.setattr(here, "_is_dead", late)
    assert here.claim() is None
    assert here.is_done()
    assert here.trial_states() == {0: "complete"}
    assert here.results().trials[0].values == (0.5,)


def test_a_trial_that_was_about_to_be_cut_off_and_has_a_result_counts(address: str) -> None:
    study = SweepStudy(_settings(address, 1))
    claim = _claimed(study)
    # Written before the end, by somebody who has died since.
    claim.trial.set_user_attr("cut_off", True)
    study.complete(claim, (0.5,))
    assert study.claim() is None
    assert study.is_done()
    assert study.trial_states() == {0: "complete"}
    assert [trial.values for trial in study.results().trials] == [(0.5,)]


def test_a_silent_trial_of_another_machine_is_taken_over(address: str) -> None:
    settings = _settings(address, 1, heartbeat=0.02)
    away, here = SweepStudy(settings), SweepStudy(settings)
    claim = _claimed(away)
    _move_away(claim)
    assert SweepStudy(settings).others_at_work()
    again = _taken_over(here)
    assert (again.number, again.params) == (1, claim.params)
    here.complete(again, (0.5,))
    assert not here.others_at_work()


def test_a_trial_of_another_machine_is_left_alone_while_its_heart_beats(address: str) -> None:
    settings = _settings(address, 1, heartbeat=0.02)
    away, here = SweepStudy(settings), SweepStudy(settings)
    claim = _claimed(away)
    _move_away(claim)
    for beat in range(3):
        # However long ago the last look was: a new beat is a sign of life. Its time is another's.
        claim.trial.set_user_attr("beat", -beat)
        assert here.claim() is None
        time.sleep(0.15)
    away.complete(claim, (0.5,))
    assert here.claim() is None
    assert here.is_done()


def test_a_trial_of_another_machine_is_given_its_time(folder: str) -> None:
    settings = _settings(folder, 1, heartbeat=3600.0)
    away, here = SweepStudy(settings), SweepStudy(settings)
    _move_away(_claimed(away))
    assert [here.claim() for _ in range(3)] == [None] * 3


@pytest.mark.parametrize("end", ["complete", "prune", "fail", "give_back"])
def test_who_was_taken_for_dead_has_no_result(address: str, end: str) -> None:
    settings = _settings(address, 1, heartbeat=0.02)
    away, here = SweepStudy(settings), SweepStudy(settings)
    claim = _claimed(away)
    _move_away(claim)
    again = _taken_over(here)
    ends: dict[str, Callable[[], None]] = {
        "complete": lambda: away.complete(claim, (0.0,)),
        "prune": lambda: away.prune(claim),
        "fail": lambda: away.fail(claim, "too late"),
        "give_back": lambda: away.give_back(claim),
    }
    with pytest.raises(SupersededError, match="^trial 0 was taken for dead"):
        ends[end]()
    here.complete(again, (0.5,))
    (trial,) = here.results().trials
    assert (trial.number, trial.values) == (1, (0.5,))


def test_a_trial_ends_once(address: str) -> None:
    study = SweepStudy(_settings(address, 1))
    claim = _claimed(study)
    study.complete(claim, (0.5,))
    with pytest.raises(SupersededError):
        study.complete(claim, (0.25,))
    assert study.results().trials[0].values == (0.5,)


def test_a_trial_gives_signs_of_life_while_it_runs(address: str) -> None:
    study = SweepStudy(_settings(address, 1, heartbeat=0.01))
    claim = _claimed(study)

    def beat() -> Any:
        return study.optuna.trials[0].user_attrs.get("beat")

    seen: set[Any] = set()
    deadline = time.monotonic() + 60
    with study.alive([claim]):
        while len(seen - {None}) < 2:
            assert time.monotonic() < deadline
            seen.add(beat())
    last = beat()
    time.sleep(0.05)
    assert beat() == last


def test_a_sign_of_life_that_cannot_be_given_does_not_matter(
    folder: str, caplog: pytest.LogCaptureFixture
) -> None:
    study = SweepStudy(_settings(folder, 1, heartbeat=0.01))
    claim = _claimed(study)
    deadline = time.monotonic() + 60
    with caplog.at_level(logging.DEBUG, "ml_project_template.sweeps.study"), study.alive([claim]):
        study.complete(claim, (0.5,))
        while "no sign of life for trial 0" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert study.is_done()


# ---- others who use the study


def test_a_point_that_somebody_put_into_the_queue_is_run_as_one_of_the_trials(
    address: str,
) -> None:
    study = SweepStudy(_settings(address, 3))
    for x in (0.125, 0.25):
        study.optuna.enqueue_trial({"x": x})
    tried = _finish(study)
    assert [params["x"] for params in tried][:2] == [0.125, 0.25]
    assert len(tried) == 3
    assert all(params["act"] in ("relu", "gelu") for params in tried)
    assert sorted(_slots(study)) == [0, 1, 2]


def test_a_point_is_run_though_the_study_is_done(address: str) -> None:
    study = SweepStudy(_settings(address, 2))
    _finish(study)
    study.optuna.enqueue_trial({"x": 0.125, "act": "relu"})
    assert _finish(study) == [{"x": 0.125, "act": "relu"}]
    assert len(study.results().trials) == 3
    assert study.is_done()


def test_a_point_that_is_cut_off_is_run_again(address: str) -> None:
    study = SweepStudy(_settings(address, 1))
    study.optuna.enqueue_trial({"x": 0.125, "act": "relu"})
    study.give_back(_claimed(study))
    assert _finish(study) == [{"x": 0.125, "act": "relu"}]


def test_a_point_from_outside_takes_no_combination_of_a_grid(address: str) -> None:
    study = SweepStudy(_grid(address))
    study.optuna.enqueue_trial({"a": "q", "b": 2})
    first, *others = _finish(study)
    assert first == {"a": "q", "b": 2}
    assert others == list(_POINTS)
    assert study.is_done()


def test_a_point_that_is_not_in_the_space_has_failed(address: str) -> None:
    study = SweepStudy(_settings(address, 2))
    study.optuna.enqueue_trial({"x": 0.5, "act": "tanh"})
    assert len(_finish(study)) == 1
    assert study.is_done()
    failed, complete = study.results().trials
    assert (failed.state, complete.state) == ("failed", "complete")
    assert failed.error is not None
    assert failed.error.startswith("a point from outside is not in the space: ")
    assert "tanh" in failed.error
    assert len(failed.error.splitlines()) == 1


def test_a_claim_is_not_that_of_somebody_who_works_for_the_same_sweep(folder: str) -> None:
    settings = _settings(folder, 1)
    boss = dataclasses.replace(this_process(), machine="elsewhere")
    worker = SweepStudy(settings, boss=boss)
    claim = _claimed(worker)
    state = claim.trial.user_attrs["claim"]
    assert ProcessId.from_dict(state["owner"]) == this_process()
    assert ProcessId.from_dict(state["boss"]) == boss
    assert not worker.others_at_work()
    assert SweepStudy(settings).others_at_work()


# ---- pruning, and several objectives


def test_a_trial_that_does_worse_than_others_is_pruned(address: str) -> None:
    settings = _settings(address, 4, pruner="median", pruner_options={"n_startup_trials": 2})
    study = SweepStudy(settings)
    assert study.prunes
    for value in (0.2, 0.3, 0.1):
        claim = _claimed(study)
        assert not any(study.report(claim, step, value, 3) for step in (1, 2, 3))
        study.complete(claim, (value,))
    claim = _claimed(SweepStudy(settings))
    assert study.report(claim, 1, 0.9, 3)
    study.prune(claim)
    trial = study.results().trials[-1]
    assert (trial.state, trial.values, trial.intermediate) == ("pruned", None, {1: 0.9})
    assert study.is_done()


@pytest.mark.parametrize(
    ("total", "reported"),
    [
        (10, list(range(1, 101))),
        (None, list(range(1, 101))),
        (49, list(range(1, 101))),
        (100, [1, *range(4, 101, 4)]),
        (1000, [1, 40, 80]),
    ],
)
def test_a_long_fit_is_not_reported_step_by_step(
    folder: str, total: int | None, reported: list[int]
) -> None:
    study = SweepStudy(_settings(folder, 1))
    claim = _claimed(study)
    for step in range(1, 101):
        assert not study.report(claim, step, 0.5, total)
    study.complete(claim, (0.5,))
    assert list(study.results().trials[0].intermediate) == reported


@pytest.mark.parametrize("sampler", ["random", "tpe", "nsgaii"])
def test_a_study_may_have_several_objectives(address: str, sampler: str) -> None:
    both = (_LOSS, Objective("val_accuracy", "maximize"))
    study = SweepStudy(_settings(address, 3, objectives=both, sampler=sampler, pruner="median"))
    for values in ((0.5, 0.9), (0.1, 0.6), (0.5, 0.6)):
        study.complete(_claimed(study), values)
    assert not study.prunes
    results = study.results()
    assert [trial.values for trial in results.trials] == [(0.5, 0.9), (0.1, 0.6), (0.5, 0.6)]
    assert [trial.number for trial in results.pareto()] == [1, 0]
    assert [d.name for d in study.optuna.directions] == ["MINIMIZE", "MAXIMIZE"]


def test_nothing_is_pruned_without_a_pruner(folder: str) -> None:
    assert not SweepStudy(_settings(folder)).prunes


# ---- looking at a study


def test_a_study_can_be_looked_at_without_working_on_it(address: str) -> None:
    study = SweepStudy(_settings(address, 3))
    study.set("metrics", ["val_loss"])
    study.set("n_trials", 3)
    study.give_back(_claimed(study))
    study.complete(_claimed(study), (0.5,), metrics={"val_loss": 0.5})
    results, facts, found = read_results(open_store(address), "study")
    assert results == study.results()
    assert facts == {"metrics": ["val_loss"], "n_trials": 3}
    assert [t.number for t in found.trials] == [0, 1]


def test_a_study_of_somebody_else_can_be_looked_at(address: str) -> None:
    two = (Objective("a", "maximize"), Objective("b", "minimize"))
    study = SweepStudy(_settings(address, 3, objectives=two))
    study.complete(_claimed(study), (0.5, 0.25))
    study.optuna.enqueue_trial({})
    results, _, _ = read_results(open_store(address), "study")
    assert results.objectives == (
        Objective("value_0", "maximize"),
        Objective("value_1", "minimize"),
    )
    assert results.n_trials == 2
    assert collections.Counter(t.state for t in results.trials) == {"complete": 1, "waiting": 1}


def test_a_study_that_is_not_there_is_told_with_those_that_are(address: str) -> None:
    SweepStudy(_settings(address))
    with pytest.raises(SweepError, match="^study: Unknown study 'studi'. Did you mean 'study'?"):
        read_results(open_store(address), "studi")


def test_a_journal_that_was_renamed_is_told_in_one_line(tmp_path: Path) -> None:
    SweepStudy(_settings(str(tmp_path)))
    (tmp_path / "study.journal").rename(tmp_path / "other.journal")
    with pytest.raises(SweepError, match="holds something else under the name 'other'") as caught:
        read_results(open_store(str(tmp_path)), "other")
    assert len(str(caught.value).splitlines()) == 1


# ---- what it costs


def _writes(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Note each write to a journal, and whether the disk is waited for."""
    made: list[bool] = []
    locked = storage._locked_journal

    def note_write(path: Path) -> Any:
        made.append(False)
        return locked(path)

    def note_wait(descriptor: int) -> None:
        made[-1] = True

    monkeypatch.setattr(storage, "_locked_journal", note_write)
    monkeypatch.setattr(os, "fsync", note_wait)
    return made


def test_a_trial_is_claimed_by_one_write_and_ended_by_one(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = SweepStudy(_settings(folder, pruner="median"))
    writes = _writes(monkeypatch)
    claim = _claimed(study)
    assert writes == [False]
    for step in range(1, 26):
        assert not study.report(claim, step, 0.5, 25)
    assert writes == [False]
    study.complete(claim, (0.5,), run_id="r")
    assert writes == [False, True]
    (trial,) = SweepStudy(study.settings).results().trials
    assert (trial.state, trial.run_id, len(trial.intermediate)) == ("complete", "r", 25)


def test_trials_are_claimed_together_by_one_write(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = SweepStudy(_settings(folder, 8))
    writes = _writes(monkeypatch)
    assert [claim.number for claim in study.claim_some(5)] == [0, 1, 2, 3, 4]
    assert writes == [False]


def test_what_a_long_fit_reports_is_seen_by_others_while_it_goes_on(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_module, "_REPORT_SECONDS", 0.0)
    study = SweepStudy(_settings(address, pruner="median"))
    claim = _claimed(study)
    study.report(claim, 1, 0.5, 10)
    (trial,) = SweepStudy(study.settings).results().trials
    assert (trial.state, trial.intermediate) == ("running", {1: 0.5})


def test_trials_that_are_claimed_together_are_those_that_are_claimed_one_by_one(
    tmp_path: Path,
) -> None:
    together = SweepStudy(_settings(str(tmp_path / "a"), 6))
    alone = SweepStudy(_settings(str(tmp_path / "b"), 6))
    one_by_one = [_claimed(alone) for _ in range(6)]
    assert [c.params for c in together.claim_some(9)] == [c.params for c in one_by_one]
    assert together.claim_some(9) == []


def test_workers_share_the_last_trials(address: str) -> None:
    study = SweepStudy(_settings(address, 11))
    taken = []
    while claims := study.claim_some(4, workers=2):
        taken.append(len(claims))
    assert taken == [4, 4, 2, 1]


def test_who_claims_several_leaves_them_all_when_killed(folder: str) -> None:
    settings = _settings(folder, 4)
    done = subprocess.run(
        [
            *(sys.executable, "-c"),
            "import os, pickle, signal, sys\n"
            "from ml_project_template.sweeps.study import SweepStudy\n"
            "study = SweepStudy(pickle.loads(bytes.fromhex(sys.argv[1])))\n"
            "assert len(study.claim_some(3)) == 3\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n",
            pickle.dumps(settings).hex(),
        ],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    study = SweepStudy(settings)
    before = [trial.params for trial in study.optuna.trials]
    assert [claim.params for claim in study.claim_some(3)] == before
