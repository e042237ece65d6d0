"""How a fit tells others how it goes: step by step, with plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

__all__ = ["History", "MultiReporter", "Reporter", "StopTraining"]


class StopTraining(Exception):  # noqa: N818 - it ends a fit early, nothing went wrong
    """Raised by a reporter to end the fit early. The model of that moment is kept."""


class Reporter(Protocol):
    """Whoever wants to hear of each step of a fit."""

    def report(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        """Take the numbers of one step.

        Args:
            step: The epoch or boosting stage, counted from 1.
            metrics: Numbers by name, such as ``{"train_loss": 0.3}``.
            total: How many steps there will be at most; None if unknown.

        Raises:
            StopTraining: To end the fit after this step.
        """


class History:
    """Keeps what was reported, a row for each step.

    Attributes:
        rows: ``{"step": 1, "train_loss": 0.9, ...}`` for each step, in order.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def report(
        self,
        step: int,
        metrics: Mapping[str, float],
        total: int | None = None,  # noqa: ARG002 - the name is the interface's
    ) -> None:
        """Append a row."""
        self.rows.append({"step": step, **metrics})

    @property
    def columns(self) -> tuple[str, ...]:
        """Every name that was reported, in the order of its first report."""
        return tuple(dict.fromkeys(name for row in self.rows for name in row if name != "step"))

    def best(self, column: str) -> dict[str, float] | None:
        """Find the row with the lowest value.

        Args:
            column: The name of a reported number.

        Returns:
            The first row with the lowest value; None if the name was never reported.
        """
        rows = [row for row in self.rows if column in row]
        return min(rows, key=lambda row: row[column]) if rows else None


class MultiReporter:
    """Passes each report on to several reporters, in their order."""

    def __init__(self, *reporters: Reporter) -> None:
        self._reporters = reporters

    def report(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        """Report to all of them; one that stops the fit does not keep it from the others."""
        stop: StopTraining | None = None
        for reporter in self._reporters:
            try:
                reporter.report(step, metrics, total)
            except StopTraining as reason:
                stop = reason
        if stop is not None:
            raise stop
