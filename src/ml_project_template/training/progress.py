"""Progress of a fit: a bar on a terminal, some plain lines anywhere else."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm import tqdm

__all__ = ["ProgressReporter", "progress_reporter"]

_logger = logging.getLogger(__name__)

_LINES = 10


class ProgressReporter:
    """Shows how far a fit has come. Use it in a ``with``, so that a bar is closed.

    Args:
        description: What is fitted, shown first.
        bar: Draw a bar with tqdm; else log about ten lines a run.
    """

    def __init__(self, description: str, *, bar: bool) -> None:
        self._description = description
        self._wants_bar = bar
        self._bar: tqdm[Any] | None = None
        self._unlogged: str | None = None

    def report(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        """Show one step."""
        text = ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        if self._wants_bar:
            # A bar has room for little: the losses say the most.
            losses = [f"{name} {value:.4g}" for name, value in metrics.items() if "loss" in name]
            self._draw(step, ", ".join(losses) or text, total)
            return
        line = f"{self._description}: step {step}{f'/{total}' if total else ''}, {text}"
        every = max(1, (total or 100) // _LINES)
        if step == 1 or step % every == 0:
            _logger.info("%s", line)
            self._unlogged = None
        else:
            self._unlogged = line

    def _draw(self, step: int, text: str, total: int | None) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=total, desc=self._description, dynamic_ncols=True)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(step - self._bar.n)

    def close(self) -> None:
        """Close the bar, or log the last step if it has not been."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._unlogged is not None:
            _logger.info("%s", self._unlogged)
            self._unlogged = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def progress_reporter(description: str) -> ProgressReporter:
    """Make the reporter that fits where standard error goes to.

    Args:
        description: What is fitted.

    Returns:
        A reporter that draws a bar if standard error is a terminal, and logs lines if not.
    """
    return ProgressReporter(description, bar=sys.stderr.isatty())
