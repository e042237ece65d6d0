"""Short versions of the attacks on work that must survive."""

from __future__ import annotations

from pathlib import Path

import pytest

from ml_project_template.tracking import operations
from tests.soak import tracking_faults
from tests.soak.tracking_faults import Case
from tests.tracking_server import TrackingServer


def test_a_training_whose_server_fails_is_told_whole_and_once(
    tracking_server: TrackingServer, tmp_path: Path
) -> None:
    cases = [
        Case("late", 4),
        Case("half", 10),
        Case("reset after", 4, lasting=True),
        Case("503", 6, lasting=True),
    ]
    data = tracking_faults.prepare_data(tmp_path)
    [undisturbed] = tracking_faults.attack([Case()], tracking_server.uri, data)
    assert (undisturbed.status, undisturbed.sent_later) == ("whole", 0), undisturbed.detail
    outcomes = [*tracking_faults.attack(cases, tracking_server.uri, data, undisturbed.told)]
    assert [(each.case, each.detail) for each in outcomes if each.status != "whole"] == []
    assert {each.case for each in outcomes if each.sent_later} >= set(cases[2:])


def test_a_run_that_is_made_twice_is_seen(
    tracking_server: TrackingServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whoever does not look for the first one makes another.
    monkeypatch.setattr(operations, "_same_run", lambda _: "tags.a = 'nothing'")
    monkeypatch.setattr(operations.Sender, "_once", lambda *_: None)
    data = tracking_faults.prepare_data(tmp_path)
    [seen] = tracking_faults.attack([Case("reset after", 4)], tracking_server.uri, data)
    assert (seen.status, seen.detail) == ("doubled", "2 runs, 1 models")
