"""The benchmark of how well models predict."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import quality


def test_a_model_is_held_against_its_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "quality.json"
    arguments = ["--seeds", "2", "--data", "wine", "diabetes", "--models", "linear"]
    assert quality.main([*arguments, "--json", str(file)]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(row[0], row[2], row[-1]) for row in lines] == [
        *(("data", "metric", "verdict"), ("wine", "accuracy", "equal")),
        ("diabetes", "rmse", "equal"),
    ]
    wine, diabetes = json.loads(file.read_text())
    assert len(wine["ours"]) == len(wine["theirs"]) == 2
    assert min(wine["ours"]) > 0.9
    assert diabetes["ours"] == pytest.approx(diabetes["theirs"], rel=1e-4)


@pytest.mark.parametrize(
    ("ours", "theirs", "higher", "verdict"),
    [
        ([0.9, 0.8, 0.85], [0.9, 0.8, 0.85], True, "equal"),
        ([0.9, 0.8, 0.85], [0.8, 0.9, 0.86], True, "equal"),
        ([0.91, 0.81, 0.865], [0.9, 0.8, 0.85], True, "better"),
        ([0.91, 0.81, 0.865], [0.9, 0.8, 0.85], False, "worse"),
        ([0.8, 0.7, 0.74], [0.9, 0.8, 0.85], True, "worse"),
        ([100.01, 90.01], [100.0, 90.0], False, "equal"),
        ([0.8], [0.9], True, "worse"),
    ],
)
def test_a_difference_counts_where_chance_does_not_make_it(
    ours: list[float], theirs: list[float], higher: bool, verdict: str
) -> None:
    assert quality.judge(ours, theirs, higher=higher) == verdict


def test_a_model_that_is_worse_ends_it_with_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weak = quality.Pair({"l2_regularization": 1e6}, {}, quality.PAIRS["linear"].theirs)
    monkeypatch.setitem(quality.PAIRS, "linear", weak)
    assert quality.main(["--seeds", "1", "--data", "diabetes", "--models", "linear"]) == 1
    assert "worse than the library itself: linear on diabetes" in capsys.readouterr().err
