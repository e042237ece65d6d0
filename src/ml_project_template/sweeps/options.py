"""The settings of a sweep, checked as those of a model are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import Field

from ml_project_template.errors import ConfigError, unknown
from ml_project_template.sweeps.results import Direction, Objective
from ml_project_template.sweeps.samplers import (
    GRID,
    LEARNING_NOTHING,
    PRUNERS,
    SAMPLERS,
    make_pruner,
    make_sampler,
)
from ml_project_template.training.metrics import better_direction
from ml_project_template.utils.arguments import check_arguments

__all__ = ["SweepOptions", "read_options"]

# Fits that a worker runs in one go: more were seen to gain little more.
_TOGETHER = 32
# Rows from which on one fit uses the machine as well as many in one go.
_MANY_ROWS = 50_000
# Of a search by a sampler that learns, this part at most is drawn before anything is known of it.
_BLIND_PART = 8


@dataclass(frozen=True)
class SweepOptions:
    """What stands below ``sweep.`` in a configuration; ``conf/sweep/grid.yaml`` tells of each."""

    search_space: dict[str, Any]
    metric: str | list[str]
    sampler: str
    pruner: str = "none"
    n_trials: Annotated[int, Field(gt=0)] | None = None
    direction: Direction | list[Direction] | None = None
    sampler_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    pruner_options: dict[str, dict[str, Any]] = field(default_factory=dict)
    seed: Annotated[int, Field(ge=0, lt=2**32)] | None = None
    n_jobs: Annotated[int, Field(ge=0)] = 1
    together: Literal["auto", False] | Annotated[int, Field(gt=0)] = "auto"
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.0
    resume: bool = True
    study_name: Annotated[str, Field(pattern=r"^[\w][\w .=+-]*$", max_length=120)] | None = None
    storage: Annotated[str, Field(min_length=1)] | None = None
    heartbeat: Annotated[float, Field(gt=0)] = 15.0
    log_plots: bool = True
    log_models: bool = False

    @property
    def is_grid(self) -> bool:
        """Whether every combination is tried, and none is drawn."""
        return self.sampler == GRID

    def fits_together(self, rows: int) -> int:
        """Say how many fits a worker may run in one go.

        Args:
            rows: Training rows.
        """
        if self.together == "auto":
            return 1 if rows > _MANY_ROWS else _TOGETHER
        return int(self.together) or 1

    def trials_together(self, rows: int, n_trials: int, fits: int) -> int:
        """Say how many trials a worker claims at once.

        By itself a sampler that learns is not asked for more than a part of the study before it is
        told how any of them have done; what is drawn at once is as if drawn by that many workers.

        Args:
            rows: Training rows.
            n_trials: How many trials the study is to have.
            fits: How many fits each has that may be run in one go.
        """
        most = max(1, self.fits_together(rows) // fits)
        if self.together != "auto" or self.sampler in (GRID, *LEARNING_NOTHING):
            return most
        return max(1, min(most, n_trials // (_BLIND_PART * max(1, self.n_jobs))))

    @property
    def metrics(self) -> list[str]:
        """The names of the objectives."""
        return [self.metric] if isinstance(self.metric, str) else list(self.metric)

    def own_options(self, kind: Literal["sampler", "pruner"]) -> dict[str, Any]:
        """Give the options of the sampler or pruner that is used."""
        named: dict[str, dict[str, Any]] = getattr(self, f"{kind}_options")
        return named.get(getattr(self, kind), {})

    def objectives(self) -> tuple[Objective, ...]:
        """Say what trials are compared by.

        Raises:
            ConfigError: A metric that must not choose, or one without a known direction.
        """
        given: Sequence[Direction | None]
        if self.direction is None or isinstance(self.direction, str):
            given = [self.direction] * len(self.metrics)
        else:
            given = list(self.direction)
        if not self.metrics or len(set(self.metrics)) < len(self.metrics):
            raise ConfigError(f"sweep.metric: must name each metric once, got {self.metrics}")
        if len(self.metrics) > 1 and self.sampler == "cmaes":
            raise ConfigError("sweep.sampler: cmaes takes one metric; choose tpe, gp or nsgaii")
        if len(given) != len(self.metrics):
            raise ConfigError(
                f"sweep.direction: {len(given)} directions for {len(self.metrics)} metrics"
            )
        found = []
        for metric, direction in zip(self.metrics, given, strict=True):
            if not metric.startswith("val_"):
                rule = "must be measured on the validation rows, such as val_loss or val_accuracy"
                why = "; the test rows must not choose" if metric.startswith("test_") else ""
                raise ConfigError(f"sweep.metric: {rule}{why}, got {metric!r}")
            direction = direction or better_direction(metric)
            if direction is None:
                raise ConfigError(
                    f"sweep.direction: is required for {metric!r}: minimize or maximize"
                )
            found.append(Objective(metric, direction))
        return tuple(found)


def read_options(settings: Mapping[str, Any]) -> SweepOptions:
    """Check the settings of a sweep.

    Args:
        settings: What stands below ``sweep.``, as plain values.

    Raises:
        ConfigError: All that is wrong with them, a line each.
    """
    problems = check_arguments(SweepOptions, settings, where="sweep")
    for kind, choices in (("sampler", [GRID, *SAMPLERS]), ("pruner", list(PRUNERS))):
        value, named = settings.get(kind), settings.get(f"{kind}_options")
        if isinstance(value, str) and value not in choices:
            problems.append(f"sweep.{kind}: {unknown(kind, value, choices)}")
        for name in named if isinstance(named, Mapping) else ():
            if name not in choices:
                problems.append(f"sweep.{kind}_options: {unknown(kind, str(name), choices)}")
    if problems:
        raise ConfigError("\n".join(problems))
    options = SweepOptions(**settings)
    options.objectives()
    # Made once here, so that a wrong argument is told before anything else is done.
    if not options.is_grid:
        make_sampler(options.sampler, options.own_options("sampler"), options.seed)
    make_pruner(options.pruner, options.own_options("pruner"))
    return options
