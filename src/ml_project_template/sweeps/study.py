"""A study that any number of processes work on: each trial is claimed by one of them.

A sweep of ``n_trials`` has as many *slots*. A slot is filled by a trial that has finished, was
pruned or has failed by itself; a trial whose process was killed leaves it open, and the next one to
come claims it with the same settings. Claims are made under a lock, so that no slot is filled
twice, and the end of a trial is one write to the storage: it counts from there on.

Each write to a storage is waited for, so there are few of them: one for all trials that are claimed
at once, one for the end of a trial with all that is known of it, and while a fit goes on one every
few seconds.
"""

from __future__ import annotations

import copy
import logging
import threading
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optuna.trial import TrialState

from ml_project_template.errors import SweepError
from ml_project_template.sweeps.results import Objective, SweepResults
from ml_project_template.sweeps.results import Trial as TrialResult
from ml_project_template.sweeps.samplers import GRID, ONE_SEQUENCE, make_pruner, make_sampler
from ml_project_template.sweeps.storage import StudyStore, open_store
from ml_project_template.utils.processes import ProcessId, this_process

if TYPE_CHECKING:
    import optuna
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

__all__ = ["Claim", "StudySettings", "SupersededError", "SweepStudy", "read_results"]

_logger = logging.getLogger(__name__)

# How often a trial may take the process that runs it down before it counts as failed.
_MOST_DEATHS = 3
# Beats of a heart that may be missed before its owner, on another machine, is taken for dead.
_MISSED_BEATS = 4
# Past this many steps a fit is compared with others about as often all the same.
_REPORTS = 25
# Between two writes of what the fits of a process report: others who look want to see it, too.
_REPORT_SECONDS = 2.0


class SupersededError(SweepError):
    """The trial was taken for dead and given to somebody else: its result does not count."""


@dataclass(frozen=True)
class StudySettings:
    """What makes a study, as plain values: workers are sent it.

    Attributes:
        name: Its name in the storage.
        storage: Where it is kept, as for `open_store`.
        objectives: What trials are compared by.
        distributions: Override key to what it may be.
        n_trials: How many trials it is to have, whoever runs them.
        combinations: The points of a grid, one for each trial; None lets the sampler choose.
        sampler: One of ``samplers.SAMPLERS``, or ``grid``.
        sampler_options: Arguments of its class.
        pruner: One of ``samplers.PRUNERS``.
        pruner_options: Arguments of its class.
        seed: Of the sampler: draws depend on it, on the trial's number and on what came before.
        heartbeat: Seconds between two signs of life of a running trial.
    """

    name: str
    storage: str
    objectives: tuple[Objective, ...]
    distributions: Mapping[str, BaseDistribution]
    n_trials: int
    combinations: tuple[Mapping[str, Any], ...] | None = None
    sampler: str = "tpe"
    sampler_options: Mapping[str, Any] = field(default_factory=dict)
    pruner: str = "none"
    pruner_options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    heartbeat: float = 15.0


@dataclass
class Claim:
    """A trial that is this process's to run.

    Attributes:
        trial: Optuna's trial.
        number: Its number in the study.
        params: Override key to the value that is tried.
        reported: Step to the objective's value there, as far as it is known.
    """

    trial: optuna.Trial
    number: int
    params: dict[str, Any]
    reported: dict[int, float] = field(default_factory=dict)
    # What of it the storage does not have yet.
    unwritten: dict[int, float] = field(default_factory=dict)


class SweepStudy:
    """A study as a process sees it; see the module's text.

    Args:
        settings: What makes it.
        boss: The process that watches over this one, if another.
    """

    def __init__(self, settings: StudySettings, *, boss: ProcessId | None = None) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.settings = settings
        self.store: StudyStore = open_store(settings.storage)
        self._me = this_process()
        self._boss = boss or self._me
        # Trial number to the last sign of life that was seen, and when.
        self._pulse: dict[int, tuple[Any, float]] = {}
        # What was reported and is not written yet is so since then.
        self._reported_at = time.monotonic()
        storage = self.store.open(settings.name)
        self._storage = storage
        with self.locked(), self.store.reading(settings.name):
            self.optuna: optuna.Study = optuna.create_study(
                study_name=settings.name,
                storage=storage,
                directions=[objective.direction for objective in settings.objectives],
                pruner=make_pruner(settings.pruner, settings.pruner_options),
                load_if_exists=True,
            )
        if settings.sampler != GRID:
            # Wrong options are told now, not by the first worker.
            self.optuna.sampler = self._sampler(0)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the study's lock for a block."""
        with self.store.lock(self.settings.name):
            yield

    # ---- facts about the whole study, set once

    def get(self, key: str, default: Any = None) -> Any:
        """Read a fact about the study."""
        return self.optuna.user_attrs.get(key, default)

    def set(self, key: str, value: Any) -> None:
        """Write a fact about the study, as plain JSON."""
        self.optuna.set_user_attr(key, value)

    # ---- claiming

    def claim(self) -> Claim | None:
        """Take the next trial.

        Returns:
            The trial; None where nothing is free now: look at `is_done` whether to wait.

        Raises:
            SweepError: The storage can't be used.
        """
        return next(iter(self.claim_some(1)), None)

    def claim_some(self, most: int, *, workers: int = 1) -> list[Claim]:
        """Take the next trials, for one who runs several at once.

        Args:
            most: How many at most.
            workers: How many share what is left: nobody takes more than an equal part of it, so
                that all of them have work until the end.

        Returns:
            The trials; none where nothing is free now: look at `is_done` whether to wait.

        Raises:
            SweepError: The storage can't be used.
        """
        with self.locked(), _quiet():
            self._settle()
            # A power cut may undo it: who has made the claims is gone then as well.
            with self.store.one_write(lasting=False):
                claims = self._claims(most, workers)
        return claims

    def _claims(self, most: int, workers: int) -> list[Claim]:
        claims: list[Claim] = []
        trials = self._trials()
        free = sum(trial.state.name == "WAITING" for trial in trials)
        free += len(self._open_slots(trials))
        while len(claims) < min(most, max(1, -(-free // workers))):
            if not any(trial.state.name == "WAITING" for trial in trials):
                slot = next(iter(self._open_slots(trials)), None)
                if slot is None:
                    break
                self.optuna.enqueue_trial(
                    self._point(slot, trials),
                    user_attrs={"slot": slot, "deaths": _deaths(slot, trials)},
                )
                trials = self._trials()
            waiting = next(trial for trial in trials if trial.state.name == "WAITING")
            suspect = waiting.user_attrs.get("deaths", 0) > 0
            if suspect and claims:
                break
            claim = self._take(waiting, trials)
            if claim is not None:
                claims.append(claim)
            # One that may have taken its process down must not take others with it.
            if suspect:
                break
            trials = self._trials()
        return claims

    def is_done(self) -> bool:
        """Say whether every slot is filled by a trial that has ended."""
        trials = self._trials()
        ended = {_slot(t) for t in trials if _counts(t) and t.state.is_finished()}
        return len(ended & set(range(self.settings.n_trials))) == self.settings.n_trials

    def others_at_work(self) -> bool:
        """Say whether a trial is run by a process that belongs to somebody else."""
        running = [t for t in self._trials() if t.state.name == "RUNNING"]
        return any(_process(t, "boss") != self._boss and not self._is_dead(t) for t in running)

    # ---- how a trial ends

    def complete(self, claim: Claim, values: tuple[float, ...], **facts: Any) -> None:
        """Record the result of a trial: from here on it counts.

        Args:
            claim: The trial.
            values: The objectives' values, finite.
            facts: What else is known of it, such as ``metrics`` and ``model_path``.

        Raises:
            SupersededError: Somebody else has been given the trial.
        """
        self._end(claim, "COMPLETE", {"facts": facts}, values)

    def prune(self, claim: Claim, **facts: Any) -> None:
        """Record that a trial was ended early because it did worse than others."""
        self._end(claim, "PRUNED", {"facts": facts})

    def fail(self, claim: Claim, error: str, **facts: Any) -> None:
        """Record that a trial has failed by itself: it is not run again."""
        self._end(claim, "FAIL", {"facts": {"error": error, **facts}})

    def give_back(self, claim: Claim) -> None:
        """Leave a trial to whoever comes next: its process was asked to stop."""
        self._end(claim, "FAIL", {"cut_off": True})

    @contextmanager
    def alive(self, claims: Sequence[Claim]) -> Iterator[None]:
        """Give signs of life for trials while a block runs.

        Args:
            claims: The trials; one that ends meanwhile is passed over from there on.
        """
        ended = threading.Event()
        left = list(claims)

        def beat() -> None:
            while not ended.wait(self.settings.heartbeat):
                try:
                    with self.store.one_write(lasting=False):
                        for claim in list(left):
                            self._beat(claim, left)
                except Exception as error:
                    # The storage is away for a moment: the next one tells.
                    numbers = ", ".join(str(claim.number) for claim in left)
                    _logger.debug("no sign of life for trial %s: %s", numbers, error)

        thread = threading.Thread(target=beat, name="trials-alive", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _beat(self, claim: Claim, left: list[Claim]) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            self._storage.set_trial_user_attr(claim.trial._trial_id, "beat", time.time())
        except UpdateFinishedTrialError as error:
            _logger.debug("no sign of life for trial %d: %s", claim.number, error)
            left.remove(claim)

    def report(self, claim: Claim, step: int, value: float, total: int | None) -> bool:
        """Tell how a trial does, for pruning.

        Args:
            claim: The trial.
            step: The epoch or boosting stage, counted from 1.
            value: The objective's value there.
            total: How many steps there will be at most.

        Returns:
            Whether the trial is to be pruned.
        """
        if step > 1 and step % max(1, (total or 0) // _REPORTS):
            return False
        claim.reported[step] = claim.unwritten[step] = float(value)
        if time.monotonic() - self._reported_at > _REPORT_SECONDS:
            with self.store.one_write(lasting=False):
                self._write_reports(claim)
        # As the storage has it, but for what it does not have yet.
        trial = copy.copy(self._storage.get_trial(claim.trial._trial_id))
        trial.intermediate_values = claim.reported
        return self.optuna.pruner.prune(self.optuna, trial)

    def _write_reports(self, claim: Claim) -> None:
        for step, value in claim.unwritten.items():
            self._storage.set_trial_intermediate_value(claim.trial._trial_id, step, value)
        claim.unwritten.clear()
        self._reported_at = time.monotonic()

    @property
    def prunes(self) -> bool:
        """Whether trials are to report: Optuna can't prune by several objectives."""
        return self.settings.pruner != "none" and len(self.settings.objectives) == 1

    def trial_states(self) -> dict[int, str]:
        """Say what became of each trial: its number to its state, or ``cut off``."""
        return {t.number: _result(t).state if _counts(t) else "cut off" for t in self._trials()}

    def results(self) -> SweepResults:
        """Read what the study has found so far."""
        trials = [_result(t) for t in self._trials() if _counts(t)]
        return SweepResults(
            name=self.settings.name,
            objectives=self.settings.objectives,
            trials=tuple(trials),
            n_trials=self.settings.n_trials,
        )

    # ---- inside

    def _trials(self) -> list[FrozenTrial]:
        return self.optuna.get_trials(deepcopy=False)

    def _take(self, waiting: FrozenTrial, trials: list[FrozenTrial]) -> Claim | None:
        """Take the first trial that waits; None if it is one that can't be run."""
        slot = waiting.user_attrs.get("slot")
        if slot is None:
            # Somebody put a point of their own into the queue. Of a grid it is no part.
            grid = self.settings.combinations is not None
            free = [] if grid else self._open_slots([t for t in trials if t is not waiting])
            slot = free[0] if free else self.settings.n_trials + waiting.number
            self._storage.set_trial_user_attr(waiting._trial_id, "slot", slot)
        claim = {"owner": self._me.to_dict(), "boss": self._boss.to_dict()}
        self._storage.set_trial_user_attr(waiting._trial_id, "claim", claim)
        # By the slot, so that workers that ask at once draw differently, and a study that is gone
        # on with draws as one that was never interrupted.
        self.optuna.sampler = self._sampler(slot)
        try:
            trial = self.optuna.ask(dict(self.settings.distributions))
        except ValueError as error:
            facts = {"error": f"a point from outside is not in the space: {error}"}
            self._storage.set_trial_user_attr(waiting._trial_id, "facts", facts)
            self._storage.set_trial_state_values(waiting._trial_id, TrialState.FAIL)
            return None
        return Claim(trial, trial.number, dict(trial.params))

    def _settle(self) -> None:
        """End the trials whose processes are gone; the lock is held."""
        from optuna.exceptions import UpdateFinishedTrialError

        for trial in self._trials():
            if trial.state.name != "RUNNING" or not self._is_dead(trial):
                continue
            boss = _process(trial, "boss")
            # Where the whole sweep was killed, the trial is not to blame.
            to_blame = boss is not None and boss.is_alive() is True
            deaths = trial.user_attrs.get("deaths", 0) + int(to_blame)
            error = f"the process that ran it was killed {deaths} times: is memory too small?"
            last = {"facts": {"error": error}} if deaths >= _MOST_DEATHS else {"cut_off": True}
            # One on another machine may come to its end in this very moment: then it counts.
            with suppress(UpdateFinishedTrialError):
                for key, value in {"deaths": deaths, **last}.items():
                    self._storage.set_trial_user_attr(trial._trial_id, key, value)
                self._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)

    def _is_dead(self, trial: FrozenTrial) -> bool:
        """Say whether nobody runs a trial any more."""
        owner = _process(trial, "owner")
        # It is claimed under the lock, so one without an owner was claimed by a process that died.
        alive = False if owner is None else owner.is_alive()
        if alive is not None:
            return not alive
        # The clocks of two machines differ: what counts is how long its heart was still, by ours.
        beat, now = trial.user_attrs.get("beat"), time.monotonic()
        seen = self._pulse.get(trial.number)
        if seen is None or seen[0] != beat:
            self._pulse[trial.number] = (beat, now)
            return False
        return now - seen[1] > self.settings.heartbeat * _MISSED_BEATS

    def _open_slots(self, trials: list[FrozenTrial]) -> list[int]:
        """Find the slots that no trial fills or is about to."""
        taken = {_slot(trial) for trial in trials if _counts(trial)}
        return [slot for slot in range(self.settings.n_trials) if slot not in taken]

    def _point(self, slot: int, trials: list[FrozenTrial]) -> dict[str, Any]:
        """Say what is fixed for a slot: its combination, or what was cut off there."""
        if self.settings.combinations is not None:
            return dict(self.settings.combinations[slot])
        for trial in reversed([trial for trial in trials if _slot(trial) == slot]):
            # One that was cut off while it was drawn has what was fixed for it.
            known = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
            if known:
                return known
        return {}

    def _sampler(self, slot: int) -> Any:
        if self.settings.sampler == GRID:
            return make_sampler("random", {}, 0)
        seed = self.settings.seed
        if seed is not None and self.settings.sampler not in ONE_SEQUENCE:
            seed = (seed * 1_000_003 + slot) % 2**32
        return make_sampler(self.settings.sampler, self.settings.sampler_options, seed)

    def _end(
        self,
        claim: Claim,
        state: str,
        facts: Mapping[str, Any],
        values: tuple[float, ...] | None = None,
    ) -> None:
        from optuna.exceptions import UpdateFinishedTrialError

        try:
            with self.store.one_write(), _quiet():
                # Before the state: what has ended can't be changed any more.
                self._write_reports(claim)
                for key, value in facts.items():
                    self._storage.set_trial_user_attr(claim.trial._trial_id, key, value)
                self.optuna.tell(claim.trial, values, TrialState[state])
        except (UpdateFinishedTrialError, ValueError):
            raise SupersededError(
                f"trial {claim.number} was taken for dead and given to somebody else."
            ) from None


def read_results(store: StudyStore, name: str) -> tuple[SweepResults, dict[str, Any], Any]:
    """Look at a study that is there, without working on it.

    Args:
        store: Where it is kept.
        name: Its name.

    Returns:
        Its results, the facts about it, and Optuna's study.

    Raises:
        SweepError: There is no such study, or none of a sweep.
    """
    import optuna

    from ml_project_template.errors import unknown

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    names = store.names()
    if name not in names:
        raise SweepError(f"study: {unknown('study', name, names)}")
    with store.reading(name):
        study = optuna.load_study(study_name=name, storage=store.open(name))
    facts = study.user_attrs
    metrics = facts.get("metrics")
    if not isinstance(metrics, list) or len(metrics) != len(study.directions):
        metrics = [f"value_{place}" for place, _ in enumerate(study.directions)]
    results = SweepResults(
        name=name,
        objectives=tuple(
            Objective(metric, "minimize" if direction.name == "MINIMIZE" else "maximize")
            for metric, direction in zip(metrics, study.directions, strict=True)
        ),
        trials=tuple(_result(t) for t in study.get_trials(deepcopy=False) if _counts(t)),
        n_trials=facts.get("n_trials", len(study.trials)),
    )
    return results, facts, study


def _counts(trial: FrozenTrial) -> bool:
    """Say whether a trial fills its slot; one that was cut off does not."""
    return not (trial.state is TrialState.FAIL and trial.user_attrs.get("cut_off", False))


def _slot(trial: FrozenTrial) -> int:
    return int(trial.user_attrs.get("slot", trial.number))


def _deaths(slot: int, trials: list[FrozenTrial]) -> int:
    return max((t.user_attrs.get("deaths", 0) for t in trials if _slot(t) == slot), default=0)


def _process(trial: FrozenTrial, role: str) -> ProcessId | None:
    state = trial.user_attrs.get("claim", {}).get(role)
    return None if state is None else ProcessId.from_dict(state)


def _result(trial: FrozenTrial) -> TrialResult:
    facts = trial.user_attrs.get("facts", {})
    states = {"COMPLETE": "complete", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running"}
    duration = trial.duration
    return TrialResult(
        number=trial.number,
        state=states.get(trial.state.name, "waiting"),  # type: ignore[arg-type]
        params=dict(trial.params),
        values=None if trial.state.name != "COMPLETE" else tuple(trial.values),
        metrics=facts.get("metrics", {}),
        intermediate=dict(trial.intermediate_values),
        error=facts.get("error"),
        overrides=tuple(facts.get("overrides", ())),
        seconds=None if duration is None else duration.total_seconds(),
        started=trial.datetime_start,
        model_path=facts.get("model_path"),
        output_dir=facts.get("output_dir"),
        run_id=facts.get("run_id"),
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's warnings to its callers from the users of a sweep."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
