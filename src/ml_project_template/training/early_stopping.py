"""Ending a fit that no longer gets better."""

from __future__ import annotations

import math

__all__ = ["EarlyStopping"]


class EarlyStopping:
    """Says when to stop: after ``patience`` steps in a row without a lower value.

    Args:
        patience: Steps without an improvement before the fit ends; None never ends it.
        min_delta: How much lower a value must be to count as an improvement.

    Attributes:
        best: The lowest value so far.
        waited: Steps since then.
    """

    def __init__(self, patience: int | None, min_delta: float = 0.0) -> None:
        self.patience = patience
        self.min_delta = min_delta
        self.best = math.inf
        self.waited = 0

    def state(self) -> dict[str, float]:
        """Tell where it is, for `restore`."""
        return {"best": self.best, "waited": self.waited}

    def restore(self, state: dict[str, float]) -> None:
        """Go on from what `state` told."""
        self.best, self.waited = state["best"], int(state["waited"])

    def update(self, value: float) -> bool:
        """Take the value of one more step.

        Args:
            value: A loss: lower is better. The caller sees to it that it is a number.

        Returns:
            Whether to stop now.
        """
        if value < self.best - self.min_delta:
            self.best = value
            self.waited = 0
        else:
            self.waited += 1
        return self.patience is not None and self.waited >= self.patience
