"""What a worker of a sweep does: claim a trial, run it, tell how it ended; until none is left."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from ml_project_template.errors import SweepError, unknown
from ml_project_template.sweeps.study import Claim, SupersededError, SweepStudy
from ml_project_template.utils.secrets import find_secrets, redact
from ml_project_template.utils.signals import was_stopped

__all__ = ["Pruned", "RunTrial", "RunTrials", "TrialContext", "work"]

_logger = logging.getLogger(__name__)

# Between two looks whether a trial of somebody else has been given up.
_POLL_SECONDS = 0.5
_ERROR_LENGTH = 500


class Pruned(Exception):  # noqa: N818 - it ends a fit early, nothing went wrong
    """Raised inside of a fit: the trial does worse than others, and is not worth going on with."""

    def __init__(self, step: int, value: float) -> None:
        super().__init__(f"pruned at step {step} with {value:.6g}")
        self.step = step


class TrialContext:
    """A trial as the code that runs it sees it; also a reporter for its fit.

    Attributes:
        number: Its number in the study.
        params: Override key to the value that is tried.
    """

    def __init__(self, study: SweepStudy, claim: Claim) -> None:
        self._study = study
        self._claim = claim
        self._metric = study.settings.objectives[0].metric
        self._warned = False
        self._facts: dict[str, Any] = {}
        self.number = claim.number
        self.params = claim.params
        self.ended = False

    @property
    def prunes(self) -> bool:
        """Whether the fit should report here."""
        return self._study.prunes

    def note(self, **facts: Any) -> None:
        """Keep what is known of the trial, such as its ``run_id``, for whatever end it comes to."""
        self._facts |= _plain(facts)

    def report(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        """Take the numbers of one step of the fit.

        Raises:
            Pruned: The trial does worse than others.
        """
        value = metrics.get(self._metric)
        if value is None:
            if not self._warned:
                _logger.warning(
                    "%s is not reported during the fit (%s are): nothing can be pruned by it.",
                    *(self._metric, ", ".join(metrics)),
                )
                self._warned = True
            return
        if self._study.report(self._claim, step, value, total):
            raise Pruned(step, value)

    def complete(self, metrics: Mapping[str, float], **facts: Any) -> tuple[float, ...]:
        """Record the result: from here on the trial counts.

        Args:
            metrics: All final metrics of the run.
            facts: What else is known, such as ``model_path``.

        Returns:
            The values of the objectives.

        Raises:
            SweepError: An objective is not among the metrics, or no finite number.
            SupersededError: Somebody else has been given the trial meanwhile.
        """
        values = []
        for objective in self._study.settings.objectives:
            value = metrics.get(objective.metric)
            if value is None:
                raise SweepError(f"sweep.metric: {unknown('metric', objective.metric, metrics)}")
            if not math.isfinite(value):
                raise SweepError(f"{objective.metric} is {value}.")
            values.append(float(value))
        finite = {name: float(v) for name, v in metrics.items() if math.isfinite(v)}
        self._study.complete(
            self._claim, tuple(values), metrics=finite, **self._facts, **_plain(facts)
        )
        self.ended = True
        return tuple(values)

    def prune(self) -> None:
        """Record that the trial was ended early."""
        self._study.prune(self._claim, **self._facts)
        self.ended = True

    def fail(self, error: BaseException) -> None:
        """Record that the trial has failed by itself."""
        first = next((line for line in _text(error).splitlines() if line.strip()), "")
        kind = "" if isinstance(error, ValueError) and first else f"{type(error).__name__}: "
        text = redact(f"{kind}{first}", find_secrets(None))[:_ERROR_LENGTH]
        self._study.fail(self._claim, text, **self._facts)
        self.ended = True

    @contextmanager
    def ending(self) -> Iterator[None]:
        """Run the trial in a block, and see to it that it has an end.

        An error fails the trial and goes no further. Who is asked to stop gives the trial back.
        """
        try:
            yield
            assert self.ended, "a trial must be completed, pruned or failed"
        except SupersededError as error:
            _logger.warning("%s", error)
        except BaseException as error:
            stopped = was_stopped(error)
            _logger.debug("trial %d ended by an error", self.number, exc_info=True)
            try:
                if stopped and not self.ended:
                    self._study.give_back(self._claim)
                elif not self.ended:
                    self.fail(error)
            except SupersededError as superseded:
                _logger.warning("%s", superseded)
            # `sys.exit` in a model's code is the end of its trial, not of the sweep.
            if stopped or not isinstance(error, Exception | SystemExit):
                raise


RunTrial = Callable[[TrialContext], None]
RunTrials = Callable[[Sequence[TrialContext]], None]


def work(
    study: SweepStudy,
    run_trial: RunTrial,
    run_trials: RunTrials | None = None,
    *,
    most: int = 1,
    workers: int = 1,
) -> int:
    """Run trials until the study has all of its own.

    An error in a trial ends that trial alone. While others still run trials of the study, this
    waits, for one of them may be cut off and have to be run again.

    Args:
        study: The study.
        run_trial: Runs a trial. It calls ``complete`` or ``prune`` of its context, or raises.
        run_trials: Runs several at once, each in its ``ending``.
        most: How many it is given at most.
        workers: How many processes share the work.

    Returns:
        How many trials were run here.

    Raises:
        SweepError: The storage can't be used.
    """
    done = 0
    while True:
        claims = study.claim_some(1 if run_trials is None else most, workers=workers)
        if not claims:
            if study.is_done():
                return done
            time.sleep(_POLL_SECONDS)
            continue
        trials = [TrialContext(study, claim) for claim in claims]
        with study.alive(claims):
            if run_trials is not None and len(trials) > 1:
                run_trials(trials)
            else:
                with trials[0].ending():
                    run_trial(trials[0])
        done += len(trials)


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Make facts plain JSON, whatever a model has put there."""

    def simple(value: Any) -> Any:
        # A number of NumPy's is one of Python's inside.
        return value.item() if getattr(value, "shape", None) == () else str(value)

    plain: dict[str, Any] = json.loads(json.dumps(facts, default=simple))
    return plain


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:
        # An error of a model's own may be broken itself.
        return ""
