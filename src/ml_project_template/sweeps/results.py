"""What a sweep has found, as plain values: its trials, its order of merit, its failures."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

__all__ = ["Objective", "SweepResults", "Trial"]

Direction = Literal["minimize", "maximize"]
State = Literal["complete", "pruned", "failed", "running", "waiting"]


@dataclass(frozen=True)
class Objective:
    """What the trials of a sweep are compared by.

    Attributes:
        metric: Its name, such as ``val_loss``.
        direction: ``minimize`` or ``maximize``.
    """

    metric: str
    direction: Direction


@dataclass(frozen=True)
class Trial:
    """One training of a sweep.

    Attributes:
        number: Its number in the study, counted from 0; never used twice.
        state: ``complete``, ``pruned``, ``failed``, ``running`` or ``waiting``.
        params: The settings that the sweep chose: override key to value.
        values: The values of the objectives, in their order; None unless complete.
        metrics: All final metrics of the run.
        intermediate: What was reported for pruning: step to value.
        error: Why it failed, in one line.
        overrides: The settings as the command line takes them, such as ``training.lr=0.01``.
        seconds: How long it took; None if it hasn't ended.
        started: When it began.
        model_path: Where its model is; None without one.
        output_dir: Where its log and its configuration are.
        run_id: The tracker's id of its run; None without tracking.
    """

    number: int
    state: State
    params: dict[str, Any] = field(default_factory=dict)
    values: tuple[float, ...] | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    intermediate: dict[int, float] = field(default_factory=dict)
    error: str | None = None
    overrides: tuple[str, ...] = ()
    seconds: float | None = None
    started: datetime | None = None
    model_path: str | None = None
    output_dir: str | None = None
    run_id: str | None = None


@dataclass(frozen=True)
class SweepResults:
    """The trials of a sweep, and what they are compared by.

    Attributes:
        name: The name of the study.
        objectives: One, or several that are weighed against each other.
        trials: In the order of their numbers. Trials that were cut off and run again are left out.
        n_trials: How many trials the sweep is to have.
    """

    name: str
    objectives: tuple[Objective, ...]
    trials: tuple[Trial, ...]
    n_trials: int
