"""The benchmark of what our boosters cost above their libraries."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks import boosting
from ml_project_template.models.registry import ModelRegistry


@pytest.fixture(autouse=True)
def _few_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boosting, "_STAGES", 3)
    monkeypatch.setattr(boosting, "_EXACT_ROWS", 200)


def test_each_library_is_held_against_itself() -> None:
    costs, peers = boosting.measure(sizes=(300,), rounds=1)
    assert [row[0] for row in costs.rows] == ["gb 300", "lightgbm 300", "xgboost 300"]
    assert [row[0] for row in peers.rows] == ["200", "300"]
    assert len(costs.aims) == 6
    json.dumps([costs.to_dict(), peers.to_dict()])


@pytest.mark.parametrize("library", boosting.LIBRARIES)
def test_both_sides_grow_the_same_trees(library: str) -> None:
    splits = boosting.make_splits(400)
    model = ModelRegistry.get(f"{library}_classifier")(max_iter=boosting._STAGES)
    model.train(
        experiment_name="benchmark",
        train_data=splits["train"],
        val_data=splits["val"],
        patience=None,
        save_model="final",
        seed=0,
        tracking=False,
        progress=False,
    )
    theirs = boosting.DIRECT[library](splits)
    test = splits["test"]
    assert np.allclose(model.predict_proba(test)[:, 1], theirs(test.X), atol=1e-6)
