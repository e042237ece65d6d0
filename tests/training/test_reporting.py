"""Reports of a fit."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ml_project_template.training.reporting import History, MultiReporter, StopTraining


class Stopping:
    def report(self, step: int, metrics: Mapping[str, float], total: int | None) -> None:
        raise StopTraining


def test_a_history_keeps_a_row_for_each_step() -> None:
    history = History()
    history.report(1, {"train_loss": 2.0, "val_loss": 3.0}, 10)
    history.report(2, {"train_loss": 1.0, "val_loss": 4.0, "lr": 0.1}, 10)
    assert history.rows == [
        {"step": 1, "train_loss": 2.0, "val_loss": 3.0},
        {"step": 2, "train_loss": 1.0, "val_loss": 4.0, "lr": 0.1},
    ]
    assert history.columns == ("train_loss", "val_loss", "lr")


def test_the_best_row_is_the_first_of_the_lowest() -> None:
    history = History()
    for step, loss in enumerate([3.0, 1.0, 1.0, 2.0], start=1):
        history.report(step, {"val_loss": loss})
    assert history.best("val_loss") == {"step": 2, "val_loss": 1.0}
    assert history.best("accuracy") is None


def test_all_reporters_hear_of_a_step_before_one_of_them_stops_the_fit() -> None:
    before, after = History(), History()
    with pytest.raises(StopTraining):
        MultiReporter(before, Stopping(), after).report(1, {"loss": 1.0}, None)
    assert before.rows == after.rows == [{"step": 1, "loss": 1.0}]
