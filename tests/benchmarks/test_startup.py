"""The benchmark of commands from the shell to their end."""

from __future__ import annotations

import math
import sqlite3
from pathlib import Path

import pytest

from benchmarks.harness import Samples
from benchmarks.startup import table, ways


@pytest.mark.long
def test_the_naive_app_trains_and_tracks_and_a_wrong_choice_is_refused(tmp_path: Path) -> None:
    commands = {way.name: way for way in ways(tmp_path)}
    commands["naive Hydra app, no plots, no model"].run()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        metrics = dict(database.execute("select key, value from latest_metrics").fetchall())
        params = dict(database.execute("select key, value from params").fetchall())
        states = database.execute("select status from runs").fetchall()
    database.close()
    assert states == [("FINISHED",)]
    assert params["training.max_epochs"] == "1"
    assert metrics["train_loss"] == pytest.approx(math.log(3), abs=0.2)
    assert {"val_loss", "test_accuracy", "test_roc_auc"} <= set(metrics)
    commands["train model=mpl (an error)"].run()


def test_the_table_has_every_command_and_its_part_of_the_naive_app(tmp_path: Path) -> None:
    names = [way.name for way in ways(tmp_path)]
    costs = {name: [2.0, 4.0] for name in names}
    costs["train model=gb debug=few_stages"] = [0.4, 0.8]
    report = table(Samples(costs))
    assert [row[0] for row in report.rows] == names
    assert report.rows[4][1:] == pytest.approx((0.6, 0.2, 0.2))
    assert [aim.met for aim in report.aims] == [False, False, True, False, False]
    assert "MISSED  mlp: part of the naive app: 1 (at most 0.35)" in str(report)
