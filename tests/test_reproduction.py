"""What was otherwise when a model was trained, and in how far the same came out."""

from __future__ import annotations

import hashlib
import math
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ml_project_template.errors import ConfigError, ModelError
from ml_project_template.reproduction import (
    Change,
    Surroundings,
    TrainingRecord,
    compare,
    demand,
    recorded_config,
    surroundings,
)

COMMIT = "0123456789abcdef" * 2 + "01234567"
CONFIG: dict[str, Any] = {
    "data": {"path": "iris.csv"},
    "model": {},
    "preprocessing": {},
    "save_model": "best",
    "seed": 1,
}
RECORD = TrainingRecord(
    name="run 'r'",
    run_id="r",
    config=CONFIG,
    metrics={"val_loss": 0.5, "test_roc_auc": math.nan},
    digest="ab" * 18,
    commit=COMMIT,
    dirty=False,
    python=platform.python_version(),
    versions={"numpy": np.__version__},
    platform=f"{platform.system()} {platform.machine()}",
    lock=None,
    weights={"weights.skops": "1" * 64},
)


def test_only_what_is_otherwise_is_told(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    monkeypatch.setenv("GIT_COMMIT", COMMIT)
    same = surroundings(RECORD, digest="ab" * 32)
    assert same == Surroundings([], ["uv.lock"])

    (workspace / "uv.lock").write_text("version = 1\n")
    other = replace(
        RECORD,
        digest="cd" * 32,
        commit="f" * 40,
        dirty=True,
        python="3.9.1",
        versions={"numpy": "1.0", "a-package-that-is-gone": "2.0"},
        platform="Plan9 z80",
        lock="e" * 64,
    )
    found = surroundings(other, digest="ab" * 32)
    assert found.unknown == []
    assert found.changes == [
        Change("commit", "ffffffffffff, with changes", "0123456789ab"),
        Change("python", "3.9.1", platform.python_version()),
        Change("numpy", "1.0", np.__version__),
        Change("a-package-that-is-gone", "2.0", "not installed"),
        Change("platform", "Plan9 z80", str(RECORD.platform)),
        Change("uv.lock", "eeeeeeeeeeee", hashlib.sha256(b"version = 1\n").hexdigest()[:12]),
        Change("data", "cdcdcdcdcdcd", "abababababab"),
    ]


def test_changes_to_a_commit_are_told_though_the_commit_is_the_same(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(workspace.parent))
    monkeypatch.setenv("GIT_COMMIT", f"{COMMIT}-dirty")
    (change,) = surroundings(replace(RECORD, dirty=True), digest="ab" * 32).changes
    assert change == Change("commit", "0123456789ab, with changes", "0123456789ab, with changes")


def test_what_was_not_kept_is_not_known(workspace: Path) -> None:
    bare = TrainingRecord(name="run 'r'", run_id="r", config=CONFIG, metrics={})
    assert surroundings(bare, digest="ab").unknown == [
        *("commit", "python", "platform", "uv.lock", "libraries", "data")
    ]


@pytest.mark.parametrize(
    ("metrics", "weights", "identical", "agrees"),
    [
        ({"val_loss": 0.5, "test_roc_auc": math.nan, "new": 1.0}, "1", True, True),
        ({"val_loss": 0.5, "test_roc_auc": math.nan}, "2", False, True),
        ({"val_loss": 0.5 + 1e-7, "test_roc_auc": math.nan}, "2", False, True),
        ({"val_loss": 0.5 - 1e-5, "test_roc_auc": math.nan}, "2", False, False),
        ({"val_loss": 0.5, "test_roc_auc": 0.9}, "1", False, False),
        ({"val_loss": 0.5}, "1", False, False),
    ],
    ids=["same", "other weights", "close", "apart", "no number any more", "gone"],
)
def test_metrics_agree_within_the_tolerance(
    metrics: dict[str, float], weights: str, identical: bool, agrees: bool
) -> None:
    found = compare(RECORD, metrics, {"weights.skops": weights * 64}, tolerance=1e-6)
    assert (found.identical, found.agrees) == (identical, agrees)


def test_a_refusal_names_what_may_explain_it() -> None:
    outcome = compare(RECORD, {"val_loss": 0.6, "test_roc_auc": math.nan}, {}, tolerance=1e-6)
    found = Surroundings([Change("commit", "a", "b"), Change("numpy", "1", "2")], [])
    told = "run 'r' is not reproduced: 1 of 2 metrics differ by more than tolerance=1e-06, val_loss"
    with pytest.raises(ModelError, match=f"{told} most. What may explain it: commit, numpy.$"):
        demand(outcome, RECORD, found)
    with pytest.raises(ModelError, match="Nothing that was kept differs: the hardware"):
        demand(outcome, RECORD, Surroundings([], []))
    drawn = replace(RECORD, config={**CONFIG, "seed": None})
    with pytest.raises(ModelError, match=r"it: seed=null, which draws anew each time, commit, "):
        demand(outcome, drawn, found)
    demand(replace(outcome, tolerance=0.2), RECORD, found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"config": None}, "There is no configuration of run 'r' to train by"),
        ({"config": {"seed": 1}}, "of run 'r' lacks data, model, preprocessing, save_model"),
        ({"config": {**CONFIG, "data": "x"}}, "of run 'r' lacks data: it is none of"),
        (
            {"config": {**CONFIG, "model": {"a": ["${oc.env:HOME}"]}}},
            r"of run 'r' has '\$\{' in model.a: not read",
        ),
        ({"metrics": {}}, "There are no final metrics of run 'r' to compare with"),
    ],
    ids=["none", "foreign", "broken", "interpolation", "no metrics"],
)
def test_a_record_that_can_not_be_trained_by_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        recorded_config(replace(RECORD, **changes))
