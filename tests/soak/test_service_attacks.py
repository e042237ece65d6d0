"""Short versions of what ``make soak`` does to a server at length."""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers import ServerProcess, train_model
from tests.soak import canaries, described_requests, hoarders, overload, reloads, serve_ends

Start = Callable[..., ServerProcess]


def test_an_overload_is_refused_and_the_slow_are_ended(
    iris_model: Path, start_server: Start
) -> None:
    server = start_server(
        f"model.path={iris_model}",
        "server.access_log=false",
        "server.body_timeout=1",
        "server.client_timeout=1",
        "server.max_wait=0.05",
    )
    options = argparse.Namespace(rows=2_000, seconds=2.0, times=10.0, clients=150, slow=30)
    seen = overload.attack(server, options, measured=0.5, apart=False)
    # How fast it is can't be told among the other tests.
    assert seen.wrong == []
    assert set(seen.statuses) == {200, 429}
    assert len(seen.slow) == 30
    assert seen.health
    assert seen.growth < 300 * 1024**2


def test_a_server_remembers_no_more_than_it_has_to(iris_model: Path, start_server: Start) -> None:
    server = start_server(
        f"model.path={iris_model}",
        "server.access_log=false",
        "server.body_timeout=1",
        "server.client_timeout=1",
    )
    seen = hoarders.attack(server, 16, 8 * 2**20)
    assert seen.wrong == []
    assert seen.ended == dict.fromkeys(hoarders.KINDS, 2)


def test_what_the_document_describes_is_answered_as_it_says(
    iris_model: Path, start_server: Start
) -> None:
    server = start_server(
        f"models.iris.path={iris_model}", "server.access_log=false", SERVER_TOKEN="t0ken"
    )
    sent, wrong = described_requests.attack(server, 3, token="t0ken", phases="fuzzing")
    assert wrong == ""
    assert sent > 10


@pytest.mark.parametrize("by_signal", [True, False])
def test_new_versions_are_served_and_broken_ones_are_not(
    by_signal: bool, iris_model: Path, wine_model: Path, tmp_path: Path, start_server: Start
) -> None:
    place, second = tmp_path / "model", train_model(tmp_path / "second", max_iter=5)
    shutil.copytree(iris_model, place)
    watch = "null" if by_signal else "0.1"
    server = start_server(f"model.path={place}", f"server.watch_seconds={watch}")
    # By one of the two ways each break once.
    versions = 4 if by_signal else 12
    clients, wrong = reloads.attack(
        server, place, [iris_model, second], [wine_model], versions=versions, by_signal=by_signal
    )
    assert wrong == []
    assert clients.answers[iris_model.name] > 0
    assert clients.answers["second"] > 0


@pytest.mark.parametrize("workers", [1, 2])
def test_the_end_under_load_drops_no_request(
    workers: int, iris_model: Path, start_server: Start
) -> None:
    server = start_server(
        f"model.path={iris_model}", "server.drain_seconds=1", f"server.workers={workers}"
    )
    seen = serve_ends.end_under_load(server, clients=6)
    assert seen.wrong == []
    assert seen.answered > 0


def test_no_secret_is_printed_or_written(tmp_path: Path, python: list[str]) -> None:
    found = canaries.plant()
    assert len(found.values) == 20
    chosen = ("sweep", "a wrong value, with a traceback", "a source that is not there")
    count, wrong = canaries.attack(tmp_path, found, chosen, serve=False, python=python)
    assert (count, wrong) == (3, [])
    assert list(tmp_path.glob("multirun/*/*/sweep.html"))
    (tmp_path / "leak").write_text(f"it's {found.values['url']}")
    assert canaries.search_folder(tmp_path, found.values) == ["leak: url"]
