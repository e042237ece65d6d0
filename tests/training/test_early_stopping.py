"""Ending a fit early."""

from __future__ import annotations

import pytest

from ml_project_template.training.early_stopping import EarlyStopping


def _stops_after(patience: int | None, values: list[float], min_delta: float = 0.0) -> int | None:
    stopping = EarlyStopping(patience, min_delta)
    for step, value in enumerate(values, start=1):
        if stopping.update(value):
            return step
    return None


@pytest.mark.parametrize(
    ("patience", "values", "expected"),
    [
        (2, [3, 2, 1, 1, 1, 1], 5),
        (2, [3, 4, 2, 3, 1, 5, 5], 7),
        (1, [1, 1], 2),
        (3, [3, 2, 1], None),
        (None, [1] * 100, None),
    ],
)
def test_it_stops_after_so_many_steps_without_a_lower_value(
    patience: int | None, values: list[float], expected: int | None
) -> None:
    assert _stops_after(patience, values) == expected


def test_a_gain_below_the_bound_does_not_count() -> None:
    falling = [1.0, 0.95, 0.9, 0.85, 0.8]
    assert _stops_after(2, falling) is None
    assert _stops_after(2, falling, min_delta=0.2) == 3


def test_small_gains_that_add_up_to_the_bound_do_count() -> None:
    assert _stops_after(3, [1.0, 0.95, 0.85, 0.75, 0.65, 0.55], min_delta=0.1) is None
