"""Sweeps that are killed lose nothing; the long version is ``tests/soak/sweep_kills.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.soak.sweep_kills import kill_and_restart


@pytest.mark.long
def test_a_sweep_that_is_killed_and_started_again_loses_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    outcome = kill_and_restart(tmp_path, trials=10, kills=2, processes=1, seed=3, model="gb")
    assert outcome.problems == []
    assert outcome.kills >= 1


@pytest.mark.long
def test_processes_that_share_a_study_finish_what_others_were_killed_at(tmp_path: Path) -> None:
    outcome = kill_and_restart(tmp_path, trials=10, kills=1, processes=2, seed=1, model="gb")
    assert outcome.problems == []
