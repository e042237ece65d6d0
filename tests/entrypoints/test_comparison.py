"""``entrypoints.evaluate`` with a baseline: two models on the same rows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ml_project_template.data import RawTable
from ml_project_template.predictor import Predictor

InProcess = Callable[..., tuple[int, str, str]]


def _train(in_process: InProcess, path: str, *overrides: str) -> None:
    settings = ("model=gb", "data=iris", "tracking=disabled", f"model_path={path}")
    status, _, err = in_process("train", *settings, *overrides)
    assert status == 0, err


def test_two_models_are_compared_row_by_row(in_process: InProcess, workspace: Path) -> None:
    _train(in_process, "good", "model.max_iter=20")
    _train(in_process, "weak", "model.max_iter=1", "data.random_state=7")
    arguments = ("model.path=good", "data=iris", "split=all")
    alone = in_process("evaluate", *arguments, "output=alone.json")
    status, out, err = in_process(
        "evaluate", *arguments, "baseline.path=weak", "output=both.json", "gate.metric=accuracy"
    )
    assert (status, out) == (1, "")
    assert err.startswith("error: gate.min: is required")
    status, out, err = in_process("evaluate", *arguments, "baseline.path=weak", "output=both.json")
    assert (alone[0], status, err) == (0, 0, "")

    written = json.loads((workspace / "both.json").read_text())
    found = written.pop("comparison")
    assert written == json.loads((workspace / "alone.json").read_text())
    rows = RawTable(path=".data/raw/iris.csv", target_column="target").split("all")
    chances = [Predictor.load(path).predict(rows.features) for path in ("good", "weak")]
    good, weak = (np.array(each.labels) == np.array(rows.labels) for each in chances)
    assert found["rows"] == len(rows)
    assert found["mcnemar"]["only_first"] == (good & ~weak).sum()
    assert found["mcnemar"]["only_second"] == (weak & ~good).sum()
    for name, interval in found["intervals"].items():
        assert interval["value"] == pytest.approx(written[name] - found["baseline"][name])
        assert interval["low"] <= interval["value"] <= interval["high"]
    assert "model  baseline  difference" in out
    assert f"log_loss  {found['intervals']['log_loss']['value']:+.4f}, 95% interval -" in out
    assert "so        these 150 rows tell the two apart by " in out

    # The same model is no better than itself; the rows of a split are told of for each model.
    status, out, err = in_process("evaluate", "model.path=good", "baseline.path=good")
    assert "so        these 30 rows do not tell the two apart" in out
    status, out, err = in_process("evaluate", "model.path=good", "baseline.path=weak")
    assert "data.random_state is 42 here and was 7 when the baseline was trained" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["baseline.path=nowhere"], "'nowhere' is not a model directory: it does not exist."),
        (["baseline=nowhere"], "baseline: holds settings: write baseline.path=<model directory>"),
        (["baseline.confidence=95"], "baseline.confidence: must be less than 1, got 95"),
        (["baseline.resamples=1"], "baseline.resamples: must be at least 100, got 1"),
    ],
    ids=" ".join,
)
def test_a_comparison_that_can_not_be_meant_is_told(
    arguments: list[str], message: str, in_process: InProcess, iris_model: Path
) -> None:
    status, out, err = in_process("evaluate", f"model.path={iris_model}", *arguments)
    assert (status, out, err) == (1, "", f"error: {message}\n")


def test_models_of_other_classes_are_not_compared(
    in_process: InProcess, iris_model: Path, wine_model: Path
) -> None:
    status, out, err = in_process(
        "evaluate", f"model.path={iris_model}", f"baseline.path={wine_model}"
    )
    assert (status, out) == (1, "")
    assert err == (
        f"error: baseline.path: '{wine_model}' tells apart class_0, class_1, class_2; the model "
        "tells apart setosa, versicolor, virginica\n"
    )
