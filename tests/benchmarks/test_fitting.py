"""The benchmark of the fits."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import fitting


def test_every_way_has_a_row_in_the_tables() -> None:
    reports = fitting.measure([32], numbers=[2], rounds=1, scale=0.02)
    with_norm, without, together = reports
    assert [row[0] for row in with_norm.rows] == [*fitting.NORMALIZED, "by hand, µs"]
    assert [row[0] for row in without.rows] == [*fitting.PLAIN, "by hand, µs"]
    assert [row[0] for row in together.rows] == ["2"]
    assert all(value > 0 for report in reports for row in report.rows for value in row[1:])
    assert with_norm.rows[0][1:] == [1.0]
    assert len(with_norm.aims) == 5


@pytest.mark.parametrize("normalization", ["batch", None])
def test_the_loop_by_hand_takes_the_steps_of_autograd(
    normalization: fitting.Normalization, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = [fitting.Task(8, 3, normalization).module() for _ in range(2)]
    made = iter(modules)
    monkeypatch.setattr(fitting.Task, "module", lambda _: next(made))
    for way in (fitting.by_hand, fitting.slicing):
        torch.manual_seed(1)
        way(fitting.Task(8, 3, normalization))
    for mine, other in zip(modules[0].parameters(), modules[1].parameters(), strict=True):
        # Of a bias before a normalisation Adam makes steps of the gradient's rounding.
        if mine.ndim == 2:
            torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


def test_the_plot_is_a_picture(tmp_path: Path) -> None:
    assert fitting.main(["--plot", str(tmp_path / "rows.png"), "--most-rows", "1000"]) == 0
    assert (tmp_path / "rows.png").read_bytes().startswith(b"\x89PNG")
