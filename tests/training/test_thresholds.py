"""From which probability on the second class is predicted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import metrics as theirs

from ml_project_template.errors import ConfigError
from ml_project_template.training.thresholds import choose_threshold


def _case(seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    y = (rng.random(200) < 0.2).astype(np.int64)
    chance = np.round(np.clip(0.3 * y + rng.random(200) * 0.6, 0, 1), 2)
    return y, np.column_stack([1 - chance, chance])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("metric", ["f1", "balanced_accuracy"])
def test_no_other_threshold_is_better(metric: Any, seed: int) -> None:
    y, chances = _case(seed)
    score = theirs.f1_score if metric == "f1" else theirs.balanced_accuracy_score
    found = choose_threshold(metric, y, chances)
    assert found is not None
    best = max(score(y, chances[:, 1] >= cut) for cut in np.linspace(0, 1, 201))
    assert score(y, chances[:, 1] >= found) == pytest.approx(best)


def test_a_number_is_taken_as_it_is_and_none_is_none() -> None:
    y, chances = _case(0)
    assert choose_threshold(0.3, y, chances) == 0.3
    assert choose_threshold(None, y, chances) is None


@pytest.mark.parametrize(
    ("threshold", "classes", "message"),
    [
        (1.5, 2, r"must be a probability in \[0, 1\], got 1.5"),
        ("f2", 2, "Unknown threshold 'f2'"),
        (0.5, 3, "is for two classes, and there are 3"),
    ],
)
def test_what_can_not_be_meant_is_told(threshold: Any, classes: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        choose_threshold(threshold, np.zeros(4, dtype=np.int64), np.ones((4, classes)) / classes)
