"""What a sweep has found, as plain values: its trials, its order of merit, its failures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

__all__ = ["SEED", "Configuration", "Direction", "Objective", "State", "SweepResults", "Trial"]

Direction = Literal["minimize", "maximize"]
State = Literal["complete", "pruned", "failed", "running", "waiting"]

# The setting whose values are repetitions of one configuration.
SEED = "seed"


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
class Configuration:
    """Settings that were trained to the end, once or with several seeds.

    Attributes:
        params: The settings, without the seed.
        trials: The complete trials with them, in the order of their numbers.
        mean: The mean of each objective over the trials.
        std: The sample standard deviation of each; None for a single trial.
    """

    params: dict[str, Any]
    trials: tuple[Trial, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...] | None

    def spread(self, place: int, metric: str) -> float | None:
        """Give the standard deviation of an objective, be it over trials or within a single one.

        Args:
            place: The place of the objective.
            metric: Its name: a trial that is a mean over folds or seeds has ``<metric>_std``.
        """
        if self.std is not None:
            return self.std[place]
        return self.trials[0].metrics.get(f"{metric}_std")


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

    @property
    def complete(self) -> tuple[Trial, ...]:
        """The trials that were trained to the end."""
        return self._in_state("complete")

    @property
    def pruned(self) -> tuple[Trial, ...]:
        """The trials that were stopped early, as they promised little."""
        return self._in_state("pruned")

    @property
    def failed(self) -> tuple[Trial, ...]:
        """The trials that ended with an error."""
        return self._in_state("failed")

    @property
    def failure_rate(self) -> float:
        """The part of the ended trials that failed, in [0, 1]; 0 if none has ended."""
        ended = len(self.complete) + len(self.pruned) + len(self.failed)
        return len(self.failed) / ended if ended else 0.0

    @property
    def best(self) -> Trial | None:
        """The best trial of the best configuration; None if there is none, or several objectives.

        With several seeds it is the mean that wins, so this needn't be the best trial of all.
        """
        if len(self.objectives) > 1 or not self.complete:
            return None
        trials = self.configurations()[0].trials
        return min(trials, key=lambda trial: self.losses(_values(trial)))

    def configurations(self) -> list[Configuration]:
        """Bring trials together that differ in nothing but their seed.

        Returns:
            The configurations with a complete trial, best first by the mean of the objective. Of
            several objectives, those that no other dominates come first, then the first counts.
        """
        groups: dict[object, list[Trial]] = {}
        for trial in self.complete:
            # The same settings by chance, without a seed of their own, say nothing of the spread.
            key = _key(trial.params) if SEED in trial.params else trial.number
            groups.setdefault(key, []).append(trial)
        found = [_configuration(trials) for trials in groups.values()]
        return [found[place] for place in self._best_first([each.mean for each in found])]

    def ranked(self) -> list[Trial]:
        """Sort the complete trials, best first, each for itself.

        Returns:
            The trials. Of several objectives, those that no other dominates come first, then the
            first objective counts.
        """
        order = self._best_first([_values(trial) for trial in self.complete])
        return [self.complete[place] for place in order]

    def pareto(self) -> list[Trial]:
        """Find the complete trials that no other dominates.

        Returns:
            The trials, best first by the first objective. Another dominates one if it is as good
            in every objective and better in one of them.
        """
        places = self.front([_values(trial) for trial in self.complete])
        return [self.complete[place] for place in places]

    def front(self, vectors: Sequence[tuple[float, ...]]) -> list[int]:
        """Find the places of the values of the objectives that no others dominate.

        Args:
            vectors: For each candidate the value of each objective.
        """
        return _front([self.losses(values) for values in vectors])

    def is_repeated(self) -> bool:
        """Say whether some configuration was trained with several seeds."""
        return any(len(each.trials) > 1 for each in self.configurations())

    def varying_params(self) -> list[str]:
        """Name the settings that aren't the same in all trials; all of them, of a single trial."""
        chosen = [trial.params for trial in self.trials if trial.params]
        names = list(dict.fromkeys(name for params in chosen for name in params))
        if len(chosen) == 1:
            return names
        # A setting that a trial doesn't have isn't one that is None.
        texts = {n: {(n in params, repr(params.get(n))) for params in chosen} for n in names}
        return [name for name in names if len(texts[name]) > 1]

    def _in_state(self, state: State) -> tuple[Trial, ...]:
        return tuple(trial for trial in self.trials if trial.state == state)

    def losses(self, values: Sequence[float]) -> tuple[float, ...]:
        """Turn values so that lower is better; what is not a number is the worst."""
        pairs = zip(values, self.objectives, strict=True)
        turned = (value if each.direction == "minimize" else -value for value, each in pairs)
        return tuple(math.inf if math.isnan(value) else value for value in turned)

    def _best_first(self, vectors: Sequence[tuple[float, ...]]) -> list[int]:
        losses = [self.losses(values) for values in vectors]
        front = set(_front(losses))
        return sorted(range(len(losses)), key=lambda place: (place not in front, losses[place]))


def _configuration(trials: Sequence[Trial]) -> Configuration:
    columns = list(zip(*map(_values, trials), strict=True))
    mean = tuple(sum(column) / len(column) for column in columns)
    std = None
    if len(trials) > 1:
        # The root of the sum of squares, without an overflow on the way.
        roots = [
            math.hypot(*(x - m for x in column)) for column, m in zip(columns, mean, strict=True)
        ]
        std = tuple(root / math.sqrt(len(trials) - 1) for root in roots)
    params = {name: value for name, value in trials[0].params.items() if name != SEED}
    return Configuration(params=params, trials=tuple(trials), mean=mean, std=std)


def _front(losses: Sequence[tuple[float, ...]]) -> list[int]:
    """Find the places of the vectors that no other dominates, in the order of the vectors."""
    front: list[int] = []
    # All that dominate a vector sort before it: it is enough to look back at the front so far.
    for place in sorted(range(len(losses)), key=losses.__getitem__):
        if not any(_dominates(losses[other], losses[place]) for other in front):
            front.append(place)
    return front


def _dominates(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


def _key(params: Mapping[str, Any]) -> object:
    """Make of settings, whose values may be lists, something that a dictionary takes."""
    return tuple(sorted((name, repr(value)) for name, value in params.items() if name != SEED))


def _values(trial: Trial) -> tuple[float, ...]:
    assert trial.values is not None, f"trial {trial.number} is {trial.state}"
    return trial.values
