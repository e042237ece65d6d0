"""Progress of a fit."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from ml_project_template.training.progress import ProgressReporter, progress_reporter


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_anywhere_but_on_a_terminal_some_plain_lines_are_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), progress_reporter("mlp") as progress:
        for step in range(1, 101):
            progress.report(step, {"train_loss": 1 / step}, 100)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[0] == "mlp: step 1/100, train_loss 1"
    assert lines[-1] == "mlp: step 100/100, train_loss 0.01"
    assert 8 <= len(lines) <= 12


def test_the_last_line_is_logged_also_where_the_fit_ends_early(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO), progress_reporter("gb") as progress:
        for step in range(1, 24):
            progress.report(step, {"train_loss": 1.0}, None)
    lines = [record.getMessage() for record in caplog.records]
    assert lines[-1].startswith("gb: step 23,")
    assert len(lines) == 4


def test_on_a_terminal_a_bar_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_reporter("mlp") as progress:
        for step in (1, 2, 3):
            progress.report(step, {"train_loss": 0.5}, 3)
    drawn = terminal.getvalue()
    assert "mlp: 100%" in drawn
    assert "3/3" in drawn
    assert "train_loss 0.5" in drawn


def test_a_bar_that_was_never_drawn_is_closed_without_a_word(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ProgressReporter("mlp", bar=True):
        pass
    assert capsys.readouterr() == ("", "")
