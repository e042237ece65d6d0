"""Trainings that stop at their fits, so that the fits of several can be run in one go.

A training is a generator: all that comes before its fits, then the fits, which somebody else runs,
then all that comes after. `run_steps` runs them: as one, those that are faster so.
`steps_together` makes one such generator of several. The first that begins is the last that ends,
so that what they open encloses one another as if they were nested.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from ml_project_template.utils.collecting import collecting_as_usual
from ml_project_template.utils.signals import was_stopped

if TYPE_CHECKING:
    from lightning.fabric import Fabric

    from ml_project_template.training.jobs import FitJob, FitResult
    from ml_project_template.training.reporting import Reporter

__all__ = ["Fit", "OwnLog", "Scene", "Steps", "run_steps", "steps_together"]

T = TypeVar("T")


@dataclass(frozen=True)
class Fit:
    """A fit that waits to be run.

    Attributes:
        fabric: Where it runs, and in which precision.
        job: What is fitted, and how.
    """

    fabric: Fabric
    job: FitJob


Steps: TypeAlias = "Generator[Sequence[Fit], Sequence[FitResult | BaseException], T]"
"""What stops at fits: yields some, is sent how each of them ended, and returns a ``T``."""

Scene: TypeAlias = Callable[[], AbstractContextManager[None]]
"""What surrounds all that one of several trainings does, each time it goes on."""


class OwnLog:
    """Keeps what one of several trainings logs to the places that it has opened itself.

    Each call gives a context. What is added to the root logger's handlers inside of it is put away
    at its end, and there again in the next one.
    """

    def __init__(self) -> None:
        self._own: list[logging.Handler] = []

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Log as the training does for a block."""
        root = logging.getLogger()
        before = list(root.handlers)
        root.handlers[:] = [*before, *self._own]
        try:
            yield
        finally:
            self._own = [handler for handler in root.handlers if handler not in before]
            root.handlers[:] = before


def run_steps(steps: Steps[T]) -> T:
    """Run what stops at fits to its end.

    Args:
        steps: One training, or several in one.

    Returns:
        What it returns.

    Raises:
        BaseException: What it raises.
    """
    try:
        fits = next(steps)
        while True:
            try:
                outcomes = _run_fits(fits)
            except BaseException as error:
                fits = steps.throw(error)
            else:
                fits = steps.send(outcomes)
    except StopIteration as end:
        value: T = end.value
        return value


def steps_together(
    trainings: Sequence[Steps[T]], scenes: Sequence[Scene] | None = None
) -> Steps[list[T | BaseException]]:
    """Make one of several trainings: all go on to their fits, which are run at once.

    An error ends its own training alone; being asked to stop ends all of them.

    Args:
        trainings: The trainings, none begun yet.
        scenes: What surrounds each of them; by default each has a log of its own.

    Yields:
        The fits of all.

    Returns:
        For each what it returned or raised.
    """
    scenes = scenes or [OwnLog() for _ in trainings]
    results: dict[int, T | BaseException] = {}
    waiting: dict[int, list[Fit]] = {}

    def go_on(place: int, step: Callable[[], Sequence[Fit]]) -> None:
        with scenes[place]():
            try:
                fits = step()
            except StopIteration as end:
                results[place] = end.value
            except BaseException as error:
                if was_stopped(error) or not isinstance(error, Exception | SystemExit):
                    raise
                results[place] = error
            else:
                waiting[place] = [_within(scenes[place], fit) for fit in fits]

    try:
        for place, training in enumerate(trainings):
            go_on(place, training.__next__)
        while waiting:
            outcomes = iter((yield [fit for fits in waiting.values() for fit in fits]))
            shares = {place: [next(outcomes) for _ in waiting[place]] for place in sorted(waiting)}
            for place in reversed(shares):
                del waiting[place]
                go_on(place, partial(trainings[place].send, shares[place]))
    except BaseException as error:
        # Each ends by the same error, and those that are not begun do nothing.
        for place, training in reversed([*enumerate(trainings)]):
            with scenes[place]():
                try:
                    training.throw(error)
                except BaseException as raised:
                    if raised is not error and not isinstance(raised, StopIteration):
                        logging.getLogger(__name__).debug("at the end", exc_info=raised)
        raise
    return [results[place] for place in range(len(trainings))]


def _run_fits(fits: Sequence[Fit]) -> list[FitResult | BaseException]:
    """Run fits, those of one shape in one go where that is faster."""
    from ml_project_template.training.loop import fit, fit_together, stack_key, worth_together

    groups: dict[Hashable, list[int]] = {}
    for place, each in enumerate(fits):
        key = stack_key(each.fabric, each.job) if len(fits) > 1 else None
        where = (str(each.fabric.device), each.fabric.strategy.precision.precision)
        groups.setdefault((where, place if key is None else key, key is None), []).append(place)
    outcomes: dict[int, FitResult | BaseException] = {}
    with collecting_as_usual():
        for places in groups.values():
            first = fits[places[0]]
            if len(places) > 1 and worth_together(first.job, len(places)):
                ended = fit_together(first.fabric, [fits[place].job for place in places])
                outcomes |= zip(places, ended, strict=True)
                continue
            for place in places:
                try:
                    outcomes[place] = fit(fits[place].fabric, fits[place].job)
                except Exception as error:
                    outcomes[place] = error
    return [outcomes[place] for place in range(len(fits))]


@dataclass(frozen=True)
class _Within:
    """Reports inside of a scene."""

    scene: Scene
    reporter: Reporter

    def report(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        with self.scene():
            self.reporter.report(step, metrics, total)


def _within(scene: Scene, fit: Fit) -> Fit:
    return replace(fit, job=replace(fit.job, reporter=_Within(scene, fit.job.reporter)))
