"""Short versions of the attacks on work that must survive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ml_project_template.data import prepare
from ml_project_template.tracking import operations, replay
from ml_project_template.utils import _s3
from tests.object_store import ObjectStore
from tests.soak import journal_kills, preprocess_kills, store_faults, tracking_faults, two_at_once
from tests.soak.tracking_faults import Case
from tests.tracking_server import TrackingServer


def test_a_training_whose_server_fails_is_told_whole_and_once(
    tracking_server: TrackingServer, tmp_path: Path
) -> None:
    data = tracking_faults.prepare_data(tmp_path)
    [undisturbed] = tracking_faults.attack([Case()], tracking_server.uri, data)
    assert (undisturbed.status, undisturbed.sent_later) == ("whole", 0), undisturbed.detail
    # MLflow's server refuses it a second time.
    outputs = undisturbed.requests.index("POST /api/2.0/mlflow/runs/outputs") + 1
    cases = [
        Case("late", 4),
        Case("504", outputs),
        Case("reset after", 4, lasting=True),
        Case("503", 6, lasting=True),
    ]
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


def test_what_stands_in_the_journal_of_a_killed_run_arrives(
    tracking_server: TrackingServer,
) -> None:
    outcomes = [found for _, found in journal_kills.attack(tracking_server.uri, range(2))]
    assert [each.detail for each in outcomes if each.status != "whole"] == []
    assert all(each.kept for each in outcomes)


def test_a_killed_run_that_gets_no_end_is_seen(
    tracking_server: TrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "_end_for_dead", lambda *_: None)
    [(_, seen)] = journal_kills.attack(tracking_server.uri, range(1))
    assert (seen.status, seen.detail) == ("lost", "the run is RUNNING")


def test_what_a_store_that_fails_is_given_is_there_whole_or_not_at_all(
    object_store: ObjectStore, tmp_path: Path
) -> None:
    cases = [
        store_faults.Case("save", "half", 11, lasting=True),
        store_faults.Case("load", "half", 1),
        store_faults.Case("onboard", "reset before", 5, lasting=True),
        store_faults.Case("onboard", "cut", 8, lasting=True),
        store_faults.Case("prepare", "reset before", 7, lasting=True),
    ]
    site = store_faults.prepare_site(object_store, tmp_path)
    found = {each.case: each for each in store_faults.attack(cases, site)}
    statuses = [found[case].status for case in cases]
    assert statuses == ["kept", "done", "refused", "done", "refused"], found


def test_an_answer_that_is_taken_for_whole_is_seen(
    object_store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def read(body: Any, limit: int | None) -> bytes:
        piece: bytes = await body.read(limit)
        return piece

    monkeypatch.setattr(_s3, "_read_from", read)
    site = store_faults.prepare_site(object_store, tmp_path)
    [seen] = store_faults.attack([store_faults.Case("load", "half", 1)], site)
    assert seen.status == "refused"


@pytest.mark.parametrize("fault", ["killed", "disk full"])
def test_a_preprocessing_that_is_broken_at_any_step_is_mended_by_the_next(
    fault: preprocess_kills.Fault, tmp_path: Path
) -> None:
    found = preprocess_kills.break_each_step(tmp_path, fault)
    assert found.keys() == {"old", "new", "new prepared"}
    assert sum(found.values()) > 20


def test_what_a_killed_preprocessing_leaves_behind_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prepare, "remove_abandoned", lambda *_: None)
    assert preprocess_kills.break_each_step(tmp_path, "killed")["left"] > 0


def test_two_that_do_the_same_at_once_come_to_a_good_end(workspace: Path) -> None:
    assert two_at_once.run_at_once(2) == []
